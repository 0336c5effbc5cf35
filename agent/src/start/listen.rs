//! Where the agent listens: the socket systemd hands over, or its own. Never takes the place of a living agent, and removes
//! nothing that is not a dead socket.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, geteuid};
use thiserror::Error;

use crate::config::SocketConfig;
use crate::sys::activation;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum ListenError {
    /// What systemd passed cannot be used.
    #[error("{0}")]
    Activation(io::Error),
    /// Somebody answers there.
    #[error("another agent already listens on {0}: stop it first")]
    InUse(PathBuf),
    /// The path holds something else.
    #[error("{0} is not a socket; it was left alone: move it away or set socket.path in agent.toml")]
    NotASocket(PathBuf),
    /// The directory cannot be trusted.
    #[error("{path} {why}; nothing was changed there")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The kernel said no.
    #[error("the socket {path} could not be made: {error}")]
    Failed {
        /// Which.
        path: PathBuf,
        /// The kernel's words.
        error: io::Error,
    },
}

/// A socket that is listened on. One that we made is removed when this is dropped.
#[derive(Debug)]
pub struct Listening {
    /// To be given to [`crate::request::serve::serve`], once.
    pub listener: Option<UnixListener>,
    /// For the log.
    pub place: String,
    #[allow(dead_code, reason = "its drop removes the file")]
    file: Option<Made>,
}

/// The socket file we made, by its inode.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    inode: u64,
}

impl Drop for Made {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes systemd's socket, else makes our own.
pub fn listen(config: &SocketConfig) -> Result<Listening, ListenError> {
    if let Some(listener) = activation::listener().map_err(ListenError::Activation)? {
        return Ok(Listening { listener: Some(listener), place: "the socket that systemd passed".to_owned(), file: None });
    }
    bind(config)
}

/// Makes the socket: 0660 for the group where there is one, else 0600. The caller's umask must keep others out meanwhile.
pub fn bind(config: &SocketConfig) -> Result<Listening, ListenError> {
    let path = &config.path;
    let failed = |error: io::Error| ListenError::Failed { path: path.clone(), error };
    directory(path)?;
    clear_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = Made { path: path.clone(), inode: fs::symlink_metadata(path).map_err(failed)?.ino() };
    let group = Group::from_name(&config.group).map_err(|e| failed(e.into()))?;
    let mode = if let Some(group) = &group {
        chown(path, None, Some(group.gid.as_raw())).map_err(failed)?;
        0o660
    } else {
        tracing::info!("there is no group `{}`, so only root can connect", config.group);
        0o600
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(Listening { listener: Some(listener), place: path.display().to_string(), file: Some(file) })
}

/// The socket's directory, 0755 and ours: who can write there could put another socket in place.
fn directory(path: &Path) -> Result<(), ListenError> {
    let Some(directory) = path.parent() else {
        return Err(ListenError::Directory { path: path.to_owned(), why: "is not the path of a socket".to_owned() });
    };
    let wrong = |why: String| ListenError::Directory { path: directory.to_owned(), why };
    match DirBuilder::new().mode(0o755).create(directory) {
        // The umask took bits away.
        Ok(()) => fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).map_err(|e| wrong(e.to_string()))?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(wrong(format!("could not be made: {e}"))),
    }
    let found = fs::symlink_metadata(directory).map_err(|e| wrong(e.to_string()))?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || (found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0) {
        return Err(wrong("must be a directory of the user the agent runs as that nobody else can write to".to_owned()));
    }
    Ok(())
}

/// Removes the socket a dead agent left behind.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |error: io::Error| ListenError::Failed { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(e) => Err(failed(e)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    fn config(path: PathBuf) -> SocketConfig {
        SocketConfig { path, group: "no-such-group-of-sshfix".to_owned() }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let first = bind(&config(path.clone())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "no such group");
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o755);
        assert!(matches!(bind(&config(path.clone())), Err(ListenError::InUse(_))));
        // As after kill -9: the listener is closed, the file stays.
        let inode = fs::metadata(&path).unwrap().ino();
        let Listening { listener, file, .. } = first;
        drop(listener);
        std::mem::forget(file);
        assert!(path.exists());
        let second = bind(&config(path.clone())).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists(), "what we made is removed; it was inode {inode}");
    }

    #[test]
    fn the_group_of_the_config_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let group = Group::from_gid(nix::unistd::getgid()).unwrap().unwrap();
        let _listening = bind(&SocketConfig { path: path.clone(), group: group.name }).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o660, group.gid.as_raw()));
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&config(path.clone())), Err(ListenError::NotASocket(_))));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(bind(&config(path.clone())), Err(ListenError::NotASocket(_))), "a symlink");
        fs::remove_file(&path).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(bind(&config(path)), Err(ListenError::Directory { .. })), "others can write there");
    }
}
