//! A throw-away network namespace, and commands or closures that run in it.

use std::fs::File;

use nix::sched::{CloneFlags, setns};

use super::command::{Output, run_with_input};
use super::place::Place;

/// A network namespace with loopback up. Gone when dropped, also in a panic; what a killed process left goes with the next one.
pub struct Netns {
    place: Place,
}

impl Netns {
    /// A new, empty one.
    ///
    /// # Panics
    /// Without root.
    #[track_caller]
    pub fn new() -> Self {
        let place = Place::take();
        place.make_netns();
        Netns { place }
    }

    /// Its name for `ip -n NAME` and `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        self.place.name()
    }

    /// Runs a command in it.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        self.run_with_input(command, b"")
    }

    /// The same with bytes on its standard input: a ruleset for `nft -f -`.
    #[track_caller]
    pub fn run_with_input(&self, command: &[&str], input: &[u8]) -> Output {
        let net = format!("--net={}", self.place.netns_file().display());
        run_with_input(&[&["nsenter", &net, "--"], command].concat(), input)
    }

    /// Runs a shell script in it.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.run(&["sh", "-euc", script])
    }

    /// Runs a closure on a thread of its own that is in this namespace: sockets it opens stay there. Panics pass through.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(self.place.netns_file()).expect("the namespace's file");
        let done = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(netns, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
                    work()
                })
                .join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}
