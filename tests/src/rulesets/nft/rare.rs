//! What few rulesets of nft hold: statements that change what a later rule reads, matches on what the client's own system decides,
//! objects, and whole tables of one purpose. Each is what the kernel takes at its place, mostly; what it does not is left out by the loader.

use super::{Place, SERVERS4, SERVERS6};
use crate::rulesets::Dice;

/// Objects of every table.
pub const OBJECTS: &str =
    "map counters4 {\ntype ipv4_addr : counter\nelements = { 203.0.113.7 : \"seen\", 198.51.100.7 : \"seen\" }\n}\n";
/// Those of tables whose packets are tracked.
pub const TRACKING_OBJECTS: &str = "ct helper transfer {\ntype \"ftp\" protocol tcp\n}\n\
    ct timeout long {\nprotocol tcp\nl3proto ip\npolicy = { established : 100 }\n}\n\
    ct expectation later {\nprotocol tcp\ndport 9\ntimeout 1m\nsize 1\nl3proto ip\n}\n";

/// A statement, and a match on what it leaves.
type Change = (&'static str, &'static str);

const CHANGES4: [Change; 9] = [
    ("ip dscp set cs1", "ip dscp cs1"),
    ("ip dscp set cs1", "ip dscp != cs1"),
    ("ip ecn set ce", "ip ecn ce"),
    ("ip ttl set 64", "ip ttl 64"),
    ("ip ttl set 200", "ip ttl < 100"),
    ("ip id set 1", "ip id 1"),
    ("ip saddr set 203.0.113.8", "ip saddr 203.0.113.8"),
    ("ip daddr set S4", "ip daddr S4"),
    ("meta mark set ip saddr . tcp dport map { 203.0.113.0/24 . 1-100 : 5, 198.51.100.7 . 22 : 1 }", "meta mark 5"),
];
const CHANGES6: [Change; 5] = [
    ("ip6 dscp set cs1", "ip6 dscp cs1"),
    ("ip6 hoplimit set 64", "ip6 hoplimit 64"),
    ("ip6 hoplimit set 200", "ip6 hoplimit != 200"),
    ("ip6 saddr set 2001:db8::8", "ip6 saddr 2001:db8::8"),
    ("ip6 daddr set S6", "ip6 daddr S6"),
];
const CHANGES: [Change; 17] = [
    ("tcp PORT set 2222", "tcp PORT 2222"),
    ("tcp PORT set 22", "tcp PORT 22"),
    ("tcp THEIRS set 1000", "tcp THEIRS 1000"),
    ("tcp window set 1000", "tcp window 1000"),
    ("tcp urgptr set 0", "tcp urgptr 0"),
    ("tcp flags set syn", "tcp flags syn"),
    ("tcp flags set ack", "tcp flags ack"),
    ("tcp option maxseg size set 1300", "tcp option maxseg exists"),
    ("tcp option maxseg size set 1300", ""),
    ("reset tcp option timestamp", ""),
    ("meta priority set 1:2", ""),
    ("meta nftrace set 1", ""),
    ("counter name \"seen\"", ""),
    ("meta mark set 5", "meta mark vmap { 0-4 : accept, 5-9 : drop }"),
    ("meta mark set meta mark | 4", "meta mark & 4 == 4"),
    ("meta mark set 1 meta mark set meta mark << 2", "meta mark 4"),
    ("meta mark set numgen inc mod 4", "meta mark < 4"),
];
/// Where there is connection tracking.
const TRACKED: [Change; 7] = [
    ("ct mark set ct mark | 2", "ct mark & 2 == 2"),
    ("ct mark set 6 meta mark set ct mark", "meta mark 6"),
    ("ct event set new,destroy", ""),
    ("ct helper set \"transfer\"", ""),
    ("ct timeout set \"long\"", ""),
    ("ct expectation set \"later\"", ""),
    ("counter name ip saddr map @counters4", ""),
];
const RAW: [Change; 5] = [
    ("ct zone set 5", "ct zone 5"),
    ("ct zone set 5", ""),
    ("ct original zone set 5", "ct original zone 5"),
    ("ct reply zone set 5", "ct zone 0"),
    ("notrack", "ct state untracked"),
];
const PREROUTING: [Change; 4] = [
    ("meta pkttype set broadcast", "meta pkttype broadcast"),
    ("meta pkttype set host", "meta pkttype host"),
    ("meta pkttype set other", ""),
    ("meta l4proto tcp tproxy to :2222", ""),
];
const INPUT: [Change; 1] = [("synproxy mss 1460 wscale 7 timestamp sack-perm", "")];
const DEVICE: [Change; 3] = [("dup to \"lo\"", ""), ("fwd to \"eth1\"", ""), ("fwd to \"eth0\"", "")];

