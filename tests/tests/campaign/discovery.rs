//! Neighbour discovery (RFC 4861) with the kernel as oracle: every set of its four messages is dropped, the host knows the client or not,
//! the client or its gateway knows the host or not, and a real connection shows whether the verdict is true and no more unknown than must be.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use sshfix_policy::verdict::Verdict;
use sshfix_tests::lab::{Client, Fate, Netns, WIRE_CLIENTS, Wire, root_or_skip};

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

/// Whom the server hands its answers to, and a client that comes by him.
struct Ways<'w> {
    wire: &'w Wire,
    client: Client,
    /// The client itself, or a gateway: an address in the clients' namespace on eth0.
    hop: String,
    /// Whether the client's handshake is completed within so many milliseconds.
    connects: Box<dyn Fn(u64) -> bool + 'w>,
}

fn mac(side: &Netns) -> String {
    side.sh("ip -br link show eth0 | awk '{ print $3 }'").stdout.trim().to_owned()
}

/// A neighbour entry in this state, or none.
fn entry(known: bool, address: &str, mac: &str, state: &str) -> String {
    let learn = format!("ip -6 neigh replace {address} lladdr {mac} dev eth0 nud {state}");
    format!("ip -6 neigh del {address} dev eth0 2>&1 || true\n{}", if known { &learn } else { "" })
}

impl Ways<'_> {
    /// Compares the verdict with the kernel for every set of lost messages and these states of the host's entry.
    fn agree(&self, states: &[&str]) {
        let Ways { wire, client, hop, connects } = self;
        let (server_mac, hop_mac) = (mac(&wire.server), mac(&wire.client));
        for (lost, state) in (0..16).flat_map(|lost| states.iter().map(move |state| (lost, *state))) {
            drop_in(wire, lost);
            let set_host = || wire.server.sh(&entry(state != "none", hop, &hop_mac, state)).expect_ok();
            set_host();
            let said = wire.server.enter(|| said(&mut live(), &mut observe(), *client));
            let opens = |hop_knows: bool, patience: u64| {
                set_host();
                wire.client.sh(&entry(hop_knows, "2001:db8:2::1", &server_mac, "reachable")).expect_ok();
                connects(patience)
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
                if agrees { Ok(()) } else { Err((stranger, friend)) }
            };
            if let Err(kernel) = agrees(150).or_else(|_| agrees(1500)) {
                let dropped: Vec<_> = MESSAGES.iter().enumerate().filter(|(index, _)| lost >> index & 1 == 1).collect();
                panic!(
                    "by {hop}, {dropped:?} dropped, the host's entry {state}: {said:?}, and (stranger, friend) got in: {kernel:?}"
                );
            }
        }
    }
}

#[test]
fn the_verdict_agrees_with_the_kernel_about_every_loss_of_neighbour_discovery() {
    if !root_or_skip() {
        return;
    }
    let wire = Wire::new();
    let client = WIRE_CLIENTS[3];
    let connects = |patience| wire.connect(&tries(client)[..1], 22, Duration::from_millis(patience))[0] == Fate::Open(22);
    let ways = Ways { wire: &wire, client, hop: client.0.to_owned(), connects: Box::new(connects) };
    ways.agree(&["none", "failed", "stale", "reachable"]);
}

#[test]
fn so_it_does_about_a_client_behind_a_gateway_of_a_global_or_a_link_local_address() {
    if !root_or_skip() {
        return;
    }
    let (wire, far) = (Wire::new(), Netns::new());
    wire.client
        .sh(&format!(
            "sysctl -qw net.ipv6.conf.all.forwarding=1; ip link add far0 type veth peer name eth0 netns {}
             ip addr add 2001:db8:9::1/64 dev far0 nodad; ip link set far0 up",
            far.name()
        ))
        .expect_ok();
    far.sh("ip addr add 2001:db8:9::7/64 dev eth0 nodad; ip link set eth0 up; ip -6 route add default via 2001:db8:9::1")
        .expect_ok();
    let link_local = wire.client.sh("ip -6 -br addr show eth0 scope link | grep -o 'fe80[^/]*'").stdout.trim().to_owned();
    let listener = wire.server.enter(|| TcpListener::bind("[2001:db8:2::1]:22")).unwrap();
    let connects = |patience| {
        let server = listener.local_addr().unwrap();
        far.enter(|| TcpStream::connect_timeout(&server, Duration::from_millis(patience)).is_ok())
    };
    for hop in ["2001:db8::7", &link_local] {
        wire.server.sh(&format!("ip -6 route replace 2001:db8:9::/64 via {hop} dev eth0")).expect_ok();
        let client = ("2001:db8:9::7", "eth0");
        let ways = Ways { wire: &wire, client, hop: hop.to_owned(), connects: Box::new(connects) };
        // On a loaded machine the first search for the hop may come to nothing.
        assert!((0..6).any(|_| connects(5000)), "the far client gets in by {hop}");
        ways.agree(&["none", "stale", "reachable"]);
    }
}
