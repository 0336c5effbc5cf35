//! Asks short-lived processes about users and what they own (`crate::look`): one deadline for all that one question reads of them, so that
//! a home on a dead file server holds nobody up, and nobody's home holds up what is read of another user. Must not touch a path of a user
//! itself, and takes no answer for more than the word of that user.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sshfix_policy::host::Part;
use sshfix_policy::subsystem::sshd::{
    Account, AuthorizedKey, Chain, Groups, KeyFile, MAX_MATCHES, Owner, PartIs, Reader, Refused, RootFolder, RootPart, Seen,
    is_pattern, key_file, root_parts, shown, strangers, writing_groups,
};

use crate::look::{self, Ask, Tally, Told, User};
use crate::sys::confine::Ids;

/// For one look. It takes some milliseconds where nothing hangs.
const LOOK: Duration = Duration::from_secs(3);
/// For everything that one question reads of users.
const QUESTION: Duration = Duration::from_secs(6);
/// Looks at a time.
const MAX_LOOKS: usize = 8;
/// The longest path, with what a name that is no UTF-8 becomes in it.
const PATH_MAX: usize = 3 * 4096;
/// Owners that are named.
const MAX_NAMES: usize = 8;
/// The most folders of a path: `PATH_MAX`, every second letter a slash.
const FOLDERS_MAX: usize = 2049;

/// What the time of one question is left for.
#[derive(Debug)]
pub struct Users {
    left: Duration,
}

impl Default for Users {
    fn default() -> Self {
        Self { left: QUESTION }
    }
}

impl Users {
    /// Another question begins.
    pub fn begin(&mut self) {
        self.left = QUESTION;
    }

    /// A user by name, by the system's lookups.
    pub(super) fn user(&mut self, name: &str) -> Part<User> {
        match self.timed(|until| ask(None, &Ask::User(name.to_owned()), until)) {
            Ok(Told::User(Some(user))) => Part::Present(User {
                shell_problem: user.shell_problem.map(|problem| problem.map(|text| shown(&text))).map_err(|text| shown(&text)),
                ..user
            }),
            Ok(Told::User(None)) => Part::Absent(format!("there is no user {name}")),
            Ok(_) => Part::Unreadable(format!("the user {name} could not be looked up: {STRANGE}")),
            Err(why) => Part::Unreadable(format!("the user {name} could not be looked up: {why}")),
        }
    }

    /// Files of authorized keys of several users, all at a time.
    pub(super) fn key_files(&mut self, asked: &[(&Account, Vec<String>)], of: Program) -> Vec<Vec<KeyFile>> {
        let mut found = Vec::new();
        for some in asked.chunks(MAX_LOOKS) {
            found.extend(self.timed(|until| {
                thread::scope(|scope| {
                    let looks: Vec<_> =
                        some.iter().map(|(account, paths)| scope.spawn(move || key_files(account, paths, of, until))).collect();
                    let none = |paths: &[String]| vec![KeyFile::Unknown("looking failed inside sshfix".to_owned()); paths.len()];
                    looks
                        .into_iter()
                        .zip(some)
                        .map(|(look, (_, paths))| look.join().unwrap_or_else(|_| none(paths)))
                        .collect::<Vec<_>>()
                })
            }));
        }
        found
    }

    /// The tally of a user, as the user sees it.
    pub(super) fn tally(&mut self, account: &Account, path: &str) -> Tally {
        let question = Ask::Tally { ids: ids(account), path: path.to_owned() };
        match self.timed(|until| ask(Some(account.uid), &question, until)) {
            Ok(Told::Tally(Tally::Unknown(why))) => Tally::Unknown(shown(&why)),
            Ok(Told::Tally(tally)) => tally,
            Ok(_) => Tally::Unknown(STRANGE.to_owned()),
            Err(why) => Tally::Unknown(why),
        }
    }

