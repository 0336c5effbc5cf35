//! What sshd said of its configuration (`-t`, `-T`), kept for the next question while everything that it read is as it was: its program, its
//! options, the bytes of every file of its configuration, and the other files it opens. Keeps no answer about a login, which hangs on the
//! users that the system's lookups know, and none that was a complaint.

use std::fs;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sshfix_policy::subsystem::sshd::config::Tree;
use sshfix_policy::subsystem::sshd::{Effective, Folder, Invocation, listen_address};

use super::version::{Identity, identity};
use super::{SshdError, examine, files, privsep};

/// An answer that is older is asked for anew, whatever it hangs on.
const KEPT_FOR: Duration = Duration::from_mins(1);
/// Of so many sshds.
const MOST: usize = 4;
/// What every sshd reads besides: the user it becomes, the libraries it is linked with, and their settings.
const BESIDES: [&str; 4] = ["/etc/passwd", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/ssl/openssl.cnf"];

/// All that an answer hangs on.
#[derive(PartialEq, Eq)]
struct Basis {
    invocation: Invocation,
    tree: Tree,
    /// None where a file is not there.
    files: Vec<(String, Option<Identity>)>,
    privsep: Folder,
}

impl Basis {
    /// None where an answer hangs on more than can be seen here.
    fn of(invocation: &Invocation, tree: &Tree) -> Option<Self> {
        let of_option = |word: &String| ASKED_ELSEWHERE.iter().any(|keyword| word.to_ascii_lowercase().contains(keyword));
        if asks_others(tree) || invocation.options.iter().any(of_option) {
            return None;
        }
        let (keys, others) = files::named(Some(tree), &invocation.options);
        let paths = keys.into_iter().chain(others).chain(BESIDES.map(str::to_owned)).chain([invocation.program.clone()]);
        let print = |path: &String| fs::metadata(path).ok().map(|file| identity(&file));
        let files = paths.map(|path| (path.clone(), print(&path))).collect();
        Some(Self { invocation: invocation.clone(), tree: tree.clone(), files, privsep: privsep().ok()? })
    }
}

struct Kept {
    basis: Basis,
    effective: Effective,
    at: Instant,
}

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// What [`examine`] says, by memory where nothing changed. `tree` is its configuration as it was just read.
pub(super) fn examined(invocation: &Invocation, tree: Option<&Tree>) -> (Result<(), SshdError>, Result<Effective, SshdError>) {
    let Some(basis) = tree.and_then(|tree| Basis::of(invocation, tree)) else { return examine(invocation) };
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = kept().iter().find(|kept| kept.basis == basis && kept.at.elapsed() < KEPT_FOR) {
        return (Ok(()), Ok(found.effective.clone()));
    }
    let at = Instant::now();
    let (test, effective) = examine(invocation);
    // Files may have changed while it read them: then it is not known which it read.
    let again = || Basis::of(invocation, &files::trusted(invocation).ok()?.ok()?);
    if let (Ok(()), Ok(effective)) = (&test, &effective)
        && again().as_ref() == Some(&basis)
    {
        let mut kept = kept();
        kept.retain(|kept| kept.basis.invocation != basis.invocation && kept.at.elapsed() < KEPT_FOR);
        kept.truncate(MOST - 1);
        kept.insert(0, Kept { basis, effective: effective.clone(), at });
    }
    (test, effective)
}

/// Keywords whose meaning something outside of the files may decide: the lookup of a name, and an agent that holds the host keys.
const ASKED_ELSEWHERE: [&str; 2] = ["listenaddress", "hostkeyagent"];

/// Whether the answer hangs on what others say.
fn asks_others(tree: &Tree) -> bool {
    let directives = tree.files.values().flat_map(|document| document.lines().filter_map(|(_, line)| line.directive().ok()?));
    directives.into_iter().any(|directive| match directive.keyword.as_str() {
        "hostkeyagent" => true,
        "listenaddress" => is_name(directive.arguments.first().map_or("", String::as_str)),
        _ => false,
    })
}

/// Whether a `ListenAddress` is no address, or none that is read here.
fn is_name(at: &str) -> bool {
    at.parse::<IpAddr>().is_err() && listen_address(at).is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sshfix_policy::subsystem::sshd::config::Document;

    use super::*;

    #[test]
    fn an_answer_hangs_on_every_byte_and_every_file_and_never_on_what_others_say() {
        let folder = tempfile::tempdir().unwrap();
        let key = format!("{}/key", folder.path().display());
        let basis = |text: &str, options: &[&str]| {
            let mut tree = Tree::new("/etc/ssh/sshd_config");
            tree.files.insert("/etc/ssh/sshd_config".to_owned(), Document::parse(text.as_bytes()));
            let options = options.iter().map(|word| (*word).to_owned()).collect();
            Basis::of(&Invocation { program: "/usr/sbin/sshd".to_owned(), options }, &tree)
        };
        let with_key =
            || basis(&format!("HostKey {key}\nListenAddress 203.0.113.1:22\nListenAddress [fe80::1%eth0]:22\n"), &["-D"]);
        let before = with_key();
        assert!(before.is_some() && with_key() == before);
        fs::write(&key, "x").unwrap();
        let made = with_key();
        assert!(made != before);
        fs::write(&key, "y").unwrap();
        // One of the same length, within one tick of the clock: its inode is another.
        fs::rename(&key, format!("{key}.old")).unwrap();
        fs::write(&key, "y").unwrap();
        assert!(with_key() != made);
        assert!(basis("Port 22\n", &[]) != basis("Port 22 \n", &[]) && basis("", &["-4"]) != basis("", &[]));
        for others in ["ListenAddress localhost", "ListenAddress ssh.example.org:22", "HostKeyAgent /run/agent.sock"] {
            assert!(basis(others, &[]).is_none(), "{others}");
        }
        assert!(basis("", &["-o", "ListenAddress=localhost"]).is_none() && basis("ListenAddress 2001:db8::1", &[]).is_some());
    }
}
