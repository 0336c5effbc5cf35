//! A sign of life while the agent works longer than a moment: on the terminal only, on stderr, and gone before the answer.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most answers come before this and are not announced.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts seconds until it is dropped.
#[derive(Debug)]
pub struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// Begins; says nothing where stderr is not a terminal.
    pub fn start(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let start = Instant::now();
            let mut shown = false;
            while stopped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                shown = true;
                // Back to the line's start, and clear to its end (ECMA-48 EL).
                let _ = write!(std::io::stderr(), "\r{what}, {} s\u{1b}[K", start.elapsed().as_secs());
            }
            if shown {
                let _ = write!(std::io::stderr(), "\r\u{1b}[K");
            }
        });
        Self(Some((stop, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}
