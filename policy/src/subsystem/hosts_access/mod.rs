//! hosts.allow and hosts.deny: hosts_access(5) and hosts_options(5).

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::{HostState, Needs};
use crate::step::Mismatch;
use crate::verdict::{Block, Connection, StageReport};

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

/// What hosts.allow and hosts.deny do to this connection. Facts that are missing go to `needs` and make it unknown meanwhile.
pub fn evaluate(_host: &HostState, _connection: &Connection, _needs: &mut Needs) -> StageReport {
    unimplemented!("hosts_access helper")
}

/// Everything in the two files that keeps this connection out, and how to lift it.
pub fn blocks(_host: &HostState, _connection: &Connection, _needs: &mut Needs) -> Vec<Block> {
    unimplemented!("hosts_access helper")
}
