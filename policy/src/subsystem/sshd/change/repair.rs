//! Steps on what sshd needs besides its configuration: its directory, its host keys, the tally of `pam_faillock`. Each adds what is missing or
//! takes away what refuses, and so keeps nobody out. The agent does them.

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::step::{Mismatch, Reach};
use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::facts::state::{Folder, KeyProblem, Need, Server};
use crate::subsystem::sshd::judge::judgement::Mend;

/// `_PATH_PRIVSEP_CHROOT_DIR` of Debian, Fedora and SUSE.
pub const PRIVSEP: &str = "/run/sshd";
/// What stands at the end of the public half of a key that sshfix made: only such a key is taken away again.
pub const MADE_BY: &str = "made-by-sshfix";

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The sshd on this port.
    pub port: u16,
    /// What is repaired.
    pub part: Mend,
}

impl Repair {
    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        let part = match self.part.clone() {
            Mend::Folder { before, after } => Mend::Folder { before: after, after: before },
            Mend::KeyMode { path, before, after } => Mend::KeyMode { path, before: after, after: before },
            Mend::Key { path, kind, there } => Mend::Key { path, kind, there: !there },
            Mend::Tally { user, path, before, after } => Mend::Tally { user, path, before: after, after: before },
        };
        Self { port: self.port, part }
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        match &self.part {
            Mend::Folder { before: None, .. } => format!("make {PRIVSEP}"),
            Mend::Folder { after: None, .. } => format!("remove {PRIVSEP}"),
            Mend::Folder { after: Some(mode), .. } => format!("set the mode of {PRIVSEP} to {mode:04o}"),
            Mend::KeyMode { path, after, .. } => format!("set the mode of {path} to {after:04o}"),
            Mend::Key { path, kind, there: true } => format!("make the host key {path} ({kind})"),
            Mend::Key { path, there: false, .. } => format!("remove the host key {path}"),
            Mend::Tally { user, after, .. } if after.is_empty() => format!("forget the failed logins of {user}"),
            Mend::Tally { user, .. } => format!("put the failed logins of {user} back"),
        }
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> String {
        let mode = |mode: &Option<u32>| mode.map_or_else(|| "not there".to_owned(), |mode| format!("{mode:04o} root root"));
        match &self.part {
            Mend::Folder { before, after } => format!("-{PRIVSEP} {}\n+{PRIVSEP} {}\n", mode(before), mode(after)),
            Mend::KeyMode { path, before, after } => format!("-{path} {before:04o}\n+{path} {after:04o}\n"),
            Mend::Key { path, kind, there: true } => format!("+{path} 0600, a new {kind} key\n+{path}.pub 0644\n"),
            Mend::Key { path, kind, there: false } => format!("-{path} 0600, a {kind} key\n-{path}.pub 0644\n"),
            Mend::Tally { path, before, after, .. } => {
                let records = |bytes: &[u8]| bytes.len() / crate::subsystem::sshd::facts::faillock::RECORD;
                format!("-{path} {} records\n+{path} {} records\n", records(before), records(after))
            }
        }
    }

    /// Whether it is about a tally, a file that belongs to the user it is of.
    pub fn is_of_a_tally(&self) -> bool {
        matches!(self.part, Mend::Tally { .. })
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        self.inverse().summary()
    }

