//! The paths at which sshd, or the user whose ids it takes, stops on the way to a file of keys: each with its owner, kind and mode, and who
//! could put something else into its place meanwhile. Opens nothing and advises nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::subsystem::sshd::facts::chain::{Chain, Kind, Link, Owner, Stop, shown};

/// Paths that a message names.
const MAX_NAMED: usize = 4;

/// Why sshd passes over a file of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PassedOver {
    /// These paths are at fault.
    Paths(PathFaults),
    /// Something else: what.
    Other(String),
}

/// What is wrong on the way to one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFaults {
    /// The path of the file, as the configuration names it.
    pub path: String,
    /// The file that it leads to, or how far the user comes.
    pub real: String,
    /// The first link of the user's on the way, else the first.
    pub link: Option<Box<Link>>,
    /// Whether the user can read the file.
    pub readable: bool,
    /// Each path at fault, the uppermost first; at least one.
    pub faults: Vec<PathFault>,
}

/// A path that is at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFault {
    /// The path, as the configuration names it; without links where some are on the way.
    pub path: String,
    /// What is there.
    pub kind: Kind,
    /// Whose it is.
    pub owner: Owner,
    /// The name of the owner.
    pub name: Option<String>,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// Whose the way to it is.
    pub ground: Ground,
    /// Whether it is the home directory of the user, or below.
    pub in_home: bool,
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wrong {
    /// It belongs neither to the user nor to root.
    Owner,
    /// Others can write to it.
    Writable,
    /// The user cannot open a file in this folder, by its mode.
    NotEntered,
    /// The user cannot read this file, by its mode.
    NotRead,
    /// The user is refused there although its mode allows it.
    NotByMode,
    /// It is no regular file.
    NotRegular,
}

/// Who decides what is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ground {
    /// All folders above are root's alone.
    Roots,
    /// They are once those above are mended: till then others can put something else there.
    Mended,
    /// Users can put something else there; the uppermost path that they can replace.
    Users(String),
    /// Links are on the way, so that it is not the path that the configuration names.
    Linked,
}

/// Who asks for the file, and where the configuration has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) path: &'a str,
    pub(super) home: &'a str,
    pub(super) uid: u32,
    pub(super) gids: &'a [u32],
}

