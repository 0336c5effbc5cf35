//! Random tables of nft: every family that sees the packets of a handshake, with sets, maps and chains that lead into each other.

mod rare;

use super::Dice;

const CLIENTS4: [&str; 3] = ["203.0.113.7", "203.0.113.8", "198.51.100.7"];
const CLIENTS6: [&str; 3] = ["2001:db8::7", "2001:db8::8", "2001:db8:1::7"];
const SERVERS4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const SERVERS6: [&str; 2] = ["2001:db8:2::1", "2001:db8:2::2"];

/// A hook of a base chain, and what may stand in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A netdev or inet ingress chain.
    Ingress,
    Prerouting,
    Input,
    Output,
    Postrouting,
    Egress,
    /// A chain that is only jumped to, from hooks on the way in or on the way out.
    Called,
}

/// One to three tables.
pub fn tables(dice: &mut Dice) -> String {
    let count = [1, 1, 1, 2, 2, 3][dice.roll(6)];
    let tables: String = (0..count).map(|number| table(dice, number)).collect();
    if dice.rare(4) { tables + &rare::whole(dice) } else { tables }
}

fn table(dice: &mut Dice, number: usize) -> String {
    let family = dice.one(&["inet", "inet", "inet", "inet", "ip", "ip", "ip6", "ip6", "netdev", "bridge"]);
    let mut text = format!("table {family} t{number} {{\n");
    if dice.once_in(30) {
        text += "flags dormant\n";
    }
    text += &sets(dice);
    text += "limit slow { rate 1/hour; }\nquota small { over 100 bytes }\ncounter seen { }\n";
    text += rare::OBJECTS;
    if matches!(family, "inet" | "ip") {
        text += rare::TRACKING_OBJECTS;
    }
    // Chains lead only to later ones, so that there is no loop.
    let called = ["c1", "c2", "c3"];
    for (at, name) in called.iter().enumerate().rev() {
        for out in [false, true] {
            let suffix = if out { "o" } else { "i" };
            let next: Vec<String> = called[at + 1..].iter().map(|chain| format!("{chain}{suffix}")).collect();
            text += &format!("chain {name}{suffix} {{\n");
            for _ in 0..dice.roll(4) {
                text += &rule(dice, family, Place::Called, out, &next, false);
            }
            text += "}\n";
        }
    }
    text += &maps(dice);
    for base in 0..=dice.roll(3) {
        text += &base_chain(dice, family, base);
    }
    text + "}\n"
}

fn sets(dice: &mut Dice) -> String {
    let mut text = String::new();
    for (name, kind, flags, of) in [
        ("hash4", "ipv4_addr", "", &["203.0.113.7", "203.0.113.8", "198.51.100.7", "192.0.2.77"][..]),
        ("hash6", "ipv6_addr", "", &["2001:db8::7", "2001:db8::8", "2001:db8:1::7"]),
        ("nets4", "ipv4_addr", "flags interval", &["203.0.113.7", "203.0.113.8/31", "198.51.100.0/24", "10.0.0.0/8"]),
        ("nets6", "ipv6_addr", "flags interval", &["2001:db8::7", "2001:db8:1::/64", "2001:db8::8-2001:db8::9"]),
        ("timed4", "ipv4_addr", "flags timeout\ntimeout 1h", &["203.0.113.7 timeout 2h", "203.0.113.8", "198.51.100.7"]),
        ("pairs4", "ipv4_addr . inet_service", "", &["203.0.113.7 . 22", "203.0.113.8 . 80", "198.51.100.7 . 22"]),
        (
            "cat4",
            "ipv4_addr . inet_service",
            "flags interval",
            &["203.0.113.0/29 . 1-100", "198.51.100.0/24 . 22", "10.0.0.0/8 . 22"],
        ),
        ("cat6", "ipv6_addr . inet_service", "flags interval", &["2001:db8::/64 . 1-100", "2001:db8:1::7 . 22"]),
        ("ifs", "ifname", "", &["\"eth0\"", "\"eth1\"", "\"lo\""]),
        ("ports", "inet_service", "flags interval", &["22", "2000-3000", "80"]),
        ("marks", "mark", "", &["0", "1", "2"]),
        ("seen4", "ipv4_addr", "flags dynamic", &["203.0.113.7", "10.0.0.1"]),
        ("seen6", "ipv6_addr", "flags dynamic", &["2001:db8::7"]),
    ] {
        text += &format!("set {name} {{\ntype {kind}\n{flags}\n{}}}\n", elements(&dice.some(of)));
    }
    text
}

