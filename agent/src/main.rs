//! `sshfix-agent`: the command line of the agent. Reads arguments, calls, prints; holds nothing else.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use sshfix_agent::audit;
use sshfix_agent::config::{Config, DEFAULT_CONFIG, DEFAULT_DIRECTORY};
use sshfix_agent::drill;
use sshfix_agent::identity::Identity;
use sshfix_agent::look;
use sshfix_agent::start::check;
use sshfix_agent::start::init;
use sshfix_agent::start::recover;
use sshfix_agent::start::recover::Recovery;
use sshfix_agent::start::run;
use sshfix_agent::write;
use sshfix_policy::ssh::public_key::PublicKey;

/// The privileged agent of sshfix: finds and lifts what blocks SSH clients on this host, and rolls back what went wrong.
#[derive(Parser)]
#[command(name = "sshfix-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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

fn main() -> ExitCode {
    match go(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sshfix-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn go(command: Command) -> Result<ExitCode> {
    // A copy on another machine is anybody's to look at.
    if !geteuid().is_root() && !matches!(command, Command::AuditVerify { state: Some(_), .. }) {
        bail!("this must run as root: it reads and changes what only root may. Nothing was done");
    }
    // What is made is nobody else's until it is given to them.
    umask(Mode::from_bits_truncate(0o077));
    match command {
        Command::Run { config } => {
            run::run(&config)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Recover { config } => Ok(match recover::recover(&config)? {
            Recovery::Done => ExitCode::SUCCESS,
            // As `sshfix ctl` says stuck.
            Recovery::Left => ExitCode::from(7),
        }),
        Command::Init { directory } => {
            init::init(&directory, &mut |line| say(&line))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::DrillCopy { to } => {
            drill::copy(&to)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Drill { config, copied } => {
            let result = drill::drill(&config, copied.as_deref(), &mut |line| say(&line))?;
            let how = if result.passed { "PASSED" } else { "FAILED" };
            let detail = if result.detail.is_empty() { String::new() } else { format!("; {}", result.detail) };
            say(&format_args!("{how} killed at {} points{detail}", result.points));
            Ok(if result.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Look => Ok(look::run()),
        Command::LookServe => {
            look::serve()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::DrillWorker { config, directory, number } => {
            drill::work(&config, &directory, number)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Write { config } => {
            write::serve(&config)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::AuditVerify { config, state, key, checkpoint } => audit_verify(&config, state.zip(key), &checkpoint),
        Command::Check { config } => {
            let report = check::check(&config);
            report.fine.iter().for_each(|line| say(&format_args!("ok     {line}")));
            report.wrong.iter().for_each(|line| say(&format_args!("WRONG  {line}")));
            Ok(if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn audit_verify(config: &Path, copy: Option<(PathBuf, PathBuf)>, kept: &[PathBuf]) -> Result<ExitCode> {
    let (state, key) = if let Some((state, key)) = copy {
        (state, PublicKey::from_line(&std::fs::read_to_string(key)?)?)
    } else {
        let config = Config::load(config)?;
        (config.state, Identity::load(&config.paths.identity)?.public_key()?)
    };
    let found = audit::verify_offline(&state, &key, kept).map_err(anyhow::Error::msg)?;
    found.problems.iter().for_each(|problem| say(&format_args!("BROKEN {}", problem.problem)));
    found.notes.iter().for_each(|note| say(&format_args!("note   {note}")));
    say(&format_args!("{} records, {} signed heads hold, head {}", found.records, found.checkpoints, found.head));
    Ok(if found.intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line on stdout. Where nobody reads it any more the work goes on.
fn say(line: &impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
