//! The kernel as oracle: random rulesets of nft, iptables-nft and iptables-legacy are loaded in a namespace, real connections
//! from several addresses tried, and what became of them compared with the verdict. It may say unknown; it must never be wrong.
//! Then every block of one refused address is lifted for real: it gets in, and nobody else does who did not before.
//! `SSHFIX_RULESETS=n` runs n rulesets, `SSHFIX_SEED=n` starts from another seed.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sshfix_agent::subsystem::nf_tables::Ruleset;
use sshfix_policy::host::HostState;
use sshfix_policy::netfilter::{blocks, evaluate};
use sshfix_policy::step::Step;
use sshfix_policy::verdict::{Connection, Lift, Verdict};
use sshfix_tests::lab::Netns;

use super::{asked, observe, root, run};

/// A small generator (xorshift64*): a seed that fails can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

const CLIENTS4: [&str; 3] = ["203.0.113.7", "203.0.113.8", "198.51.100.7"];
const CLIENTS6: [&str; 3] = ["2001:db8::7", "2001:db8::8", "2001:db8:1::7"];
const SERVERS4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const SERVERS6: [&str; 3] = ["2001:db8:2::1", "2001:db8:2::2", "2001:db8:2::3"];

/// One statement list of nft, without its end.
fn matches(dice: &mut Dice, family: &str, out: bool) -> String {
    let (address, port) = if out { ("daddr", "sport") } else { ("saddr", "dport") };
    let v4 = [
        format!("ip {address} 203.0.113.7"),
        format!("ip {address} 203.0.113.8"),
        format!("ip {address} != 203.0.113.7"),
        format!("ip {address} 203.0.113.0/24"),
        format!("ip {address} 203.0.113.0/29"),
        format!("ip {address} 203.0.113.5-203.0.113.7"),
        format!("ip {address} < 203.0.113.0"),
        format!("ip {address} {{ 203.0.113.8, 198.51.100.0/24 }}"),
        format!("ip {address} @hash4"),
        format!("ip {address} @nets4"),
        format!("ip {address} != @hash4"),
        format!("ip {address} . tcp {port} @pairs4"),
    ];
    let v6 = [
        format!("ip6 {address} 2001:db8::7"),
        format!("ip6 {address} 2001:db8::/64"),
        format!("ip6 {address} != 2001:db8::8"),
        format!("ip6 {address} @hash6"),
        format!("ip6 {address} @nets6"),
    ];
    let any = [
        String::new(),
        format!("tcp {port} 22"),
        format!("tcp {port} {{ 22, 2222 }}"),
        format!("tcp {port} 1-100"),
        format!("tcp {port} != 22"),
        format!("tcp {port} 80"),
        "udp dport 22".to_owned(),
        "ct state new".to_owned(),
        "ct state established,related".to_owned(),
        "ct state invalid".to_owned(),
        "ct state { new, established }".to_owned(),
        "iifname \"lo\"".to_owned(),
        "oifname \"lo\"".to_owned(),
        "meta l4proto tcp".to_owned(),
        "meta nfproto ipv4".to_owned(),
        "meta mark 1".to_owned(),
        "meta mark & 1 == 0".to_owned(),
        "tcp flags syn / fin,syn,rst,ack".to_owned(),
        "ct direction original".to_owned(),
        "counter".to_owned(),
    ];
    let mut text = String::new();
    for _ in 0..=dice.roll(2) {
        #[allow(clippy::match_same_arms, reason = "each arm rolls at its own time, and the seeds are kept")]
        let one = match (family, dice.roll(2)) {
            ("ip", 0) => v4[dice.roll(v4.len())].clone(),
            ("ip6", 0) => v6[dice.roll(v6.len())].clone(),
            ("inet", 0) if dice.roll(2) == 0 => v4[dice.roll(v4.len())].clone(),
            ("inet", 0) => v6[dice.roll(v6.len())].clone(),
            _ => any[dice.roll(any.len())].clone(),
        };
        // nft refuses addresses of both families, and a second header of the same field.
        if one.contains("ip6 ") && text.contains("ip ")
            || one.contains("ip ") && text.contains("ip6 ")
            || text.contains("meta nfproto")
        {
            continue;
        }
        if one.contains("meta nfproto") && !text.is_empty() || family != "inet" && one.contains("nfproto") {
            continue;
        }
        if one.starts_with("udp") && text.contains("tcp") || one.contains("tcp") && text.contains("udp") {
            continue;
        }
        text += &one;
        text += " ";
    }
    text
}

