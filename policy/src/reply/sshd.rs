//! What `sshd show` and `sshd check` answer. No logic.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::text::quoted::Text;

schema!(SshdShowSchema, "sshfix.sshd-show/1");

/// The effective configuration of an sshd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshdShow {
    /// `sshfix.sshd-show/1`
    pub schema: SshdShowSchema,
    /// The sshd on this port.
    pub port: u16,
    /// Whether an sshd runs for it; else these are the values that its files give.
    #[serde(default = "is_running")]
    pub running: bool,
    /// For whom; for everybody, Match blocks left out, when not given.
    pub login: Option<ShownLogin>,
    /// The program and those of its options that change its configuration.
    pub command: Text,
    /// The main file.
    pub file: String,
    /// Sorted by keyword; those asked for, or all that sshd prints and all that a line sets.
    pub settings: Vec<ShownSetting>,
    /// What a person should know besides.
    pub notes: Vec<Text>,
}

/// Whose configuration it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownLogin {
    /// As whom.
    pub user: String,
    /// From where.
    pub address: IpAddr,
    /// To which address of the host.
    pub local_address: IpAddr,
}

/// One keyword.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownSetting {
    /// As the manual writes it.
    pub keyword: String,
    /// As `sshd -T` prints them, one for each line of its output; none where it prints none.
    pub values: Vec<String>,
    /// Where they come from.
    pub origin: Origin,
    /// The lines that set them; none unless `origin` is `file` or `command-line`.
    pub lines: Vec<ShownLine>,
    /// What sshd would use without any line; not known where sshd could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Vec<String>>,
}

fn is_running() -> bool {
    true
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Lines of files set it.
    File,
    /// An option of the program does.
    CommandLine,
    /// Nothing does.
    Default,
    /// No line names it, and it follows from lines of other keywords, as `ListenAddress` does from `Port`.
    Derived,
    /// sshfix reads the files otherwise than sshd does, and names no line rather than a wrong one.
    Unknown,
}

/// A line that sets a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownLine {
    /// Its file; `the command line` for options.
    pub file: String,
    /// From 1; 0 for options.
    pub line: usize,
    /// As it stands there.
    pub text: String,
    /// The `Match` lines it stands under, outermost first.
    pub under: Vec<ShownMatch>,
}

/// A `Match` line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownMatch {
    /// Its file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// As it stands there.
    pub text: String,
}

schema!(SshdCheckSchema, "sshfix.sshd-check/1");

/// What `sshd check` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshdCheck {
    /// `sshfix.sshd-check/1`
    pub schema: SshdCheckSchema,
    /// The sshd on this port.
    pub port: u16,
    /// The main file.
    pub file: String,
    /// Whether `sshd -t` takes the files.
    pub valid: bool,
    /// Whether the running sshd has read the files as they are now.
    pub running: RunningDocument,
    /// Whether a restart would bring sshd back.
    pub would_start: bool,
    /// All that was found, the worst first.
    pub problems: Vec<Problem>,
}

/// The running sshd against the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningDocument {
    /// How they stand to each other.
    pub state: RunningState,
    /// When it read its files; not before this, where `state` is `unknown`.
    pub since: Option<Timestamp>,
    /// One line.
    pub detail: String,
}

/// How the running sshd stands to its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunningState {
    /// No file changed since it read them.
    Current,
    /// Some did.
    Changed,
    /// It does not run.
    Down,
    /// It cannot be told.
    Unknown,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// sshd does not take the files, or would not start again.
    Broken,
    /// Most probably not what was meant.
    Warning,
    /// To know.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// What.
    pub text: Text,
    /// The line or file it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<ProblemPlace>,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// Where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemPlace {
    /// The file.
    pub file: String,
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    /// The line as it stands there.
    pub text: String,
}
