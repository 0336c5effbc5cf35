//! The netfilter stage against the real kernel: rules that nft and iptables-nft loaded are printed as those tools print them,
//! and the verdict on a connection is what becomes of a real one. Needs root; without it the tests say so, and fail under `CI=true`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_possible_truncation, clippy::format_push_string)]

mod kernel;
mod render;

use std::io::Write as _;
use std::process::{Command, Stdio};

use sshfix_agent::subsystem::nf_tables::Ruleset;
use sshfix_policy::host::{HostState, Need, Needs, Part};

/// Whether the tests can run here.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: needs root");
    }
    root
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
    assert!(output.status.success(), "{program} {args:?}: {:.2000}\n{input:.4000}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Reads the packet filters of the namespace of the thread.
fn observe(ruleset: &mut Ruleset) -> HostState {
    let absent = || "not in this test".to_owned();
    HostState {
        at: jiff::Timestamp::UNIX_EPOCH,
        fail2ban: Part::Absent(absent()),
        hosts_access: Part::Absent(absent()),
        nf_tables: ruleset.observe(),
        xtables: sshfix_agent::subsystem::xtables::observe(),
        ipset: sshfix_policy::subsystem::ipset::State::new(),
        listener: Part::Absent(absent()),
        route: Part::Present(sshfix_policy::subsystem::route::State::default()),
        ufw: None,
    }
}

/// Asks until every lookup is answered, as the agent does.
fn asked<T>(ruleset: &mut Ruleset, host: &mut HostState, mut question: impl FnMut(&HostState, &mut Needs) -> T) -> T {
    let mut all = Needs::new();
    for _ in 0..50 {
        let mut needs = Needs::new();
        let answer = question(host, &mut needs);
        needs.retain(|need| !all.contains(need));
        if needs.is_empty() {
            return answer;
        }
        let elements = needs.iter().filter_map(|need| if let Need::Element(key) = need { Some(key.clone()) } else { None });
        let sets = needs.iter().filter_map(|need| if let Need::SetElements(key) = need { Some(key.clone()) } else { None });
        let Part::Present(state) = &mut host.nf_tables else { panic!("{:?}", host.nf_tables) };
        ruleset.lookup_elements(state, &elements.collect(), &sets.collect()).unwrap();
        let sources = needs.iter().filter_map(|need| if let Need::Route(source) = need { Some(*source) } else { None }).collect();
        let Part::Present(routes) = &mut host.route else { panic!("{:?}", host.route) };
        sshfix_agent::subsystem::route::lookup(routes, &sources).unwrap();
        all.extend(needs);
    }
    panic!("the question is never answered");
}
