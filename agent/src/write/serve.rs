//! The writer itself: one process that stays, takes one connection after the other from systemd's socket, and does its order. Takes orders
//! of nobody but root, from a process of sshfix's own units. Told to stop, it comes to the end of its order first.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sd_notify::NotifyState;

use super::{Answer, PATIENCE, WriteError, perform, read};
use crate::config::Config;
use crate::logging;
use crate::sys::activation;
use crate::units::{self, Hurried};
use crate::watchdog::notify;

/// Serves until it is told to stop.
pub fn serve(agent_toml: &Path) -> Result<(), WriteError> {
    let _ = logging::start("info");
    let listener = activation::listener()?.ok_or(WriteError::NoSocket)?;
    // A child starts with an empty mask (`std::process`), so ssh-keygen is not kept from ending.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().map_err(io::Error::from)?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(io::Error::from)?;
    let writer = Writer { agent_toml: agent_toml.to_owned(), started: Config::load(agent_toml).ok() };
    notify(NotifyState::Ready);
    while next(&listener, &stop)? {
        match listener.accept() {
            Ok((stream, _)) => writer.answer(stream),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(error.into()),
        }
    }
    notify(NotifyState::Stopping);
    Ok(())
}

/// Waits for a connection; no where it is time to stop.
fn next(listener: &UnixListener, stop: &SignalFd) -> io::Result<bool> {
    loop {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => return Ok(ready.last().and_then(PollFd::any) != Some(true)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

struct Writer {
    agent_toml: PathBuf,
    /// As it was when the agent was started, too. It may be broken by the time that the agent must roll back.
    started: Option<Config>,
}

impl Writer {
    fn answer(&self, mut stream: UnixStream) {
        let answer = match units::check(&stream).and_then(|()| ordered(&stream)) {
            Ok((order, content)) => {
                let answer = perform::perform(&self.configs(), &order, &content);
                tracing::info!("{}: {answer:?}", order.what());
                answer
            }
            Err(why) => Answer::Failed(why),
        };
        let sent = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| {
            let bytes = serde_json::to_vec(&answer)?;
            stream.write_all(&bytes)
        });
        if let Err(error) = sent {
            tracing::warn!("cannot send the answer: {error}");
        }
    }

    /// What agent.toml said at the start and says now; the defaults where it said nothing that could be read, as recovery has it.
    fn configs(&self) -> Vec<Config> {
        let mut configs: Vec<Config> = self.started.iter().cloned().chain(Config::load(&self.agent_toml).ok()).collect();
        if configs.is_empty() {
            configs.push(Config::default());
        }
        configs
    }
}

fn ordered(stream: &UnixStream) -> Result<(super::Order, Vec<u8>), String> {
    read(&mut Hurried::new(stream, PATIENCE)).map_err(|error| error.to_string())
}
