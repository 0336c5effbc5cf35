//! The client of sshfix: reads the command line, signs one request, prints one answer. Decides nothing about the host: the
//! agent does, and this program only shows it.

use std::ffi::OsString;
use std::io::Write;

use clap::Parser;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sshfix_policy::reply::{Body, ErrorCode, ErrorDocument};

use crate::cli::{Ask, Cli, Color, Ctl, Globals, Program};
use crate::client::{Agent, Answer, ClientError};
use crate::identities::Places;
use crate::progress::Progress;
use crate::render::View;
use crate::sign::Identity;

pub mod cli;
pub mod client;
pub mod identities;
pub mod kex;
pub mod origin;
mod progress;
pub mod render;
pub mod sign;
pub mod ssh_agent;
pub mod text;

/// How many identities are offered to the agent before giving up; each refusal is a record in its audit log.
const IDENTITIES_MAX: usize = 8;

/// Runs one command line and gives its exit status (interface.md).
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let Cli { program: Program::Ctl(Ctl { globals, verb }) } = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, args.iter().any(|arg| arg == "--json")),
    };
    match globals.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();

    let answer = ask(&verb.ask(), &globals).unwrap_or_else(|error| {
        let json = serde_json::to_string(&error).unwrap_or_default();
        Answer { body: Body::Error(error), json }
    });
    let view = View { now: Timestamp::now(), zone: TimeZone::system(), verbose: globals.verbose };
    // A closed pipe (`| head`) is no reason to fail: the answer is there.
    let _ = if globals.json {
        writeln!(anstream::stdout(), "{}", text::json_for_terminals(&answer.json))
    } else if let Body::Error(error) = &answer.body {
        write!(anstream::stderr(), "{}", render::error(error))
    } else {
        write!(anstream::stdout(), "{}", render::body(&answer.body, &view))
    };
    answer.body.exit_status()
}

/// Help and version go to stdout with status 0; what is wrong to stderr with status 2, or as a document where that is wanted.
fn usage(error: &clap::Error, json: bool) -> u8 {
    let text = error.render().to_string();
    // clap quotes what was typed whole.
    let shown = text.trim_end().lines().map(text::short).collect::<Vec<_>>().join("\n");
    if json && error.use_stderr() {
        let message = shown.trim().trim_start_matches("error: ");
        let document = ErrorDocument::new(ErrorCode::Usage, message, "`sshfix ctl --help` shows what can be asked.");
        println!("{}", serde_json::to_string(&document).unwrap_or_default());
    } else if error.use_stderr() && shown != text.trim_end() {
        eprintln!("{shown}");
    } else {
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(2)
}

/// Tries one identity after the other until the agent takes one: its hello does not tell whose signatures it takes.
fn ask(ask: &Ask, globals: &Globals) -> Result<Answer, ErrorDocument> {
    let places = Places::from_env();
    let mut notes = Vec::new();
    let agent = Agent::from_env(globals.timeout).map_err(|error| error.document())?;
    let identities = match &globals.identity {
        Some(file) => identities::named(file, &places).map_err(|error| {
            ErrorDocument::new(ErrorCode::Usage, format!("{error}. Nothing was changed."), "--identity names a key file.")
        })?,
        None => identities::all(&places, &mut notes),
    };
    let found = identities.len();
    let origin = origin::origin();
    let mut refused: Option<Answer> = None;
    let mut failed: Option<ClientError> = None;
    let mut tried = Vec::new();
    for mut identity in identities.into_iter().take(IDENTITIES_MAX) {
        match ask_with(&agent, ask, &origin, &mut identity) {
            Ok(answer) if is_refusal(&answer) => {
                tried.push(identity.describe());
                refused = Some(answer);
            }
            Ok(answer) => {
                if globals.verbose {
                    eprintln!("signed with {}", text::line(&identity.describe()));
                }
                return Ok(answer);
            }
            // This identity cannot sign; another may.
            Err(ClientError::Sign(error)) => {
                notes.push(error.to_string());
                failed = Some(ClientError::Sign(error));
            }
            Err(error) => return Err(error.document()),
        }
    }
    match (refused, failed) {
        (Some(answer), _) => Err(refusal(&answer, &tried, found, &notes)),
        (None, Some(error)) if found == 1 => Err(error.document()),
        (None, _) => Err(no_identity(&notes)),
    }
}

fn ask_with(agent: &Agent, ask: &Ask, origin: &client::Origin, identity: &mut Identity) -> Result<Answer, ClientError> {
    identity.unlock()?;
    let question = agent.question(ask, origin, identity)?;
    let _progress = Progress::start("waiting for the agent");
    question.send()
}

fn is_refusal(answer: &Answer) -> bool {
    matches!(&answer.body, Body::Error(error) if error.code == ErrorCode::Refused)
}

fn refusal(answer: &Answer, tried: &[String], found: usize, notes: &[String]) -> ErrorDocument {
    let Body::Error(error) = &answer.body else { return no_identity(notes) };
    let mut parts = vec![format!("{}.", error.message.trim_end_matches('.')), format!("Identities tried: {}.", tried.join(", "))];
    if found > IDENTITIES_MAX {
        parts.push(format!("{} more were not tried.", found - IDENTITIES_MAX));
    }
    parts.extend(notes.iter().map(|note| format!("Not tried: {note}.")));
    ErrorDocument { message: parts.join(" "), ..error.clone() }
}

fn no_identity(notes: &[String]) -> ErrorDocument {
    let mut parts = vec!["no key to sign the request with. Nothing was changed.".to_owned()];
    parts.extend(notes.iter().map(|note| format!("({note})")));
    let advice =
        format!("Name a key with --identity FILE, add one to ssh-agent, or run as root, who has {}.", identities::ROOT_KEY);
    ErrorDocument::new(ErrorCode::Failed, parts.join(" "), advice)
}
