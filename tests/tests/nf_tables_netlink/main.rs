//! The netlink room against the real kernel, in throw-away network namespaces, with rulesets that the real nft and
//! iptables-nft loaded. Needs root; without it the tests say so, and fail under `CI=true`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

mod agreement;
mod read;
mod rulesets;
mod second_decoder;
mod write;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use sshfix_agent::subsystem::nf_tables::Ruleset;
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::nf_tables::{Chain, Element, ElementKey, Family, SetKey, State};

/// Runs the test in a thread with a network namespace of its own, which ends with it. Sockets and children of the thread are
/// in that namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(program);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {:.2000}\n{input:.2000}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Loads a ruleset. nft wants each statement to end with a newline or semicolon, also before a brace.
fn nft(ruleset: &str) {
    run("/usr/sbin/nft", &["-f", "-"], &ruleset.replace(" }", "\n}"));
}

fn list() -> String {
    run("/usr/sbin/nft", &["-a", "list", "ruleset"], "")
}

fn observe(ruleset: &mut Ruleset) -> State {
    match ruleset.observe() {
        Part::Present(state) => state,
        Part::Absent(why) | Part::Unreadable(why) => panic!("{why}"),
    }
}

fn chain<'a>(state: &'a State, table: &str, name: &str) -> &'a Chain {
    state.chains.iter().find(|chain| chain.table == table && chain.name == name).expect("the chain")
}

fn set(table: &str, set: &str) -> SetKey {
    SetKey { family: Family::Inet, table: table.to_owned(), set: set.to_owned() }
}

fn find(ruleset: &mut Ruleset, set: &SetKey, key: &[u8]) -> Option<Element> {
    let mut state = observe(ruleset);
    let key = ElementKey { set: set.clone(), key: key.to_vec() };
    ruleset.lookup_elements(&mut state, &BTreeSet::from([key.clone()]), &BTreeSet::new()).unwrap();
    state.elements.remove(&key).expect("an answer")
}

fn dump(ruleset: &mut Ruleset, set: &SetKey) -> Vec<Element> {
    let mut state = observe(ruleset);
    ruleset.lookup_elements(&mut state, &BTreeSet::new(), &BTreeSet::from([set.clone()])).unwrap();
    state.dumps.remove(set).expect("an answer")
}
