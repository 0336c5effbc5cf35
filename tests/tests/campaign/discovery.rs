//! Neighbour discovery (RFC 4861) with the kernel as oracle: every set of its four messages is dropped, the host knows the client or not,
//! the client knows the host or not, and a real connection shows whether the verdict is true and no more unknown than it must be.

use std::time::Duration;

use sshfix_policy::verdict::Verdict;
use sshfix_tests::lab::{Fate, WIRE_CLIENTS, Wire, root_or_skip};

use super::{live, observe, said, tries};

/// Hook, and what nft(8) calls the type.
const MESSAGES: [(&str, &str); 4] = [
    ("input", "nd-neighbor-solicit"),
    ("output", "nd-neighbor-advert"),
    ("output", "nd-neighbor-solicit"),
    ("input", "nd-neighbor-advert"),
];

/// Drops those messages of which the bit is set.
fn drop_in(wire: &Wire, lost: usize) {
    let chain = |hook: &str| {
        let lost = MESSAGES.iter().enumerate().filter(|(index, (at, _))| *at == hook && lost >> index & 1 == 1);
        let rules: Vec<String> = lost.map(|(_, (_, kind))| format!("icmpv6 type {kind} drop\n")).collect();
        format!("chain {hook} {{\ntype filter hook {hook} priority 0;\n{}}}\n", rules.concat())
    };
    let rules = format!("flush ruleset\ntable inet t {{\n{}{}}}\n", chain("input"), chain("output"));
    wire.server.run_with_input(&["nft", "-f", "-"], rules.as_bytes()).expect_ok();
}

#[test]
fn the_verdict_agrees_with_the_kernel_about_every_loss_of_neighbour_discovery() {
    if !root_or_skip() {
        return;
    }
    let wire = Wire::new();
    let client = WIRE_CLIENTS[3];
    let mac = |side: &sshfix_tests::lab::Netns| side.sh("ip -br link show eth0 | awk '{ print $3 }'").stdout.trim().to_owned();
    let (server_mac, client_mac) = (mac(&wire.server), mac(&wire.client));
    let entry = |known: bool, address: &str, mac: &str, state: &str| {
        let learn = format!("ip -6 neigh replace {address} lladdr {mac} dev eth0 nud {state}");
        format!("ip -6 neigh del {address} dev eth0 2>&1 || true\n{}", if known { &learn } else { "" })
    };
    let wait = |patience: u64| Duration::from_millis(patience);
    for lost in 0..16 {
        drop_in(&wire, lost);
        for state in ["none", "failed", "stale", "reachable"] {
            let set_host = || wire.server.sh(&entry(state != "none", "2001:db8::7", &client_mac, state)).expect_ok();
            set_host();
            let said = wire.server.enter(|| said(&mut live(), &mut observe(), client));
            let opens = |client_knows: bool, patience: u64| {
                set_host();
                wire.client.sh(&entry(client_knows, "2001:db8:2::1", &server_mac, "reachable")).expect_ok();
                wire.connect(&tries(client)[..1], 22, wait(patience))[0] == Fate::Open(22)
            };
            let agrees = |patience: u64| {
                let (stranger, friend) = (opens(false, patience), opens(true, patience));
                let agrees = match said.verdict {
                    Verdict::Accept if said.detail == "accepted" => stranger && friend,
                    // They know each other, and would not find each other.
                    Verdict::Accept => !stranger && friend,
                    Verdict::Refuse => !stranger && !friend,
                    Verdict::Unknown => stranger != friend,
                };
                agrees.then_some(()).ok_or((stranger, friend))
            };
            if let Err(kernel) = agrees(150).or_else(|_| agrees(1500)) {
                let dropped: Vec<_> = MESSAGES.iter().enumerate().filter(|(index, _)| lost >> index & 1 == 1).collect();
                panic!("{dropped:?} dropped, the host's entry {state}: {said:?}, and (stranger, friend) got in: {kernel:?}");
            }
        }
    }
}
