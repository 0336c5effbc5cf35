//! The client of sshfix: reads the command line, signs one request, prints one answer. Decides nothing about the host: the
//! agent does, and this program only shows it.

use std::ffi::OsString;
use std::io::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sshfix_policy::reply::{Body, ChangeState, ErrorCode, ErrorDocument};

use crate::cli::{Cli, Color, Ctl, Globals, Program};
use crate::client::Answer;
use crate::render::View;
use crate::session::Session;

pub mod cli;
pub mod client;
mod complete;
pub mod identities;
pub mod kex;
mod listening;
pub mod origin;
mod pending;
mod progress;
pub mod render;
mod session;
pub mod sign;
pub mod ssh_agent;
pub mod text;

/// Runs one command line and gives its exit status (interface.md).
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(status) = complete::answer(&args) {
        return status;
    }
    let Cli { program: Program::Ctl(Ctl { globals, verb }) } = match Cli::read(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, args.iter().any(|arg| arg == "--json")),
    };
    match globals.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();

    let all = verb.shows_all();
    let wish = verb.wish();
    let mut session = Session::open(&globals);
    let answer = match &mut session {
        Ok(session) => session.ask(&wish),
        Err(error) => Err(error.clone()),
    };
    let answer = answer.unwrap_or_else(|error| {
        let json = serde_json::to_string(&error).unwrap_or_default();
        Answer { body: Body::Error(error), json }
    });
    let view = View { now: Timestamp::now(), zone: TimeZone::system(), verbose: globals.verbose, all };
    show(&answer, &globals, &view);
    if let (Body::Change(change), Ok(session)) = (&answer.body, &mut session)
        && change.state == ChangeState::Pending
        && !globals.json
        && pending::can_ask()
        && let Some(decided) = pending::offer(session, change)
    {
        let view = View { now: Timestamp::now(), ..view };
        show(&decided, &globals, &view);
        return pending::exit_status(&decided);
    }
    answer.body.exit_status()
}

fn show(answer: &Answer, globals: &Globals, view: &View) {
    // A closed pipe (`| head`) is no reason to fail: the answer is there.
    let _ = if globals.json {
        writeln!(anstream::stdout(), "{}", text::json_for_terminals(&answer.json))
    } else if let Body::Error(error) = &answer.body {
        write!(anstream::stderr(), "{}", render::error(error))
    } else {
        write!(anstream::stdout(), "{}", render::body(&answer.body, view))
    };
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
