//! The command line of `sshfix-agent`. Holds what can be asked and what its help says; does nothing.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{DEFAULT_CONFIG, DEFAULT_DIRECTORY};

/// The privileged agent of sshfix: finds and lifts what blocks SSH clients on this host, and rolls back what went wrong.
#[derive(Debug, Parser)]
#[command(name = "sshfix-agent", version)]
pub struct Arguments {
    /// What is asked for.
    #[command(subcommand)]
    pub command: Command,
}

/// What the agent is asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve on the unix socket until SIGTERM; `SSHFIX_SOCKET` moves the socket, `SSHFIX_LOG` sets the log filter
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Roll back unfinished changes once, without serving; run early at boot, before sshd
    Recover {
        /// The configuration; where it cannot be read, the defaults are used
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Make configuration, host identity and root's own key where they are missing; never changes what is there
    Init {
        /// The folder to make; outside of /etc/sshfix it holds socket and state, too
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_DIRECTORY)]
        directory: PathBuf,
    },
    /// Prove on a private copy of this host's rules and files that a change is rolled back wherever it is killed; exit status 1 when
    /// it does not. The host is left unchanged; `sshfix ctl status` shows the last drill
    Drill {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Rules that `drill-copy` read: this process is in network and mount namespaces of its own already, as under its unit
        #[arg(long, value_name = "FILE", hide = true)]
        copied: Option<PathBuf>,
    },
    /// Read the host's rules for a drill that sees them no more
    #[command(hide = true)]
    DrillCopy {
        /// The file they are kept in
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Look at what a user owns, with that user's ids: the agent asks it and kills it when it takes too long
    #[command(hide = true)]
    Look,
    /// Start such looks for the agent, whose own unit may take nobody's ids, on the socket that systemd passes
    #[command(hide = true)]
    LookServe,
    /// What a drill kills
    #[command(hide = true)]
    DrillWorker {
        /// The configuration
        #[arg(long)]
        config: PathBuf,
        /// The drill's own directory
        #[arg(long)]
        directory: PathBuf,
        /// Which of the drill's changes it is
        #[arg(long)]
        number: usize,
    },
    /// Write what lies outside of the agent's own folders: one order of the agent after the other, on the socket that systemd passes
    #[command(hide = true)]
    Write {
        /// The configuration; where it cannot be read, the defaults are used
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Follow the chain of audit records without an agent, also on a copy of state.db on another machine; exit status 1 when a
    /// record was altered, removed, moved or cut off
    AuditVerify {
        /// The configuration, for the places of the database and the key
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG, conflicts_with_all = ["state", "key"])]
        config: PathBuf,
        /// The database
        #[arg(long, value_name = "FILE", requires = "key")]
        state: Option<PathBuf>,
        /// The public key of the host that wrote it: its `/etc/sshfix/agent_ed25519.pub`
        #[arg(long, value_name = "FILE", requires = "state")]
        key: Option<PathBuf>,
        /// A signed head that was kept elsewhere (`sshfix ctl audit checkpoint`); may be given again
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
    },
    /// Read everything the agent trusts and say what is wrong, with line and column
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}
