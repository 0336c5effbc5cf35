//! What few rulesets of iptables hold: targets that change what a later rule reads, and matches on what the client's own system decides.
//! Each is what the kernel takes at its place, mostly; what it does not is left out by the loader.

use super::Place;
use crate::rulesets::Dice;

/// A target, and a match on what it leaves.
type Change = (&'static str, &'static str);

const MANGLE: [Change; 17] = [
    ("-j DSCP --set-dscp 8", "-m dscp --dscp 8"),
    ("-j DSCP --set-dscp 8", "-m dscp ! --dscp 8"),
    ("-j TOS --set-tos 0x20/0xff", "-m tos --tos 0x20/0xff"),
    ("-j TOS --set-tos 0x10/0x3f", "-m dscp --dscp 9"),
    ("-j TOS --xor-tos 0x01", ""),
    ("-p tcp -j ECN --ecn-tcp-remove", ""),
    ("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1300", ""),
    ("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu", ""),
    ("-p tcp -j TCPOPTSTRIP --strip-options timestamp", ""),
    ("-j CLASSIFY --set-class 1:2", ""),
    ("-j CHECKSUM --checksum-fill", ""),
    ("-j IDLETIMER --timeout 5 --label camp", ""),
    ("-j MARK --set-xmark 0x10/0xf0", "-m mark --mark 0x10/0xf0"),
    ("-j MARK --and-mark 0xfe", "-m mark --mark 0x0/0x1"),
    ("-j CONNMARK --set-xmark 0x4/0x4", "-m connmark --mark 0x4/0x4"),
    ("-j HMARK --hmark-tuple src --hmark-mod 5 --hmark-offset 10 --hmark-rnd 1", "-m mark --mark 0"),
    ("-j NFQUEUE --queue-num 3", ""),
];
const MANGLE4: [Change; 6] = [
    ("-j TTL --ttl-set 64", "-m ttl --ttl-eq 64"),
    ("-j TTL --ttl-set 200", "-m ttl --ttl-lt 100"),
    ("-j TTL --ttl-inc 1", "-m ttl --ttl-gt 254"),
    ("-j TTL --ttl-set 64", "-m ttl ! --ttl-eq 64"),
    ("-j TEE --gateway 203.0.113.9", ""),
    ("-j TTL --ttl-dec 1", "-m ttl --ttl-gt 254"),
];
const MANGLE6: [Change; 4] = [
    ("-j HL --hl-set 64", "-m hl --hl-eq 64"),
    ("-j HL --hl-set 200", "-m hl --hl-lt 100"),
    ("-j HL --hl-inc 1", "-m hl ! --hl-eq 0"),
    ("-j TEE --gateway 2001:db8::9", ""),
];
const PREROUTING: [Change; 2] =
    [("-p tcp -j TPROXY --on-port 2222", ""), ("-m socket --transparent -j MARK --set-mark 1", "-m mark --mark 1")];
const RAW: [Change; 9] = [
    ("-j CT --zone 5", "-m conntrack --ctstate INVALID"),
    ("-j CT --zone-orig 5", ""),
    ("-j CT --zone-reply 5", ""),
    ("-j CT --zone mark", ""),
    ("-j CT --notrack", "-m conntrack --ctstate UNTRACKED"),
    ("-p tcp -j CT --helper ftp", ""),
    ("-j CT --ctevents new", ""),
    ("-j TRACE", ""),
    ("-j NFQUEUE --queue-bypass", ""),
];
const FILTER: [Change; 4] = [
    ("-j NFQUEUE --queue-num 3", ""),
    ("-j NFQUEUE --queue-bypass", ""),
    ("-j NFQUEUE --queue-balance 0:3 --queue-bypass", ""),
    ("-j AUDIT --type drop", ""),
];
const INPUT: [Change; 1] = [("-p tcp -m tcp --syn -j SYNPROXY --sack-perm --timestamp --mss 1460", "")];

