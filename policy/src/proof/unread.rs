//! What a rollback of sshd's files would bring into effect besides: edits of others that sshd has not read, and all of the old files where
//! sshd was down when they were edited. Says whose way in these would close. What the change itself had closed is no reason against its
//! rollback. A way that is open with the change loses nothing to the edits of others, as in the proof of an edit; of the other ways only
//! what is certain counts, since a rollback may be what opens them again.

use std::collections::BTreeMap;

use crate::host::{HostState, Needs};
use crate::subsystem::sshd::config::merge;
use crate::subsystem::sshd::facts::ask;
use crate::subsystem::sshd::{Manager, Step, resolved, way_in};
use crate::verdict::{AccessPath, Verdict};

/// Files that others edited since a change was made, as they were before it; empty where there was none.
pub type Others = BTreeMap<String, Vec<u8>>;

/// The first of these ways in that would be worse off once sshd read its files with the step undone than without the edits of others, and
/// why. None also where sshd has read those already, or does not run.
pub fn refused(read: &HostState, step: &Step, others: &Others, paths: &[AccessPath], needs: &mut Needs) -> Option<String> {
    let server = ask::server(read, step.port, needs)?;
    let is_of_ours = |path: &String| step.files.iter().any(|file| file.path == *path) && !others.contains_key(path);
    // Each connection reads them, or the next start.
    let nobody_told = !server.running || matches!(server.manager, Manager::Connections(_));
    let is_back = step.files.iter().all(|file| server.bytes(&file.path).as_ref() == Some(&file.before));
    let has_read = is_back && server.stale.is_empty() && server.read_at.is_some();
    if nobody_told || has_read || !step.was_down() && server.stale.iter().all(is_of_ours) {
        return None;
    }
    let (mut with, mut without) = (server.clone(), server.clone());
    for file in &step.files {
        let now = server.bytes(&file.path)?;
        let back = if now == file.before { now.clone() } else { merge::take_back(&file.before, &file.after, &now).ok()? };
        with.put(&file.path, &now, &back);
        // What runs was started with the new ones, and goes by them, also where the old ones are back already.
        let runs = match step.was_down() {
            true if now == file.after => now.clone(),
            true => merge::take_back(&file.after, &file.before, &now).unwrap_or_else(|_| now.clone()),
            false => back,
        };
        without.put(&file.path, &now, &runs);
    }
    for (path, old) in others.iter().filter(|_| !step.was_down()) {
        let now = without.bytes(path)?;
        without.put(path, &now, old);
    }
    if with.edited == without.edited {
        return None;
    }
    let predicted = |server| ask::with_server(read, step.port, server);
    let (with, without) = (predicted(with), predicted(without));
    // Files that sshd does not take it is not told to read either: that is said in its own words.
    if step.was_down() && resolved(&with, step.port, needs).is_none_or(|server| server.test.is_err()) {
        return None;
    }
    let mut found = None;
    // Who comes by no address is served by an sshd of its own, which has read them.
    for path in paths.iter().filter(|path| !path.has_no_address()) {
        let before = way_in(read, &without, step.port, path, needs);
        let after = way_in(read, &with, step.port, path, needs);
        let is_open = before.verdict().0 == Verdict::Accept;
        let worse = || before.worse(&after).filter(|_| is_open).map(|(_, why)| why);
        if let (None, Some(why)) = (&found, before.newly_closed(&after).or_else(worse)) {
            let user = path.user.as_ref().map_or_else(String::new, |user| format!("{user} from "));
            found = Some(format!("{user}{} ({})", path.source.short(), why.as_str()));
        }
    }
    found
}
