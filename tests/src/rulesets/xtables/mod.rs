//! Random tables of iptables, for both of its backends, and the ipsets that their rules use.

mod rare;

use super::Dice;

/// Every table empty, every policy accept.
pub const EMPTY: &str = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n\
    *mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n\
    *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n\
    *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

/// Name, type and options, elements that may be in it.
type Set = (&'static str, &'static str, &'static [&'static str]);

const SETS4: [Set; 7] = [
    ("ip4", "hash:ip", &["203.0.113.7", "203.0.113.8", "198.51.100.7"]),
    ("net4", "hash:net", &["203.0.113.0/29", "203.0.113.8/31", "198.51.100.0/24", "203.0.113.7 nomatch"]),
    ("ipport4", "hash:ip,port", &["203.0.113.7,22", "203.0.113.8,tcp:80", "198.51.100.7,tcp:22", "203.0.113.7,udp:22"]),
    ("netport4", "hash:net,port", &["203.0.113.0/24,22", "198.51.100.7,2222"]),
    ("netif4", "hash:net,iface", &["203.0.113.0/24,eth0", "198.51.100.0/24,eth1", "203.0.113.8,eth1"]),
    ("bits4", "bitmap:ip range 203.0.113.0/24", &["203.0.113.7", "203.0.113.8"]),
    ("timed4", "hash:ip timeout 3600", &["203.0.113.7", "203.0.113.8 timeout 60", "198.51.100.7"]),
];
const SETS6: [Set; 3] = [
    ("ip6", "hash:ip family inet6", &["2001:db8::7", "2001:db8::8", "2001:db8:1::7"]),
    ("net6", "hash:net family inet6", &["2001:db8::/64", "2001:db8:1::7/128"]),
    ("ipport6", "hash:ip,port family inet6", &["2001:db8::7,22", "2001:db8::8,tcp:80"]),
];
const PORTS: Set = ("ports", "bitmap:port range 0-65535", &["22", "80", "2222"]);

/// For `ipset restore`.
pub fn sets(dice: &mut Dice) -> String {
    let mut text = String::new();
    for (name, kind, elements) in SETS4.iter().chain(&SETS6).chain([&PORTS]) {
        text += &format!("create {name} {kind}\n");
        for element in dice.some(elements) {
            text += &format!("add {name} {element}\n");
        }
    }
    text += "create list4 list:set\n";
    for member in dice.some(&["ip4", "net4", "ports"]) {
        text += &format!("add list4 {member}\n");
    }
    text
}

/// For `iptables-restore`: filter always, the others sometimes.
pub fn tables(dice: &mut Dice, v6: bool, sets: bool, of_nft: bool) -> String {
    let all: [(&str, &[&str], usize); 4] = [
        ("raw", &["PREROUTING", "OUTPUT"], 5),
        ("mangle", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"], 4),
        ("nat", &["PREROUTING", "OUTPUT"], 5),
        ("filter", &["INPUT", "INPUT", "INPUT", "OUTPUT"], 1),
    ];
    let mut text = String::new();
    for (table, entries, once_in) in all {
        if !dice.once_in(once_in) {
            continue;
        }
        text += &format!("*{table}\n");
        let built_in: &[&str] = match table {
            "raw" => &["PREROUTING", "OUTPUT"],
            "mangle" => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
            "nat" => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
            _ => &["INPUT", "FORWARD", "OUTPUT"],
        };
        for chain in built_in {
            let drop = table == "filter" && (*chain == "INPUT" && dice.once_in(4) || *chain == "OUTPUT" && dice.once_in(12));
            text += &format!(":{chain} {} [0:0]\n", if drop { "DROP" } else { "ACCEPT" });
        }
        // Chains jump only to later ones, so that there is no loop.
        let chains = ["one", "two", "three"];
        for chain in chains {
            text += &format!(":{chain} - [0:0]\n");
        }
        let place = Place { v6, sets, of_nft, table, out: false, called: false, chain: "" };
        let entry = entries[dice.roll(entries.len())];
        let mut used = vec![entry];
        if dice.once_in(3) {
            used.push(entries[dice.roll(entries.len())]);
        }
        used.dedup();
        if table == "filter" && dice.once_in(2) {
            text += "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
        }
        let out = matches!(entry, "OUTPUT" | "POSTROUTING");
        used.retain(|chain| matches!(*chain, "OUTPUT" | "POSTROUTING") == out);
        for chain in used {
            for _ in 0..=dice.roll(5) {
                text += &rule(dice, Place { chain, out, ..place }, &chains);
            }
        }
        for (index, chain) in chains.iter().enumerate() {
            for _ in 0..dice.roll(4) {
                text += &rule(dice, Place { chain, out, called: true, ..place }, &chains[index + 1..]);
            }
        }
        text += "COMMIT\n";
    }
    text
}

/// Where a rule stands.
#[derive(Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent facts of one place")]
struct Place<'a> {
    v6: bool,
    /// Whether there are ipsets to name.
    sets: bool,
    of_nft: bool,
    table: &'a str,
    chain: &'a str,
    /// Whether packets on their way out come here.
    out: bool,
    /// A chain that is only jumped to.
    called: bool,
}

