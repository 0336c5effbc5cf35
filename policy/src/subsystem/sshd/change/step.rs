//! A step on sshd: files of its configuration before and after, as data, and what makes sshd follow them. One step includes its
//! activation, and its inverse brings back the bytes and the service. The agent writes and activates.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::step::{Mismatch, Reach};
use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::config::Document;
use crate::subsystem::sshd::facts::state::{Need, Server};
use crate::text::diff;
use crate::text::quoted::{Quote, Text};

/// An edit of the configuration with its activation, or the activation alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The sshd on this port.
    pub port: u16,
    /// Each file once; none for a reload, restart or start alone.
    pub files: Vec<FileEdit>,
    /// What makes sshd follow.
    pub activation: Activation,
    /// Where it is written, and why there.
    pub why: Vec<Text>,
    /// What changes for everybody, in the words of `sshd -T`.
    pub effect: Vec<Text>,
    /// Where it listened when this was planned: for an sshd that can listen nowhere that its files name when this is taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listened: Vec<SocketAddr>,
    /// Whether this takes such a step back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undoing: bool,
}

/// One file, all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEdit {
    /// Its path, as the configuration names it.
    pub path: String,
    /// As it is.
    pub before: Vec<u8>,
    /// As it will be.
    pub after: Vec<u8>,
}

/// What is done to the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The service is down and stays down, or systemd starts an sshd for each connection: the next one reads the files.
    Nothing,
    /// The running sshd reads its files again and opens its sockets anew; sessions stay.
    Reload(Through),
    /// A new sshd takes the place of the running one; sessions stay.
    Restart(Through),
    /// The service is down and is started. Not undone: to stop it would cut people off.
    Start(Through),
}

/// By whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// This unit of systemd.
    Unit(String),
    /// SIGHUP to the process that listens, where no systemd is.
    Signal,
}

impl std::fmt::Display for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Through::Unit(unit) => f.write_str(unit),
            Through::Signal => f.write_str("sshd (SIGHUP)"),
        }
    }
}

impl std::fmt::Display for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Activation::Nothing => Ok(()),
            Activation::Reload(through) => write!(f, "reload {through}"),
            Activation::Restart(through) => write!(f, "restart {through}"),
            Activation::Start(through) => write!(f, "start {through}"),
        }
    }
}

impl Step {
    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        inverse.undoing = !self.undoing;
        for file in &mut inverse.files {
            std::mem::swap(&mut file.before, &mut file.after);
        }
        inverse
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        let edits = self.files.iter().map(|file| {
            let changes = diff::changes(&file.path, Some(&file.before), Some(&file.after));
            format!("edit {} ({changes})", file.path)
        });
        let activation = Some(self.activation.to_string()).filter(|text| !text.is_empty());
        let all: Vec<String> = edits.chain(activation).collect();
        all.join(" and ")
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> Text {
        let mut text = Text::default();
        for file in &self.files {
            text.push(Text::quote(Quote::SshdDiff, diff::diff(&file.path, Some(&file.before), Some(&file.after))));
        }
        for line in &self.why {
            text.push(Text::from("# ") + line.clone() + "\n");
        }
        if !self.effect.is_empty() {
            text.push("# sshd -T, for everybody:\n");
        }
        for line in &self.effect {
            text.push(Text::from("#   ") + line.clone() + "\n");
        }
        text
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        let files = self.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(" and ");
        match (&self.activation, self.files.is_empty()) {
            (Activation::Nothing, _) => format!("put the old content of {files} back, to the byte"),
            (Activation::Start(_), true) => "nothing: an sshd that runs is left running".to_owned(),
            (activation, true) => {
                format!("nothing: {activation} cannot be rolled back, sshd keeps what it read from its files")
            }
            (Activation::Start(through), false) => {
                format!("put the old content of {files} back, to the byte, and reload {through}")
            }
            (activation, false) => format!("put the old content of {files} back, to the byte, and {activation}"),
        }
    }

    /// See [`crate::host::step::Step::is_kept`].
    pub fn is_kept(&self) -> bool {
        self.files.is_empty() && self.activation != Activation::Nothing
    }

    /// Whether it edits the files of an sshd that was down: whichever runs later never read the old ones.
    pub fn was_down(&self) -> bool {
        let down = matches!(self.activation, Activation::Nothing | Activation::Start(_));
        down && !self.files.is_empty()
    }

    /// See [`crate::host::step::Step::touches`]. Whom it concerns is told by the proof, which asks sshd about every access path.
    pub fn touches(&self) -> Option<Vec<Source>> {
        None
    }

    /// See [`crate::host::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        match (&self.activation, self.files.is_empty()) {
            (Activation::Start(_), true) => Reach::Nobody,
            _ => Reach::Anybody,
        }
    }

    /// See [`crate::host::step::Step::needs`].
    pub fn needs(&self) -> Needs {
        [host::Need::Sshd(Need::Server(self.port))].into()
    }

    /// See [`crate::host::step::Step::predict`]. What the new files come to is asked of sshd, by [`crate::subsystem::sshd::facts::ask`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        let server = self.server_mut(state)?;
        if self.files.iter().all(|file| server.bytes(&file.path).as_ref() == Some(&file.after)) {
            return Ok(());
        }
        for file in &self.files {
            if server.bytes(&file.path).as_ref() != Some(&file.before) {
                return Err(Mismatch(format!("{} is not as it was when the change was planned", file.path)));
            }
        }
        // Every sshd that has the file, too.
        for part in state.sshd.servers.values_mut() {
            let Part::Present(server) = part else { continue };
            for file in &self.files {
                if server.bytes(&file.path).as_ref() == Some(&file.before) {
                    server.put(&file.path, &file.before, &file.after);
                }
            }
        }
        Ok(())
    }

    /// See [`crate::host::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        let server = match state.sshd.servers.get(&self.port) {
            Some(Part::Present(server)) => server,
            other => return Err(self.unread(other)),
        };
        for file in &self.files {
            if server.bytes(&file.path).as_ref() != Some(&file.after) {
                return Err(Mismatch(format!("{} does not hold what was written to it", file.path)));
            }
        }
        let runs = matches!(self.activation, Activation::Reload(_) | Activation::Restart(_) | Activation::Start(_));
        if runs && !server.running {
            return Err(Mismatch(format!("no sshd listens on port {}", self.port)));
        }
        Ok(())
    }

    fn server_mut<'a>(&self, state: &'a mut HostState) -> Result<&'a mut Server, Mismatch> {
        match state.sshd.servers.get_mut(&self.port) {
            Some(Part::Present(server)) => Ok(server),
            other => Err(self.unread(other.as_deref())),
        }
    }

    fn unread(&self, part: Option<&Part<Server>>) -> Mismatch {
        Mismatch(match part {
            Some(Part::Absent(why) | Part::Unreadable(why)) => why.clone(),
            _ => format!("the sshd on port {} was not looked at", self.port),
        })
    }
}

impl Server {
    /// The bytes of a file of its configuration.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.tree.as_ref().ok()?.files.get(path).map(Document::bytes)
    }

    /// Predicts a file with this content, remembering how it differs from what was read.
    pub(crate) fn put(&mut self, path: &str, before: &[u8], after: &[u8]) {
        let original = self.edited.get(path).map_or_else(|| before.to_vec(), |(original, _)| original.clone());
        if original == after {
            self.edited.remove(path);
        } else {
            self.edited.insert(path.to_owned(), (original, after.to_vec()));
        }
        if let Ok(tree) = &mut self.tree {
            tree.files.insert(path.to_owned(), Document::parse(after));
        }
    }
}
