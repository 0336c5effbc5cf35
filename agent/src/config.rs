//! /etc/sshfix/agent.toml: where things are, how long the agent waits, and the ways in it must never close. Every value has
//! a default; an unknown name is an error with its line. Grants nothing: that is policy.toml.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use sshfix_policy::address::Source;
use sshfix_policy::request::authorize::Grants;
use sshfix_policy::verdict::{AccessPath, PathOrigin};
use thiserror::Error;

use crate::sys::files::{self, FileError};

/// Where everything is that the agent trusts.
pub const DEFAULT_DIRECTORY: &str = "/etc/sshfix";
/// Where the agent looks when no `--config` is given.
pub const DEFAULT_CONFIG: &str = "/etc/sshfix/agent.toml";
/// The most that `limits.connections` may be: with root's and everything else that is open far below `LimitNOFILE` of the unit.
const MAX_CONNECTIONS: usize = 1000;
/// A configuration file is never longer than this many bytes.
pub const CONFIG_LIMIT: u64 = 1024 * 1024;

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read, or others could have written it.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what it should be; the text shows line and column.
    #[error("{path}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value that makes no sense.
    #[error("{path}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        message: String,
    },
}

/// agent.toml.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[socket]`: where clients connect.
    pub socket: SocketConfig,
    /// The state database; its directory is made 0700. Default `/var/lib/sshfix/state.db`.
    pub state: PathBuf,
    /// The port that diagnoses and the proof are about when a request names none. Default 22.
    pub ssh_port: u16,
    /// What is logged, as `RUST_LOG` writes it: `info`, `sshfix_agent=debug`. `SSHFIX_LOG` wins. Default `info`.
    pub log: String,
    /// `[[keep]]`: ways in that no change may close.
    pub keep: Vec<Keep>,
    /// `[confirm]`: how long a change that must be confirmed waits for it.
    pub confirm: ConfirmTimes,
    /// `[paths]`: the other files.
    pub paths: Paths,
    /// `[limits]`: how much and how long.
    pub limits: Limits,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketConfig {
    /// The socket. `SSHFIX_SOCKET` wins. Default `/run/sshfix/agent.sock`.
    pub path: PathBuf,
    /// The group that may connect, mode 0660; where there is no such group only root may. Default `sshfix`.
    pub group: String,
}

/// A way in that no change may close.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// From where: an address or a range.
    pub address: Source,
    /// As whom; anybody when not given.
    #[serde(default)]
    pub user: Option<String>,
    /// To which port; `ssh_port` when not given.
    #[serde(default)]
    pub port: Option<u16>,
}

/// How long a change that must be confirmed waits for it, from before its first step.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfirmTimes {
    /// Seconds, where `--confirm-within` says nothing else. Default 120.
    pub default_seconds: u64,
    /// The fewest that may be asked for: time to connect again and to answer. Default 10.
    pub min_seconds: u64,
    /// The most that may be asked for: as long may nobody else make a change. Default 3600.
    pub max_seconds: u64,
}

/// The files the agent reads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Who may sign, as in ssh-keygen(1) ALLOWED SIGNERS. Default `/etc/sshfix/allowed_signers`.
    pub allowed_signers: PathBuf,
    /// Who may do what. Default `/etc/sshfix/policy.toml`.
    pub policy: PathBuf,
    /// The agent's own key; its fingerprint is the host identity. Default `/etc/sshfix/agent_ed25519`.
    pub identity: PathBuf,
    /// fail2ban's socket. Default `/run/fail2ban/fail2ban.sock`.
    pub fail2ban_socket: PathBuf,
    /// Default `/etc/hosts.allow`.
    pub hosts_allow: PathBuf,
    /// Default `/etc/hosts.deny`.
    pub hosts_deny: PathBuf,
}

/// How much and how long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of all users but root, from accept to close; over it the user with the most loses the oldest. Default 256.
    pub connections: usize,
    /// Connections of one user, root too; over it the user's oldest one is closed for the new one. Default 64.
    pub connections_per_user: usize,
    /// Requests of one principal that wait for their turn; more are answered `busy`. Default 8.
    pub requests: usize,
    /// Seconds that reading the host for one answer may take, from its turn on. Default 20.
    pub question_seconds: u64,
    /// MiB that state.db may come to; an eighth is kept back for changes, another for confirms and rollbacks. Default 256.
    pub state_megabytes: u64,
    /// Days after which records of what only asked may be summed up. Default 30.
    pub question_record_days: u32,
    /// Seconds a connection may be silent before its request: time to touch a security key. Default 60.
    pub idle_seconds: u64,
    /// Seconds in which the whole request must have come, from its first byte. Default 10.
    pub request_seconds: u64,
    /// Seconds in which the client must have taken the whole reply. Default 10.
    pub reply_seconds: u64,
    /// Seconds that a lease may last at most (`allow --for`, `unban --ignore-for`). Default 2592000, which is 30 days.
    pub lease_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: SocketConfig::default(),
            state: "/var/lib/sshfix/state.db".into(),
            ssh_port: 22,
            log: "info".to_owned(),
            keep: Vec::new(),
            confirm: ConfirmTimes::default(),
            paths: Paths::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self { path: "/run/sshfix/agent.sock".into(), group: "sshfix".to_owned() }
    }
}