impl Way<'_> {
    /// The faults of a chain, its parts counted from the file upwards; `None` where there are none.
    pub(super) fn faults(
        &self,
        chain: &Chain,
        wrong: &[(usize, Wrong)],
        name: impl Fn(u32) -> Option<String>,
    ) -> Option<PathFaults> {
        let stopped = wrong.iter().any(|(_, wrong)| !matches!(wrong, Wrong::Owner | Wrong::Writable));
        let real: Vec<String> = Path::new(&chain.real).ancestors().map(|path| path.display().to_string()).collect();
        let in_home = chain.owners.len() < real.len();
        let named = self.named(chain, in_home, stopped);
        let grounds = named.as_ref().map(|named| self.grounds(chain, named, wrong));
        let fault = |(at, wrong): &(usize, Wrong)| {
            let owner = *chain.owners.get(*at)?;
            let path = named.as_ref().unwrap_or(&real).get(*at)?.clone();
            let ground = grounds.as_ref().map_or(Some(&Ground::Linked), |grounds| grounds.get(*at))?.clone();
            let kind = if *at == 0 { chain.kind } else { Kind::Folder };
            Some(PathFault { path, kind, owner, name: name(owner.uid), wrong: *wrong, ground, in_home })
        };
        let mut faults: Vec<PathFault> = wrong.iter().filter_map(fault).collect();
        faults.reverse();
        let link = if named.is_some() { None } else { chain.link.clone() };
        (!faults.is_empty()).then(|| PathFaults {
            path: self.path.to_owned(),
            real: chain.real.clone(),
            link,
            readable: !stopped,
            faults,
        })
    }

    /// The parts as the configuration names them, from the file upwards; `None` where links lead elsewhere. Only these count for what root
    /// is told to run: the others are the word of the user.
    fn named(&self, chain: &Chain, in_home: bool, stopped: bool) -> Option<Vec<String>> {
        let (typed, real) = (Path::new(self.path), Path::new(&chain.real));
        let plain = |typed: &Path, real: &Path| if stopped { typed.starts_with(real) } else { typed == real };
        let text = |path: PathBuf| path.to_str().map(str::to_owned);
        if !in_home {
            return plain(typed, real).then(|| real.ancestors().filter_map(|path| text(path.to_owned())).collect());
        }
        let below = chain.owners.len().checked_sub(1)?;
        let parts = real.components().count();
        let real: PathBuf = real.components().skip(parts.checked_sub(below)?).collect();
        let home = Path::new(self.home.trim_end_matches('/'));
        if !plain(typed.strip_prefix(home).ok()?, &real) {
            return None;
        }
        let part = |path: &Path| if path.as_os_str().is_empty() { home.to_owned() } else { home.join(path) };
        real.ancestors().map(|path| text(part(path))).collect()
    }

    /// Who decides about each part, from the file upwards.
    fn grounds(&self, chain: &Chain, named: &[String], wrong: &[(usize, Wrong)]) -> Vec<Ground> {
        let mut grounds = Vec::new();
        let mut now = Ground::Roots;
        let mut users = false;
        for (at, (owner, path)) in chain.owners.iter().zip(named).enumerate().rev() {
            if users && !matches!(now, Ground::Users(_)) {
                now = Ground::Users(path.clone());
            }
            grounds.push(now.clone());
            let mended = wrong.iter().any(|(wrong, _)| *wrong == at);
            // A folder of the user's private group is no fault, and he can put something else into it all the same.
            users |= self.uid != 0 && (owner.uid == self.uid || owner.mode & 0o022 != 0 && !mended);
            if owner.uid != 0 || mended {
                now = if now == Ground::Roots { Ground::Mended } else { now };
            }
        }
        grounds.reverse();
        grounds
    }

    /// What the mode of the part where the user is stopped says of it.
    pub(super) fn stop(&self, stop: Stop, owner: Owner) -> Wrong {
        let bits = match owner {
            Owner { uid, .. } if uid == self.uid => owner.mode >> 6,
            Owner { gid, .. } if self.gids.contains(&gid) => owner.mode >> 3,
            _ => owner.mode,
        };
        match stop {
            Stop::Enter if bits & 0o1 == 0 => Wrong::NotEntered,
            Stop::Read if bits & 0o4 == 0 => Wrong::NotRead,
            Stop::Enter | Stop::Read => Wrong::NotByMode,
            Stop::NotRegular => Wrong::NotRegular,
        }
    }
}

impl PassedOver {
    /// Whether sshd would read the file with `StrictModes no`.
    pub fn is_strictness(&self) -> bool {
        matches!(self, PassedOver::Paths(paths) if paths.readable)
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassedOver::Other(why) => f.write_str(why),
            PassedOver::Paths(paths) => paths.fmt(f),
        }
    }
}

impl fmt::Display for PathFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Link { path, to }) = self.link.as_deref() {
            write!(f, "{} is a link to {}; ", shown(path), shown(to))?;
        }
        for (number, fault) in self.faults.iter().take(MAX_NAMED).enumerate() {
            write!(f, "{}{fault}", if number == 0 { "" } else { "; " })?;
        }
        match self.faults.len().checked_sub(MAX_NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "; and {more} more"),
        }
    }
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, kind, owner, name, wrong, .. } = self;
        let wrong = match wrong {
            Wrong::Owner => "belongs to another user",
            Wrong::Writable => "can be written by others",
            Wrong::NotEntered => "does not let the user in",
            Wrong::NotRead => "cannot be read by the user",
            Wrong::NotByMode => "is closed to the user, whatever its mode says",
            Wrong::NotRegular => "is not a regular file",
        };
        let name = name.as_ref().map_or_else(String::new, |name| format!(" {}", shown(name)));
        write!(f, "{} {wrong} (owner {}{name}, mode {:04o}, {kind})", shown(path), owner.uid, owner.mode & 0o7777)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File => "a file",
            Kind::Folder => "a folder",
            Kind::Pipe => "a pipe",
            Kind::Other => "neither file nor folder",
        })
    }
}

#[cfg(test)]
#[path = "passed_over_tests.rs"]
pub(crate) mod tests;