fn maps(dice: &mut Dice) -> String {
    let mut text = String::new();
    for (name, kind, flags, of) in [
        ("verdicts4", "ipv4_addr : verdict", "", &["203.0.113.7 : drop", "203.0.113.8 : accept", "198.51.100.7 : jump c1i"][..]),
        (
            "netverdicts4",
            "ipv4_addr : verdict",
            "flags interval",
            &["203.0.113.0/29 : goto c2i", "203.0.113.8 : return", "198.51.100.0/24 : drop"],
        ),
        ("verdicts6", "ipv6_addr : verdict", "", &["2001:db8::7 : drop", "2001:db8::8 : goto c1i", "2001:db8:1::7 : accept"]),
        ("ifverdicts", "ifname : verdict", "", &["\"eth0\" : jump c2i", "\"eth1\" : accept", "\"lo\" : drop"]),
        ("ports4", "ipv4_addr : inet_service", "", &["203.0.113.7 : 2222", "203.0.113.8 : 22", "198.51.100.7 : 8022"]),
        ("marks4", "ipv4_addr : mark", "", &["203.0.113.7 : 1", "203.0.113.8 : 2", "198.51.100.7 : 3"]),
    ] {
        text += &format!("map {name} {{\ntype {kind}\n{flags}\n{}}}\n", elements(&dice.some(of)));
    }
    text
}

fn elements(chosen: &[&str]) -> String {
    if chosen.is_empty() { String::new() } else { format!("elements = {{ {} }}\n", chosen.join(", ")) }
}

fn base_chain(dice: &mut Dice, family: &str, number: usize) -> String {
    let (kind, hook, place, out) = match (family, dice.roll(13)) {
        ("netdev", 0..=8) => ("filter", "ingress", Place::Ingress, false),
        ("netdev", _) => ("filter", "egress", Place::Egress, true),
        ("bridge", _) => ("filter", "input", Place::Ingress, false),
        ("inet", 0) => ("filter", "ingress", Place::Ingress, false),
        (_, 1 | 2) => ("filter", "prerouting", Place::Prerouting, false),
        (_, 3) => ("nat", "prerouting", Place::Prerouting, false),
        (_, 4) => ("filter", "output", Place::Output, true),
        (_, 5) if family != "inet" => ("route", "output", Place::Output, true),
        (_, 5) => ("nat", "output", Place::Output, true),
        (_, 6) => ("filter", "postrouting", Place::Postrouting, true),
        (_, 7) => (if dice.once_in(2) { "nat" } else { "filter" }, "postrouting", Place::Postrouting, true),
        _ => ("filter", "input", Place::Input, false),
    };
    let device = match place {
        _ if family == "bridge" => String::new(),
        Place::Ingress | Place::Egress => {
            dice.one(&[" device \"eth0\"", " device \"eth1\"", " device \"lo\"", " devices = { \"eth0\", \"eth1\" }"]).to_owned()
        }
        _ => String::new(),
    };
    // nat chains must come after connection tracking (-200).
    let priorities: &[&str] = if kind == "nat" {
        &["-100", "-99", "0", "100", "-150"]
    } else {
        &["-400", "-301", "-199", "-150", "-1", "0", "0", "10", "101", "300"]
    };
    let priority = dice.one(priorities);
    let policy = if kind == "nat" { "accept" } else { dice.one(&["accept", "accept", "accept", "drop"]) };
    let mut text = format!("chain base{number} {{\ntype {kind} hook {hook}{device} priority {priority}; policy {policy};\n");
    if policy == "drop" {
        if dice.roll(3) != 0 && family != "netdev" && family != "bridge" {
            text += "ct state established,related accept\n";
        }
        if dice.roll(3) != 0 {
            text += if out { "tcp sport 22 accept\n" } else { "tcp dport 22 ct state new counter accept\n" };
            if family == "netdev" || family == "bridge" || place == Place::Ingress {
                text = text.replace("tcp dport 22 ct state new counter accept\n", "tcp dport 22 accept\n");
            }
        }
    }
    let next: Vec<String> = ["c1", "c2", "c3"].iter().map(|chain| format!("{chain}{}", if out { "o" } else { "i" })).collect();
    for _ in 0..dice.roll(6) {
        let raw = (priority == "-400" || priority == "-301") && matches!(place, Place::Prerouting | Place::Output);
        text += &if kind == "nat" { nat_rule(dice, family, place, out) } else { rule(dice, family, place, out, &next, raw) };
    }
    text + "}\n"
}

