//! Why there is no plan on sshd: one case a reason, with what is known of it and what to do. Text only where it is shown.

use crate::host::step::Mismatch;
use crate::subsystem::sshd::change::repair::PRIVSEP;
use crate::subsystem::sshd::config::keyword::WrongValue;
use crate::subsystem::sshd::config::{ConfigError, EditError, Place, Setting, Tree};
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::judge::sockets;
use crate::subsystem::sshd::quoting::{self, said};
use crate::text::quoted::Text;

/// Why there is no plan on sshd. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlan {
    /// The server, or its files, could not be read.
    Unread(String),
    /// One file was not read.
    FileUnread(String),
    /// Its files do not make sense.
    Config(ConfigError),
    /// No edit does what was asked for.
    Edit(EditError),
    /// The file lies where sshfix writes nothing.
    NotWritten(String),
    /// sshd does not take the files.
    Rejected {
        /// What for.
        what: Attempt,
        /// What sshd says.
        complaint: String,
        /// What is wrong about the value that was given.
        value: Option<Box<WrongValue>>,
    },
    /// sshd cannot be asked before it runs.
    NotAskedYet {
        /// Its unit.
        unit: String,
    },
    /// It would not go on with these values.
    WouldEnd(String),
    /// None runs that could read its files.
    NoneRuns(u16),
    /// It has no address to listen on.
    NoAddress {
        /// Which one is missing.
        why: String,
        /// The line that names it.
        line: Option<Box<Setting>>,
    },
    /// systemd must not start the unit.
    Masked(String),
    /// Nothing starts it.
    NoUnit,
    /// systemd ends all sessions with it.
    EndsSessions {
        /// Its unit.
        unit: String,
        /// `KillMode=`
        kill_mode: String,
    },
    /// systemd listens in its stead.
    HeldBySystemd {
        /// The socket unit.
        socket: String,
        /// The keyword that changes nothing.
        keyword: String,
    },
    /// Its unit runs a program that may write its files.
    MayWrite {
        /// Its unit.
        unit: String,
        /// `reload`, `restart`.
        when: &'static str,
        /// The options that hold such programs.
        options: &'static str,
        /// The command.
        command: String,
    },
    /// A list is not written as one.
    NoPlainList(Place),
    /// An entry cannot be taken out of a list.
    EntryStays {
        /// Of which file.
        path: String,
        /// In which line.
        line: usize,
        /// The entry.
        entry: String,
    },
    /// The line that sshd complains of is not one that can be judged.
    NoSuchLine(String),
    /// The line that sshd complains of is left to a person.
    LineStays {
        /// What is wrong, and what is likely meant.
        what: Text,
        /// Why sshfix leaves it.
        why: Text,
    },
    /// Without the line sshd would listen elsewhere.
    ListensElsewhere {
        /// Of which file.
        file: String,
        /// Which line.
        line: usize,
        /// Where it would listen.
        ports: Vec<String>,
        /// Where it does.
        port: u16,
    },
    /// The steps do not lead where they should on the model.
    Model(Mismatch),
}

/// What the files are for that sshd does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// An edit.
    Edit,
    /// To read them again.
    Reload,
    /// To start with them again.
    Restart,
    /// To start with them.
    Start,
}

impl Attempt {
    fn words(self) -> &'static str {
        match self {
            Attempt::Edit => "sshd does not take it",
            Attempt::Reload => "sshd would not take its files",
            Attempt::Restart => "sshd would not start again with its files",
            Attempt::Start => "sshd would not start with its files",
        }
    }
}

impl From<EditError> for NoPlan {
    fn from(error: EditError) -> Self {
        NoPlan::Edit(error)
    }
}

impl From<ConfigError> for NoPlan {
    fn from(error: ConfigError) -> Self {
        NoPlan::Config(error)
    }
}

impl From<Mismatch> for NoPlan {
    fn from(mismatch: Mismatch) -> Self {
        NoPlan::Model(mismatch)
    }
}

