//! `sshfix-agent`: the command line of the agent. Reads arguments, calls, prints; holds nothing else.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use sshfix_agent::config::{DEFAULT_CONFIG, DEFAULT_DIRECTORY};
use sshfix_agent::{check, init, run};

/// The privileged agent of sshfix: finds and lifts what keeps SSH clients out of this host, and takes back what went wrong.
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
    /// Make configuration, host identity and root's own key where they are missing; never changes what is there
    Init {
        /// Where; elsewhere than in /etc/sshfix, socket and state are kept in there too
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_DIRECTORY)]
        directory: PathBuf,
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
    if !geteuid().is_root() {
        bail!("this must run as root: it reads and changes what only root may. Nothing was done");
    }
    // What is made is nobody else's until it is given to them.
    umask(Mode::from_bits_truncate(0o077));
    match command {
        Command::Run { config } => {
            run::run(&config)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Init { directory } => {
            init::init(&directory, &mut |line| say(&line))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { config } => {
            let report = check::check(&config);
            report.fine.iter().for_each(|line| say(&format_args!("ok     {line}")));
            report.wrong.iter().for_each(|line| say(&format_args!("WRONG  {line}")));
            Ok(if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// A line on stdout. Where nobody reads it any more the work goes on.
fn say(line: &impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