fn rule(dice: &mut Dice, place: Place<'_>, next: &[&str]) -> String {
    let Place { v6, table, chain, out, called, .. } = place;
    let sources: &[&str] = if v6 {
        &["2001:db8::7", "2001:db8::8", "2001:db8::/64", "2001:db8::/32", "2001:db8:1::/48", "::/0", "2001:db8::70"]
    } else {
        &["203.0.113.7", "203.0.113.8", "203.0.113.0/24", "203.0.113.0/29", "198.51.100.0/24", "0.0.0.0/0", "203.0.113.70"]
    };
    let servers: &[&str] =
        if v6 { &["2001:db8:2::1", "2001:db8:2::2", "2001:db8:2::/64"] } else { &["192.0.2.1", "192.0.2.2", "192.0.2.0/24"] };
    let (from, to) = if out { ("-d", "-s") } else { ("-s", "-d") };
    let mut text = format!("-A {chain}");
    if dice.once_in(2) {
        text += &format!(" {}{from} {}", dice.one(&["", "", "", "! "]), dice.one(sources));
    }
    if dice.once_in(8) {
        text += &format!(" {}{to} {}", dice.one(&["", "! "]), dice.one(servers));
    }
    if dice.once_in(4) {
        let (option, other) = if out { ("-o", "-i") } else { ("-i", "-o") };
        // A hook has one side only, but a chain that is called may be asked for the other, which is empty there.
        let option = if called && dice.once_in(8) { other } else { option };
        text += &format!(" {}{option} {}", dice.one(&["", "", "! "]), dice.one(&["lo", "eth0", "eth1", "eth+", "wg0"]));
    }
    let (port, theirs) = if out { ("--sport", "--dport") } else { ("--dport", "--sport") };
    let tcp = dice.roll(3) != 0 || table == "nat";
    if tcp {
        text += " -p tcp";
        if dice.once_in(2) {
            text += &format!(
                " -m tcp {}{port} {}",
                dice.one(&["", "", "! "]),
                dice.one(&["22", "22", "1:1024", "2222", "22:80", "80"])
            );
        } else if dice.once_in(6) {
            text += &format!(" -m tcp {theirs} {}", dice.one(&["1024:65535", "1:1023", "22"]));
        }
        if dice.once_in(4) {
            let one =
                dice.one(&["PORTs 22,2222", "PORTs 80,443", "! PORTs 22", "--ports 1:30", "THEIRSs 1:1023", "PORTs 20:30,80"]);
            text += &format!(" -m multiport {}", one.replace("PORT", port).replace("THEIRS", theirs));
        }
        if dice.once_in(6) {
            text += &format!(
                " -m tcp {}",
                dice.one(&[
                    "--syn",
                    "! --syn",
                    "--tcp-flags ALL SYN",
                    "--tcp-flags SYN,FIN SYN,FIN",
                    "--tcp-flags SYN,ACK SYN,ACK"
                ])
            );
        }
    } else if dice.once_in(5) {
        text +=
            &format!(" {}-p {}", dice.one(&["", "! "]), dice.one(&["udp", "tcp", "47", if v6 { "ipv6-icmp" } else { "icmp" }]));
    }
    if dice.once_in(3) {
        text += &format!(" {}", matches(dice, place, sources, tcp));
    }
    if dice.rare(1)
        && !text.contains(" -p ")
        && let Some((change, then)) = rare::change(dice, place)
    {
        let then = then.map_or_else(String::new, |then| format!("-A {chain} {then}\n"));
        return format!("{text} {change}\n{then}");
    }
    if dice.rare(1) {
        text += &format!(" {}", rare::condition(dice, place, tcp));
    }
    let target = target(dice, place, next, tcp);
    format!("{text} {target}\n")
}

