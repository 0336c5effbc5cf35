//! A throw-away network namespace, and commands or closures that run in it.

use std::fs::File;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::command::{Output, run_with_input};
use super::place::Place;
use super::root_or_skip;

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

/// Runs a test in a thread with a network namespace and a `/run` of its own, which end with it: the lock of all iptables programs is
/// there, one for the whole machine otherwise. Sockets and children of the thread are in that namespace. Nothing without root.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !root_or_skip() {
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces");
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("mounts that nobody else sees");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing).expect("a private /run");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}