impl Default for ConfirmTimes {
    fn default() -> Self {
        Self { default_seconds: 120, min_seconds: 10, max_seconds: 3600 }
    }
}

impl ConfirmTimes {
    /// How long a change waits that asks for so many seconds; the error says what may be asked for.
    pub fn within(&self, asked: Option<u64>) -> Result<Duration, String> {
        let seconds = asked.unwrap_or(self.default_seconds);
        if (self.min_seconds..=self.max_seconds).contains(&seconds) {
            return Ok(Duration::from_secs(seconds));
        }
        Err(format!("a change can wait {} to {} seconds for its confirm, not {seconds}", self.min_seconds, self.max_seconds))
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            allowed_signers: "/etc/sshfix/allowed_signers".into(),
            policy: "/etc/sshfix/policy.toml".into(),
            identity: "/etc/sshfix/agent_ed25519".into(),
            fail2ban_socket: "/run/fail2ban/fail2ban.sock".into(),
            hosts_allow: "/etc/hosts.allow".into(),
            hosts_deny: "/etc/hosts.deny".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_user: 64,
            requests: 8,
            question_seconds: 20,
            state_megabytes: 256,
            question_record_days: 30,
            idle_seconds: 60,
            request_seconds: 10,
            reply_seconds: 10,
            lease_seconds: 30 * 86_400,
        }
    }
}

/// How many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of all users but root together.
    pub all: usize,
    /// Of one user.
    pub of_one: usize,
}

impl Bounds {
    /// The most that there ever are: those of root, and those that were told to close and are about to, besides.
    pub fn most(self) -> usize {
        self.all + 2 * self.of_one
    }
}

impl Limits {
    /// [`Limits::connections`], [`Limits::connections_per_user`].
    pub fn bounds(&self) -> Bounds {
        Bounds { all: self.connections, of_one: self.connections_per_user }
    }

    /// [`Limits::question_seconds`].
    pub fn question_time(&self) -> Duration {
        Duration::from_secs(self.question_seconds)
    }

    /// [`Limits::state_megabytes`], in bytes.
    pub fn state_bytes(&self) -> u64 {
        self.state_megabytes.saturating_mul(1 << 20)
    }

    /// [`Limits::question_record_days`].
    pub fn question_record_age(&self) -> SignedDuration {
        SignedDuration::from_hours(24 * i64::from(self.question_record_days))
    }

    /// [`Limits::idle_seconds`].
    pub fn idle_time(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    /// [`Limits::request_seconds`].
    pub fn request_time(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }

    /// [`Limits::reply_seconds`].
    pub fn reply_time(&self) -> Duration {
        Duration::from_secs(self.reply_seconds)
    }
}

impl Config {
    /// Reads the file; it must be root's alone to write.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Self::parse(&read_trusted(path)?, path)
    }

    /// The same of a text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|e| syntax(path, text, &e))?;
        config.sensible().map_err(|message| ConfigError::Value { path: path.to_owned(), message })?;
        Ok(config)
    }

    /// The `keep` entries as access paths of the proof.
    pub fn kept_paths(&self) -> Vec<AccessPath> {
        self.keep
            .iter()
            .map(|keep| AccessPath {
                source: keep.address,
                user: keep.user.clone(),
                port: keep.port.unwrap_or(self.ssh_port),
                origin: PathOrigin::Keep,
            })
            .collect()
    }

    fn sensible(&self) -> Result<(), String> {
        let paths = [
            ("socket.path", &self.socket.path),
            ("state", &self.state),
            ("paths.allowed_signers", &self.paths.allowed_signers),
            ("paths.policy", &self.paths.policy),
            ("paths.identity", &self.paths.identity),
            ("paths.fail2ban_socket", &self.paths.fail2ban_socket),
            ("paths.hosts_allow", &self.paths.hosts_allow),
            ("paths.hosts_deny", &self.paths.hosts_deny),
        ];
        if let Some((name, path)) = paths.iter().find(|(_, path)| !path.is_absolute()) {
            return Err(format!("{name} must be an absolute path, not `{}`", path.display()));
        }
        if self.ssh_port == 0 || self.keep.iter().any(|keep| keep.port == Some(0)) {
            return Err("a port is 1 to 65535".to_owned());
        }
        let ConfirmTimes { default_seconds, min_seconds, max_seconds } = self.confirm;
        if min_seconds == 0 || max_seconds > 86_400 || !(min_seconds..=max_seconds).contains(&default_seconds) {
            return Err("confirm: min_seconds is at least 1, max_seconds at most 86400, default_seconds between them".to_owned());
        }
        let limits = &self.limits;
        for (name, number, least, most) in [
            ("connections", limits.connections, 8, MAX_CONNECTIONS),
            ("connections_per_user", limits.connections_per_user, 4, limits.connections),
            ("requests", limits.requests, 1, 100),
        ] {
            if !(least..=most).contains(&number) {
                return Err(format!("limits.{name} is {least} to {most}, not {number}"));
            }
        }
        if limits.lease_seconds == 0 || limits.lease_seconds > 10 * 366 * 86_400 {
            return Err(format!("limits.lease_seconds is 1 to ten years, not {}", limits.lease_seconds));
        }
        if !(8..=1 << 20).contains(&limits.state_megabytes) {
            return Err(format!("limits.state_megabytes is 8 to 1048576, not {}", limits.state_megabytes));
        }
        if !(1..=3650).contains(&limits.question_record_days) {
            return Err(format!("limits.question_record_days is 1 to 3650, not {}", limits.question_record_days));
        }
        for (name, seconds) in [
            ("idle_seconds", limits.idle_seconds),
            ("request_seconds", limits.request_seconds),
            ("reply_seconds", limits.reply_seconds),
            ("question_seconds", limits.question_seconds),
        ] {
            if !(1..=300).contains(&seconds) {
                return Err(format!("limits.{name} is 1 to 300, not {seconds}"));
            }
        }
        Ok(())
    }
}

