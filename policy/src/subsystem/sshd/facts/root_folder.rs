//! The folder that `ChrootDirectory` makes the root of a session, with each folder above it, as sshd looks at them (session.c,
//! `safely_chroot`): `/` first, links followed. Opens nothing: the agent looks, with the ids of the user who logs in.

use serde::{Deserialize, Serialize};

use crate::subsystem::sshd::Owner;

/// What was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFolder {
    /// Each part of the path, `/` first. One that is not there, or could not be looked at, is the last.
    Parts(Vec<RootPart>),
    /// It could not be looked at: why.
    Unknown(String),
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPart {
    /// Its path, as the value has it.
    pub path: String,
    /// What is there.
    pub is: PartIs,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartIs {
    /// A folder.
    Folder(Owner),
    /// Something else.
    NoFolder(Owner),
    /// Nothing.
    Missing,
    /// That could not be seen: why.
    Unknown(String),
}

/// The paths of the parts, `/` first: `/`, `/srv`, `/srv/sftp`.
pub fn root_parts(path: &str) -> Vec<String> {
    let mut parts = vec!["/".to_owned()];
    let mut at = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        at = format!("{at}/{part}");
        parts.push(at.clone());
    }
    parts
}
