//! `firewall who` on real servers of both releases: every address is in one list, and the list agrees with `diagnose` and with real
//! connections from that very address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, socket};
use serde_json::Value;
use sshfix_policy::ranges::{address, number};
use sshfix_policy::reply::{SourceRange, Who};
use sshfix_tests::lab::{Release, SERVER_V4, SERVER_V6, Server, root_or_skip, run};

const MAPPED: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// The ranges of the three lists, each with its list: 0 reaches, 1 blocked, 2 unknown.
fn lists(who: &Who) -> Vec<(SourceRange, usize)> {
    let list = |ranges: &[SourceRange], list: usize| ranges.iter().map(|range| (*range, list)).collect::<Vec<_>>();
    let unknown: Vec<SourceRange> = who.unknown.iter().flat_map(|one| one.sources.clone()).collect();
    [list(&who.reach, 0), list(&who.blocked, 1), list(&unknown, 2)].concat()
}

/// No gap and no overlap, in both families. v4-mapped addresses are nobody's.
fn covers_everything_once(who: &Who) {
    for v6 in [false, true] {
        let mut spans: Vec<(u128, u128)> = lists(who)
            .iter()
            .filter(|(range, _)| range.first.is_ipv6() == v6)
            .map(|(range, _)| (number(range.first), number(range.last)))
            .collect();
        spans.sort_unstable();
        let mut next = Some(0);
        for (from, to) in spans {
            if next == Some(MAPPED.0) && from == MAPPED.1 + 1 {
                next = Some(from);
            }
            assert_eq!(Some(from), next, "{} is missing or twice", address(v6, from));
            next = to.checked_add(1).filter(|next| v6 || *next <= u128::from(u32::MAX));
        }
        assert_eq!(next, None, "the end is missing");
    }
}

fn list_of(who: &Who, one: IpAddr) -> usize {
    let holds = |range: &SourceRange| {
        range.first.is_ipv6() == one.is_ipv6() && number(range.first) <= number(one) && number(one) <= number(range.last)
    };
    let found: Vec<usize> = lists(who).iter().filter(|(range, _)| holds(range)).map(|(_, list)| *list).collect();
    assert_eq!(found.len(), 1, "{one} is in {} lists", found.len());
    found[0]
}

fn who(server: &Server) -> Who {
    let document = server.ctl(&["firewall", "who", "--json"]).expect_status(0).json();
    assert_eq!(document["schema"], "sshfix.who/1");
    let who: Who = serde_json::from_value(document).unwrap();
    covers_everything_once(&who);
    // The deciders are the blocked ones once more.
    let sum = |ranges: &[SourceRange]| {
        ranges.iter().fold(0_u128, |sum, range| sum.wrapping_add(number(range.last) - number(range.first)).wrapping_add(1))
    };
    let decided: Vec<SourceRange> = who.deciders.iter().flat_map(|one| one.sources.clone()).collect();
    assert_eq!(sum(&decided), sum(&who.blocked));
    who
}

/// Whether a TCP connection from this address to the server's sshd comes about.
fn connects(server: &Server, from: IpAddr) -> bool {
    let netns = server.clients_netns().to_owned();
    let link = format!("ve-{netns}");
    let length = if from.is_ipv6() { "128" } else { "32" };
    run(&["ip", "-n", &netns, "addr", "replace", &format!("{from}/{length}"), "dev", &link, "nodad"]).expect_ok();
    std::thread::spawn(move || {
        setns(File::open(format!("/run/netns/{netns}")).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        let to: IpAddr = if from.is_ipv6() { SERVER_V6 } else { SERVER_V4 }.parse().unwrap();
        handshake(from, SocketAddr::new(to, 22))
    })
    .join()
    .unwrap()
}

fn handshake(from: IpAddr, to: SocketAddr) -> bool {
    let family = if from.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    match (SocketAddr::new(from, 0), to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            bind(raw, &SockaddrIn::from(from)).unwrap();
            let _ = connect(raw, &SockaddrIn::from(to));
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            bind(raw, &SockaddrIn6::from(from)).unwrap();
            let _ = connect(raw, &SockaddrIn6::from(to));
        }
        _ => unreachable!("both of one family"),
    }
    let stream = std::net::TcpStream::from(socket);
    // The SYN is sent again after a second; two of them are enough on a network without loss.
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(50));
        if stream.peer_addr().is_ok() {
            // The server's end must have it too: an ACK that is dropped leaves only the client in the belief.
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut banner = [0; 4];
            return std::io::Read::read(&mut (&stream), &mut banner).is_ok_and(|read| read > 0);
        }
        if stream.take_error().unwrap().is_some() {
            return false;
        }
    }
    false
}