/// One rule of a chain that filters.
fn rule(dice: &mut Dice, family: &str, place: Place, out: bool, next: &[String], raw: bool) -> String {
    let v4 = family != "ip6";
    if dice.once_in(12) && !out && matches!(place, Place::Input | Place::Prerouting | Place::Ingress) {
        // Of the same table; in those of netdev and bridge the maps lead nowhere else.
        let maps: &[&str] = match family {
            "ip6" => &["ip6 saddr vmap @verdicts6", "iifname vmap @ifverdicts"],
            _ => &[
                "ip saddr vmap @verdicts4",
                "ip saddr vmap @netverdicts4",
                "iifname vmap @ifverdicts",
                "ip saddr vmap { 203.0.113.7 : accept, 203.0.113.0/24 : continue }",
                "tcp dport vmap { 22 : jump c1i, 80 : drop, 2222 : accept }",
                "ip saddr . tcp dport vmap { 203.0.113.7 . 22 : goto c3i, 198.51.100.7 . 22 : drop }",
                "meta l4proto vmap { tcp : continue, udp : drop }",
            ],
        };
        let map = dice.one(maps);
        return format!("{}\n", map.replace("{ 203.0.113.7 : accept, 203.0.113.0/24", "{ 203.0.113.7 : accept, 198.51.100.0/24"));
    }
    let mut matches = matches(dice, family, place, out);
    if dice.rare(1) {
        let (change, then) = rare::change(dice, family, place, out, raw);
        return format!("{matches}{change}{}", then.unwrap_or_default());
    }
    if dice.rare(1) {
        matches += &format!("{} ", rare::condition(dice, family, place, out));
        if matches.contains("vmap") {
            return format!("{matches}\n");
        }
    }
    let mut ends = vec!["accept", "accept", "accept", "drop", "drop", "return", "continue", "counter"];
    let tracked = !matches!(place, Place::Ingress | Place::Egress) && family != "bridge" && family != "netdev";
    if matches!(place, Place::Input | Place::Prerouting) && tracked {
        ends.extend(["reject", "reject with tcp reset"]);
    }
    ends.extend(["meta mark set 1", "meta mark set meta mark | 2", "meta mark set 0"]);
    if tracked {
        ends.extend(["ct mark set 1", "ct mark set meta mark", "meta mark set ct mark", "log group 5 counter"]);
    }
    if v4 && tracked {
        ends.push(if out { "meta mark set ip daddr map @marks4" } else { "meta mark set ip saddr map @marks4" });
        if dice.once_in(12) {
            ends.push(if out { "add @seen4 { ip daddr }" } else { "add @seen4 { ip saddr }" });
            ends.push(if out { "delete @seen4 { ip daddr }" } else { "update @seen4 { ip saddr limit rate over 1/hour } drop" });
        }
    }
    if raw {
        ends.extend(["notrack", "notrack"]);
    }
    let mut verbs: Vec<String> = ends.into_iter().map(str::to_owned).collect();
    for chain in next {
        verbs.push(format!("jump {chain}"));
        verbs.push(format!("goto {chain}"));
    }
    let end = verbs[dice.roll(verbs.len())].clone();
    // A reset answers TCP only, and an address of one family allows no statement of the other.
    let tcp = if end == "reject with tcp reset" && !matches.contains("tcp") { "meta l4proto tcp " } else { "" };
    if end.contains("ip ") && matches.contains("ip6 ") || matches.contains("udp") && !tcp.is_empty() {
        return String::new();
    }
    format!("{matches}{tcp}{end}\n")
}

