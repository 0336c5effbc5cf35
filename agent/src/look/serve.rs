//! The service that starts looks for the agent, whose own unit may take nobody's ids: one process that stays, asked on systemd's socket.
//! Answers nobody but root's processes in the agent's units, several at a time; the deadline of each look is the asker's, and short.

use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::{Asked, QUESTION_MAX, Told, start};
use crate::logging;
use crate::sys::activation;
use crate::units::{self, Hurried};
use crate::watchdog::notify;

/// Questions that are answered at a time: those of two readers.
const MAX_TURNS: usize = 16;
/// For the question to come, and for the answer to go.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest look.
const MAX_LOOK: Duration = Duration::from_secs(5);
/// After an error that says nothing about one connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until it is killed: nothing is lost by that.
pub fn serve() -> io::Result<()> {
    let _ = logging::start("info");
    let none = || io::Error::other("systemd passed no socket: this is run by sshfix-look.socket");
    let listener = activation::listener()?.ok_or_else(none)?;
    notify(NotifyState::Ready);
    thread::scope(|scope| {
        for _ in 0..MAX_TURNS {
            scope.spawn(|| answer_each(&listener));
        }
    });
    Ok(())
}

fn answer_each(listener: &UnixListener) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => answer(&stream),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!("cannot accept a question: {error}");
                thread::sleep(PAUSE);
            }
        }
    }
}

fn answer(stream: &UnixStream) {
    let answer = units::check(stream).and_then(|()| look(stream));
    let bytes = serde_json::to_vec(&answer).unwrap_or_default();
    let sent = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| {
        let mut stream = stream;
        stream.write_all(&bytes)
    });
    if let Err(error) = sent {
        tracing::debug!("cannot send the answer: {error}");
    }
}

fn look(stream: &UnixStream) -> Result<Told, String> {
    let question =
        Hurried::new(stream, PATIENCE).whole(QUESTION_MAX).map_err(|error| format!("received no question: {error}"))?;
    let asked: Asked<'_> =
        serde_json::from_slice(&question).map_err(|error| format!("the message received is not a question: {error}"))?;
    let limit = Duration::from_millis(asked.milliseconds).min(MAX_LOOK);
    start::look(asked.owner, &asked.question, Instant::now() + limit)
}
