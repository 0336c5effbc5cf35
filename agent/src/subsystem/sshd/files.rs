//! The files of sshd's configuration, with everything they include, and the other files that it reads by them. Each must be root's all the
//! way, else nothing of any of them is read, and sshd is not asked about them: its complaints quote lines.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sshfix_policy::subsystem::sshd::config::{Document, Tree, glob};
use sshfix_policy::subsystem::sshd::{DEFAULT_KEYS, Invocation};
use thiserror::Error;

use crate::sys::files;
use crate::sys::roots::{self, RootsError};

/// The longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The most files; sshd itself has no limit but its memory.
const FILES_MAX: usize = 1000;
/// Keywords whose value is a file of sshd's own (`sshd_config(5)`), read by sshd when it is asked, or by sshfix.
const FILES: [&str; 5] = ["hostkey", "hostcertificate", "banner", "trustedusercakeys", "revokedkeys"];

/// Why there is no tree.
#[derive(Debug, Error)]
pub(super) enum TreeError {
    /// Others than root decide what a file says, or the host has another one than the agent sees. Sshd is not asked about it.
    #[error("{0}")]
    NotRoots(String),
    /// It could not be read.
    #[error("{0}")]
    Unread(String),
}

impl From<RootsError> for TreeError {
    fn from(error: RootsError) -> Self {
        match error {
            RootsError::NotRoots { .. } | RootsError::Unseen { .. } => TreeError::NotRoots(error.to_string()),
            RootsError::Missing(_) | RootsError::NotRegular(_) | RootsError::TooLong { .. } | RootsError::Failed { .. } => {
                TreeError::Unread(error.to_string())
            }
        }
    }
}

/// The main file and all it includes.
pub(super) fn tree(main: &str) -> Result<Tree, TreeError> {
    let mut tree = Tree::new(main);
    loop {
        let (missing, patterns) = tree.missing();
        if missing.is_empty() && patterns.is_empty() {
            return Ok(tree);
        }
        if tree.files.len() + missing.len() > FILES_MAX {
            return Err(TreeError::Unread(format!("{main} includes more than {FILES_MAX} files")));
        }
        for path in missing {
            let bytes = roots::read(path.as_ref(), FILE_MAX)?;
            tree.files.insert(path.clone(), Document::parse(&bytes));
            tree.not_replaceable.extend(files::not_replaceable(path.as_ref()).map(|why| (path, why)));
        }
        for pattern in patterns {
            let named = expand(&pattern)?;
            tree.includes.insert(pattern, named);
        }
    }
}

/// The tree of an sshd that may be asked about its files, and where it cannot be read, why. The error names the file that is not root's.
pub(super) fn trusted(invocation: &Invocation) -> Result<Result<Tree, String>, String> {
    let tree = match tree(invocation.file()) {
        Err(TreeError::NotRoots(why)) => return Err(why),
        Err(error @ TreeError::Unread(_)) => Err(error.to_string()),
        Ok(tree) => Ok(tree),
    };
    let (keys, others) = named(tree.as_ref().ok(), &invocation.options);
    for path in keys.iter().chain(&others) {
        match roots::find(Path::new(path)) {
            Err(error @ (RootsError::NotRoots { .. } | RootsError::Unseen { .. })) => return Err(error.to_string()),
            // What else is one, a Banner, it opens only when somebody comes.
            Ok(found) if found.is_pipe() && keys.contains(path) => {
                return Err(format!("{path} is a pipe, and sshd would wait at it"));
            }
            // What is not there, or cannot be opened, sshd does not read either.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(tree)
}

/// Whether an Include of an sshd's files lists this folder, or that cannot be known.
pub(super) fn lists(invocation: &Invocation, folder: &Path) -> bool {
    let listed = |pattern: &String| {
        pattern
            .rsplit_once('/')
            .is_some_and(|(at, name)| glob::is_pattern(name) && (glob::is_pattern(at) || Path::new(at) == folder))
    };
    tree(invocation.file()).map_or(true, |tree| tree.includes.keys().any(listed))
}

/// The absolute paths of the other files that sshd reads, by its files and its options: host keys, and all others. Beside each host key it
/// opens the public half (authfile.c, `sshkey_load_public`).
pub(super) fn named(tree: Option<&Tree>, options: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut others) = (Vec::new(), Vec::new());
    let mut lines = |document: &Document| {
        let directives = document.lines().filter_map(|(_, line)| line.directive().ok().flatten());
        for directive in directives.filter(|directive| FILES.contains(&directive.keyword.as_str())) {
            let of = if directive.keyword == "hostkey" { &mut keys } else { &mut others };
            of.extend(directive.arguments);
        }
    };
    tree.into_iter().flat_map(|tree| tree.files.values()).for_each(&mut lines);
    let (mut certificates, mut of_options) = (Vec::new(), Vec::<String>::new());
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-c" => certificates.extend(words.next().cloned()),
            "-h" => of_options.extend(words.next().cloned()),
            "-o" => words.next().into_iter().for_each(|option| lines(&Document::parse(option.as_bytes()))),
            _ => {}
        }
    }
    keys.extend(of_options);
    if keys.is_empty() {
        keys.extend(DEFAULT_KEYS.map(str::to_owned));
    }
    let public: Vec<String> = keys.iter().map(|path| format!("{path}.pub")).collect();
    // One that does not begin with `/` is looked for in the folder that sshd runs in (servconf.c, `derelativise_path`).
    let absolute = |path: String| if path.starts_with('/') { path } else { format!("/{path}") };
    let keys = keys.into_iter().chain(public).map(absolute).collect();
    (keys, others.into_iter().chain(certificates).map(absolute).collect())
}

