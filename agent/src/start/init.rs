//! `sshfix-agent init`: makes the configuration, the host identity and root's own key where they are missing. Safe to repeat:
//! nothing that is there is ever changed, and every file is there whole or not at all.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use nix::unistd::geteuid;
use ssh_key::PrivateKey;
use sshfix_policy::request::REQUEST_NAMESPACE;
use sshfix_policy::request::allowed_signers::{AllowedSigners, Credential};
use sshfix_policy::ssh::public_key::PublicKey;
use thiserror::Error;

use crate::config::{self, Config, ConfigError, DEFAULT_DIRECTORY};
use crate::identity::{self, Identity, IdentityError};
use crate::sys::files::{self, FileError, Old};

/// The name of root's own key in the configuration directory.
pub const ROOT_KEY: &str = "ctl_ed25519";

/// Why init stopped. What it had made before stays and is found again by the next try.
#[derive(Debug, Error)]
pub enum InitError {
    /// A directory cannot be made or trusted.
    #[error("{path} {why}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// agent.toml or another file that was there is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key that was there cannot be used, or a new one could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What init found or did, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It made this.
    Made(PathBuf),
    /// This was there and stays as it is.
    Kept(PathBuf),
    /// What a person should know.
    Note(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Made(path) => write!(f, "made  {}", path.display()),
            Line::Kept(path) => write!(f, "kept  {}", path.display()),
            Line::Note(text) => write!(f, "note  {text}"),
        }
    }
}

/// Makes what is missing in `directory`. In another directory than /etc/sshfix, agent.toml keeps socket and state in there
/// too, so that nothing outside of it is touched. `tell` gets each line when it is true.
pub fn init(directory: &Path, tell: &mut impl FnMut(Line)) -> Result<(), InitError> {
    make_directory(directory, 0o755, tell)?;
    let agent_toml = directory.join("agent.toml");
    let text = agent_toml_text(directory);
    make_file(&agent_toml, &text, 0o644, tell)?;
    let config = Config::load(&agent_toml)?;

    make_key(&config.paths.identity, "sshfix agent", tell)?;
    let root = make_key(&directory.join(ROOT_KEY), "root (sshfix ctl)", tell)?;
    let line = signer_line(&root)?;
    if !make_file(&config.paths.allowed_signers, &allowed_signers_text(&line), 0o644, tell)?
        && !names(&config.paths.allowed_signers, &root)?
    {
        // Whoever took it out may have meant it: a person decides.
        tell(Line::Note(format!(
            "{} does not name root's key, so `sshfix ctl` as root is refused with it; to permit it, add the line: {line}",
            config.paths.allowed_signers.display()
        )));
    }
    make_file(&config.paths.policy, POLICY_TEXT, 0o644, tell)?;
    if let Some(state) = config.state.parent() {
        make_directory(state, 0o700, tell)?;
    }
    tell(Line::Note(format!("host identity {}", Identity::load(&config.paths.identity)?.fingerprint())));
    Ok(())
}

/// The line of `allowed_signers` that lets this key sign requests as root.
fn signer_line(key: &PrivateKey) -> Result<String, IdentityError> {
    let public = key.public_key().to_openssh().map_err(IdentityError::Encode)?;
    Ok(format!("root namespaces=\"{REQUEST_NAMESPACE}\" {public}"))
}

/// Whether a line of this `allowed_signers` file names the key.
pub fn names(allowed_signers: &Path, key: &PrivateKey) -> Result<bool, InitError> {
    let signers = AllowedSigners::parse(&config::read_trusted(allowed_signers)?, &TimeZone::system());
    let blob = key.public_key().to_bytes().map_err(IdentityError::Encode)?;
    Ok(PublicKey::from_blob(&blob).is_ok_and(|public| signers.lines_of(&Credential::Key(public)).next().is_some()))
}

fn make_directory(path: &Path, mode: u32, tell: &mut impl FnMut(Line)) -> Result<(), InitError> {
    let wrong = |why: String| InitError::Directory { path: path.to_owned(), why };
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            // The umask may have taken bits away.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(|e| wrong(format!("could not get its mode: {e}")))?;
            tell(Line::Made(path.to_owned()));
            return Ok(());
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(wrong(format!("could not be made: {e}"))),
    }
    let found = fs::symlink_metadata(path).map_err(|e| wrong(e.to_string()))?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(wrong("must be a directory of root that nobody else can write to; nothing in it was touched".to_owned()));
    }
    tell(Line::Kept(path.to_owned()));
    Ok(())
}

