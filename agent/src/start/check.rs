//! `sshfix-agent check`: reads everything the agent trusts and says all that is wrong, each with its file, line and column
//! where it has one. Changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::tz::TimeZone;
use sshfix_policy::request::allowed_signers::AllowedSigners;
use sshfix_policy::request::authorize::Grants;

use crate::audit::{self, Given};
use crate::config::{self, Config};
use crate::identity::{self, Identity};
use crate::logging;
use crate::start::init::{self, ROOT_KEY};
use crate::store::Store;

/// What check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is right, one line each.
    pub fine: Vec<String>,
    /// What is wrong, one line each; more where a file's own line is shown.
    pub wrong: Vec<String>,
}

/// Looks at agent.toml and at all that it names.
pub fn check(agent_toml: &Path) -> Report {
    let mut report = Report::default();
    let config = match Config::load(agent_toml) {
        Ok(config) => config,
        Err(error) => {
            report.wrong.push(error.to_string());
            return report;
        }
    };
    match logging::filter(&config.log) {
        Ok(_) => report.fine.push(format!("{}: understood", agent_toml.display())),
        Err(error) => report.wrong.push(format!("{}: log: {error}", agent_toml.display())),
    }
    allowed_signers(&config.paths.allowed_signers, &mut report);
    policy(&config.paths.policy, &mut report);
    identity(&config, &mut report);
    if let Some(directory) = agent_toml.parent() {
        root_key(&directory.join(ROOT_KEY), &config.paths.allowed_signers, &mut report);
    }
    state(&config, &mut report);
    report
}

fn allowed_signers(path: &Path, report: &mut Report) {
    let shown = path.display();
    let text = match config::read_trusted(path) {
        Ok(text) => text,
        Err(error) => return report.wrong.push(error.to_string()),
    };
    let signers = AllowedSigners::parse(&text, &TimeZone::system());
    for error in signers.errors() {
        report.wrong.push(format!("{shown}:{}:{}: {}; this line allows nobody", error.line, error.column, error.what));
    }
    if signers.is_empty() {
        report.wrong.push(format!("{shown}: no line allows anybody, so every request is refused"));
    } else {
        report.fine.push(format!("{shown}: {} lines allow somebody", signers.len()));
    }
}

fn policy(path: &Path, report: &mut Report) {
    let shown = path.display();
    let text = match config::read_trusted(path) {
        Ok(text) => text,
        Err(error) => return report.wrong.push(error.to_string()),
    };
    match Grants::parse(&text) {
        Ok(grants) if grants.is_empty() => report.wrong.push(format!("{shown}: no grant, so every request is refused")),
        Ok(grants) => report.fine.push(format!("{shown}: {} grants", grants.len())),
        Err(error) => {
            report
                .wrong
                .push(format!("{}: {error}; every request is refused until this is corrected", place(path, &error.to_string())));
        }
    }
}

/// `FILE:LINE:COLUMN` where the message says `at line L, column C`, as toml's does.
fn place(path: &Path, message: &str) -> String {
    let number = |after: &str| -> Option<usize> {
        let (_, rest) = message.split_once(after)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    match (number("at line "), number(", column ")) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", path.display()),
        _ => path.display().to_string(),
    }
}

fn identity(config: &Config, report: &mut Report) {
    let key = match identity::load(&config.paths.identity) {
        Ok(key) => key,
        Err(error) => return report.wrong.push(format!("{error}; `sshfix-agent init` makes a missing one")),
    };
    match Identity::load(&config.paths.identity) {
        Ok(identity) => report.fine.push(format!("host identity {}", identity.fingerprint())),
        Err(error) => report.wrong.push(error.to_string()),
    }
    let public = identity::public_path(&config.paths.identity);
    match identity::is_public_half(&public, &key) {
        Ok(true) => {}
        Ok(false) => report.wrong.push(format!(
            "{}: not the public half of {}, so `sshfix ctl` on this host refuses the agent's replies",
            public.display(),
            config.paths.identity.display()
        )),
        Err(error) => report.wrong.push(error.to_string()),
    }
}

/// Root's own key may be missing: root can be let in by another.
fn root_key(path: &Path, allowed_signers: &Path, report: &mut Report) {
    if fs::symlink_metadata(path).is_err() {
        return report.fine.push(format!("{}: does not exist; `sshfix ctl` as root needs another identity", path.display()));
    }
    let key = match identity::load(path) {
        Ok(key) => key,
        Err(error) => return report.wrong.push(error.to_string()),
    };
    // An allowed_signers that cannot be read was reported above.
    match init::names(allowed_signers, &key) {
        Ok(true) => report.fine.push(format!("{}: allowed", path.display())),
        Ok(false) => report.fine.push(format!("{}: {} does not name it", path.display(), allowed_signers.display())),
        Err(_) => {}
    }
}