/// What follows the chain and the addresses of a rule that changes something, and perhaps of one after it that looks at that.
pub fn change(dice: &mut Dice, place: Place<'_>) -> Option<(String, Option<String>)> {
    let mut all: Vec<Change> = match place.table {
        "mangle" => MANGLE.iter().chain(if place.v6 { &MANGLE6[..] } else { &MANGLE4[..] }).copied().collect(),
        "raw" => RAW.to_vec(),
        "filter" => FILTER.to_vec(),
        _ => return None,
    };
    match (place.table, place.chain) {
        ("mangle", "PREROUTING") => all.extend(PREROUTING),
        ("filter", "INPUT") => all.extend(INPUT),
        _ => {}
    }
    let (statement, then) = all[dice.roll(all.len())];
    let then = (!then.is_empty() && dice.once_in(2)).then(|| format!("{then} -j {}", dice.one(&["ACCEPT", "DROP", "DROP"])));
    Some((statement.to_owned(), then))
}

/// A match that is seldom seen.
pub fn condition(dice: &mut Dice, place: Place<'_>, tcp: bool) -> String {
    let mut all = vec![
        "-m u32 --u32 0>>28=4:6",
        "-m string --algo kmp --hex-string |5353| --from 20 --to 60",
        "-m length --length 40:1500",
        "-m length ! --length 0:30",
        "-m dscp --dscp 0",
        "-m dscp ! --dscp 8",
        "-m tos --tos 0x10",
        "-m statistic --mode nth --every 2 --packet 0",
        "-m connbytes --connbytes 100000 --connbytes-dir both --connbytes-mode bytes",
        "-m connlabel --label 1",
        "-m cpu --cpu 99",
        "-m conntrack --ctstate SNAT",
        "-m conntrack --ctstate NEW --ctproto 6 --ctorigsrcport 1024:65535",
        "-m connmark --mark 0x0/0x4",
        "-m mark --mark 0x0/0xf0",
        "-m recent --name never --rcheck",
        "-m connlimit --connlimit-above 100",
    ];
    all.extend(if place.v6 { ["-m hl --hl-eq 64", "-m hl --hl-gt 0"] } else { ["-m ttl --ttl-eq 64", "-m ttl --ttl-gt 0"] });
    if !place.v6 {
        all.extend(["! -f", "-f"]);
    }
    if tcp {
        all.extend([
            "-m tcpmss ! --mss 1:9000",
            "-m tcp --tcp-option 2",
            "-m tcp ! --tcp-option 2",
            "-m ecn --ecn-tcp-ece",
            "-m ecn ! --ecn-tcp-cwr",
        ]);
    }
    match place.chain {
        "INPUT" | "PREROUTING" => all.extend([
            "-m socket",
            "-m socket --nowildcard",
            "-m policy --dir in --pol none",
            "-m policy --dir in --pol ipsec",
            "-m devgroup --src-group 0",
            "-m devgroup ! --src-group 7",
            "-m physdev --physdev-is-in",
            "-m physdev ! --physdev-in eth0",
        ]),
        "OUTPUT" | "POSTROUTING" => all.extend([
            "-m cgroup --cgroup 1",
            "-m owner --gid-owner 0",
            "-m policy --dir out --pol none",
            "-m devgroup --dst-group 0",
        ]),
        _ => {}
    }
    dice.one(&all).to_owned()
}

/// A translation of the destination to one of several.
pub fn translation(dice: &mut Dice, v6: bool) -> &'static str {
    dice.one(if v6 {
        &[
            "-j DNAT --to-destination 2001:db8:2::1-2001:db8:2::2",
            "-j DNAT --to-destination 2001:db8:2::2 --persistent",
            "-j NETMAP --to 2001:db8:2::/64",
            "-j REDIRECT --to-ports 2222-2225",
        ]
    } else {
        &[
            "-j DNAT --to-destination 192.0.2.1-192.0.2.2",
            "-j DNAT --to-destination 192.0.2.1:2222-2225",
            "-j DNAT --to-destination 192.0.2.2 --random",
            "-j NETMAP --to 192.0.2.0/24",
            "-j REDIRECT --to-ports 2222-2225",
        ]
    })
}