    /// The folder that becomes the root of a user's session, as the user sees it.
    pub(super) fn root_folder(&mut self, account: &Account, path: &str) -> RootFolder {
        let question = Ask::RootFolder { ids: ids(account), path: path.to_owned() };
        match self.timed(|until| ask(Some(account.uid), &question, until)) {
            Ok(Told::RootFolder(folder)) => checked_folder(folder, path),
            Ok(_) => RootFolder::Unknown(STRANGE.to_owned()),
            Err(why) => RootFolder::Unknown(why),
        }
    }

    /// Does something until the time of the question or of one look is over, and takes what it took off the former.
    fn timed<T>(&mut self, look: impl FnOnce(Instant) -> T) -> T {
        let begun = Instant::now();
        let answer = look(begun + self.left.min(LOOK));
        self.left = self.left.saturating_sub(begun.elapsed());
        answer
    }
}

const STRANGE: &str = "the answer of the look cannot be read";

fn ids(account: &Account) -> Ids {
    Ids { uid: account.uid, gid: account.gid, groups: account.gids.clone() }
}

/// What decides how an sshd reads files of keys; nothing where that is not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    /// See [`Reader`].
    pub(super) patched: Option<bool>,
    /// Whether it takes patterns (since OpenSSH 10.0).
    pub(super) patterns: Option<bool>,
}

fn key_files(account: &Account, paths: &[String], of: Program, until: Instant) -> Vec<KeyFile> {
    let patterns = of.patterns == Some(true);
    let question = Ask::Files { ids: ids(account), home: account.home.clone(), keys: paths.to_vec(), patterns };
    let seen: Vec<Seen> = match ask(Some(account.uid), &question, until) {
        Ok(Told::Files(seen)) if seen.len() == paths.len() => seen.into_iter().map(checked).collect(),
        Ok(_) => vec![Seen::Unknown(STRANGE.to_owned()); paths.len()],
        Err(why) => vec![Seen::Unknown(why); paths.len()],
    };
    let not_known = |path: &String| of.patterns.is_none() && is_pattern(path);
    let unknown = || Seen::Unknown("whether this sshd takes the path for a pattern is not known".to_owned());
    let seen: Vec<Seen> =
        seen.into_iter().zip(paths).map(|(seen, path)| if not_known(path) { unknown() } else { seen }).collect();
    let asked: BTreeSet<(u32, u32)> =
        seen.iter().flat_map(writing_groups).filter(|(_, owner)| [0, account.uid].contains(owner)).collect();
    let groups = if asked.is_empty() { Ok(Groups::default()) } else { groups(&asked, until) };
    let names = names(&seen, account.uid, until);
    let Account { uid, gids, home, .. } = account;
    let reader = Reader { uid: *uid, gids, home, groups: &groups, names: &names, patched: of.patched };
    seen.into_iter().zip(paths).map(|(seen, path)| key_file(path, seen, &reader)).collect()
}

fn groups(asked: &BTreeSet<(u32, u32)>, until: Instant) -> Result<Groups, String> {
    let (groups, users) = asked.iter().copied().unzip();
    match ask(None, &Ask::Groups { groups, users }, until)? {
        Told::Groups(groups) => Ok(groups),
        _ => Err(STRANGE.to_owned()),
    }
}

/// The names of owners that are neither root nor the user, as far as the system knows them. They decide nothing.
fn names(seen: &[Seen], uid: u32, until: Instant) -> BTreeMap<u32, String> {
    let asked: BTreeSet<u32> = seen.iter().flat_map(|seen| strangers(seen, uid)).collect();
    let pairs: BTreeSet<(u32, u32)> = asked.into_iter().take(MAX_NAMES).map(|owner| (0, owner)).collect();
    let found = if pairs.is_empty() { Groups::default() } else { groups(&pairs, until).unwrap_or_default() };
    found.names.into_iter().filter_map(|(uid, name)| Some((uid, name?))).collect()
}

