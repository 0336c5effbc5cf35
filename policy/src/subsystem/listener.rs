//! listener: who listens on the SSH port, the unit that owns it, and the live SSH sessions.

use serde::{Deserialize, Serialize};

use crate::host::{AccessPath, HostState};
use crate::verdict::{Block, Connection, StageReport};

/// What was read of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {}

/// Whether something that speaks SSH takes connections on the port asked about.
pub fn evaluate(_host: &HostState, _connection: &Connection) -> StageReport {
    unimplemented!("listener helper")
}

/// What keeps connections out at this stage.
pub fn blocks(_host: &HostState, _connection: &Connection) -> Vec<Block> {
    unimplemented!("listener helper")
}

/// The live SSH sessions, as ways in that must not be lost.
pub fn sessions(_host: &HostState) -> Vec<AccessPath> {
    unimplemented!("listener helper")
}
