//! fail2ban on the real host, through its socket: no fail2ban-client, no log file, no database. Reads what concerns the
//! question, bans, unbans, changes ignoreip. What the tickets mean is decided in `policy`.

mod cache;
mod socket;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sshfix_policy::host::{Done, Part, Question, StepError};
use sshfix_policy::subsystem::fail2ban::protocol::{self, Command, ReplyError};
use sshfix_policy::subsystem::fail2ban::{Jail, State, Step};

use cache::Cache;
use socket::{Conversation, SocketError};

/// For a whole observation of a server that holds few bans; see [`cache`] for the time many bans add.
const OBSERVE: Duration = Duration::from_millis(1500);
/// No observation takes longer, however many bans there are.
const OBSERVE_AT_MOST: Duration = Duration::from_millis(4500);
/// After its start fail2ban restores the bans of its database (`Jail.restoreCurrentBans`); what is not banned after this stays so.
const RESTORES: Duration = Duration::from_secs(10);
/// For one step: fail2ban answers after the jail's actions ran.
const APPLY: Duration = Duration::from_secs(10);
/// Where an installed fail2ban is.
const INSTALLED: [&str; 4] =
    ["/usr/bin/fail2ban-server", "/usr/local/bin/fail2ban-server", "/usr/sbin/fail2ban-server", "/etc/fail2ban"];

/// fail2ban of this host, and what was read of its large jails. One per agent.
pub struct Fail2ban {
    socket: PathBuf,
    cache: Cache,
}

impl Fail2ban {
    /// Opens nothing yet. `socket` is `/run/fail2ban/fail2ban.sock` unless fail2ban.conf moves it.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), cache: Cache::default() }
    }

    /// Version, jails, ignoreip, and the tickets that concern the question. A server that hangs or answers what is not understood
    /// is unreadable; one that is not installed or not running bans nobody, so it is absent.
    pub fn observe(&mut self, question: &Question) -> Part<State> {
        match self.read(question) {
            Ok(state) => Part::Present(state),
            Err(SocketError::Missing(socket)) => Part::Absent(missing(&socket)),
            Err(SocketError::Dead(socket)) => Part::Absent(format!(
                "fail2ban is not running, only its socket {} is left; it makes no new bans, but rules that it made may remain",
                socket.display()
            )),
            Err(error) => Part::Unreadable(error.to_string()),
        }
    }

    fn read(&mut self, question: &Question) -> Result<State, SocketError> {
        let mut talk = Conversation::open(&self.socket, OBSERVE)?;
        let version = talk.ask(&Command::Version, protocol::version)?;
        let names = talk.ask(&Command::Status, protocol::jails)?;
        self.cache.keep_only(&names);
        let mut notes = Vec::new();
        let mut jails = Vec::with_capacity(names.len());
        for name in names {
            let read = self.cache.tickets(&mut talk, &self.socket, &name, question)?;
            notes.extend(read.note);
            jails.push(Jail {
                ignore: talk.ask(&Command::Ignored(&name), protocol::entries)?,
                ignore_self: talk.ask(&Command::IgnoresSelf(&name), protocol::flag)?,
                tickets: read.tickets,
                others: read.others,
                name,
            });
        }
        Ok(State { version, jails, notes })
    }

    /// Does one step and reads back that it is so. That the ticket is gone does not mean that the kernel rule is: fail2ban drops
    /// the ticket first and only logs an action that fails.
    pub fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        let mut talk = Conversation::open(&self.socket, APPLY).map_err(|error| not_done(&error))?;
        match step {
            Step::Ticket { jail, source, after, .. } => {
                let banned = Command::IsBanned(jail, *source);
                let is = talk.ask(&banned, protocol::count).map_err(|error| not_done(&error))? != 0;
                let want = after.is_some();
                if is == want {
                    // Its socket is there before the bans of its database are: one that is not there yet would come back.
                    let age = if want { None } else { talk.server_age().map_err(|error| not_done(&error))? };
                    return match age {
                        Some(age) if age < RESTORES => Err(StepError::Failed(format!(
                            "fail2ban was started {} s ago and may still be restoring its bans, so {} could be banned again in a moment; \
                             nothing was changed",
                            age.as_secs(),
                            source.short()
                        ))),
                        _ => Ok(Done::Already),
                    };
                }
                // Only after that look: `unbanip` of a range without a ticket of its own would unban every address in it.
                let command = if want { Command::Ban(jail, *source) } else { Command::Unban(jail, *source) };
                talk.ask(&command, protocol::count).map_err(|error| maybe_done(&error))?;
                let is = talk.ask(&banned, protocol::count).map_err(|error| maybe_done(&error))? != 0;
                if is == want {
                    Ok(Done::Changed)
                } else {
                    Err(StepError::Failed(format!(
                        "fail2ban answered `{}` without an error, but nothing changed",
                        command.words().join(" ")
                    )))
                }
            }
            Step::Ignore { jail, entry, after, .. } => {
                let same = |found: &String| {
                    found == entry || protocol::lenient(found).is_some_and(|s| protocol::lenient(entry) == Some(s))
                };
                let now = talk.ask(&Command::Ignored(jail), protocol::entries).map_err(|error| not_done(&error))?;
                if now.iter().any(same) == *after {
                    return Ok(Done::Already);
                }
                let command = if *after { Command::Ignore(jail, entry) } else { Command::Unignore(jail, entry) };
                let now = talk.ask(&command, protocol::entries).map_err(|error| maybe_done(&error))?;
                if now.iter().any(same) == *after {
                    Ok(Done::Changed)
                } else {
                    Err(StepError::Failed(format!(
                        "fail2ban answered `{}` without an error, but nothing changed",
                        command.words().join(" ")
                    )))
                }
            }
        }
    }
}

fn missing(socket: &Path) -> String {
    if INSTALLED.iter().any(|path| Path::new(path).exists()) {
        format!(
            "fail2ban is installed but not running (there is no socket {}); it makes no new bans, but rules that it made may remain",
            socket.display()
        )
    } else {
        "fail2ban is not installed".to_owned()
    }
}

/// An error before anything was asked to change.
fn not_done(error: &SocketError) -> StepError {
    match error {
        SocketError::Reply { error: ReplyError::Refused { class, message }, .. } if class == "UnknownJailException" => {
            StepError::Drifted(format!("fail2ban has no jail {message} any more"))
        }
        SocketError::TimedOut { .. } => StepError::TimedOut(format!("{error}; nothing was changed")),
        _ => StepError::Failed(format!("{error}; nothing was changed")),
    }
}

/// An error after the change was asked for.
fn maybe_done(error: &SocketError) -> StepError {
    match error {
        SocketError::Reply { error: ReplyError::Refused { .. }, .. } => StepError::Failed(error.to_string()),
        SocketError::TimedOut { .. } => StepError::TimedOut(format!("{error}; it may still be done later")),
        _ => StepError::Failed(format!("{error}; whether it was done is not known")),
    }
}