/// A user may have said this: bounded, and nothing in it that is not what it says it is.
fn checked(seen: Seen) -> Seen {
    let strange = || Seen::Unknown(STRANGE.to_owned());
    match seen {
        Seen::Missing => Seen::Missing,
        Seen::Refused(Refused::Other(why)) => Seen::Refused(Refused::Other(shown(&why))),
        Seen::Refused(Refused::At(chain, stop)) => {
            if is_a_chain(&chain) {
                Seen::Refused(Refused::At(chain, stop))
            } else {
                strange()
            }
        }
        Seen::Unknown(why) => Seen::Unknown(shown(&why)),
        Seen::Matches(files) => {
            let plain = |path: &str| path.starts_with('/') && path == shown(path);
            let single = |seen: &Seen| !matches!(seen, Seen::Matches(_));
            let good = files.len() <= MAX_MATCHES && files.iter().all(|(path, seen)| plain(path) && single(seen));
            if !good {
                return strange();
            }
            Seen::Matches(files.into_iter().map(|(path, seen)| (path, checked(seen))).collect())
        }
        Seen::File { chain, keys } => {
            let chain = chain.map_err(|why| shown(&why));
            let keys = keys.map_err(|why| shown(&why));
            let whole = chain.as_ref().map_or(true, is_a_chain);
            let known = keys.as_ref().map_or(true, |keys| keys.iter().all(is_a_key));
            if whole && known { Seen::File { chain, keys } } else { strange() }
        }
    }
}

/// No more owners than the path has parts, and paths no longer than the kernel takes them.
fn is_a_chain(chain: &Chain) -> bool {
    let folders = Path::new(&chain.real).ancestors().count();
    let short = |path: &str| path.len() <= PATH_MAX;
    let short_link = chain.link.as_ref().is_none_or(|link| link.path.starts_with('/') && short(&link.path) && short(&link.to));
    chain.real.starts_with('/')
        && short(&chain.real)
        && short_link
        && (1..=FOLDERS_MAX.min(folders)).contains(&chain.owners.len())
        && chain.owners.iter().all(|Owner { mode, .. }| *mode <= 0o7777)
}

/// A user may have said this: the parts of that very path, none behind one that is not there, and nothing in it that is not what it says.
fn checked_folder(folder: RootFolder, path: &str) -> RootFolder {
    let parts = match folder {
        RootFolder::Unknown(why) => return RootFolder::Unknown(shown(&why)),
        RootFolder::Parts(parts) => parts,
    };
    let expected = root_parts(path);
    let goes_on = |part: &RootPart| match &part.is {
        PartIs::Folder(owner) | PartIs::NoFolder(owner) => owner.mode <= 0o7777,
        PartIs::Missing | PartIs::Unknown(_) => false,
    };
    let ends = parts.iter().position(|part| !goes_on(part)).map_or(expected.len(), |at| at + 1);
    let named = parts.iter().zip(&expected).all(|(part, path)| part.path == *path);
    if parts.len() != ends || !named {
        return RootFolder::Unknown(STRANGE.to_owned());
    }
    let plain = |part: RootPart| match part.is {
        PartIs::Unknown(why) => RootPart { is: PartIs::Unknown(shown(&why)), ..part },
        PartIs::Folder(_) | PartIs::NoFolder(_) | PartIs::Missing => part,
    };
    RootFolder::Parts(parts.into_iter().map(plain).collect())
}

/// A line of a file holds it, and its options are one line.
fn is_a_key(key: &AuthorizedKey) -> bool {
    key.is_well_formed() && !key.options.chars().any(|c| c.is_control() && c != '\t')
}

