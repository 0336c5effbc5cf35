//! The asking side: has a look taken, by a child where this process may take a user's ids, else by `sshfix-look.service`. No answer in
//! time is a reason, never a fact.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{ANSWER_MAX, Ask, Asked, Told, start};
use crate::patience;
use crate::sys::confine;

/// Where systemd listens for the service (`sshfix-look.socket`), for root alone.
pub(super) const SOCKET: &str = "/run/sshfix/look.sock";
/// How often it is looked whether anybody still waits.
const TICK: Duration = Duration::from_millis(50);
/// The service says itself that a look hung; how much later than the time of the look that may be.
const GRACE: Duration = Duration::from_millis(500);

/// One look, and its answer. `owner` is the user whose paths it touches.
pub fn ask(owner: Option<u32>, question: &Ask, until: Instant) -> Result<Told, String> {
    if confine::may_become_user() {
        start::look(owner, question, until)
    } else {
        ask_at(Path::new(SOCKET), owner, question, until)
    }
}

fn ask_at(socket: &Path, owner: Option<u32>, question: &Ask, until: Instant) -> Result<Told, String> {
    let unreached = |error: io::Error| {
        format!("cannot reach {}, which looks at what users own: {error}; `systemctl start sshfix-look.socket`", socket.display())
    };
    let left = until.saturating_duration_since(Instant::now());
    let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let asked = serde_json::to_vec(&Asked { owner, milliseconds, question: Cow::Borrowed(question) });
    let asked = asked.map_err(|error| error.to_string())?;
    let stream = UnixStream::connect(socket).map_err(unreached)?;
    stream.set_write_timeout(Some(GRACE.max(left))).map_err(unreached)?;
    stream.set_read_timeout(Some(TICK)).map_err(unreached)?;
    // One that has answered and gone before it read all of it has a reason to say.
    let _ = (&stream).write_all(&asked).and_then(|()| stream.shutdown(Shutdown::Write));
    let answer = read(&stream, until + GRACE)?;
    serde_json::from_slice(&answer).unwrap_or_else(|_| Err("sshfix-look.service ended without an answer".to_owned()))
}

fn read(mut stream: &UnixStream, until: Instant) -> Result<Vec<u8>, String> {
    let (mut answer, mut part) = (Vec::new(), [0; 16 << 10]);
    while answer.len() <= ANSWER_MAX {
        match stream.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(part.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Ok(answer),
        }
        if patience::is_over() {
            return Err("the client has gone".to_owned());
        }
        if Instant::now() >= until {
            return Err("sshfix-look.service did not answer in time; see `systemctl status sshfix-look.service`".to_owned());
        }
    }
    Err("the answer of sshfix-look.service is longer than any valid answer".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_service_that_is_missing_silent_or_gone_gives_no_fact() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("look.sock");
        let look = |time: u64| {
            ask_at(&socket, None, &Ask::User("root".to_owned()), Instant::now() + Duration::from_millis(time)).unwrap_err()
        };
        assert!(look(100).contains("`systemctl start sshfix-look.socket`"));
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(look(10).contains("did not answer in time"));
        drop(listener.accept().unwrap());
        for (says, want) in [("", "without an answer"), ("{\"Ok\":{\"User", "without an answer"), ("{\"Err\":\"why\"}", "why")] {
            thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.read_to_end(&mut Vec::new()).unwrap();
                    stream.write_all(says.as_bytes()).unwrap();
                });
                let why = look(20_000);
                assert!(why.contains(want), "{says}: {why}");
            });
        }
    }
}
