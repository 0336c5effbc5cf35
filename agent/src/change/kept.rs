//! What becomes of the old versions of files that a change keeps for its rollback: they are cleared away once it has ended, and at start
//! where an agent died before it did. What fails is only said: a version that stays is in nobody's way. Decides nothing about changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sshfix_policy::host::step::Step;

use crate::config::Config;
use crate::store::{ChangeRecord, Store};
use crate::sys::files;
use crate::write::{self, Order};

/// Where sshd's files are, also where no change is known of.
const SSHD: &str = "/etc/ssh";
/// How many of the newest changes are looked at.
const NEWEST: usize = 50;

/// Where the old versions of the files of a step are kept.
fn of(step: &Step) -> Vec<PathBuf> {
    let at = |path: &str, before: &[u8]| files::kept::path(Path::new(path), before);
    match step {
        Step::HostsAccess(step) => step.before.iter().filter_map(|before| at(&step.path, before)).collect(),
        Step::Sshd(step) => step.files.iter().filter_map(|file| at(&file.path, &file.before)).collect(),
        Step::Fail2ban(_)
        | Step::NfTables(_)
        | Step::Xtables(_)
        | Step::Ipset(_)
        | Step::Route(_)
        | Step::Recent(_)
        | Step::Repair(_) => Vec::new(),
    }
}

/// Of steps whose change has ended.
pub(crate) fn forget<'a>(steps: impl IntoIterator<Item = &'a Step>) {
    for at in steps.into_iter().flat_map(of) {
        clear(&at);
    }
}

/// Of all changes that have ended. Called where no change is being made.
pub(crate) fn sweep(store: &Store, config: &Config) {
    let (Ok(newest), Ok(unfinished), Ok(stuck)) = (store.changes(NEWEST), store.unfinished_changes(), store.stuck_changes())
    else {
        return;
    };
    let all = |changes: &[ChangeRecord]| -> BTreeSet<PathBuf> {
        changes.iter().flat_map(|change| &change.steps).flat_map(|record| of(&record.step)).collect()
    };
    let needed = all(&[unfinished, stuck].concat());
    let ended = all(&newest);
    let hosts = [&config.paths.hosts_allow, &config.paths.hosts_deny].into_iter().filter_map(|file| files::kept::folder(file));
    let folders: BTreeSet<&Path> = ended.iter().filter_map(|at| at.parent()).chain(hosts).chain([Path::new(SSHD)]).collect();
    for at in folders.into_iter().flat_map(files::kept::list).filter(|at| !needed.contains(at)) {
        clear(&at);
    }
}

fn clear(at: &Path) {
    // Mostly there is none: nobody is asked.
    if at.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return;
    }
    let cleared = if files::read_only_here(at) {
        write::ask(&Order::Forget { path: at.display().to_string() }, &[]).map(drop).map_err(|error| error.to_string())
    } else {
        files::kept::forget(at).map_err(|error| error.to_string())
    };
    if let Err(why) = cleared {
        tracing::warn!("{why}; `rm {}` once no change waits", at.display());
    }
}