/// Rules of every kind that tells addresses apart, for both families.
const RULES: &str = "
    nft -f - <<'END'
    table inet hand {
        set ranges4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 10.2.3.4-10.2.3.9, 198.51.100.0/25 } }
        set ranges6 { type ipv6_addr; flags interval; elements = { 2001:db8:a::/48, 2001:db8:b::7-2001:db8:b::9 } }
        set hash4 { type ipv4_addr; elements = { 198.51.100.200, 203.0.113.77, 203.0.113.78 } }
        set pairs4 { type ipv4_addr . inet_service; flags interval; elements = { 10.9.0.0/24 . 22, 10.9.1.0/24 . 80 } }
        map verdicts { type ipv4_addr : verdict; flags interval; elements = { 10.5.0.0/24 : drop, 10.5.1.0/24 : accept, 10.5.2.0/24 : jump deep } }
        chain deep { ip saddr & 0.0.0.3 == 2 ip saddr 10.5.2.0/28 drop; }
        chain input {
            type filter hook input priority 0; policy accept;
            ip saddr 10.1.7.0/24 accept
            ip saddr @ranges4 tcp dport 22 drop
            ip6 saddr @ranges6 drop
            ip saddr @hash4 counter reject
            ip saddr . tcp dport @pairs4 drop
            ip saddr vmap @verdicts
            ip6 saddr 2001:db8:c::/64 ip6 saddr != 2001:db8:c::1 tcp dport 22 drop
            ip saddr 10.7.0.0/24 limit rate 1/hour drop
        }
        chain output { type filter hook output priority 0; policy accept; ip daddr 10.8.0.0/29 tcp sport 22 drop; }
    }
END
    ipset create nets hash:net
    ipset add nets 10.20.0.0/24
    ipset add nets 10.20.0.64/26 nomatch
    ipset add nets 10.20.0.70
    ipset create six hash:ip family inet6 netmask 120
    ipset add six 2001:db8:d::100
    iptables-nft -A INPUT -m set --match-set nets src -j DROP
    ip6tables-legacy -A INPUT -m set --match-set six src -j DROP
    iptables-legacy -A INPUT -s 10.30.0.0/255.255.240.255 -p tcp --dport 22 -j REJECT
    iptables-legacy -A INPUT -m iprange --src-range 10.31.0.5-10.31.0.8 -j DROP
    ip route add blackhole 10.40.0.0/30
    ip -6 route add unreachable 2001:db8:e::/126
";

/// Addresses at the edges of everything above, with what becomes of them: 0 reaches, 1 blocked, 2 unknown.
const EDGES: [(&str, usize); 46] = [
    ("10.0.255.255", 0),
    ("10.1.0.0", 1),
    ("10.1.6.255", 1),
    ("10.1.7.9", 0),
    ("10.1.255.255", 1),
    ("10.2.3.3", 0),
    ("10.2.3.4", 1),
    ("10.2.3.9", 1),
    ("10.2.3.10", 0),
    ("198.51.100.127", 1),
    ("198.51.100.128", 0),
    ("198.51.100.200", 1),
    ("203.0.113.77", 1),
    ("203.0.113.79", 0),
    ("10.9.0.255", 1),
    ("10.9.1.5", 0),
    ("10.5.0.5", 1),
    ("10.5.1.5", 0),
    ("10.5.2.2", 1),
    ("10.5.2.3", 0),
    ("10.5.2.14", 1),
    ("10.5.2.18", 0),
    ("10.7.0.5", 2),
    ("10.8.0.7", 1),
    ("10.8.0.8", 0),
    ("10.20.0.63", 1),
    ("10.20.0.64", 0),
    ("10.20.0.70", 1),
    ("10.20.0.127", 0),
    ("10.20.0.128", 1),
    ("10.30.0.0", 1),
    ("10.30.1.0", 1),
    ("10.30.15.0", 1),
    ("10.30.15.1", 0),
    ("10.30.16.0", 0),
    ("10.31.0.5", 1),
    ("10.31.0.9", 0),
    ("10.40.0.3", 1),
    ("10.40.0.4", 0),
    ("2001:db8:a:ffff::1", 1),
    ("2001:db8:b::9", 1),
    ("2001:db8:b::a", 0),
    ("2001:db8:c::1", 0),
    ("2001:db8:c::2", 1),
    ("2001:db8:d::1ff", 1),
    ("2001:db8:e::4", 0),
];

