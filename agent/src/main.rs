//! `sshfix-agent`: calls what its command line asks for, and prints. Holds nothing else.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use sshfix_agent::audit;
use sshfix_agent::command_line::{Arguments, Command};
use sshfix_agent::config::Config;
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
