//! xtables: iptables-legacy, and the matches and targets it shares with iptables-nft.

pub mod bytes;
pub mod holds;
pub mod matches;
pub mod render;
pub mod targets;
pub mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::HostState;
use crate::step::Mismatch;

/// The names of ipsets by the kernel's index, which is all that a rule holds. A rule whose set is not here shows the number.
pub type SetNames = BTreeMap<u16, String>;

/// What was read of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {}

/// One change of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {}

impl Step {
    /// See [`crate::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        match *self {}
    }

    /// See [`crate::step::Step::summary`].
    pub fn summary(&self) -> String {
        match *self {}
    }

    /// See [`crate::step::Step::diff`].
    pub fn diff(&self) -> String {
        match *self {}
    }

    /// See [`crate::step::Step::undo`].
    pub fn undo(&self) -> String {
        match *self {}
    }

    /// See [`crate::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        match *self {}
    }

    /// See [`crate::step::Step::predict`].
    pub fn predict(&self, _state: &mut HostState) -> Result<(), Mismatch> {
        match *self {}
    }

    /// See [`crate::step::Step::holds`].
    pub fn holds(&self, _state: &HostState) -> Result<(), Mismatch> {
        match *self {}
    }
}
