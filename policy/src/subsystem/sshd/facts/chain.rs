//! A path that a user sees, and who owns each part of it; how a message shows such a path. Judges none.

use serde::{Deserialize, Serialize};

/// Characters of a path that a message shows: users can make paths as long as the kernel takes them.
const SHOWN: usize = 200;

/// What a user cannot do at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Go on, in a folder.
    Enter,
    /// Read a file.
    Read,
    /// Read it as one of keys.
    NotRegular,
}

/// A path and who owns each part of it, from the file upwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The path without symbolic links.
    pub real: String,
    /// What is there.
    pub kind: Kind,
    /// The file first, the home directory or the root last.
    pub owners: Vec<Owner>,
    /// The first link below the home directory on the way to it, else the first of all.
    pub link: Option<Box<Link>>,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A pipe.
    Pipe,
    /// A device or a socket.
    Other,
}

/// A symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its path.
    pub path: String,
    /// What it holds.
    pub to: String,
}

/// Owner and mode of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode, without its type.
    pub mode: u32,
}

/// A path that a user may have made, for a message: no control characters, and not endless.
pub fn shown(path: &str) -> String {
    let characters = path.chars().count();
    let kept = path.chars().take(SHOWN);
    let mut text: String = kept.flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if characters > SHOWN {
        text.push_str("...");
    }
    text
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "owner {}, mode {:04o}", self.uid, self.mode & 0o7777)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_users_making_is_cut_and_shown_without_its_control_characters() {
        assert_eq!(shown("/a\u{1b}[2J\nb"), "/a\\u{1b}[2J\\nb");
        assert_eq!(shown(&"x".repeat(4096)).len(), SHOWN + 3);
    }
}
