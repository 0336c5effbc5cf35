//! What users leave for their own logins and `PermitUserRC` and `PermitUserEnvironment` let count (session.c, `do_rc_files` and
//! `do_setup_env`): whether there is nothing of it, for certain, so that to let it count changes nothing. What is there is not judged.

use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::facts::key_file::KeyFile;
use crate::subsystem::sshd::facts::state::{Need, Server};
use crate::subsystem::sshd::way_in::LoginWay;

/// session.c keeps so many characters of the home folder before `.ssh/environment`.
const HOME_MAX: usize = 200;

/// Of what users leave, what is not there for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoUserFiles {
    /// `~/.ssh/rc`
    rc: bool,
    /// `~/.ssh/environment`, and `environment=` of the keys.
    environment: bool,
}

impl NoUserFiles {
    /// Whether a value of this keyword, whatever it is, changes nothing for this login.
    pub fn leaves_alone(self, keyword: &str) -> bool {
        match keyword {
            "permituserrc" => self.rc,
            "permituserenvironment" => self.environment,
            _ => false,
        }
    }
}

/// Looks only where the files of sshd are edited, or were since sshd read them: else no value can be new.
pub fn none_of(login: &LoginWay, host: &HostState, server: &Server, needs: &mut Needs) -> NoUserFiles {
    let Some(Part::Present(account)) = host.sshd.accounts.get(&login.user) else { return NoUserFiles::default() };
    let home = account.home.trim_end_matches('/');
    let plain = home.starts_with('/') && home.len() < HOME_MAX;
    // Below another root other files have these names.
    let chroot = login.effective.one("chrootdirectory").is_some_and(|folder| folder != "none");
    if server.edited.is_empty() && server.stale.is_empty() || !plain || chroot {
        return NoUserFiles::default();
    }
    let counts = |keyword: &str| login.effective.one(keyword).is_none_or(|value| value != "no");
    let mut missing = |keyword: &str, name: &str| {
        let path = format!("{home}/.ssh/{name}");
        if !counts(keyword) {
            return false;
        }
        let Some(file) = host.sshd.key_files.get(&(login.user.clone(), path.clone())) else {
            needs.insert(host::Need::Sshd(Need::KeyFile { user: login.user.clone(), path }));
            return false;
        };
        *file == KeyFile::Missing
    };
    let (rc, environment) = (missing("permituserrc", "rc"), missing("permituserenvironment", "environment"));
    let sets = |options: &String| options.to_ascii_lowercase().contains("environment");
    let mut listed =
        login.ways.keys.iter().chain(login.ways.perhaps.keys()).flat_map(|key| key.before.lines.iter().chain([&key.options]));
    NoUserFiles { rc, environment: environment && login.ways.sources.is_empty() && !listed.any(sets) }
}