fn matches(dice: &mut Dice, place: Place<'_>, sources: &[&str], tcp: bool) -> String {
    let Place { v6, sets, out, table, chain, called, .. } = place;
    if sets && dice.once_in(2) {
        let (client, server) = if out { ("dst", "src") } else { ("src", "dst") };
        let all: &[&str] = if v6 {
            &["ip6 CLIENT", "net6 CLIENT", "ipport6 CLIENT,SERVER", "ports SERVER", "ip4 CLIENT"]
        } else {
            &[
                "ip4 CLIENT",
                "net4 CLIENT",
                "ipport4 CLIENT,SERVER",
                "netport4 CLIENT,SERVER",
                "netif4 CLIENT,CLIENT",
                "bits4 CLIENT",
                "timed4 CLIENT",
                "ports SERVER",
                "list4 CLIENT",
                "ip6 CLIENT",
                "ip4 SERVER",
            ]
        };
        let one = dice.one(all).replace("CLIENT", client).replace("SERVER", server);
        return format!("-m set {}--match-set {one}", dice.one(&["", "", "! "]));
    }
    if dice.once_in(20) {
        return dice
            .one(&[
                "-m limit --limit 1/hour --limit-burst 1",
                "-m recent --name bad --rcheck --seconds 60",
                "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-mode srcip --hashlimit-name h",
                "-m connlimit --connlimit-above 1",
                "-m statistic --mode random --probability 0.5",
                "-m quota --quota 100",
                "-m string --algo bm --string x",
                "-m time --timestart 00:00:00 --timestop 12:00:00",
            ])
            .to_owned();
    }
    let range = if v6 { "2001:db8::1-2001:db8::7" } else { "203.0.113.1-203.0.113.7" };
    let direction = if out { "--dst-range" } else { "--src-range" };
    let mut all = vec![
        "-m conntrack --ctstate NEW",
        "-m conntrack --ctstate RELATED,ESTABLISHED",
        "-m conntrack ! --ctstate NEW",
        "-m conntrack --ctstate INVALID,UNTRACKED",
        "-m conntrack --ctstate DNAT",
        "-m conntrack --ctdir ORIGINAL",
        "-m conntrack --ctdir REPLY",
        "-m conntrack --ctproto 6 --ctorigsrc SOURCE",
        "-m conntrack ! --ctorigsrc SOURCE --ctstate NEW",
        "-m conntrack --ctproto 6 --ctorigdstport 22",
        "-m conntrack --ctproto 6 --ctrepldst SOURCE",
        "-m conntrack --ctproto 6 --ctreplsrcport 22",
        "-m conntrack --ctstatus NONE",
        "-m conntrack --ctstatus SEEN_REPLY",
        "-m conntrack --ctstatus CONFIRMED",
        "-m state --state NEW",
        "-m state --state ESTABLISHED",
        "-m iprange RANGED RANGE",
        "-m iprange ! RANGED RANGE",
        "-m addrtype --dst-type LOCAL",
        "-m addrtype ! --dst-type LOCAL",
        "-m addrtype --src-type LOCAL",
        "-m addrtype --src-type UNICAST",
        "-m addrtype --dst-type UNICAST",
        "-m addrtype ! --src-type MULTICAST",
        "-m mark --mark 0x1",
        "-m mark ! --mark 0x1/0x3",
        "-m connmark --mark 0",
        "-m connmark ! --mark 0",
        "-m comment --comment words",
        "-m length --length 0:20",
        "-m pkttype --pkt-type unicast",
        "-m helper --helper ftp",
        "-m physdev --physdev-is-bridged",
        "-m mac --mac-source 02:00:00:00:00:99",
        "-m pkttype --pkt-type broadcast",
    ];
    if called || out {
        all.retain(|one| !one.contains("physdev") && !one.contains("mac-source"));
    }
    if !called && chain == "INPUT" || chain == "PREROUTING" {
        all.push("-m addrtype --limit-iface-in --dst-type LOCAL");
    }
    if chain == "PREROUTING" && matches!(table, "raw" | "mangle") {
        all.extend(["-m rpfilter", "-m rpfilter --invert", "-m rpfilter --loose"]);
    }
    if chain == "OUTPUT" || chain == "POSTROUTING" {
        all.extend(["-m owner --uid-owner 0", "-m owner ! --uid-owner 0", "-m owner --socket-exists"]);
    }
    if v6 {
        all.extend([
            "-m rt --rt-type 0",
            "-m rt ! --rt-type 0",
            "-m ipv6header --header prot --soft",
            "-m ipv6header ! --header prot",
            "-m ipv6header --header hop,prot",
            "-m frag --fragfirst",
            "-m hbh",
        ]);
    }
    if tcp {
        all.push("-m tcpmss --mss 1:9000");
    }
    dice.one(&all).replace("SOURCE", dice.one(sources)).replace("RANGED", direction).replace("RANGE", range)
}