#[test]
fn the_lists_agree_with_diagnose_and_with_real_connections() {
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        server.install_sshfix();
        server.sh(RULES).expect_ok();
        let found = who(&server);
        let mut probed = Vec::new();
        for (text, wanted) in EDGES {
            let one: IpAddr = text.parse().unwrap();
            assert_eq!(list_of(&found, one), wanted, "{release} {one}\n{found:#?}");
            probed.push(one);
        }
        // And some at random, near the rules and anywhere.
        let mut dice = 0x5eed_u128;
        for _ in 0..12 {
            dice = dice.wrapping_mul(0x2545_f491_4f6c_dd1d_u128).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let low = (dice >> 40) & 0xffff_ffff;
            probed.push(address(false, 0x0a00_0000 | low & 0x003f_0fff));
            probed.push(address(false, 0x0b00_0000 + low % 0xa000_0000));
            probed.push(address(true, number("2001:db8::".parse().unwrap()) | (0xa + low % 6) << 80 | low >> 16));
        }
        for one in probed {
            let list = list_of(&found, one);
            let diagnosis = server.ctl(&["diagnose", &one.to_string(), "--json"]).json();
            assert_eq!(by_diagnosis(&diagnosis), list, "{release} {one}: {diagnosis:#}");
            // Multicast and reserved addresses are nobody's.
            if list != 2 && !one.is_multicast() {
                assert_eq!(connects(&server, one), list == 0, "{release} {one}");
            }
        }
    }
}

/// Routes and packet filters together.
fn by_diagnosis(diagnosis: &Value) -> usize {
    let stages = diagnosis["stages"].as_array().unwrap();
    let concerned = stages.iter().filter(|stage| stage["stage"] == "route" || stage["stage"] == "netfilter");
    let verdicts: Vec<&str> = concerned.map(|stage| stage["verdict"].as_str().unwrap()).collect();
    match () {
        () if verdicts.contains(&"refuse") => 1,
        () if verdicts.contains(&"unknown") => 2,
        () => 0,
    }
}

#[test]
fn a_hundred_thousand_elements_are_listed_in_seconds() {
    if !root_or_skip() {
        return;
    }
    let server = Server::boot(Release::Trixie);
    server.install_sshfix();
    let elements: Vec<String> =
        (0..100_000_u32).map(|n| address(false, u128::from(n * 40_000 + 0x0100_0007)).to_string()).collect();
    let rules = format!(
        "table inet hand {{
            set bad {{ type ipv4_addr; elements = {{ {} }} }}
            chain input {{ type filter hook input priority 0; policy accept; ip saddr @bad drop; }}
        }}",
        elements.join(", ")
    );
    server.run_with_input(&["nft", "-f", "-"], rules.as_bytes()).expect_ok();
    let found = who(&server);
    // The kernel takes nothing from 0.0.0.0/8.
    let is_of_clients = |range: &&SourceRange| range.first.is_ipv4() && range.first != IpAddr::from([0, 0, 0, 0]);
    let four = |ranges: &[SourceRange]| ranges.iter().filter(is_of_clients).count();
    assert_eq!(four(&found.blocked), 100_000);
    assert_eq!(list_of(&found, elements[777].parse().unwrap()), 1);
    // Prefixes for all of the others would be millions.
    assert!(four(&found.reach) <= 100_001 && found.notes.iter().any(|note| note.contains("FIRST-LAST")), "{:?}", found.notes);
    let text = server.ctl(&["firewall", "who"]).expect_status(0).stdout;
    assert!(text.contains("@bad") && text.lines().count() < 40, "{text}");
}