    /// See [`crate::host::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        None
    }

    /// See [`crate::host::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        match &self.part {
            Mend::Folder { after: Some(_), .. } | Mend::KeyMode { .. } | Mend::Key { there: true, .. } => Reach::Nobody,
            Mend::Tally { after, .. } if after.is_empty() => Reach::Nobody,
            Mend::Folder { after: None, .. } | Mend::Key { there: false, .. } | Mend::Tally { .. } => Reach::Anybody,
        }
    }

    /// See [`crate::host::step::Step::survives_reboot`].
    pub fn survives_reboot(&self) -> bool {
        match &self.part {
            Mend::Folder { .. } | Mend::Tally { .. } => false,
            Mend::KeyMode { .. } | Mend::Key { .. } => true,
        }
    }

    /// See [`crate::host::step::Step::needs`].
    pub fn needs(&self) -> Needs {
        let need = match &self.part {
            Mend::Tally { user, .. } => Need::Tally(user.clone()),
            Mend::Folder { .. } | Mend::KeyMode { .. } | Mend::Key { .. } => Need::Server(self.port),
        };
        [host::Need::Sshd(need)].into()
    }

    /// See [`crate::host::step::Step::predict`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        if self.holds(state).is_ok() {
            return Ok(());
        }
        if let Mend::Tally { user, before, after, .. } = &self.part {
            return match state.sshd.tallies.get_mut(user) {
                Some(Part::Present(tally)) if tally.bytes == *before => {
                    tally.bytes.clone_from(after);
                    Ok(())
                }
                _ => Err(Mismatch(format!("what pam_faillock remembers of {user} changed"))),
            };
        }
        let Some(Part::Present(server)) = state.sshd.servers.get_mut(&self.port) else { return Err(self.unread()) };
        match &self.part {
            Mend::Folder { before, after } => {
                if is_folder(&server.privsep, *before).is_err() {
                    return Err(Mismatch(format!("{PRIVSEP} is not as it was when the change was planned")));
                }
                server.privsep = folder(*after);
            }
            Mend::KeyMode { path, before, after } => {
                key(server, path, mode_problem(*before).as_ref())?.problem = mode_problem(*after);
            }
            Mend::Key { path, there, .. } => {
                let missing = Some(KeyProblem::Missing);
                let (was, is) = if *there { (missing, None) } else { (None, missing) };
                key(server, path, was.as_ref())?.problem = is;
            }
            Mend::Tally { .. } => {}
        }
        // What it complained about is mended; whatever else it says is seen when the host is read again.
        let folder = server.privsep == Folder::Good || !server.running;
        let good = folder && server.host_key_files.iter().any(|key| key.problem.is_none());
        let mended = server
            .test
            .as_ref()
            .is_err_and(|said| crate::subsystem::sshd::judge::admission::complains_of_these(said, &server.privsep));
        if good && mended {
            server.test = Ok(());
        }
        Ok(())
    }

    /// See [`crate::host::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        if let Mend::Tally { user, after, .. } = &self.part {
            return match state.sshd.tallies.get(user) {
                Some(Part::Present(tally)) if tally.bytes == *after => Ok(()),
                _ => Err(Mismatch(format!("pam_faillock does not remember of {user} what was written"))),
            };
        }
        let Some(Part::Present(server)) = state.sshd.servers.get(&self.port) else { return Err(self.unread()) };
        let problem = |path: &str| server.host_key_files.iter().find(|key| key.path == path).map(|key| key.problem.as_ref());
        let differs = |path: &str| Err(Mismatch(format!("{path} is not as it should be")));
        match &self.part {
            Mend::Folder { after, .. } => is_folder(&server.privsep, *after),
            Mend::KeyMode { path, after, .. } if problem(path) != Some(mode_problem(*after).as_ref()) => differs(path),
            Mend::Key { path, there: true, .. } if problem(path) != Some(None) => differs(path),
            Mend::Key { path, there: false, .. } if problem(path) != Some(Some(&KeyProblem::Missing)) => differs(path),
            Mend::KeyMode { .. } | Mend::Key { .. } | Mend::Tally { .. } => Ok(()),
        }
    }

    fn unread(&self) -> Mismatch {
        Mismatch(format!("the sshd on port {} was not looked at", self.port))
    }
}

fn folder(mode: Option<u32>) -> Folder {
    match mode {
        None => Folder::Missing,
        Some(mode) if mode & 0o022 == 0 => Folder::Good,
        Some(mode) => Folder::Wrong { uid: 0, mode },
    }
}

fn is_folder(is: &Folder, wanted: Option<u32>) -> Result<(), Mismatch> {
    if *is == folder(wanted) { Ok(()) } else { Err(Mismatch(format!("{PRIVSEP} is not as it should be"))) }
}

fn mode_problem(mode: u32) -> Option<KeyProblem> {
    (mode & 0o077 != 0).then_some(KeyProblem::Open(mode))
}

fn key<'a>(
    server: &'a mut Server,
    path: &str,
    was: Option<&KeyProblem>,
) -> Result<&'a mut crate::subsystem::sshd::HostKey, Mismatch> {
    let found = server.host_key_files.iter_mut().find(|key| key.path == path && key.problem.as_ref() == was);
    found.ok_or_else(|| Mismatch(format!("{path} is not as it was when the change was planned")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_repair_undone_twice_is_itself_and_only_its_undo_can_keep_somebody_out() {
        let path = || "/etc/ssh/ssh_host_rsa_key".to_owned();
        let tally = Mend::Tally { user: "alice".to_owned(), path: path(), before: vec![1; 64], after: Vec::new() };
        for part in [
            Mend::Folder { before: None, after: Some(0o755) },
            Mend::KeyMode { path: path(), before: 0o640, after: 0o600 },
            Mend::Key { path: path(), kind: "rsa".to_owned(), there: true },
            tally,
        ] {
            let repair = Repair { port: 22, part };
            assert_eq!(repair.inverse().inverse(), repair);
            assert_eq!(repair.reach(), Reach::Nobody);
            assert_ne!(repair.summary(), repair.undo());
        }
    }
}