/// A rule that changes something, and perhaps one after it that looks at that.
pub fn change(dice: &mut Dice, family: &str, place: Place, out: bool, raw: bool) -> (String, Option<String>) {
    let device = matches!(place, Place::Ingress | Place::Egress);
    let tracked = !device && !matches!(family, "bridge" | "netdev");
    let mut all: Vec<Change> = CHANGES.to_vec();
    if family != "ip6" {
        all.extend(CHANGES4);
    }
    if family != "ip" {
        all.extend(CHANGES6);
    }
    if tracked {
        all.extend(TRACKED);
    }
    if raw {
        all.extend(RAW);
        all.extend(RAW);
    }
    match place {
        Place::Prerouting if tracked => all.extend(PREROUTING),
        Place::Ingress if family == "netdev" => all.extend(PREROUTING.into_iter().take(3).chain(DEVICE)),
        Place::Egress => all.extend(DEVICE),
        Place::Input => all.extend(INPUT),
        Place::Ingress | Place::Prerouting | Place::Output | Place::Postrouting | Place::Called => {}
    }
    let (statement, then) = all[dice.roll(all.len())];
    let own = [("S4", SERVERS4[dice.roll(2)]), ("S6", SERVERS6[dice.roll(2)])];
    let fill = |text: &str| {
        let (port, theirs) = if out { ("sport", "dport") } else { ("dport", "sport") };
        let text = text.replace("PORT", port).replace("THEIRS", theirs);
        own.iter().fold(text, |text, (word, address)| text.replace(word, address))
    };
    let end = if statement.contains("proxy") || statement.starts_with("fwd") { "" } else { dice.one(&["", "", "", " accept"]) };
    let then = (!then.is_empty() && dice.once_in(2)).then(|| {
        let verdict = if then.contains("vmap") { "" } else { dice.one(&["accept", "drop", "drop"]) };
        format!("{} {verdict}\n", fill(then))
    });
    (format!("{}{end}\n", fill(statement)), then)
}

/// A translation of the destination to one of several, or by a map. `ip` is the family where the table does not say it.
pub fn translation(dice: &mut Dice, ip: &str, six: bool) -> String {
    let v4 = [
        "dnat IPto 192.0.2.1-192.0.2.2",
        "dnat IPto ip saddr map { 203.0.113.7 : 192.0.2.2, 198.51.100.0/24 : 192.0.2.1 }",
        "dnat IPto numgen inc mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }",
        "dnat IPto ip saddr . tcp dport map { 203.0.113.7 . 22 : 192.0.2.2, 203.0.113.8 . 22 : 192.0.2.99 }",
        "dnat IPaddr . port to ip saddr map { 203.0.113.7 : 192.0.2.2 . 2222, 203.0.113.8 : 192.0.2.1 . 8022 }",
        "dnat IPprefix to ip daddr map { 192.0.2.0/30 : 192.0.2.0/30 }",
    ];
    let v6 = [
        "dnat IPto 2001:db8:2::1-2001:db8:2::2",
        "dnat IPto ip6 saddr map { 2001:db8::7 : 2001:db8:2::2, 2001:db8:1::/64 : 2001:db8:2::1 }",
    ];
    let any = ["redirect to :2222-2225", "redirect to :2222 random", "redirect to :numgen inc mod 2 map { 0 : 22, 1 : 2222 }"];
    let of_family: &[&str] = if six { &v6 } else { &v4 };
    let one = if dice.once_in(3) { dice.one(&any) } else { dice.one(of_family) };
    one.replace("IP", ip)
}