fn target(dice: &mut Dice, place: Place<'_>, next: &[&str], tcp: bool) -> String {
    let Place { v6, sets, of_nft, table, chain, called, .. } = place;
    if table == "nat" {
        let (own, own_port, other, loopback) = if v6 {
            ("2001:db8:2::2", "[2001:db8:2::1]:2222", "2001:db8:9::9", "[::1]:22")
        } else {
            ("192.0.2.2", "192.0.2.1:2222", "192.0.2.99", "127.0.0.1:22")
        };
        if dice.rare(1) && (!called || tcp) {
            return rare::translation(dice, v6).to_owned();
        }
        return match dice.roll(9) {
            0 if !called || tcp => "-j REDIRECT --to-ports 2222".to_owned(),
            1 if !called || tcp => "-j REDIRECT".to_owned(),
            2 => format!("-j DNAT --to-destination {own}"),
            3 => format!("-j DNAT --to-destination {own_port}"),
            4 => format!("-j DNAT --to-destination {other}"),
            5 => format!("-j DNAT --to-destination {loopback}"),
            6 => "-j ACCEPT".to_owned(),
            7 if !next.is_empty() => format!("-j {}", dice.one(next)),
            _ => "-j RETURN".to_owned(),
        };
    }
    match dice.roll(14) {
        0..=3 => "-j ACCEPT".to_owned(),
        4 | 5 => "-j DROP".to_owned(),
        6 if table == "filter" && tcp => "-j REJECT --reject-with tcp-reset".to_owned(),
        6 if table == "filter" => "-j REJECT".to_owned(),
        7 => "-j RETURN".to_owned(),
        8 if table == "mangle" => format!("-j MARK --set-xmark {}", dice.one(&["0x1/0xffffffff", "0x2/0x2", "0x0/0xffffffff"])),
        8 if table == "mangle" || of_nft => {
            format!("-j CONNMARK {}", dice.one(&["--set-xmark 0x1/0xffffffff", "--save-mark", "--restore-mark"]))
        }
        8 => "-j CONNMARK --restore-mark".to_owned(),
        9 if table == "raw" => "-j CT --notrack".to_owned(),
        9 if table == "mangle" && tcp && !called => "-j TOS --set-tos 0x10/0x3f".to_owned(),
        9 => "-j NFLOG --nflog-group 5".to_owned(),
        10 => String::new(),
        11 if sets && !v6 && dice.once_in(6) => {
            let side = if chain == "OUTPUT" || chain == "POSTROUTING" { "dst" } else { "src" };
            format!("-j SET --add-set ip4 {side}")
        }
        _ if !next.is_empty() => format!("{} {}", dice.one(&["-j", "-j", "-j", "-g"]), dice.one(next)),
        _ => "-j DROP".to_owned(),
    }
}
