//! The asking side: sends one order to the writer and reads what became of it. Where the connection is lost the order is sent again, which
//! does no harm: an order that was done already is found done. Says exactly what is not known. Writes nothing itself.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sshfix_policy::host::{Done, StepError};

use super::{Answer, MAX_ANSWER, Order, PATIENCE, SOCKET};

/// How long a lost or missing writer is tried again: systemd starts it anew after a second.
const RETRIES: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Has the writer do this.
pub fn ask(order: &Order, content: &[u8]) -> Result<Done, StepError> {
    ask_at(Path::new(SOCKET), order, content, RETRIES)
}

/// How one try failed.
enum Lost {
    /// Nobody took the order.
    Unreached(io::Error),
    /// It was sent, and no answer came.
    Unanswered(io::Error),
    /// The time was up.
    TimedOut,
}

fn ask_at(socket: &Path, order: &Order, content: &[u8], retries: Duration) -> Result<Done, StepError> {
    let until = Instant::now() + retries;
    let mut sent = false;
    loop {
        let lost = match exchange(socket, order, content) {
            Ok(Answer::Changed) => return Ok(Done::Changed),
            // An earlier try of this order may have done it: who asks had seen that it was not done yet.
            Ok(Answer::Already) => return Ok(if sent { Done::Changed } else { Done::Already }),
            Ok(Answer::Drifted(what)) => return Err(StepError::Drifted(what)),
            Ok(Answer::Failed(what)) => return Err(StepError::Failed(what)),
            Err(lost) => lost,
        };
        let over = Instant::now() >= until;
        match lost {
            Lost::TimedOut => {
                return Err(StepError::TimedOut(format!(
                    "sshfix-write.service did not answer within {} s, so it is not known whether it was written: {}; \
                     see `systemctl status sshfix-write.service`",
                    order.patience().as_secs(),
                    order.what()
                )));
            }
            Lost::Unreached(error) if over && !sent => {
                return Err(StepError::Failed(format!(
                    "cannot reach {}, which writes what the agent's own unit may not: {error}; nothing was changed; \
                     `systemctl start sshfix-write.socket`",
                    socket.display()
                )));
            }
            Lost::Unreached(error) | Lost::Unanswered(error) if over => {
                return Err(StepError::TimedOut(format!(
                    "sshfix-write.service ended without an answer ({error}), so it is not known whether it was written: {}; \
                     see `journalctl -u sshfix-write.service -n 20`",
                    order.what()
                )));
            }
            Lost::Unreached(_) => {}
            Lost::Unanswered(error) => {
                tracing::warn!("the writer ended without an answer ({error}); the order is sent again: {}", order.what());
                sent = true;
            }
        }
        thread::sleep(PAUSE);
    }
}

fn exchange(socket: &Path, order: &Order, content: &[u8]) -> Result<Answer, Lost> {
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Lost::TimedOut,
        _ => Lost::Unanswered(error),
    };
    let mut stream = UnixStream::connect(socket).map_err(Lost::Unreached)?;
    stream.set_read_timeout(Some(order.patience())).map_err(Lost::Unreached)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(Lost::Unreached)?;
    let mut line = serde_json::to_vec(order).map_err(|error| Lost::Unreached(error.into()))?;
    line.push(b'\n');
    // One that has answered and gone before it read all of it has a reason to tell.
    let sent = stream.write_all(&line).and_then(|()| stream.write_all(content)).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let read = stream.take(MAX_ANSWER).read_to_end(&mut answer);
    if answer.is_empty() {
        sent.and(read.map(drop)).map_err(lost)?;
        return Err(Lost::Unanswered(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")));
    }
    // Half an answer is none.
    serde_json::from_slice(&answer).map_err(|error| Lost::Unanswered(error.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(250);

    /// A writer that reads each order and answers it with the next of these.
    fn writer(socket: &Path, answers: &'static [&'static [u8]]) -> thread::JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
                stream.write_all(answer).unwrap();
            }
        })
    }

    #[test]
    fn an_order_whose_answer_was_lost_is_sent_again_and_what_it_did_counts_as_done() {
        let folder = tempfile::tempdir().unwrap();
        let asked = |name: &str, answers: &'static [&'static [u8]]| {
            let socket = folder.path().join(name);
            let writer = writer(&socket, answers);
            let done = ask_at(&socket, &Order::XtablesLock, b"", Duration::from_mins(1));
            writer.join().unwrap();
            done
        };
        assert_eq!(asked("a", &[b"", b"\"already\""]), Ok(Done::Changed));
        assert_eq!(asked("b", &[b"\"chan", b"\"changed\""]), Ok(Done::Changed));
        assert_eq!(asked("c", &[b"\"already\""]), Ok(Done::Already));
        assert_eq!(asked("d", &[b"", b"{\"drifted\":\"others\"}"]), Err(StepError::Drifted("others".to_owned())));
    }

    #[test]
    fn without_a_writer_nothing_was_changed_and_with_one_that_ends_nobody_knows() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("write.sock");
        let Err(StepError::Failed(why)) = ask_at(&socket, &Order::XtablesLock, b"", SHORT) else { panic!("no writer") };
        assert!(why.contains("nothing was changed; `systemctl start sshfix-write.socket`"), "{why}");
        let writer = writer(&socket, &[b""]);
        let Err(StepError::TimedOut(why)) = ask_at(&socket, &Order::XtablesLock, b"", SHORT) else { panic!("it ended") };
        assert!(why.contains("not known whether it was written: the lock of iptables-legacy"), "{why}");
        writer.join().unwrap();
    }
}