fn state(config: &Config, report: &mut Report) {
    let path = config.state.as_path();
    let shown = path.display();
    if let Some(directory) = path.parent()
        && let Ok(found) = fs::symlink_metadata(directory)
        && (!found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0)
    {
        let directory = directory.display();
        return report.wrong.push(format!("{directory}: must be a directory of root that nobody else can write to"));
    }
    if fs::symlink_metadata(path).is_err() {
        return report.fine.push(format!("{shown}: none yet; the agent makes it"));
    }
    let store = match Store::inspect(path) {
        Ok(store) => store,
        Err(error) => return report.wrong.push(error.to_string()),
    };
    // An identity that cannot be read was reported above.
    let key = Identity::load(&config.paths.identity).and_then(|identity| identity.public_key()).ok();
    match audit::verify(path, key.as_ref(), Given::default()) {
        Ok(found) if found.intact => report.fine.push(format!("{shown}: the chain of {} audit records is whole", found.records)),
        Ok(found) => {
            report.wrong.extend(found.problems.iter().map(|problem| format!("{shown}: audit {}", problem.problem)));
        }
        Err(error) => report.wrong.push(format!("{shown}: {error}")),
    }
    match store.stuck_changes() {
        Ok(stuck) => report.wrong.extend(
            stuck
                .iter()
                .map(|change| format!("change {} could not be rolled back whole. To do by hand: {}", change.id, change.detail)),
        ),
        Err(error) => report.wrong.push(format!("{shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("sshfix");
        init::init(&directory, &mut |_| {}).unwrap();
        (dir, directory)
    }

    fn wrong(directory: &Path) -> Vec<String> {
        check(&directory.join("agent.toml")).wrong
    }

    #[test]
    fn what_init_made_is_right() {
        let (_dir, directory) = fresh();
        assert_eq!(wrong(&directory), Vec::<String>::new());
        Store::open(&directory.join("state/state.db")).unwrap().audit_open(&audit::AuditOpening::default()).unwrap();
        let report = check(&directory.join("agent.toml"));
        assert_eq!(report.wrong, Vec::<String>::new());
        assert!(report.fine.iter().any(|line| line.contains("chain of 1 audit records")), "{:?}", report.fine);
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_one_does_not_hide_the_others() {
        let (_dir, directory) = fresh();
        fs::write(directory.join("policy.toml"), "[[grant]]\nprincipal = \"root\"\nactoins = [\"*\"]\n").unwrap();
        let signers = fs::read_to_string(directory.join("allowed_signers")).unwrap();
        fs::write(directory.join("allowed_signers"), format!("{signers}bob ssh-ed25519 nonsense\n")).unwrap();
        fs::set_permissions(directory.join("agent_ed25519"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(directory.join("state"), fs::Permissions::from_mode(0o777)).unwrap();
        let wrong = wrong(&directory);
        let told = |start: String, words: &str| wrong.iter().any(|line| line.starts_with(&start) && line.contains(words));
        let shown = directory.display();
        assert!(told(format!("{shown}/policy.toml:3:1: "), "actoins"), "{wrong:#?}");
        assert!(told(format!("{shown}/allowed_signers:4:"), "this line allows nobody"), "{wrong:#?}");
        assert!(told(format!("{shown}/agent_ed25519 "), "0640"), "{wrong:#?}");
        assert!(told(format!("{shown}/state: "), "nobody else can write"), "{wrong:#?}");
        assert_eq!(wrong.len(), 4, "{wrong:#?}");
    }

    #[test]
    fn a_broken_agent_toml_is_told_with_line_and_column() {
        let (_dir, directory) = fresh();
        fs::write(directory.join("agent.toml"), "\n[limits]\nconnectoins = 3\n").unwrap();
        let wrong = wrong(&directory);
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].starts_with(&format!("{}/agent.toml:3:1: ", directory.display())), "{wrong:?}");
        fs::write(directory.join("agent.toml"), "log = \"x=loud\"\n").unwrap();
        assert!(self::wrong(&directory)[0].contains("x=loud"));
    }

    #[test]
    fn files_that_let_nobody_in_are_wrong() {
        let (_dir, directory) = fresh();
        fs::write(directory.join("policy.toml"), "").unwrap();
        fs::write(directory.join("allowed_signers"), "# nobody\n").unwrap();
        let wrong = wrong(&directory);
        assert_eq!(wrong.iter().filter(|line| line.contains("every request is refused")).count(), 2, "{wrong:?}");
    }

    #[test]
    fn a_public_key_of_another_is_wrong() {
        let (_dir, directory) = fresh();
        fs::copy(directory.join("ctl_ed25519.pub"), directory.join("agent_ed25519.pub")).unwrap();
        assert!(wrong(&directory)[0].contains("not the public half"));
        fs::remove_file(directory.join("agent_ed25519.pub")).unwrap();
        assert!(wrong(&directory)[0].contains("does not exist"));
    }
}