/// A match that is seldom seen. Empty where there is none for the place.
pub fn condition(dice: &mut Dice, family: &str, place: Place, out: bool) -> String {
    let device = matches!(place, Place::Ingress | Place::Egress);
    let tracked = !device && !matches!(family, "bridge" | "netdev");
    let mut all = vec![
        "tcp option maxseg exists",
        "tcp option maxseg size 1-9000",
        "tcp option fastopen exists",
        "tcp doff 5-15",
        "tcp urgptr 0",
        "tcp window > 0",
        "@th,16,16 22",
        "@th,0,16 > 1023",
        "meta length 0-30",
        "meta length > 30",
        "symhash mod 2 0",
        "meta ipsec missing",
        "meta mark vmap { 0-5 : accept, 6-9 : drop }",
        "tcp dport . meta mark vmap { 22 . 0 : accept, 20-30 . 1 : drop }",
        "numgen inc mod 2 vmap { 0 : accept, 1 : drop }",
        "exthdr frag exists",
        "exthdr hbh exists",
        "rt type 0",
    ];
    if family != "ip6" {
        all.extend([
            "ip ttl 64",
            "ip dscp cs0",
            "ip dscp vmap { cs0 : accept, cs1 : drop }",
            "ip length 20-30",
            "ip frag-off & 0x1fff == 0",
            "ip option lsrr exists",
            "ip option rr missing",
            "ip saddr & 255.0.0.255 == 203.0.0.7",
            "ip saddr & 0.0.0.255 == 7",
            "jhash ip saddr mod 2 vmap { 0 : accept, 1 : drop }",
            "ip saddr . tcp dport vmap { 203.0.113.0/24 . 1-100 : drop, 198.51.100.7 . 22 : accept }",
        ]);
    }
    if family != "ip" {
        all.extend([
            "ip6 hoplimit 64",
            "ip6 flowlabel 0",
            "ip6 dscp cs0",
            "ip6 length 20-60",
            "ip6 saddr & ::ff == ::7",
            "frag more-fragments 1",
        ]);
    }
    if tracked {
        all.extend([
            "ct state vmap { new : accept, established : accept, invalid : drop }",
            "ct l3proto ipv4",
            "ct original ip saddr 203.0.113.7",
            "ct reply ip daddr 203.0.113.7",
            "ct original ip6 saddr 2001:db8::7",
            "ct helper \"ftp\"",
            "ct zone 0",
            "ct bytes > 100000",
        ]);
        match place {
            Place::Prerouting | Place::Input => all.extend([
                "fib saddr . mark oif exists",
                "fib daddr . mark type local",
                "fib saddr . mark . iif oif missing",
                "socket transparent 1",
                "socket wildcard 1",
                "meta iifkind \"veth\"",
                "ether saddr 02:00:00:00:00:99",
            ]),
            Place::Output | Place::Postrouting => {
                all.extend(["rt ipsec missing", "rt ip nexthop 10.0.0.1", "meta skuid 0", "meta oifkind \"veth\""]);
            }
            Place::Ingress | Place::Egress | Place::Called => {}
        }
    }
    if out {
        dice.one(&all).replace("saddr", "daddr").replace("dport", "sport").replace("@th,16,16", "@th,0,16")
    } else {
        dice.one(&all).to_owned()
    }
}

/// A table of one purpose, as manuals show them.
pub fn whole(dice: &mut Dice) -> String {
    let port = dice.one(&["2222", "8022"]);
    let back = dice.one(&["22", "22", "23"]);
    let (first, last) = (dice.one(&["-400", "-150", "0"]), dice.one(&["-400", "-150", "0"]));
    let clients = dice.one(&["ip saddr 203.0.113.0/24 ", "iifname \"eth0\" ", ""]);
    let track = dice.one(&["", "notrack "]);
    match dice.roll(3) {
        // Stateless translation.
        0 => format!(
            "table inet stateless {{\nchain in {{\ntype filter hook prerouting priority {first}; policy accept;\n{clients}tcp dport 22 tcp dport set {port}\n}}\n\
             chain out {{\ntype filter hook output priority {last}; policy accept;\ntcp sport {port} tcp sport set {back}\n}}\n}}\n"
        ),
        1 => format!(
            "table inet proxy {{\nchain raw {{\ntype filter hook prerouting priority -300; policy accept;\n{clients}tcp dport 22 tcp flags syn {track}\n}}\n\
             chain in {{\ntype filter hook input priority 0; policy accept;\ntcp dport 22 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm\nct state invalid drop\n}}\n}}\n"
        ),
        _ => format!(
            "table inet zones {{\nchain raw {{\ntype filter hook prerouting priority -300; policy accept;\n{clients}{track}ct zone set 7\n}}\n\
             chain out {{\ntype filter hook output priority -300; policy accept;\ntcp sport 22 ct zone set {}\n}}\n\
             chain in {{\ntype filter hook input priority 0; policy accept;\nct zone 7 ct state established,new accept\nct state invalid drop\n}}\n}}\n",
            dice.one(&["7", "7", "8"])
        ),
    }
}