fn nat_rule(dice: &mut Dice, family: &str, place: Place, out: bool) -> String {
    let matches = matches(dice, family, place, out);
    if matches.contains("udp") {
        return String::new();
    }
    if place != Place::Prerouting {
        return format!(
            "{matches}{}\n",
            dice.one(&["masquerade", "accept", "counter", "return", "snat ip to 192.0.2.77"]).replace(
                "snat ip to 192.0.2.77",
                if family == "ip" && place == Place::Postrouting { "snat to 192.0.2.77" } else { "counter" },
            )
        );
    }
    let six = family == "ip6" || matches.contains("ip6 ");
    let ip = match (family, six) {
        ("inet", true) => "ip6 ",
        ("inet", false) => "ip ",
        _ => "",
    };
    if dice.rare(1) {
        let tcp = if matches.contains("tcp") { "" } else { "meta l4proto tcp " };
        return format!("{matches}{tcp}{}\n", rare::translation(dice, ip, six));
    }
    let own = if six { SERVERS6[dice.roll(2)] } else { SERVERS4[dice.roll(2)] };
    let (own_port, other, loopback) = if six {
        (format!("[{own}]:2222"), "2001:db8:9::9", "[::1]:22")
    } else {
        (format!("{own}:2222"), "192.0.2.99", "127.0.0.1:22")
    };
    let what = match dice.roll(9) {
        0 => "redirect to :2222".to_owned(),
        1 => "redirect to :8022".to_owned(),
        2 => "redirect".to_owned(),
        3 => format!("dnat {ip}to {own}"),
        4 => format!("dnat {ip}to {own_port}"),
        5 => format!("dnat {ip}to {other}"),
        6 => format!("dnat {ip}to {loopback}"),
        7 if !six => "redirect to :ip saddr map @ports4".to_owned(),
        7 => "redirect to :tcp dport map { 22 : 2222, 80 : 22 }".to_owned(),
        _ => "accept".to_owned(),
    };
    let tcp = if matches.contains("tcp") { "" } else { "meta l4proto tcp " };
    format!("{matches}{tcp}{what}\n")
}