fn nft_table(dice: &mut Dice, number: usize) -> String {
    let family = dice.one(&["inet", "inet", "ip", "ip6"]);
    let mut text = format!("table {family} t{number} {{\n");
    let some4 = ["203.0.113.7", "203.0.113.8", "198.51.100.7", "192.0.2.77"];
    let some6 = ["2001:db8::7", "2001:db8::8", "2001:db8:1::7"];
    let nets4 = ["203.0.113.7", "203.0.113.8/31", "198.51.100.0/24"];
    let nets6 = ["2001:db8::7", "2001:db8:1::/64"];
    let pick = |dice: &mut Dice, of: &[&str]| -> String {
        let chosen: Vec<&str> = of.iter().copied().filter(|_| dice.roll(2) == 0).collect();
        if chosen.is_empty() { String::new() } else { format!("elements = {{ {} }}\n", chosen.join(", ")) }
    };
    for (name, kind, flags, of) in [
        ("hash4", "ipv4_addr", "", &some4[..]),
        ("hash6", "ipv6_addr", "", &some6[..]),
        ("nets4", "ipv4_addr", "flags interval\n", &nets4[..]),
        ("nets6", "ipv6_addr", "flags interval\n", &nets6[..]),
        ("pairs4", "ipv4_addr . inet_service", "", &["203.0.113.7 . 22", "203.0.113.8 . 80", "198.51.100.7 . 22"][..]),
    ] {
        text += &format!("set {name} {{\ntype {kind}\n{flags}{}}}\n", pick(dice, of));
    }
    let verdicts = pick(dice, &["203.0.113.7 : drop", "203.0.113.8 : accept", "198.51.100.7 : jump c1"]);
    text += "chain c2 {\n";
    for _ in 0..dice.roll(3) {
        text += &format!("{}{}\n", matches(dice, family, false), dice.one(&["accept", "drop", "return", "continue"]));
    }
    text += "}\nchain c1 {\n";
    for _ in 0..dice.roll(3) {
        text += &format!(
            "{}{}\n",
            matches(dice, family, false),
            dice.one(&["accept", "drop", "reject", "return", "goto c2", "jump c2"])
        );
    }
    text += &format!("}}\nmap verdicts {{\ntype ipv4_addr : verdict\n{verdicts}}}\n");
    for base in 0..=dice.roll(2) {
        let hook = dice.one(&["input", "input", "input", "prerouting", "output"]);
        let priority = dice.one(&["-301", "-150", "-1", "0", "0", "10"]);
        let policy = dice.one(&["accept", "accept", "drop"]);
        text += &format!("chain base{base} {{\ntype filter hook {hook} priority {priority}; policy {policy};\n");
        if policy == "drop" && dice.roll(3) != 0 {
            text += "ct state established,related accept\n";
            text += "meta l4proto ipv6-icmp accept\n";
        }
        for _ in 0..dice.roll(5) {
            let mut ends = vec!["accept", "accept", "drop", "drop", "return", "jump c1", "goto c1", "meta mark set 1", "counter"];
            if hook == "input" {
                ends.push("reject");
            }
            let vmap = family != "ip6" && dice.roll(8) == 0 && hook != "output";
            if vmap {
                text += "ip saddr vmap @verdicts\n";
            } else {
                text += &format!("{}{}\n", matches(dice, family, hook == "output"), dice.one(&ends));
            }
        }
        text += "}\n";
    }
    text + "}\n"
}

