//! Whether sshd reads a file of authorized keys (auth2-pubkeyfile.c `auth_openfile`, misc.c `safe_path`), from what its user sees of it.
//! Opens no file: the agent looks, with the ids of that user, as sshd does (uidswap.c).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::subsystem::sshd::AuthorizedKey;
use crate::subsystem::sshd::facts::chain::{Chain, Owner, Stop, shown};
use crate::subsystem::sshd::facts::passed_over::{PassedOver, Way, Wrong};

/// Owners that are named.
const MAX_NAMED: usize = 8;

/// The most files that a pattern may name: more are not read.
pub const MAX_MATCHES: usize = 64;

/// What a user sees of a file of authorized keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// It is not there.
    Missing,
    /// It cannot be opened, or is no regular file. sshd sees the same.
    Refused(Refused),
    /// A regular file that the user can open.
    File {
        /// The path with its symbolic links followed, and owner and mode of the file and each folder above it, up to the home directory
        /// or else the root; the text says which of them cannot be looked at.
        chain: Result<Chain, String>,
        /// The keys in it, each once; the text says why they are not known.
        keys: Result<Vec<AuthorizedKey>, String>,
    },
    /// The path is a pattern, and these files match it, in the order in which sshd reads them.
    Matches(Vec<(String, Seen)>),
    /// It could not be looked at: why. What sshd sees is not known.
    Unknown(String),
}

/// Why a user cannot open a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The user comes as far as the first part of this chain.
    At(Chain, Stop),
    /// Something else: what.
    Other(String),
}

/// Who is in the groups that may write to a file or to a folder above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// By group id; `None` where no group has it.
    pub groups: BTreeMap<u32, Option<Members>>,
    /// The names of the owners of what they may write to; `None` where there is none.
    pub names: BTreeMap<u32, Option<String>>,
}

/// The members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The users whose primary group it is, the first few of them.
    pub primary: BTreeSet<u32>,
    /// Those that group(5) lists, the first two of them.
    pub listed: Vec<String>,
}

/// A file of authorized keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyFile {
    /// It is not there.
    Missing,
    /// Its user can read it.
    File {
        /// What `StrictModes yes` makes of it.
        modes: Modes,
        /// The keys in it, each once; the text says why they are not known.
        keys: Result<Vec<AuthorizedKey>, String>,
    },
    /// sshd cannot read it, whatever `StrictModes` is: why.
    Refused(PassedOver),
    /// The path is a pattern, and these files match it, in their order; none where nothing does.
    Matches(Vec<(String, KeyFile)>),
    /// It could not be looked at: why.
    Unknown(String),
}

/// What `StrictModes yes` makes of owners and modes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Modes {
    /// sshd reads the file.
    Good,
    /// sshd passes over it: why.
    Bad(PassedOver),
    /// It depends on which sshd it is, or on what could not be read.
    Unknown(String),
}

/// What an sshd gets out of a file of authorized keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading<'a> {
    /// It is not there.
    Missing,
    /// It reads these keys.
    Keys(&'a [AuthorizedKey]),
    /// It passes over the file: why.
    PassedOver(&'a PassedOver),
    /// That is not known: why.
    Unknown(&'a str),
}

/// Whether a path is a pattern for an sshd that takes patterns (auth2-pubkey.c of OpenSSH 10.0, glob(3)).
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

impl KeyFile {
    /// The files that sshd reads, with their paths: what matches, where the path is a pattern.
    pub fn each<'a>(&'a self, path: &'a str) -> Vec<(&'a str, &'a KeyFile)> {
        match self {
            KeyFile::Matches(files) if files.is_empty() => vec![(path, &KeyFile::Missing)],
            KeyFile::Matches(files) => files.iter().map(|(path, file)| (path.as_str(), file)).collect(),
            KeyFile::Missing | KeyFile::File { .. } | KeyFile::Refused(_) | KeyFile::Unknown(_) => vec![(path, self)],
        }
    }

    /// What an sshd with this `StrictModes` gets out of it.
    pub fn read(&self, strict: bool) -> Reading<'_> {
        match self {
            KeyFile::Missing => Reading::Missing,
            KeyFile::Matches(_) => Reading::Unknown("several files"),
            KeyFile::Refused(why) => Reading::PassedOver(why),
            KeyFile::File { modes: Modes::Bad(why), .. } if strict => Reading::PassedOver(why),
            KeyFile::File { modes: Modes::Unknown(why), .. } if strict => Reading::Unknown(why),
            KeyFile::File { keys: Ok(keys), .. } => Reading::Keys(keys),
            KeyFile::File { keys: Err(why), .. } | KeyFile::Unknown(why) => Reading::Unknown(why),
        }
    }
}

