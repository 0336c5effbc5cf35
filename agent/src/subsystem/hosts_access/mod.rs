//! Reads hosts.allow and hosts.deny, fetches the facts their patterns ask for, and writes the edits that were planned.
//! Decides nothing: what the files mean is in `policy`.

mod libwrap;

use std::path::Path;
use std::time::{Duration, Instant};

use sshfix_policy::host::{Done, Need, Needs, Part, Question, Restored, StepError};
use sshfix_policy::subsystem::hosts_access::{Content, Facts, File, HostName, PatternFile, State, Step, Which};
use sshfix_policy::text::merge;

use crate::config::Config;
use crate::patience;
use crate::sys::files::{self, FileError, Old};
use crate::sys::names;
use crate::sys::roots::{self, RootsError};
use crate::write::{self, Order};

/// The longest hosts.allow or hosts.deny that is read. A million banned addresses fit.
const LONGEST: u64 = 16 << 20;
/// All files named by patterns that one question reads, together.
const PATTERN_BYTES: u64 = 8 << 20;
/// How many of them.
const PATTERN_FILES: usize = 64;
/// For all host names of one question together.
const NAMES_WITHIN: Duration = Duration::from_secs(2);

/// Both files and whether the sshd behind the port obeys them. Facts are fetched by [`lookup`].
pub fn observe(config: &Config, question: &Question) -> Part<State> {
    Part::Present(State {
        allow: read(&config.paths.hosts_allow),
        deny: read(&config.paths.hosts_deny),
        libwrap: libwrap::detect(question.port),
        facts: Facts::default(),
    })
}

/// Both files as they are now: hosts.allow and hosts.deny.
pub fn files(config: &Config) -> (File, File) {
    (read(&config.paths.hosts_allow), read(&config.paths.hosts_deny))
}

/// libwrap follows symbolic links and does not care who owns the files. Here a link is followed where every step is root's: whoever decides
/// where it leads would have any file of root's read and quoted. What is not read is unknown. Writing is another matter.
fn read(path: &Path) -> File {
    let (content, read_only) = match roots::read(path, LONGEST) {
        Ok(bytes) => (Content::Bytes(bytes), files::not_replaceable(path)),
        Err(RootsError::Missing(_)) if path.is_symlink() => {
            (Content::Missing, Some(format!("{}: a symbolic link to nothing", path.display())))
        }
        Err(RootsError::Missing(_)) => (Content::Missing, None),
        Err(error) => (Content::Unreadable(error.to_string()), Some("it could not be read".to_owned())),
    };
    File { path: path.display().to_string(), content, read_only }
}

/// Fetches the facts that are for this subsystem; the others are left to theirs.
pub fn lookup(state: &mut State, needs: &Needs) {
    let deadline = Instant::now() + NAMES_WITHIN;
    for need in needs {
        match need {
            Need::HostName(address) => {
                let name = match names::verified_name(*address, deadline) {
                    Ok(names::Name::Verified(name)) => HostName::Verified(name),
                    Ok(names::Name::None) => HostName::Unknown,
                    Ok(names::Name::Unverified) => HostName::Paranoid,
                    Err(error) => HostName::Unanswered(error.to_string()),
                };
                state.facts.names.insert(*address, name);
            }
            Need::PatternFile(path) => {
                let file = pattern_file(Path::new(path), &state.facts);
                state.facts.files.insert(path.clone(), file);
            }
            Need::Element(_)
            | Need::SetElements(_)
            | Need::Ipset(_)
            | Need::IpsetEntry(_)
            | Need::IpsetProperties(_)
            | Need::IpsetElements(_)
            | Need::RouteTables(_)
            | Need::PolicyRules(_)
            | Need::Recent(_)
            | Need::Conntrack
            | Need::Route(_)
            | Need::Links
            | Need::Neighbour(..)
            | Need::Ufw
            | Need::Sshd(_) => {}
        }
    }
}

