//! Offers to confirm a pending change: shows how long it still waits, and asks the person at the terminal. The agent keeps the
//! deadline; this program may die at any moment, and the change is taken back all the same.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use owo_colors::OwoColorize;
use sshfix_policy::reply::{Body, Change, ChangeStage, ChangeState, ErrorCode, ErrorDocument};
use sshfix_policy::request::{Decision, Mode, Operation, Records};

use crate::cli::{Ask, Wish};
use crate::client::Answer;
use crate::render;
use crate::session::Session;

const TICK: Duration = Duration::from_secs(1);
/// The agent looks at the deadline several times a second and then takes the change back: asked for after this,
const GRACE: Duration = Duration::from_secs(2);
/// and again as long as it is not done.
const TAKES: Duration = Duration::from_mins(2);

/// Whether there is a person to ask.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks until it is decided. Gives the answer that decided it; `None` when the person went away and left it pending.
pub fn offer(session: &mut Session, change: &Change) -> Option<Answer> {
    let left = change
        .deadline
        .map_or(Duration::ZERO, |deadline| Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default());
    let until = Instant::now() + left;
    let lines = typed();
    let mut err = anstream::stderr();
    let _ = writeln!(
        err,
        "\n{} Try a new login from where you are: that is the proof that counts.",
        "Does everything still work?".bold()
    );
    let _ = writeln!(err, "  {} keep it   {} roll it back now", "y".green().bold(), "r".red().bold());
    let _ = writeln!(err);
    let _ = write!(err, "> ");
    loop {
        draw(&mut err, until.saturating_duration_since(Instant::now()));
        let answer = match lines.recv_timeout(TICK) {
            Err(RecvTimeoutError::Disconnected) => {
                let _ = writeln!(err);
                return None;
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() >= until + GRACE => {
                let answer = state(session, &change.id);
                if answer.as_ref().is_ok_and(|answer| unfinished(&answer.body)) && Instant::now() < until + TAKES {
                    continue;
                }
                let _ = writeln!(err);
                return answer
                    .inspect_err(|error| {
                        let _ = write!(
                            err,
                            "The deadline is over, and the agent could not be asked about the change.\n{}",
                            render::error(error)
                        );
                    })
                    .ok();
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Ok(line) => match line.trim() {
                "y" | "yes" => session.ask(&Wish::Confirm { id: change.id.clone(), reason: None }),
                "r" | "n" | "no" | "rollback" => session.ask(&rollback(&change.id)),
                _ => {
                    let _ = write!(err, "y or r\n\n> ");
                    continue;
                }
            },
        };
        match answer {
            Ok(answer) => match &answer.body {
                // It still waits, so there may be a second try.
                Body::Error(error) if error.code == ErrorCode::NotConfirmed && Instant::now() < until => {
                    let _ = write!(err, "{}\n\n> ", render::error(error).trim_end());
                }
                _ => return Some(answer),
            },
            Err(error) => {
                let _ = write!(err, "{}\n\n> ", render::error(&error).trim_end());
            }
        }
    }
}

/// The line above the one that is typed on; the cursor goes there and back (ECMA-48 CPL; DECSC and DECRC).
fn draw(err: &mut impl Write, left: Duration) {
    let seconds = left.as_secs();
    let text = format!("rolled back automatically in {}:{:02}", seconds / 60, seconds % 60);
    let _ = write!(err, "\u{1b}7\u{1b}[1F{}\u{1b}[K\u{1b}8", text.yellow());
    let _ = err.flush();
}

/// Lines as they are typed; the channel ends with the input.
fn typed() -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn rollback(id: &str) -> Wish {
    let operation = Operation::Decision(Decision::Rollback { id: id.to_owned(), abandon: false });
    Wish::Ask(Ask { operation, mode: Mode::DryRun, reason: None })
}

fn changes(id: &str) -> Wish {
    Wish::Ask(Ask {
        operation: Operation::Records(Records::Changes { id: Some(id.to_owned()) }),
        mode: Mode::DryRun,
        reason: None,
    })
}

/// What became of the change. Whose grants are not about `changes` hears it from a confirm without a proof, which changes nothing.
fn state(session: &mut Session, id: &str) -> Result<Answer, ErrorDocument> {
    match session.ask(&changes(id)) {
        Ok(answer) if matches!(answer.body, Body::Changes(_)) => Ok(answer),
        Ok(_) | Err(_) => {
            let operation = Operation::Decision(Decision::Confirm { id: id.to_owned(), proof: None });
            session.ask(&Wish::Ask(Ask { operation, mode: Mode::DryRun, reason: None }))
        }
    }
}

/// Where the change is.
fn state_of(body: &Body) -> Option<ChangeStage> {
    match body {
        Body::Changes(changes) => changes.changes.first().map(|change| change.state),
        Body::Error(error) => error.change.as_ref().map(|change| change.state),
        _ => None,
    }
}

/// Whether the agent is still about to roll it back.
fn unfinished(body: &Body) -> bool {
    state_of(body).is_some_and(|state| matches!(state, ChangeStage::Pending | ChangeStage::RollingBack))
}

/// The exit status of a change that was offered, by the answer that decided it (interface.md).
pub fn exit_status(answer: &Answer) -> u8 {
    match &answer.body {
        body @ (Body::Changes(_) | Body::Error(_)) => match state_of(body) {
            Some(ChangeStage::Confirmed) => 0,
            Some(ChangeStage::RolledBack) => 6,
            Some(ChangeStage::Stuck) => 7,
            None if matches!(body, Body::Error(_)) => body.exit_status(),
            // A change that the agent is still about to roll back, or that a person took off its hands: not decided here.
            Some(
                ChangeStage::Begun
                | ChangeStage::Applying
                | ChangeStage::Verified
                | ChangeStage::Pending
                | ChangeStage::RollingBack
                | ChangeStage::Abandoned,
            )
            | None => 5,
        },
        // Asked for here, but the change that was wanted did not stay.
        Body::Change(change) if change.state == ChangeState::RolledBack => 6,
        body => body.exit_status(),
    }
}