/// A filter table for iptables-restore: both backends take it.
fn iptables(dice: &mut Dice, v6: bool) -> String {
    let (one, two, net) =
        if v6 { ("2001:db8::7", "2001:db8::8", "2001:db8::/64") } else { ("203.0.113.7", "203.0.113.8", "203.0.113.0/24") };
    let mut text =
        format!("*filter\n:INPUT {} [0:0]\n:OUTPUT ACCEPT [0:0]\n:f2b-sshd - [0:0]\n", dice.one(&["ACCEPT", "ACCEPT", "DROP"]));
    if v6 {
        text += "-A INPUT -p ipv6-icmp -j ACCEPT\n";
    }
    if dice.roll(2) == 0 {
        text += "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    }
    for chain in ["INPUT", "INPUT", "INPUT", "f2b-sshd", "f2b-sshd"] {
        let source = match dice.roll(5) {
            0 => format!("-s {one}"),
            1 => format!("-s {two}"),
            2 => format!("! -s {one}"),
            3 => format!("-s {net}"),
            _ => String::new(),
        };
        let more = dice.one(&[
            "",
            "-p tcp -m tcp --dport 22",
            "-p tcp -m multiport --dports 22,80",
            "-p tcp -m tcp --dport 80",
            "-p udp",
        ]);
        let end = if chain == "INPUT" {
            dice.one(&["ACCEPT", "DROP", "REJECT", "f2b-sshd", "RETURN"])
        } else {
            dice.one(&["ACCEPT", "DROP", "REJECT", "RETURN"])
        };
        if dice.roll(3) != 0 {
            text += &format!("-A {chain} {source} {more} -j {end}\n");
        }
    }
    text + "COMMIT\n"
}

struct Rules {
    nft: String,
    compat: Option<(bool, String)>,
    legacy: Option<(bool, String)>,
}

fn rules(dice: &mut Dice) -> Rules {
    let nft = (0..dice.roll(3)).map(|number| nft_table(dice, number)).collect();
    let mut of = |sides| {
        let v6 = dice.roll(2) == 0;
        (dice.roll(sides) == 0).then(|| (v6, iptables(dice, v6)))
    };
    Rules { nft, compat: of(3), legacy: of(4) }
}

const EMPTY: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

fn load(rules: &Rules) {
    run("/usr/sbin/nft", &["-f", "-"], &format!("flush ruleset\n{}", rules.nft));
    if let Some((v6, text)) = &rules.compat {
        run(&format!("/usr/sbin/{}-nft-restore", if *v6 { "ip6tables" } else { "iptables" }), &[], text);
    }
    for v6 in [false, true] {
        let text = rules.legacy.as_ref().filter(|(legacy, _)| *legacy == v6).map_or(EMPTY, |(_, text)| text);
        run(&format!("/usr/sbin/{}-legacy-restore", if v6 { "ip6tables" } else { "iptables" }), &["-w", "10"], text);
    }
}

/// Connects and waits for the byte that the server sends once it has the ACK.
fn greeted(server: IpAddr, patience: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, 22), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.read_exact(&mut [0])
}