/// The groups to ask about before [`key_file`] can tell, with the owners of what they may write to.
pub fn writing_groups(seen: &Seen) -> BTreeSet<(u32, u32)> {
    let chain = match seen {
        Seen::Matches(files) => return files.iter().flat_map(|(_, seen)| writing_groups(seen)).collect(),
        Seen::File { chain: Ok(chain), .. } => chain,
        Seen::File { .. } | Seen::Missing | Seen::Refused(_) | Seen::Unknown(_) => return BTreeSet::new(),
    };
    let writable = chain.owners.iter().filter(|owner| owner.mode & 0o020 != 0);
    writable.map(|owner| (owner.gid, owner.uid)).collect()
}

/// Whose files they are, and what decides about them.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The user's id.
    pub uid: u32,
    /// All groups of the user.
    pub gids: &'a [u32],
    /// The home directory.
    pub home: &'a str,
    /// Who is in groups that may write.
    pub groups: &'a Result<Groups, String>,
    /// The names of owners, as far as they are known.
    pub names: &'a BTreeMap<u32, String>,
    /// Whether it is Debian's, which lets a group write that has no other member than the owner (user-group-modes.patch); `None` where that
    /// is not known.
    pub patched: Option<bool>,
}

/// The owners to name, the first few: those that are neither root nor this user.
pub fn strangers(seen: &Seen, uid: u32) -> BTreeSet<u32> {
    let chain = match seen {
        Seen::Matches(files) => return files.iter().flat_map(|(_, seen)| strangers(seen, uid)).take(MAX_NAMED).collect(),
        Seen::File { chain: Ok(chain), .. } | Seen::Refused(Refused::At(chain, _)) => chain,
        Seen::File { .. } | Seen::Missing | Seen::Refused(Refused::Other(_)) | Seen::Unknown(_) => return BTreeSet::new(),
    };
    chain.owners.iter().map(|owner| owner.uid).filter(|owner| ![0, uid].contains(owner)).take(MAX_NAMED).collect()
}

/// What sshd makes of a file of authorized keys.
pub fn key_file(path: &str, seen: Seen, of: &Reader) -> KeyFile {
    match seen {
        Seen::Missing => KeyFile::Missing,
        Seen::Refused(Refused::Other(why)) => KeyFile::Refused(PassedOver::Other(why)),
        Seen::Refused(Refused::At(chain, stop)) => KeyFile::Refused(stopped(path, &chain, stop, of)),
        Seen::Unknown(why) => KeyFile::Unknown(why),
        Seen::Matches(files) => KeyFile::Matches(
            files
                .into_iter()
                .map(|(path, seen)| {
                    let file = key_file(&path, seen, of);
                    (path, file)
                })
                .collect(),
        ),
        Seen::File { chain: Err(why), keys } => KeyFile::File { modes: Modes::Bad(PassedOver::Other(why)), keys },
        Seen::File { chain: Ok(chain), keys } => KeyFile::File { modes: safe_path(path, &chain, of), keys },
    }
}

/// misc.c, `safe_path`: one part that is not safe decides; what is not known decides only where nothing else does.
fn safe_path(path: &str, chain: &Chain, of: &Reader) -> Modes {
    let (mut wrong, mut unknown) = (Vec::new(), None);
    for (number, (owner, at)) in chain.owners.iter().zip(Path::new(&chain.real).ancestors()).enumerate() {
        match secure(*owner, of.uid, of.groups, of.patched) {
            Secure::Yes => {}
            Secure::No(why) => wrong.push((number, why)),
            Secure::Unknown(why) => {
                let at = shown(&at.display().to_string());
                unknown = unknown.or(Some(Modes::Unknown(format!("{at} {why} ({owner})"))));
            }
        }
    }
    match of.way(path).faults(chain, &wrong, |uid| of.names.get(&uid).cloned()) {
        Some(faults) => Modes::Bad(PassedOver::Paths(faults)),
        None => unknown.unwrap_or(Modes::Good),
    }
}

