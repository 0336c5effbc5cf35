//! A step on hosts.allow or hosts.deny: the whole file before and after, as data. The agent writes it; undo swaps the two.

use serde::{Deserialize, Serialize};

use super::{Content, Which};
use crate::address::Source;
use crate::host::HostState;
use crate::host::step::{Mismatch, Reach};
use crate::text::diff;
use crate::text::quoted::{Quote, Text};

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
    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        std::mem::swap(&mut inverse.before, &mut inverse.after);
        inverse
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        let changes = diff::changes(&self.path, self.before.as_deref(), self.after.as_deref());
        match (&self.before, &self.after) {
            (None, Some(_)) => format!("create {} ({changes})", self.path),
            (Some(_), None) => format!("remove {}", self.path),
            _ => format!("edit {} ({changes})", self.path),
        }
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> Text {
        Text::quote(Quote::HostsDiff, diff::diff(&self.path, self.before.as_deref(), self.after.as_deref()))
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        match (&self.before, &self.after) {
            (None, _) => format!("remove {} again", self.path),
            (Some(_), None) => format!("put {} back as it was", self.path),
            (Some(_), Some(_)) => format!("put the old content of {} back, to the byte", self.path),
        }
    }

    /// See [`crate::host::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        self.touches.clone()
    }

    /// See [`crate::host::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        Reach::Touched
    }

    /// See [`crate::host::step::Step::predict`].
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

    /// See [`crate::host::step::Step::holds`].
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