/// One look, and its answer. `owner` is the user whose paths it touches.
fn ask(owner: Option<u32>, question: &Ask, until: Instant) -> Result<Told, String> {
    if until <= Instant::now() {
        return Err(format!("all that one question reads of users may take {} s, which are over", QUESTION.as_secs()));
    }
    look::ask(owner, question, until)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sshfix_policy::subsystem::sshd::{Kind, Stop};

    use super::*;

    #[test]
    fn what_a_look_says_is_taken_only_where_it_can_be_so() {
        let owner = Owner { uid: 1, gid: 1, mode: 0o644 };
        let file = |real: &str, owners: Vec<Owner>, keys: Vec<AuthorizedKey>| Seen::File {
            chain: Ok(Chain { real: real.to_owned(), kind: Kind::File, owners, link: None }),
            keys: Ok(keys),
        };
        let key = |kind: &str, fingerprint: &str| AuthorizedKey {
            kind: kind.to_owned(),
            fingerprint: fingerprint.to_owned(),
            rsa_bits: None,
            options: String::new(),
            line: 1,
            fault: None,
        };
        let print = format!("SHA256:{}", "a".repeat(43));
        let good = file("/a/b", vec![owner; 3], vec![key("ssh-ed25519", &print)]);
        assert_eq!(checked(good.clone()), good);
        for bad in [
            file("a/b", vec![owner], Vec::new()),
            file("/a/b", vec![owner; 4], Vec::new()),
            file("/a/b", Vec::new(), Vec::new()),
            file("/a/b", vec![Owner { mode: 0o100_644, ..owner }], Vec::new()),
            file("/a/b", vec![owner], vec![key("root:x:0:0", &print)]),
            file("/a/b", vec![owner], vec![key("ssh-ed25519", "$6$salt$hash")]),
            Seen::Matches(vec![("a".to_owned(), Seen::Missing)]),
            Seen::Matches(vec![("/a\n".to_owned(), Seen::Missing)]),
            Seen::Matches(vec![("/a".to_owned(), Seen::Matches(Vec::new()))]),
            Seen::Matches(vec![("/a".to_owned(), Seen::Missing); MAX_MATCHES + 1]),
        ] {
            assert_eq!(checked(bad.clone()), Seen::Unknown(STRANGE.to_owned()), "{bad:?}");
        }
        let refused = |why: &str| Seen::Refused(Refused::Other(why.to_owned()));
        assert_eq!(checked(refused("\u{1b}[2J")), refused("\\u{1b}[2J"));
        let at = |real: &str, owners: Vec<Owner>| {
            Seen::Refused(Refused::At(Chain { real: real.to_owned(), kind: Kind::Folder, owners, link: None }, Stop::Enter))
        };
        assert_eq!(checked(at("/a/b", vec![owner; 3])), at("/a/b", vec![owner; 3]));
        for bad in [at("a", vec![owner]), at("/a", vec![owner; 3]), at("/a", Vec::new())] {
            assert_eq!(checked(bad), Seen::Unknown(STRANGE.to_owned()));
        }
    }

    #[test]
    fn a_folder_is_taken_only_part_by_part_as_it_was_asked_for() {
        let folder = |mode| PartIs::Folder(Owner { uid: 0, gid: 0, mode });
        let parts = |parts: &[(&str, PartIs)]| {
            RootFolder::Parts(parts.iter().map(|(path, is)| RootPart { path: (*path).to_owned(), is: is.clone() }).collect())
        };
        let (whole, ended) = (
            parts(&[("/", folder(0o755)), ("/a", folder(0o755)), ("/a/b", folder(0o777))]),
            parts(&[("/", folder(0o755)), ("/a", PartIs::Missing)]),
        );
        assert_eq!(checked_folder(whole.clone(), "/a//b/"), whole);
        assert_eq!(checked_folder(ended.clone(), "/a/b"), ended);
        for bad in [
            parts(&[]),
            parts(&[("/", folder(0o755)), ("/a", folder(0o755))]),
            parts(&[("/", folder(0o755)), ("/c", folder(0o755)), ("/a/b", folder(0o755))]),
            parts(&[("/", folder(0o755)), ("/a", PartIs::Missing), ("/a/b", folder(0o755))]),
            parts(&[("/", folder(0o755)), ("/a", folder(0o40_755)), ("/a/b", folder(0o755))]),
        ] {
            assert_eq!(checked_folder(bad.clone(), "/a/b"), RootFolder::Unknown(STRANGE.to_owned()), "{bad:?}");
        }
        let odd = checked_folder(parts(&[("/", PartIs::Unknown("\u{1b}".to_owned()))]), "/a");
        assert_eq!(odd, parts(&[("/", PartIs::Unknown("\\u{1b}".to_owned()))]));
    }

    #[test]
    fn a_question_whose_time_is_over_gets_no_more_looks() {
        assert!(ask(Some(1), &Ask::User("root".to_owned()), Instant::now()).unwrap_err().contains("are over"));
    }
}