/// The grants as they are now.
///
/// # Errors
/// Where the file cannot be read, trusted or understood; it permits nothing then.
pub fn grants(policy: &Path) -> Result<Grants, String> {
    let text = read_trusted(policy).map_err(|error| error.to_string())?;
    Grants::parse(&text).map_err(|error| format!("{}: {error}", policy.display()))
}

/// A small text file that root trusts.
pub fn read_trusted(path: &Path) -> Result<String, ConfigError> {
    let bytes = files::read_checked(path, CONFIG_LIMIT)?.bytes;
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes().iter().take(e.utf8_error().valid_up_to()).filter(|&&byte| byte == b'\n').count();
        ConfigError::Value { path: path.to_owned(), message: format!("line {line} is not UTF-8") }
    })
}

/// toml's own message, with the line and the column where it points.
pub fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    ConfigError::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/sshfix/agent.toml"))
    }

    #[test]
    fn an_empty_file_is_the_documented_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.socket.path, Path::new("/run/sshfix/agent.sock"));
        assert_eq!(config.state, Path::new("/var/lib/sshfix/state.db"));
        assert_eq!(config.ssh_port, 22);
    }

    #[test]
    fn keep_entries_are_access_paths() {
        let config = parse(
            "ssh_port = 2222\n[[keep]]\naddress = \"198.51.100.7\"\nuser = \"admin\"\n\
             [[keep]]\naddress = \"2001:db8::/32\"\nport = 22\n",
        )
        .unwrap();
        let kept = config.kept_paths();
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[0].source, "198.51.100.7".parse().unwrap());
        assert_eq!((kept[0].user.as_deref(), kept[0].port), (Some("admin"), 2222));
        assert_eq!((kept[1].user.as_deref(), kept[1].port), (None, 22));
    }

    #[test]
    fn mistakes_are_named_with_line_and_column() {
        for (text, line, column, words) in [
            ("ssh_prot = 22\n", 1, 1, "unknown field `ssh_prot`"),
            ("# x\n[limits]\nconnections = -1\n", 3, 15, "invalid value"),
            ("[[keep]]\naddress = \"203.0.113.7/24\"\n", 2, 11, "host bits"),
            ("[[keep]]\naddress = \"everybody\"\n", 2, 11, "not an IPv4 or IPv6 address"),
            ("[socket]\npath = 3\n", 2, 8, "invalid type"),
            ("ssh_port = 22\nssh_port = 23\n", 2, 1, "duplicate key"),
            ("ssh_port = 70000\n", 1, 12, "invalid value"),
        ] {
            match parse(text) {
                Err(ConfigError::Syntax { line: l, column: c, message, .. }) => {
                    assert!(message.contains(words), "{text}: {message}");
                    assert_eq!((l, c), (line, column), "{text}: {message}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for text in [
            "ssh_port = 0",
            "state = \"state.db\"",
            "[socket]\npath = \"agent.sock\"",
            "[limits]\nconnections = 0",
            "[limits]\nconnections = 1001",
            "[limits]\nconnections = 32\nconnections_per_user = 33",
            "[limits]\nconnections_per_user = 3",
            "[limits]\nrequests = 0",
            "[limits]\nquestion_seconds = 0",
            "[limits]\nstate_megabytes = 7",
            "[limits]\nquestion_record_days = 0",
            "[limits]\nrequest_seconds = 0",
            "[limits]\nreply_seconds = 100000",
            "[[keep]]\naddress = \"::1\"\nport = 0",
        ] {
            assert!(matches!(parse(text), Err(ConfigError::Value { .. })), "{text}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, "ssh_port = 22\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        if nix::unistd::geteuid().is_root() {
            Config::load(&path).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(Config::load(&path), Err(ConfigError::File(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Config::load(&link), Err(ConfigError::File(_))), "a symlink");
        assert!(matches!(Config::load(dir.path()), Err(ConfigError::File(_))), "a directory");
        assert!(matches!(Config::load(&dir.path().join("none")), Err(ConfigError::File(_))), "missing");
    }
}
