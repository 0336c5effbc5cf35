//! The short-lived process that looks at what users own, and asks the system's lookups about them (`sshfix-agent look`): it gets one
//! question on standard input and a deadline, and is killed then. Before it touches a path it takes the ids of that user (`sys::confine`).
//! What it answers counts as said by the user: the agent checks it, and shows no more of it than a finding needs. No content of a file is
//! in it. Whoever may take a user's ids starts it: the agent's own unit may not, and asks `sshfix-look.service` to.

mod ask;
mod files;
mod matches;
mod names;
mod serve;
mod start;

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use sshfix_policy::subsystem::sshd::{Groups, RootFolder, Seen};

use crate::sys::confine::Ids;

pub use ask::ask;
pub use serve::serve;

/// The longest question: a user in the most groups that the kernel takes.
const QUESTION_MAX: u64 = 2 << 20;
/// The longest answer: 2,000 keys of some 120 bytes in each of a few files.
const ANSWER_MAX: usize = 2 << 20;
/// The longest tally: `pam_faillock` keeps 1,024 records of 64 bytes (faillock.h, `MAX_RECORDS`).
pub const TALLY_MAX: u64 = 64 * 1024;

/// What the service is asked: the user whose paths are touched, for how long, and the question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    owner: Option<u32>,
    milliseconds: u64,
    question: Cow<'a, Ask>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Who a user is, and whether the shell can be run.
    User(String),
    /// Who is in these groups, and the names of these users.
    Groups {
        /// By id.
        groups: Vec<u32>,
        /// By id.
        users: Vec<u32>,
    },
    /// What a user sees of these files.
    Files {
        /// The user.
        ids: Ids,
        /// The home directory.
        home: String,
        /// Files of authorized keys.
        keys: Vec<String>,
        /// Whether patterns among them name what matches (OpenSSH 10.0).
        patterns: bool,
    },
    /// What `pam_faillock` remembers of a user.
    Tally {
        /// The user.
        ids: Ids,
        /// The file.
        path: String,
    },
    /// The folder that becomes the root of a user's session, with those above it.
    RootFolder {
        /// The user.
        ids: Ids,
        /// The folder.
        path: String,
    },
}

/// An answer, to the question of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Who it is; nothing where there is no such user.
    User(Option<User>),
    /// The groups.
    Groups(Groups),
    /// Of each file, in their order.
    Files(Vec<Seen>),
    /// The records.
    Tally(Tally),
    /// The folder.
    RootFolder(RootFolder),
    /// Why there is no answer.
    Failed(String),
}

/// A user as the system's lookups know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// All ids.
    pub ids: Ids,
    /// Home directory.
    pub home: String,
    /// Login shell, as it stands there.
    pub shell: String,
    /// Names of groups; those that have none are left out, as sshd does (groupaccess.c, `ga_init`).
    pub groups: Vec<String>,
    /// What keeps the shell from being run.
    pub shell_problem: Result<Option<String>, String>,
}

/// A tally.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tally {
    /// Its bytes; none where it is not there.
    Bytes(Vec<u8>),
    /// The user may not read it: it is somebody else's.
    NotTheUsers,
    /// It could not be read: why.
    Unknown(String),
}

/// Answers the question on standard input.
pub fn run() -> ExitCode {
    let mut question = Vec::new();
    let read = io::stdin().lock().take(QUESTION_MAX).read_to_end(&mut question);
    let answer = match read.map_err(|error| error.to_string()).and_then(|_| parsed(&question)) {
        Ok(question) => answer(&question).unwrap_or_else(Told::Failed),
        Err(why) => Told::Failed(why),
    };
    let Ok(bytes) = serde_json::to_vec(&answer) else { return ExitCode::FAILURE };
    match io::stdout().lock().write_all(&bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn parsed(question: &[u8]) -> Result<Ask, String> {
    serde_json::from_slice(question).map_err(|error| error.to_string())
}

fn answer(question: &Ask) -> Result<Told, String> {
    match question {
        Ask::User(name) => names::user(name).map(Told::User),
        Ask::Groups { groups, users } => names::groups(groups, users).map(Told::Groups),
        Ask::Files { ids, home, keys, patterns } => files::keys(ids, home, keys, *patterns).map(Told::Files),
        Ask::Tally { ids, path } => files::tally(ids, path).map(Told::Tally),
        Ask::RootFolder { ids, path } => files::root_folder(ids, path).map(Told::RootFolder),
    }
}