/// One to three conditions. The words in capitals are filled in by the direction.
fn matches(dice: &mut Dice, family: &str, place: Place, out: bool) -> String {
    let v4 = [
        "ip CLIENT C4",
        "ip CLIENT != C4",
        "ip CLIENT 203.0.113.0/24",
        "ip CLIENT != 203.0.113.0/29",
        "ip CLIENT 203.0.113.5-203.0.113.7",
        "ip CLIENT < 203.0.113.0",
        "ip CLIENT >= 203.0.113.8",
        "ip CLIENT { 203.0.113.8, 198.51.100.0/24 }",
        "ip CLIENT != { 203.0.113.8, 198.51.100.7 }",
        "ip CLIENT @hash4",
        "ip CLIENT != @hash4",
        "ip CLIENT @nets4",
        "ip CLIENT != @nets4",
        "ip CLIENT @timed4",
        "ip CLIENT @seen4",
        "ip CLIENT . tcp PORT @pairs4",
        "ip CLIENT . tcp PORT @cat4",
        "ip CLIENT . tcp PORT != @cat4",
        "ip SERVER S4",
        "ip SERVER != S4",
        "ip SERVER { 192.0.2.1, 192.0.2.2 }",
        "ip SERVER 192.0.2.0/24",
        "ip CLIENT . ip SERVER { C4 . S4, 10.0.0.1 . S4 }",
        "ip CLIENT & 255.255.255.248 == 203.0.113.0",
        "ip protocol tcp",
        "ip protocol { tcp, udp }",
        "ip version 4",
        "ip hdrlength 5",
    ];
    let v6 = [
        "ip6 CLIENT C6",
        "ip6 CLIENT != C6",
        "ip6 CLIENT 2001:db8::/64",
        "ip6 CLIENT != 2001:db8:1::/48",
        "ip6 CLIENT 2001:db8::1-2001:db8::7",
        "ip6 CLIENT { 2001:db8::8, 2001:db8:1::/64 }",
        "ip6 CLIENT @hash6",
        "ip6 CLIENT != @hash6",
        "ip6 CLIENT @nets6",
        "ip6 CLIENT @seen6",
        "ip6 CLIENT . tcp PORT @cat6",
        "ip6 SERVER S6",
        "ip6 SERVER != S6",
        "ip6 nexthdr tcp",
        "ip6 version 6",
    ];
    let mut any = vec![
        "tcp PORT 22",
        "tcp PORT 22",
        "tcp PORT { 22, 2222 }",
        "tcp PORT 1-100",
        "tcp PORT != 22",
        "tcp PORT 80",
        "tcp PORT @ports",
        "tcp THEIRS 1024-65535",
        "tcp THEIRS < 1024",
        "udp PORT 22",
        "th PORT 22",
        "meta l4proto tcp",
        "meta l4proto { tcp, udp }",
        "meta l4proto udp",
        "meta l4proto != tcp",
        "meta mark 1",
        "meta mark & 1 == 0",
        "meta mark 0",
        "meta mark != 1",
        "meta mark @marks",
        "tcp flags syn",
        "tcp flags & (fin|syn|rst|ack) == syn",
        "tcp flags ack",
        "tcp flags & (syn|ack) == syn|ack",
        "meta mark > 1",
        "counter",
        "",
    ];
    let bridge = family == "bridge" || family == "netdev";
    if !out {
        any.extend([
            "iifname \"eth0\"",
            "iifname != \"eth0\"",
            "iifname \"eth*\"",
            "iifname { \"eth1\", \"lo\" }",
            "iifname \"lo\"",
            "iif \"lo\"",
            "iif \"eth0\"",
            "iif != \"eth1\"",
            "iifname @ifs",
            "iiftype ether",
            "iifgroup 0",
            "iifgroup 7",
        ]);
    } else if place != Place::Egress {
        any.extend([
            "oifname \"eth0\"",
            "oifname != \"eth0\"",
            "oifname \"eth*\"",
            "oifname { \"eth1\", \"lo\" }",
            "oif \"eth1\"",
            "oifname @ifs",
            "oiftype ether",
            "oifgroup 0",
        ]);
    }
    if family == "inet" {
        any.extend(["meta nfproto ipv4", "meta nfproto ipv6"]);
    }
    if !bridge && place != Place::Ingress && place != Place::Egress {
        any.extend([
            "ct state new",
            "ct state new",
            "ct state established,related",
            "ct state invalid",
            "ct state { new, established }",
            "ct state != new",
            "ct state untracked",
            "ct direction original",
            "ct direction reply",
            "ct mark 1",
            "ct mark 0",
            "ct status dnat",
            "ct original proto-dst 22",
            "ct protocol tcp",
            "ct status seen-reply",
            "ct status confirmed",
            "ct status assured",
        ]);
        if matches!(place, Place::Prerouting | Place::Input) {
            any.extend([
                "fib saddr . iif oif missing",
                "fib saddr . iif oif exists",
                "fib daddr type local",
                "fib daddr type != local",
                "fib saddr type local",
                "fib daddr . iif type local",
                "fib saddr oifname \"eth0\"",
                "meta pkttype host",
                "fib saddr oif \"eth1\"",
                "fib saddr type unicast",
            ]);
        }
        if dice.once_in(25) {
            any = vec![
                "limit rate 1/hour burst 1 packets",
                "limit rate over 1000/second",
                "quota over 100 bytes",
                "numgen random mod 2 0",
                "meta random < 100000000",
                "meta cpu 0",
                "limit name \"slow\"",
                "quota name \"small\"",
                "ct count over 1",
                "numgen inc mod 3 < 2",
            ];
            if place == Place::Called {
                any.retain(|one| !one.contains("ct count"));
            }
        }
    }
    let mut text = String::new();
    for _ in 0..=dice.roll(3) {
        let kind = dice.roll(5);
        let one = match (family, kind) {
            ("ip", 0 | 1) => v4[dice.roll(v4.len())],
            ("ip6", 0 | 1) => v6[dice.roll(v6.len())],
            ("inet" | "netdev" | "bridge", 0) => v4[dice.roll(v4.len())],
            ("inet" | "netdev" | "bridge", 1) => v6[dice.roll(v6.len())],
            _ => any[dice.roll(any.len())],
        };
        // nft refuses a rule that cannot be true: two families, two protocols.
        let has = |word: &str| text.contains(word);
        let six = one.starts_with("ip6");
        let four = one.starts_with("ip ");
        if six && (has("ip ") || has("nfproto"))
            || four && (has("ip6 ") || has("nfproto"))
            || one.contains("nfproto") && (has("ip"))
        {
            continue;
        }
        let protocol = |text: &str| text.contains("tcp") || text.contains("udp") || text.contains("th ");
        if protocol(one) && protocol(&text) {
            continue;
        }
        let (client, server, port, theirs) =
            if out { ("daddr", "saddr", "sport", "dport") } else { ("saddr", "daddr", "dport", "sport") };
        let one = one
            .replace("CLIENT", client)
            .replace("SERVER", server)
            .replace("PORT", port)
            .replace("THEIRS", theirs)
            .replace("C4", CLIENTS4[dice.roll(3)])
            .replace("S4", SERVERS4[dice.roll(2)])
            .replace("C6", CLIENTS6[dice.roll(3)])
            .replace("S6", SERVERS6[dice.roll(2)]);
        text += &one;
        text += " ";
    }
    text
}