/// Whether a process with this root folder sees the same files at these paths as sshfix does; else the first that is another one.
pub(super) fn seen_alike(root: &OwnedFd, tree: &Tree) -> Result<(), String> {
    let identity = |found: Result<roots::Found, RootsError>| match found {
        Ok(found) => Ok(Some(found.identity())),
        Err(RootsError::Missing(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    for path in tree.files.keys().map(Path::new) {
        let differs = || -> Result<bool, String> {
            let root = root.try_clone().map_err(|error| error.to_string())?;
            Ok(identity(roots::find(path))? != identity(roots::find_below(root, path))?)
        };
        // Twice, since somebody may just have replaced it.
        if differs()? && differs()? {
            return Err(format!("{} is another file for that sshd than for sshfix", path.display()));
        }
    }
    Ok(())
}

/// The folder of an sshd's configuration below which files may be edited; `None` where it is a folder of many other things, too.
pub(super) fn folder(invocation: &Invocation) -> Option<PathBuf> {
    let folder = Path::new(invocation.file()).parent()?;
    // `/` and `/etc`
    (folder.components().count() > 2).then(|| folder.to_owned())
}

/// Whether a file may be edited for an sshd: its main file, and what lies below that one's folder.
pub(super) fn editable(invocation: &Invocation, path: &str) -> bool {
    path == invocation.file() || folder(invocation).is_some_and(|folder| roots::is_below(Path::new(path), &folder))
}

/// The files that a pattern names, sorted as glob(7) in the C locale does. A folder in which others than root could make one is an error.
fn expand(pattern: &str) -> Result<Vec<String>, TreeError> {
    let mut found = vec![String::new()];
    for component in pattern.split('/').skip(1) {
        let mut next = Vec::new();
        for folder in &found {
            if glob::is_pattern(component) {
                for name in list(folder)? {
                    let text = name.to_string_lossy();
                    if glob::matches(component, &text) {
                        // sshd would read it, and its path cannot be written down here.
                        let name = name.to_str().ok_or_else(|| unread(folder, &format!("the name `{text}` is not UTF-8")))?;
                        next.extend(there(format!("{folder}/{name}"))?);
                    }
                }
            } else {
                next.extend(there(format!("{folder}/{component}"))?);
            }
        }
        found = next;
    }
    found.sort();
    Ok(found)
}

/// The path, where something is there.
fn there(path: String) -> Result<Option<String>, TreeError> {
    match roots::find(Path::new(&path)) {
        Ok(_) => Ok(Some(path)),
        // A link of root's that leads nowhere is named, and cannot be read.
        Err(RootsError::Missing(_)) => match fs::symlink_metadata(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TreeError::Unread(format!("{path}: {error}"))),
        },
        Err(RootsError::Failed { error, .. }) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn unread(folder: &str, why: &str) -> TreeError {
    TreeError::Unread(format!("the files in {folder} are not known: {why}"))
}

/// The names in a folder; none where there is no such folder.
fn list(folder: &str) -> Result<Vec<OsString>, TreeError> {
    let path = format!("{folder}/");
    match roots::find(Path::new(&path)) {
        Ok(found) if found.writable_by_others() => {
            return Err(TreeError::NotRoots(format!(
                "{folder}: users other than root can put files there; sshfix does not read it"
            )));
        }
        Ok(_) => {}
        Err(RootsError::Missing(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let names = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<_, _>>());
    match names {
        Ok(names) => Ok(names),
        // A file in the place of a folder holds none (glob(3)).
        Err(error) if matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound) => Ok(Vec::new()),
        Err(error) => Err(unread(folder, &error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn includes_are_followed_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        fs::create_dir(at("d")).unwrap();
        for (name, text) in [
            ("main", format!("Include {}\nPort 22\n", at("d/*.conf"))),
            ("d/b.conf", "Banner /b\n".to_owned()),
            ("d/a.conf", format!("Include {} {}\n", at("none/*.conf"), at("x"))),
            ("d/.hidden.conf", "Port 1\n".to_owned()),
            ("d/c.conf.bak", "Port 2\n".to_owned()),
            ("x", "UsePAM yes\n".to_owned()),
        ] {
            fs::write(at(name), text).unwrap();
        }
        let tree = tree(&at("main")).unwrap();
        assert_eq!(tree.includes.get(&at("d/*.conf")), Some(&vec![at("d/a.conf"), at("d/b.conf")]));
        assert_eq!(tree.files.keys().collect::<Vec<_>>(), [&at("d/a.conf"), &at("d/b.conf"), &at("main"), &at("x")]);
        assert!(super::tree(&at("not")).unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn a_name_that_cannot_be_written_down_is_an_error_where_a_pattern_names_it() {
        use std::os::unix::ffi::OsStringExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        let strange = |name: &[u8]| fs::write(folder.path().join(OsString::from_vec(name.to_vec())), "UsePAM no\n").unwrap();
        fs::write(at("main"), format!("Include {}\n", at("*.conf"))).unwrap();
        strange(b"\xff.bak");
        assert!(tree(&at("main")).is_ok(), "no pattern names it");
        strange(b"\xff.conf");
        assert!(tree(&at("main")).unwrap_err().to_string().contains("is not UTF-8"));
    }

    #[test]
    fn files_that_others_can_make_or_write_are_named_and_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        let shared = |name: &str, mode: u32| {
            fs::create_dir_all(at(name)).unwrap();
            fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        shared("sticky", 0o1777);
        shared("open", 0o777);
        let asked = |text: String, options: &[&str]| {
            fs::write(at("main"), text).unwrap();
            let options = options.iter().map(|word| (*word).to_owned()).chain(["-f".to_owned(), at("main")]).collect();
            trusted(&Invocation { program: "/usr/sbin/sshd".to_owned(), options })
        };
        assert!(asked(format!("Include {}\nHostKey {}\nBanner none\n", at("none/*"), at("key")), &[]).unwrap().is_ok());
        for text in
            ["Include open/*", "Include sticky/*.conf", "Include */none.conf", "Match user a\nBanner open/x", "HostKey sticky/k"]
        {
            let (keyword, path) = text.rsplit_once(' ').unwrap();
            let why = asked(format!("{keyword} {}\n", at(path)), &[]).unwrap_err();
            assert!(why.contains(&folder.path().display().to_string()), "{why}");
        }
        for options in
            [["-h", &at("open/k")], ["-o", &format!("HostKey={}", at("open/k"))], ["-o", &format!("banner {}", at("open/k"))]]
        {
            asked(String::new(), &options).unwrap_err();
        }
        assert!(asked(String::new(), &["-h", &at("key")]).is_ok());
        // sshd opens the public half, too.
        let asked_for_key = || asked(format!("HostKey {}\n", at("key")), &[]);
        std::os::unix::fs::symlink(at("open/k"), at("key.pub")).unwrap();
        assert!(asked_for_key().unwrap_err().contains("open"));
        assert!(asked(String::new(), &["-h", &at("key")]).is_err());
        fs::remove_file(at("key.pub")).unwrap();
        nix::unistd::mkfifo(Path::new(&at("key.pub")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(asked_for_key().unwrap_err().contains("is a pipe"));
    }

    #[test]
    fn only_files_below_the_folder_of_the_main_file_are_edited() {
        let with = |file: &str| Invocation { program: String::new(), options: vec!["-f".to_owned(), file.to_owned()] };
        let usual = with("/etc/ssh/sshd_config");
        assert!(editable(&usual, "/etc/ssh/sshd_config") && editable(&usual, "/etc/ssh/sshd_config.d/a.conf"));
        for other in ["/etc/hosts.deny", "/etc/sshfix/policy.toml", "/etc/ssh/../hosts.deny"] {
            assert!(!editable(&usual, other), "{other}");
        }
        assert!(
            editable(&with("/etc/sshd_config"), "/etc/sshd_config") && !editable(&with("/etc/sshd_config"), "/etc/hosts.deny")
        );
    }
}