impl NoPlan {
    /// What happened, with what it quotes.
    pub fn words(&self) -> Text {
        match self {
            NoPlan::Unread(why) => said(why),
            NoPlan::FileUnread(path) => format!("{path} was not read").into(),
            NoPlan::Config(error) => said(&error.to_string()),
            NoPlan::Edit(error) => error.clone().into(),
            NoPlan::NotWritten(why) => format!("it would have to be written where sshfix writes nothing: {why}").into(),
            NoPlan::Rejected { what, complaint, value } => {
                let value = value.as_ref().map_or(String::new(), |wrong| format!("; {wrong}"));
                Text::from(format!("{}: ", what.words())) + said(complaint) + value
            }
            NoPlan::NotAskedYet { unit } => format!(
                "sshd cannot be asked about its files before it runs: {PRIVSEP} is missing, which systemd makes when it starts {unit}; \
                 `systemctl start {unit}` starts it as a connection would, then ask again"
            )
            .into(),
            NoPlan::WouldEnd(why) | NoPlan::NoSuchLine(why) => why.as_str().into(),
            NoPlan::NoneRuns(port) => format!("no sshd runs on port {port}: `sshfix ctl sshd restart` starts it").into(),
            NoPlan::NoAddress { why, line } => {
                let place = line.as_ref().map(|line| Text::from(format!(" ({}: `", line.at)) + quoting::line(&line.text) + "`)");
                Text::from(why.as_str()) + place.unwrap_or_default() + "; " + sockets::ADVICE
            }
            NoPlan::Masked(unit) => {
                format!("{unit} is masked, so systemd does not start it: `systemctl unmask {unit}`, then again").into()
            }
            NoPlan::NoUnit => "there is no unit of systemd that could be started".into(),
            NoPlan::EndsSessions { unit, kill_mode } => {
                format!("{unit} has KillMode={kill_mode}, so its restart could end live sessions: set it to `process`").into()
            }
            NoPlan::HeldBySystemd { socket, keyword } => format!(
                "systemd listens for sshd ({socket}), so {keyword} in sshd_config changes nothing: `systemctl edit {socket}` and its \
                 ListenStream do"
            )
            .into(),
            NoPlan::MayWrite { unit, when, options, command } => {
                Text::from(format!(
                    "at a {when} {unit} runs a program that may write sshd's files, so what sshd would read is not known: `"
                )) + said(command)
                    + format!("`; take it out of {options} (`systemctl edit {unit}`), or make this change by hand")
            }
            NoPlan::NoPlainList(at) => format!("{at} is not written so that an address could be added").into(),
            NoPlan::EntryStays { path, line, entry } => {
                format!("{path} line {line} is not written so that {entry} could be taken out").into()
            }
            NoPlan::LineStays { what, why } => what.clone() + ". It is not turned into a comment: " + why.clone(),
            NoPlan::ListensElsewhere { file, line, ports, port } => format!(
                "without line {line} of {file} sshd would listen on port {}, and not on {port} alone",
                ports.join(", ")
            )
            .into(),
            NoPlan::Model(mismatch) => mismatch.0.as_str().into(),
        }
    }

    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            NoPlan::Unread(_) | NoPlan::FileUnread(_) => {
                "make what is named readable, then retry; `sshfix ctl sshd check` shows more"
            }
            NoPlan::Config(_) | NoPlan::Rejected { .. } | NoPlan::NoSuchLine(_) | NoPlan::LineStays { .. } => {
                "correct what is named, then retry; a running sshd keeps the configuration that it has read"
            }
            NoPlan::Edit(_) => "`sshfix ctl sshd show KEYWORD` shows what counts and where it is set",
            NoPlan::NotWritten(_) => "edit that file by hand, then `sshfix ctl sshd reload`",
            NoPlan::NotAskedYet { .. }
            | NoPlan::NoneRuns(_)
            | NoPlan::NoAddress { .. }
            | NoPlan::Masked(_)
            | NoPlan::HeldBySystemd { .. } => "run the command that is named, then retry",
            NoPlan::WouldEnd(_) => "give another value; a running sshd keeps the configuration that it has read",
            NoPlan::NoUnit => "start sshd the way this host does it, then retry",
            NoPlan::EndsSessions { unit: _, kill_mode: _ } => "`systemctl edit` that unit, then retry",
            NoPlan::MayWrite { .. } => "take that program out of the unit, then retry",
            NoPlan::NoPlainList(_) | NoPlan::EntryStays { .. } => "edit that line by hand, then `sshfix ctl sshd reload`",
            NoPlan::ListensElsewhere { .. } => "correct that line by hand, then retry",
            NoPlan::Model(_) => "`sshfix ctl status` shows what was found",
        }
    }
}

/// The files of a server, where they were read.
pub(crate) fn tree(server: &Server) -> Result<&Tree, NoPlan> {
    server.tree.as_ref().map_err(|why| NoPlan::Unread(why.clone()))
}
