//! Values of `sshd set` that begin with a dash, as in `Ciphers -3des-cbc` of sshd_config(5): puts them behind `--`, where clap takes
//! them. An option behind `--` is refused: it would be a value. Parses nothing else.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory};

use super::{Cli, Ctl, Program, SshdVerb, Verb};

/// The same command line with the values of `sshd set` behind `--`, where one begins with a dash.
pub fn put_values_last(args: &[OsString]) -> Vec<OsString> {
    let set = args.windows(2).position(|pair| pair == ["sshd", "set"]).map(|at| at + 2);
    let Some((before, rest)) = set.and_then(|at| args.split_at_checked(at)) else { return args.to_vec() };
    if rest.iter().any(|arg| arg == "--") || !rest.iter().any(is_dash_value) {
        return args.to_vec();
    }
    let command = built();
    let (mut options, mut values) = (before.to_vec(), Vec::new());
    let mut rest = rest.iter();
    while let Some(arg) = rest.next() {
        if is_dash_value(arg) || !arg.as_encoded_bytes().starts_with(b"-") {
            values.push(arg.clone());
            continue;
        }
        options.push(arg.clone());
        if option(&command, arg).is_some_and(|arg| arg.get_action().takes_values()) {
            options.extend(rest.next().cloned());
        }
    }
    options.push("--".into());
    options.extend(values);
    options
}

/// Whether no option stands behind `--`.
pub fn check(cli: &Cli) -> Result<(), clap::Error> {
    let Program::Ctl(Ctl { verb: Verb::Sshd(SshdVerb::Set { values, .. }), .. }) = &cli.program else { return Ok(()) };
    let command = built();
    let wrong = |value: &&String| {
        let name = value.split('=').next().unwrap_or_default();
        option(&command, &OsString::from(name)).is_some()
    };
    let Some(value) = values.iter().find(wrong) else { return Ok(()) };
    let message = format!(
        "`{value}` is behind `--` and would be a value. Put options before the keyword: \
         `sshfix ctl sshd set {value} KEYWORD -- VALUE`"
    );
    Err(Cli::command().error(ErrorKind::UnknownArgument, message))
}

/// One dash, and no option: options of one letter are `-v` and nothing else.
fn is_dash_value(arg: &OsString) -> bool {
    let bytes = arg.as_encoded_bytes();
    bytes.starts_with(b"-") && !bytes.starts_with(b"--") && bytes != b"-v" && bytes != b"-"
}

/// The option of `sshd set` that this is, without a value behind `=`.
fn option<'a>(command: &'a Command, arg: &OsString) -> Option<&'a clap::Arg> {
    let name = arg.to_str()?.strip_prefix("--")?;
    let set = ["ctl", "sshd", "set"].into_iter().try_fold(command, |command, name| command.find_subcommand(name))?;
    set.get_arguments().find(|arg| arg.get_long() == Some(name))
}

fn built() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}