fn connect(servers: &[IpAddr], patience: Duration) -> Vec<bool> {
    std::thread::scope(|scope| {
        let tries: Vec<_> = servers.iter().map(|server| scope.spawn(move || greeted(*server, patience).is_ok())).collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn verdict(ruleset: &mut Ruleset, host: &mut HostState, client: IpAddr) -> (Verdict, String) {
    let connection = Connection { source: client.into(), port: 22, user: None };
    let report = asked(ruleset, host, |host, needs| evaluate(host, &connection, needs));
    let quoted: Vec<_> = report.evidence.iter().map(|one| format!("{}: {}", one.source, one.text)).collect();
    (report.verdict, format!("{} [{}]", report.detail, quoted.join("; ")))
}

#[test]
fn the_verdict_is_never_wrong_about_a_real_connection_and_every_lift_works() {
    if !root() {
        return;
    }
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let rulesets = number("SSHFIX_RULESETS", 150);
    let seed = number("SSHFIX_SEED", 1);

    let (server, client) = (Netns::new(), Netns::new());
    server
        .sh(&format!("ip link add nfs0 type veth peer name nfc0; ip link set nfc0 netns {}; ip link set nfs0 up", client.name()));
    client.sh("ip link set nfc0 up");
    for (us, them, width) in [(CLIENTS4, SERVERS4, 32), (CLIENTS6, SERVERS6, 128)] {
        let nodad = if width == 128 { "nodad" } else { "" };
        for (us, them) in us.iter().zip(them) {
            client.sh(&format!("ip addr add {us}/{width} dev nfc0 {nodad}"));
            server.sh(&format!("ip addr add {them}/{width} dev nfs0 {nodad}; ip route add {us} dev nfs0 src {them}"));
            client.sh(&format!("ip route add {them} dev nfc0 src {us}"));
        }
    }
    server.sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
    let listener: TcpListener = server.enter(|| TcpListener::bind("[::]:22").unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"x");
        }
    });
    let both =
        |four: [&str; 3], six: [&str; 3]| -> Vec<IpAddr> { four.iter().chain(&six).map(|one| one.parse().unwrap()).collect() };
    let (clients, servers) = (both(CLIENTS4, CLIENTS6), both(SERVERS4, SERVERS6));
    assert_eq!(client.enter(|| connect(&servers, Duration::from_secs(4))), [true; 6], "not reachable without any rule");
    // Neighbour discovery must not be filtered: random rules for ICMPv6 are not what is tested.
    let link = |one: &Netns, dev: &str| {
        let shown = one.sh(&format!("cat /sys/class/net/{dev}/address || ip -br link show {dev}"));
        shown.stdout.split_whitespace().find(|word| word.matches(':').count() == 5).unwrap().to_owned()
    };
    let (server_mac, client_mac) = (link(&server, "nfs0"), link(&client, "nfc0"));
    for address in CLIENTS4.iter().chain(&CLIENTS6) {
        server.sh(&format!("ip neigh replace {address} lladdr {client_mac} dev nfs0 nud permanent"));
    }
    for address in SERVERS4.iter().chain(&SERVERS6) {
        client.sh(&format!("ip neigh replace {address} lladdr {server_mac} dev nfc0 nud permanent"));
    }

    let (mut accepted, mut refused, mut unknown, mut lifted, mut by_hand) = (0, 0, 0, 0, 0);
    let mut wrong = String::new();
    for number in 0..rulesets {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number + 1));
        let rules = rules(&mut dice);
        let shown = || format!("{}\n{:?}\n{:?}\n", rules.nft, rules.compat, rules.legacy);
        let said: Vec<(Verdict, String)> = server.enter(|| {
            load(&rules);
            let mut ruleset = Ruleset::new();
            let mut host = observe(&mut ruleset);
            clients.iter().map(|client| verdict(&mut ruleset, &mut host, *client)).collect()
        });
        let tried = |patience| client.enter(|| connect(&servers, Duration::from_millis(patience)));
        let mut open = tried(60);
        if said.iter().zip(&open).any(|((says, _), open)| *says == Verdict::Accept && !open) {
            // A busy machine may need more than 60 ms.
            open = tried(2000);
        }
        for ((address, (says, why)), open) in clients.iter().zip(&said).zip(&open) {
            match (says, open) {
                (Verdict::Unknown, _) => unknown += 1,
                (Verdict::Accept, true) => accepted += 1,
                (Verdict::Refuse, false) => refused += 1,
                (Verdict::Accept, false) | (Verdict::Refuse, true) => {
                    wrong += &format!(
                        "seed {seed} ruleset {number} {address}: kernel open={open}, verdict {says}: {why}\n{}\n",
                        shown()
                    );
                }
            }
        }
        // Lift what refuses the first address that is refused.
        let Some(which) = said.iter().position(|(says, _)| *says == Verdict::Refuse) else { continue };
        let connection = Connection { source: clients[which].into(), port: 22, user: None };
        let applied: Result<(Vec<String>, (Verdict, String)), String> = server.enter(|| {
            let mut ruleset = Ruleset::new();
            let mut host = observe(&mut ruleset);
            let blocks = asked(&mut ruleset, &mut host, |host, needs| blocks(host, &connection, needs));
            let mut summaries = Vec::new();
            for block in blocks {
                let Lift::Steps(steps) = block.lift else { return Err(format!("{:?}", block.lift)) };
                for step in steps {
                    summaries.push(step.summary());
                    let done = match &step {
                        Step::NfTables(step) => ruleset.apply(step),
                        Step::Xtables(step) => sshfix_agent::subsystem::xtables::apply(step),
                        other => panic!("{other:?}"),
                    };
                    done.unwrap_or_else(|error| panic!("seed {seed} ruleset {number}: {}: {error}\n{}", step.summary(), shown()));
                }
            }
            let mut host = observe(&mut ruleset);
            let now = verdict(&mut ruleset, &mut host, clients[which]);
            Ok((summaries, now))
        });
        let Ok((summaries, now)) = applied else {
            by_hand += 1;
            continue;
        };
        let after = tried(if now.0 == Verdict::Accept { 300 } else { 60 });
        // A rule about the server's own address, which is not known, may leave it unknown.
        if now.0 == Verdict::Refuse || now.0 == Verdict::Accept && !after[which] {
            wrong += &format!(
                "seed {seed} ruleset {number}: {} still refused after {summaries:?}: {now:?}\n{}\n",
                clients[which],
                shown()
            );
        }
        for (other, address) in clients.iter().enumerate() {
            if other != which && said[other].0 == Verdict::Refuse && after[other] {
                wrong += &format!("seed {seed} ruleset {number}: {summaries:?} opened {address} too\n{}\n", shown());
            }
        }
        lifted += 1;
    }
    println!(
        "{rulesets} rulesets: {accepted} accepted, {refused} refused, {unknown} unknown; {lifted} lifted, {by_hand} by hand"
    );
    assert!(wrong.is_empty(), "{wrong}");
    // It would be easy to be never wrong by never knowing.
    assert!(
        accepted > 0 && refused > 0 && lifted > 0 && unknown * 20 < accepted + refused,
        "{accepted} {refused} {unknown} {lifted}"
    );
}