/// Whether it made the file.
fn make_file(path: &Path, text: &str, mode: u32, tell: &mut impl FnMut(Line)) -> Result<bool, InitError> {
    if fs::symlink_metadata(path).is_ok() {
        tell(Line::Kept(path.to_owned()));
        return Ok(false);
    }
    files::replace(path, None, text.as_bytes(), mode, Old::Gone)?;
    tell(Line::Made(path.to_owned()));
    Ok(true)
}

/// The key at `path`, made where it is missing, with its public half beside it.
fn make_key(path: &Path, comment: &str, tell: &mut impl FnMut(Line)) -> Result<PrivateKey, InitError> {
    let key = if fs::symlink_metadata(path).is_ok() {
        tell(Line::Kept(path.to_owned()));
        identity::load(path)?
    } else {
        let key = identity::generate(comment)?;
        identity::save_private(path, &key)?;
        tell(Line::Made(path.to_owned()));
        key
    };
    let public = identity::public_path(path);
    if fs::symlink_metadata(&public).is_err() {
        identity::save_public(&public, &key)?;
        tell(Line::Made(public));
    } else {
        if !identity::is_public_half(&public, &key)? {
            tell(Line::Note(format!("{} is not the public half of {}", public.display(), path.display())));
        }
        tell(Line::Kept(public));
    }
    Ok(key)
}

fn allowed_signers_text(line: &str) -> String {
    format!(
        "# Who may sign requests to sshfix-agent, as in ssh-keygen(1), ALLOWED SIGNERS. Read again for each request.\n\
         # What each of them may ask is in policy.toml.\n\
         {line}\n"
    )
}

const POLICY_TEXT: &str = "\
# Who may ask what of sshfix-agent. What no grant permits is refused. Read again for each request.
#   principal  as in allowed_signers, or a pattern, or a list of them
#   actions    \"*\", or a list: \"diagnose\", \"unban\", \"banned\", \"status\", ...
#   networks   only requests about addresses in these; about everybody when left out
#   users      only these may be named by --user; every user when left out
#   ports      only these; when left out the SSH port of agent.toml, and every port where nothing else is restricted, as below

