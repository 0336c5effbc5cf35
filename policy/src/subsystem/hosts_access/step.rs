//! A step on hosts.allow or hosts.deny: the whole file before and after, as data. The agent writes it; undo swaps the two.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use similar::TextDiff;

use super::{Content, Which, document};
use crate::address::Source;
use crate::host::HostState;
use crate::step::{Mismatch, Reach};

/// One edit of one file. `None` is: there is no such file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which file.
    pub file: Which,
    /// Its path.
    pub path: String,
    /// All of it, as it is.
    pub before: Option<Vec<u8>>,
    /// All of it, as it will be.
    pub after: Option<Vec<u8>>,
    /// The sources whose verdict it can change.
    pub touches: Option<Vec<Source>>,
}

impl Step {
    /// See [`crate::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        std::mem::swap(&mut inverse.before, &mut inverse.after);
        inverse
    }

    /// See [`crate::step::Step::summary`].
    pub fn summary(&self) -> String {
        match (&self.before, &self.after) {
            (None, Some(_)) => format!("create {} ({})", self.path, self.changes()),
            (Some(_), None) => format!("remove {}", self.path),
            _ => format!("edit {} ({})", self.path, self.changes()),
        }
    }

    /// `+1 line`, `-1 line`, `-1 +1 lines`.
    fn changes(&self) -> String {
        let (removed, added) = self.lines().iter().fold((0, 0), |(removed, added), line| match line.chars().next() {
            Some('-') => (removed + 1, added),
            Some('+') => (removed, added + 1),
            _ => (removed, added),
        });
        let lines = if removed + added == 1 { "line" } else { "lines" };
        match (removed, added) {
            (0, added) => format!("+{added} {lines}"),
            (removed, 0) => format!("-{removed} {lines}"),
            (removed, added) => format!("-{removed} +{added} {lines}"),
        }
    }

    /// The diff without its header.
    fn lines(&self) -> Vec<String> {
        self.diff().lines().skip(2).map(str::to_owned).collect()
    }

    /// See [`crate::step::Step::diff`]. A unified diff of the changed lines alone.
    pub fn diff(&self) -> String {
        let side = |content: &Option<Vec<u8>>| escaped(content.as_deref().unwrap_or_default());
        let name = |content: &Option<Vec<u8>>| if content.is_some() { self.path.clone() } else { "/dev/null".to_owned() };
        let (before, after) = (side(&self.before), side(&self.after));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "--- {}\n+++ {}\n", name(&self.before), name(&self.after));
        let diff = TextDiff::from_lines(before.as_str(), after.as_str());
        text.push_str(&diff.unified_diff().context_radius(0).to_string());
        text
    }

    /// See [`crate::step::Step::undo`].
    pub fn undo(&self) -> String {
        match (&self.before, &self.after) {
            (None, _) => format!("remove {} again", self.path),
            (Some(_), None) => format!("put {} back as it was", self.path),
            (Some(_), Some(_)) => format!("put the old content of {} back, to the byte", self.path),
        }
    }

    /// See [`crate::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        self.touches.clone()
    }

    /// See [`crate::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        Reach::Touched
    }

    /// See [`crate::step::Step::predict`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        let Some(state) = state.hosts_access.present_mut() else { return Err(self.unread()) };
        let content = &mut state.file_mut(self.file).content;
        if is(content, self.after.as_deref()) {
            return Ok(());
        }
        if !is(content, self.before.as_deref()) {
            return Err(Mismatch(format!("{} is not as it was when the change was planned", self.path)));
        }
        *content = self.after.clone().map_or(Content::Missing, Content::Bytes);
        Ok(())
    }

    /// See [`crate::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        let state = state.hosts_access.present().ok_or_else(|| self.unread())?;
        if is(&state.file(self.file).content, self.after.as_deref()) {
            return Ok(());
        }
        Err(Mismatch(format!("{} does not hold what was written to it", self.path)))
    }

    fn unread(&self) -> Mismatch {
        Mismatch(format!("{} could not be read", self.path))
    }
}

fn is(content: &Content, wanted: Option<&[u8]>) -> bool {
    match content {
        Content::Missing => wanted.is_none(),
        Content::Bytes(bytes) => wanted == Some(bytes),
        Content::Unreadable(_) => false,
    }
}

/// As [`document::show`], and told apart where two different bytes would look alike: a literal `\x` is `\\x`.
fn escaped(bytes: &[u8]) -> String {
    let mut marked = Vec::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'\\' && bytes.get(at + 1).is_some_and(|next| *next == b'x' || *next == b'\\') {
            marked.push(b'\\');
        }
        marked.push(*byte);
    }
    document::show(&marked)
}