/// Where the user comes no further, and what else on the way there `StrictModes` would not take.
fn stopped(path: &str, chain: &Chain, stop: Stop, of: &Reader) -> PassedOver {
    let way = of.way(path);
    let mut wrong: Vec<(usize, Wrong)> = chain.owners.first().map(|owner| (0, way.stop(stop, *owner))).into_iter().collect();
    for (number, owner) in chain.owners.iter().enumerate().skip(1) {
        if let Secure::No(why) = secure(*owner, of.uid, of.groups, of.patched) {
            wrong.push((number, why));
        }
    }
    let faults = way.faults(chain, &wrong, |uid| of.names.get(&uid).cloned());
    faults.map_or_else(|| PassedOver::Other("the user cannot open it".to_owned()), PassedOver::Paths)
}

impl<'a> Reader<'a> {
    fn way(&self, path: &'a str) -> Way<'a> {
        Way { path, home: self.home, uid: self.uid, gids: self.gids }
    }
}

enum Secure {
    Yes,
    No(Wrong),
    Unknown(String),
}

/// misc.c, `secure_permissions` of Debian's patch. OpenSSH's own refuses every mode with 022.
fn secure(owner: Owner, uid: u32, groups: &Result<Groups, String>, patched: Option<bool>) -> Secure {
    if owner.uid != 0 && owner.uid != uid {
        return Secure::No(Wrong::Owner);
    }
    if owner.mode & 0o002 != 0 {
        return Secure::No(Wrong::Writable);
    }
    if owner.mode & 0o020 == 0 {
        return Secure::Yes;
    }
    match (patched, groups.as_ref().map(|groups| is_private(owner, uid, groups))) {
        (Some(false), _) | (_, Ok(Some(false))) => Secure::No(Wrong::Writable),
        (Some(true), Ok(Some(true))) => Secure::Yes,
        (None, Ok(Some(true))) => Secure::Unknown(
            "can be written by the private group of its owner, which Debian's sshd allows and others refuse".to_owned(),
        ),
        (_, Ok(None)) => Secure::Unknown("can be written by a group whose members were not read".to_owned()),
        (_, Err(why)) => Secure::Unknown(format!("can be written by a group whose members are not known: {why}")),
    }
}

/// Exactly one member: nobody else's primary group, nobody else listed, and not without any member.
fn is_private(owner: Owner, uid: u32, groups: &Groups) -> Option<bool> {
    let (Some(members), Some(Some(name))) = (groups.groups.get(&owner.gid)?, groups.names.get(&owner.uid)) else {
        return Some(false);
    };
    let primary = members.primary.iter().all(|member| *member == uid);
    let listed = members.listed.iter().all(|member| member == name) && members.listed.len() <= 1;
    Some(primary && listed && !(members.primary.is_empty() && members.listed.is_empty()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::subsystem::sshd::facts::chain::Kind;

    const ALICE: u32 = 1000;
    const PATH: &str = "/home/alice/.ssh/authorized_keys";

    fn seen(owners: &[(u32, u32, u32)]) -> Seen {
        let owners = owners.iter().map(|(uid, gid, mode)| Owner { uid: *uid, gid: *gid, mode: *mode }).collect();
        let real = PATH.to_owned();
        Seen::File { chain: Ok(Chain { real, kind: Kind::File, owners, link: None }), keys: Ok(Vec::new()) }
    }

    #[allow(clippy::unnecessary_wraps)]
    fn groups(primary: &[u32], listed: &[&str]) -> Result<Groups, String> {
        let members = Members {
            primary: primary.iter().copied().collect(),
            listed: listed.iter().map(|name| (*name).to_owned()).collect(),
        };
        let names = [(ALICE, Some("alice".to_owned())), (0, Some("root".to_owned()))].into();
        Ok(Groups { groups: [(1000, Some(members)), (99, None)].into(), names })
    }

    fn modes(seen: Seen, groups: &Result<Groups, String>, patched: Option<bool>) -> Modes {
        let names = BTreeMap::from([(1001, "bob".to_owned())]);
        let reader = Reader { uid: ALICE, gids: &[1000], home: "/home/alice", groups, names: &names, patched };
        match key_file(PATH, seen, &reader) {
            KeyFile::File { modes, .. } => modes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_private_group_may_write_where_sshd_is_debians_and_nobody_knows_where_it_is_not_known() {
        let home = || seen(&[(ALICE, 1000, 0o600), (ALICE, 1000, 0o700), (ALICE, 1000, 0o775)]);
        let private = groups(&[ALICE], &[]);
        assert_eq!(modes(home(), &private, Some(true)), Modes::Good);
        assert_eq!(modes(home(), &groups(&[], &["alice"]), Some(true)), Modes::Good);
        assert_eq!(modes(home(), &groups(&[ALICE], &["alice"]), Some(true)), Modes::Good);
        assert!(
            matches!(modes(home(), &private, Some(false)), Modes::Bad(why) if why.to_string().contains("/home/alice can be written by others"))
        );
        assert!(matches!(modes(home(), &private, None), Modes::Unknown(_)));
        for shared in
            [groups(&[ALICE, 1001], &[]), groups(&[ALICE], &["bob"]), groups(&[ALICE], &["alice", "bob"]), groups(&[], &[])]
        {
            assert!(matches!(modes(home(), &shared, Some(true)), Modes::Bad(_)), "{shared:?}");
            assert!(matches!(modes(home(), &shared, None), Modes::Bad(_)), "refused by either: {shared:?}");
        }
        // The group that root's own folder may be written by holds only its owner where it holds root.
        let roots = seen(&[(ALICE, 1000, 0o600), (0, 1000, 0o775)]);
        assert!(matches!(modes(roots, &groups(&[ALICE], &["alice"]), Some(true)), Modes::Bad(_)));
        let nobodys = seen(&[(ALICE, 99, 0o660)]);
        assert!(matches!(modes(nobodys, &private, Some(true)), Modes::Bad(_)));
        assert!(matches!(modes(home(), &Err("the directory does not answer".to_owned()), Some(true)), Modes::Unknown(_)));
        assert!(matches!(modes(home(), &Ok(Groups::default()), Some(true)), Modes::Unknown(_)));
    }

    #[test]
    fn the_world_and_other_owners_are_refused_whatever_else_is_unknown() {
        let strange = seen(&[(ALICE, 5, 0o660), (1001, 1000, 0o700)]);
        assert!(
            matches!(modes(strange, &Err("x".to_owned()), None), Modes::Bad(why) if why.to_string().contains("belongs to another user (owner 1001 bob, mode 0700, a folder)"))
        );
        let open = seen(&[(ALICE, 1000, 0o666)]);
        assert!(
            matches!(modes(open, &groups(&[ALICE], &[]), Some(true)), Modes::Bad(why) if why.to_string().contains("mode 0666"))
        );
        assert_eq!(modes(seen(&[(ALICE, 1000, 0o600), (0, 0, 0o755)]), &Ok(Groups::default()), None), Modes::Good);
    }

    #[test]
    fn strict_modes_no_reads_what_it_can_and_nothing_else() {
        let other = |why: &str| PassedOver::Other(why.to_owned());
        let bad = KeyFile::File { modes: Modes::Bad(other("bad")), keys: Ok(Vec::new()) };
        assert_eq!((bad.read(true), bad.read(false)), (Reading::PassedOver(&other("bad")), Reading::Keys(&[])));
        let (refused, pipe) = (KeyFile::Refused(other("a pipe")), other("a pipe"));
        assert_eq!((refused.read(true), refused.read(false)), (Reading::PassedOver(&pipe), Reading::PassedOver(&pipe)));
        let long = KeyFile::File { modes: Modes::Good, keys: Err("too long".to_owned()) };
        assert_eq!(long.read(true), Reading::Unknown("too long"));
        let unknown = KeyFile::File { modes: Modes::Unknown("which sshd".to_owned()), keys: Ok(Vec::new()) };
        assert_eq!((unknown.read(true), unknown.read(false)), (Reading::Unknown("which sshd"), Reading::Keys(&[])));
        assert_eq!(
            (KeyFile::Missing.read(true), KeyFile::Unknown("x".to_owned()).read(false)),
            (Reading::Missing, Reading::Unknown("x"))
        );
    }
}