[[grant]]
principal = \"root\"
actions = [\"*\"]
";

fn agent_toml_text(directory: &Path) -> String {
    let inside = |name: &str| quoted(&format!("{}/{name}", directory.display()));
    let places = if directory == Path::new(DEFAULT_DIRECTORY) {
        "#state = \"/var/lib/sshfix/state.db\"\n#ssh_port = 22\n#log = \"info\"\n\n\
         #[socket]\n#path = \"/run/sshfix/agent.sock\"\n#group = \"sshfix\"\n\n\
         #[paths]\n#allowed_signers = \"/etc/sshfix/allowed_signers\"\n#policy = \"/etc/sshfix/policy.toml\"\n\
         #identity = \"/etc/sshfix/agent_ed25519\"\n"
            .to_owned()
    } else {
        format!(
            "state = {}\n#ssh_port = 22\n#log = \"info\"\n\n[socket]\npath = {}\n#group = \"sshfix\"\n\n\
             [paths]\nallowed_signers = {}\npolicy = {}\nidentity = {}\n",
            inside("state/state.db"),
            inside("run/agent.sock"),
            inside("allowed_signers"),
            inside("policy.toml"),
            inside("agent_ed25519"),
        )
    };
    format!(
        "# sshfix-agent. Every value may be left out; what is commented out is the default.\n\
         # `sshfix-agent check` says what is wrong, with line and column.\n\n\
         {places}\
         #fail2ban_socket = \"/run/fail2ban/fail2ban.sock\"\n#hosts_allow = \"/etc/hosts.allow\"\n\
         #hosts_deny = \"/etc/hosts.deny\"\n\n\
         # Ways in that no change may close.\n#[[keep]]\n#address = \"198.51.100.0/24\"\n#user = \"admin\"\n#port = 22\n\n\
         # How long a change that must be confirmed waits for it.\n\
         #[confirm]\n#default_seconds = 120\n#min_seconds = 10\n#max_seconds = 3600\n\n\
         #[limits]\n#connections = 256\n#connections_per_user = 64\n#requests = 8\n#question_seconds = 20\n\
         #state_megabytes = 256\n#question_record_days = 30\n         #idle_seconds = 60\n#request_seconds = 10\n#reply_seconds = 10\n"
    )
}

/// As TOML writes a string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;
    use sshfix_policy::request::authorize::Grants;
    use std::collections::BTreeMap;

    fn run(directory: &Path) -> Vec<Line> {
        let mut lines = Vec::new();
        init(directory, &mut |line| lines.push(line)).unwrap();
        lines
    }

    /// Every file with its bytes and mode.
    fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::metadata(&path).unwrap();
            let bytes = if metadata.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            found.insert(path, (bytes, metadata.mode() & 0o7777));
        }
        found
    }

    #[test]
    fn what_init_makes_is_what_the_agent_reads() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("sshfix");
        run(&directory);
        let modes = |name: &str| fs::metadata(directory.join(name)).unwrap().mode() & 0o7777;
        assert_eq!(modes(""), 0o755);
        for (name, mode) in [
            ("agent.toml", 0o644),
            ("policy.toml", 0o644),
            ("allowed_signers", 0o644),
            ("agent_ed25519", 0o600),
            ("agent_ed25519.pub", 0o644),
            ("ctl_ed25519", 0o600),
            ("ctl_ed25519.pub", 0o644),
            ("state", 0o700),
        ] {
            assert_eq!(modes(name), mode, "{name}");
        }
        let config = Config::load(&directory.join("agent.toml")).unwrap();
        assert_eq!(config.state, directory.join("state/state.db"));
        Identity::load(&config.paths.identity).unwrap();
        assert_eq!(Grants::parse(&fs::read_to_string(&config.paths.policy).unwrap()).unwrap().len(), 1);
        let signers = AllowedSigners::parse(&fs::read_to_string(&config.paths.allowed_signers).unwrap(), &TimeZone::UTC);
        assert_eq!((signers.len(), signers.errors()), (1, &[][..]));
        assert!(names(&config.paths.allowed_signers, &identity::load(&directory.join(ROOT_KEY)).unwrap()).unwrap());
        assert!(!names(&config.paths.allowed_signers, &identity::load(&config.paths.identity).unwrap()).unwrap());
    }

    #[test]
    fn the_default_agent_toml_says_the_defaults() {
        let text = agent_toml_text(Path::new(DEFAULT_DIRECTORY));
        assert_eq!(Config::parse(&text, Path::new("agent.toml")).unwrap(), Config::default());
        // The same with every default spelled out: the comments tell the truth.
        let spelled: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c != ' ')).unwrap_or(line))
            .filter(|line| !line.starts_with("Ways in"))
            .fold(String::new(), |text, line| text + line + "\n");
        let mut config = Config::parse(&spelled, Path::new("agent.toml")).unwrap_or_else(|e| panic!("{e}\n{spelled}"));
        assert_eq!(config.keep.len(), 1, "the example");
        config.keep.clear();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn a_second_run_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("sshfix");
        let first = run(&directory);
        assert!(!first.iter().any(|line| matches!(line, Line::Kept(_))), "{first:?}");
        let before = snapshot(&directory);
        let second = run(&directory);
        assert!(!second.iter().any(|line| matches!(line, Line::Made(_))), "{second:?}");
        assert_eq!(snapshot(&directory), before);
    }

    #[test]
    fn a_half_finished_run_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("sshfix");
        run(&directory);
        let whole = snapshot(&directory);
        for name in ["policy.toml", "agent_ed25519.pub", "ctl_ed25519.pub", "agent.toml", "allowed_signers"] {
            fs::remove_file(directory.join(name)).unwrap();
            let lines = run(&directory);
            assert!(lines.contains(&Line::Made(directory.join(name))), "{name}: {lines:?}");
            assert_eq!(snapshot(&directory), whole, "{name}");
        }
    }

    #[test]
    fn a_root_key_that_is_not_allowed_is_said_and_not_added() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("sshfix");
        run(&directory);
        let signers = directory.join("allowed_signers");
        fs::write(&signers, "# nobody\n").unwrap();
        let lines = run(&directory);
        let line = signer_line(&identity::load(&directory.join(ROOT_KEY)).unwrap()).unwrap();
        assert!(lines.iter().any(|l| matches!(l, Line::Note(text) if text.ends_with(&line))), "{lines:?}");
        assert_eq!(fs::read_to_string(&signers).unwrap(), "# nobody\n");
    }

    #[test]
    fn what_is_wrong_stops_it_before_anything_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("sshfix");
        run(&directory);
        fs::write(directory.join("agent.toml"), "ssh_prot = 22\n").unwrap();
        let before = snapshot(&directory);
        assert!(matches!(init(&directory, &mut |_| {}), Err(InitError::Config(_))));
        assert_eq!(snapshot(&directory), before);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(init(&directory, &mut |_| {}), Err(InitError::Directory { .. })));
    }
}