/// A file that a pattern names, or that such a file names. Whoever may write one decides what the next is called, so that it is read only
/// where root alone put it there; libwrap reads the others too, so that what they say is unknown.
fn pattern_file(path: &Path, known: &Facts) -> PatternFile {
    let unread = PatternFile::Unreadable;
    if known.files.len() >= PATTERN_FILES {
        return unread(format!("not read: {PATTERN_FILES} pattern files were read already, the limit"));
    }
    if patience::is_over() {
        return unread("not read: the time for this question was over".to_owned());
    }
    let length = |file: &PatternFile| match file {
        PatternFile::Content(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        PatternFile::Missing | PatternFile::Unreadable(_) => 0,
    };
    let used = known.files.values().map(length).fold(0, u64::saturating_add);
    match roots::read(path, PATTERN_BYTES.saturating_sub(used)) {
        Ok(bytes) => PatternFile::Content(bytes),
        Err(RootsError::Missing(_)) => PatternFile::Missing,
        Err(RootsError::TooLong { .. }) => {
            unread(format!("not read: with it, the pattern files are longer than {PATTERN_BYTES} bytes together"))
        }
        Err(
            error @ (RootsError::NotRoots { .. }
            | RootsError::Unseen { .. }
            | RootsError::NotRegular(_)
            | RootsError::Failed { .. }),
        ) => unread(error.to_string()),
    }
}

/// Writes one file: its whole content from `before` to `after`. What it held is kept for the rollback, or put back from there.
pub fn apply(config: &Config, step: &Step, old: Old) -> Result<Done, StepError> {
    let path = match step.file {
        Which::Allow => &config.paths.hosts_allow,
        Which::Deny => &config.paths.hosts_deny,
    };
    if path.display().to_string() != step.path {
        return Err(StepError::Failed(format!(
            "the step is about {}, but the agent is configured for {}; nothing was written",
            step.path,
            path.display()
        )));
    }
    let now = match files::read_checked(path, LONGEST) {
        Ok(checked) => Some(checked.bytes),
        Err(FileError::Missing(_)) => None,
        Err(error) => return Err(StepError::Failed(error.to_string())),
    };
    if now == step.after {
        return Ok(Done::Already);
    }
    if now != step.before {
        return Err(StepError::Drifted(FileError::Drifted(path.clone()).to_string()));
    }
    if files::read_only_here(path) {
        let (before, after) = (step.before.as_deref().map(write::digest), step.after.as_deref().map(write::length));
        let order = Order::Hosts { path: step.path.clone(), before, after, old };
        return write::ask(&order, step.after.as_deref().unwrap_or_default());
    }
    let written = match (&step.before, &step.after) {
        (before, Some(after)) => files::write(path, before.as_deref(), after, 0o644, old),
        (Some(before), None) => files::remove(path, before, old),
        (None, None) => Ok(()),
    };
    match written {
        Ok(()) => Ok(Done::Changed),
        Err(error @ FileError::Drifted(_)) => Err(StepError::Drifted(error.to_string())),
        Err(error) => Err(StepError::Failed(error.to_string())),
    }
}

/// Takes a step back: the file is as it was before.
pub fn restore(config: &Config, step: &Step) -> Result<Restored, StepError> {
    match apply(config, &step.inverse(), Old::Gone) {
        Err(StepError::Drifted(_)) => merge_back(config, step),
        answer => answer.map(|done| Restored { done, note: None, besides: false }),
    }
}

/// Takes a step back in a file that others edited since: our lines are undone, theirs stay.
fn merge_back(config: &Config, step: &Step) -> Result<Restored, StepError> {
    let path = Path::new(&step.path);
    let now = match files::read_checked(path, LONGEST) {
        Ok(checked) => Some(checked.bytes),
        Err(FileError::Missing(_)) => None,
        Err(error) => return Err(StepError::Failed(error.to_string())),
    };
    let text = |content: &Option<Vec<u8>>| content.clone().unwrap_or_default();
    let merged = merge::take_back(&text(&step.before), &text(&step.after), &text(&now));
    let merged = merged
        .ok_or_else(|| StepError::Drifted(format!("others edited the lines of {} that this change had edited", step.path)))?;
    let after = if merged.is_empty() && step.before.is_none() { None } else { Some(merged) };
    let ours = Step { before: now, after, ..step.clone() };
    let done = apply(config, &ours, Old::Gone)?;
    Ok(Restored { done, note: Some(format!("others had edited {} meanwhile; their lines were kept", step.path)), besides: false })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn config(folder: &Path) -> Config {
        let mut config = Config::default();
        config.paths.hosts_allow = folder.join("hosts.allow");
        config.paths.hosts_deny = folder.join("hosts.deny");
        config
    }

    fn state(config: &Config) -> State {
        match observe(config, &Question { sources: [].into(), port: 22, everybody: false }) {
            Part::Present(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn step(config: &Config, before: Option<&str>, after: Option<&str>) -> Step {
        Step {
            file: Which::Deny,
            path: config.paths.hosts_deny.display().to_string(),
            before: before.map(|text| text.as_bytes().to_vec()),
            after: after.map(|text| text.as_bytes().to_vec()),
            touches: None,
        }
    }

    #[test]
    fn a_step_is_done_once_undone_once_and_never_over_somebody_elses_edit() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let create = step(&config, None, Some("sshd: 203.0.113.7\n"));
        assert_eq!(apply(&config, &create, Old::Kept), Ok(Done::Changed));
        assert_eq!(apply(&config, &create, Old::Kept), Ok(Done::Already));
        assert_eq!(state(&config).deny.content, Content::Bytes(b"sshd: 203.0.113.7\n".to_vec()));
        fs::write(&config.paths.hosts_deny, "sshd: 203.0.113.8\n").unwrap();
        assert!(matches!(apply(&config, &create.inverse(), Old::Gone), Err(StepError::Drifted(_))));
        assert_eq!(fs::read(&config.paths.hosts_deny).unwrap(), b"sshd: 203.0.113.8\n");
        fs::write(&config.paths.hosts_deny, "sshd: 203.0.113.7\n").unwrap();
        assert_eq!(apply(&config, &create.inverse(), Old::Gone), Ok(Done::Changed));
        assert_eq!(apply(&config, &create.inverse(), Old::Gone), Ok(Done::Already));
        assert_eq!(state(&config).deny.content, Content::Missing);
    }

    #[test]
    fn a_symbolic_link_is_read_as_libwrap_reads_it_and_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let real = folder.path().join("real");
        symlink(&real, &config.paths.hosts_deny).unwrap();
        let dangling = state(&config);
        assert_eq!(dangling.deny.content, Content::Missing);
        assert!(dangling.deny.read_only.unwrap().contains("symbolic link"));
        fs::write(&real, "sshd: ALL\n").unwrap();
        let linked = state(&config);
        assert_eq!(linked.deny.content, Content::Bytes(b"sshd: ALL\n".to_vec()));
        assert!(linked.deny.read_only.unwrap().contains("symbolic link"));
        let error = apply(&config, &step(&config, Some("sshd: ALL\n"), Some("")), Old::Kept).unwrap_err();
        assert!(matches!(error, StepError::Failed(_)), "{error}");
        assert_eq!(fs::read(&real).unwrap(), b"sshd: ALL\n");
    }

    #[test]
    fn where_others_decide_what_is_read_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(folder.path().join("secret"), "root:secret\n").unwrap();
        symlink(folder.path().join("secret"), theirs.join("deny")).unwrap();
        symlink(theirs.join("deny"), &config.paths.hosts_deny).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(&config.paths.hosts_allow, "sshd: ALL\n").unwrap();
        fs::set_permissions(&config.paths.hosts_allow, fs::Permissions::from_mode(0o666)).unwrap();
        let state = state(&config);
        for file in [state.allow, state.deny] {
            let Content::Unreadable(why) = file.content else { panic!("{file:?}") };
            assert!(why.contains("others than root can write") && !why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn a_step_about_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let mut other = step(&config, None, Some("x\n"));
        other.path = folder.path().join("passwd").display().to_string();
        assert!(matches!(apply(&config, &other, Old::Kept), Err(StepError::Failed(_))));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_in_the_place_of_the_file_is_unreadable_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        fs::create_dir(&config.paths.hosts_allow).unwrap();
        assert!(matches!(state(&config).allow.content, Content::Unreadable(why) if why.contains("no regular file")));
    }

    #[test]
    fn facts_are_fetched_and_missing_files_match_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let list = folder.path().join("list");
        fs::write(&list, "203.0.113.7\n").unwrap();
        let mut state = state(&config);
        let (list, missing) = (list.display().to_string(), folder.path().join("none").display().to_string());
        let needs: Needs =
            [Need::PatternFile(list.clone()), Need::PatternFile(missing.clone()), Need::HostName("127.0.0.1".parse().unwrap())]
                .into();
        lookup(&mut state, &needs);
        assert_eq!(state.facts.files[&list], PatternFile::Content(b"203.0.113.7\n".to_vec()));
        assert_eq!(state.facts.files[&missing], PatternFile::Missing);
        assert!(state.facts.names.contains_key(&"127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn files_of_patterns_are_roots_alone_and_few_and_short_together() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut known = Facts::default();
        fs::write(at("theirs"), "203.0.113.7\n").unwrap();
        fs::set_permissions(at("theirs"), fs::Permissions::from_mode(0o646)).unwrap();
        let said = pattern_file(&at("theirs"), &known);
        assert!(matches!(&said, PatternFile::Unreadable(why) if why.contains("theirs") && !why.contains("203")), "{said:?}");
        fs::write(at("big"), vec![b' '; 5 << 20]).unwrap();
        for name in ["a", "b"] {
            let said = pattern_file(&at("big"), &known);
            assert_eq!(matches!(said, PatternFile::Content(_)), name == "a");
            known.files.insert(name.to_owned(), said);
        }
        known.files.extend((0..PATTERN_FILES).map(|n| (n.to_string(), PatternFile::Missing)));
        let said = pattern_file(&at("none"), &known);
        assert!(matches!(&said, PatternFile::Unreadable(why) if why.contains("64 pattern files")), "{said:?}");
    }
}
