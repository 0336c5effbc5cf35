//! How long the agent takes to diagnose one address: with sets of 10 to 1,000,000 elements and with 10 to 20,000 rules, beside the
//! tools an admin would ask, measured in turn. "Agent" is from the request's bytes to the signed reply, as the agent logs it: the median
//! and the least; "CPU" is what agent and the programs it ran used for one answer, on average, which a busy machine does not change.
//!
//! Run as root: `cargo bench -p sshfix-tests --bench diagnose [-- ROUNDS [KIND]]`, where
//! KIND is a part of the name of a line. A benchmark, not a test: it prints, it does not fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, clippy::cast_precision_loss)]

use std::fmt::Write;

use sshfix_tests::lab::{Release, Server, root_or_skip};

const SETS: [usize; 4] = [10, 1000, 100_000, 1_000_000];
const RULES: [usize; 3] = [10, 1000, 20_000];
/// The blocked address; it is the last element and the last rule.
const BLOCKED: &str = "203.0.113.7";

/// A peer that takes longer is stopped.
const PEER_SECONDS: u8 = 40;

/// Times each command in turn, inside the server: what the harness costs is not in the numbers.
const TIMER: &str = r"
import json, subprocess, sys, time
rounds, commands = int(sys.argv[1]), sys.argv[2:]
times = [[] for _ in commands]
for _ in range(rounds):
    for command, own in zip(commands, times):
        start = time.perf_counter()
        subprocess.run(['sh', '-c', command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        own.append((time.perf_counter() - start) * 1000)
print(json.dumps(times))
";

fn main() {
    // `cargo bench` adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rounds: usize = arguments.first().and_then(|argument| argument.parse().ok()).unwrap_or(11);
    let wanted = arguments.get(1).map_or("", String::as_str);
    let measure = |kind: &str, count: usize, load: &dyn Fn() -> Load, peer: &str| {
        if kind.contains(wanted) {
            measure(kind, count, &load(), peer, rounds);
        }
    };
    if !root_or_skip() {
        return;
    }
    println!("Milliseconds, median of {rounds}; goal: agent under 100, and for a set the same at every size.");
    heading("elements", "nft get element");
    for kind in ["nft hash", "nft interval", "ipset hash:ip", "ipset hash:net"] {
        for count in SETS {
            let peer = if kind.starts_with("nft") {
                format!("nft get element inet bench bad {{ {BLOCKED} }}")
            } else {
                format!("ipset test bad {BLOCKED}")
            };
            measure(kind, count, &|| set(kind, count), &peer);
        }
    }
    heading("rules", "list | grep");
    for kind in ["nft rules", "iptables-nft rules", "iptables-legacy rules"] {
        for count in RULES {
            let tool = kind.trim_end_matches(" rules");
            let peer = if tool == "nft" { "nft list ruleset".to_owned() } else { format!("{tool}-save") };
            measure(kind, count, &|| rules(tool, count), &format!("{peer} | grep -F {BLOCKED}"));
        }
    }
    heading("both", "nft get element");
    let peer = format!("nft get element inet bench bad {{ {BLOCKED} }}");
    measure("20k rules, 1M in set", 1_020_000, &|| both(20_000, 1_000_000), &peer);
}

fn heading(what: &str, peer: &str) {
    println!(
        "\n{:<22}{what:>10}{:>16}{:>9}{:>16}{:>9}{:>14}{:>18}",
        "", "agent", "CPU", "after a change", "CPU", "sshfix ctl", peer
    );
    println!(
        "{:<22}{:>10}{:>16}{:>9}{:>16}{:>9}{:>14}{:>18}",
        "", "", "median  least", "", "median  least", "", "(process)", "(process)"
    );
}

/// Addresses that no range can merge, and then the blocked one.
fn addresses(count: usize) -> impl Iterator<Item = String> {
    let one = |number: usize| format!("10.{}.{}.{}", number >> 15 & 255, number >> 7 & 255, number << 1 & 255);
    // 10.0.0.0/8 holds 8 million of every second address.
    (0..count - 1).map(one).chain([BLOCKED.to_owned()])
}

/// A script for `sh`, and its input.
struct Load {
    command: String,
    input: String,
}

fn set(kind: &str, count: usize) -> Load {
    if let Some(ipset) = kind.strip_prefix("ipset ") {
        let mut input = format!("create bad {ipset} maxelem 2000000 hashsize 1048576\n");
        addresses(count).for_each(|address| writeln!(input, "add bad {address}").unwrap());
        let rule = "iptables-nft -A INPUT -p tcp --dport 22 -m set --match-set bad src -j DROP";
        return Load { command: format!("ipset restore && {rule}"), input };
    }
    let flags = if kind == "nft interval" { "flags interval;" } else { "" };
    let elements = addresses(count).collect::<Vec<_>>().join(", ");
    let input = format!(
        "table inet bench {{
            set bad {{ type ipv4_addr; {flags} size 2000000; elements = {{ {elements} }} }}
            chain input {{ type filter hook input priority 0; policy accept; ip saddr @bad tcp dport 22 drop; }}
        }}\n"
    );
    Load { command: "nft -f -".to_owned(), input }
}

fn rules(kind: &str, count: usize) -> Load {
    if kind == "nft" {
        let mut input = String::from("table inet bench { chain input { type filter hook input priority 0; policy accept;\n");
        addresses(count).for_each(|address| writeln!(input, "ip saddr {address} tcp dport 22 counter drop").unwrap());
        return Load { command: "nft -f -".to_owned(), input: input + "}\n}\n" };
    }
    let mut input = String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    addresses(count).for_each(|address| writeln!(input, "-A INPUT -s {address}/32 -p tcp -m tcp --dport 22 -j DROP").unwrap());
    Load { command: format!("{kind}-restore"), input: input + "COMMIT\n" }
}

/// Many rules about others, and then one that looks into a large set.
fn both(rules: usize, elements: usize) -> Load {
    let mut others = String::new();
    addresses(rules)
        .take(rules - 1)
        .for_each(|address| writeln!(others, "ip saddr {address} tcp dport 22 counter drop").unwrap());
    let Load { command, input } = set("nft hash", elements);
    Load { command, input: input.replace("ip saddr @bad", &format!("{others}ip saddr @bad")) }
}

fn measure(kind: &str, count: usize, load: &Load, peer: &str, rounds: usize) {
    let server = Server::boot(Release::Trixie);
    server.write("/etc/systemd/system/sshfix-agent.service.d/log.conf", "[Service]\nEnvironment=SSHFIX_LOG=sshfix_agent=debug\n");
    server.install_sshfix();
    server.run_with_input(&["sh", "-euc", &load.command], load.input.as_bytes()).expect_ok();
    let ask = || server.ctl(&["diagnose", BLOCKED, "--json"]).expect_status(8);
    ask();
    let sshfix = format!("sshfix ctl diagnose {BLOCKED} --json");
    // In turn, so that what else the machine does hits both alike; the peer only once where it takes its time.
    let own = rounds.to_string();
    let peers = if count >= 100_000 { "1" } else { &own };
    let times = |rounds: &str, commands: &[&str]| -> Vec<Vec<f64>> {
        let output = server.run(&[&["python3", "-c", TIMER, rounds], commands].concat()).expect_ok();
        serde_json::from_str(&output).expect("the timer prints JSON")
    };
    let slow = format!("timeout {PEER_SECONDS} {peer}");
    let mut processes = times(peers, &[&sshfix, &slow]);
    if peers != own {
        processes[0] = times(&own, &[&sshfix]).remove(0);
    }
    let asked = |change: &str| {
        let before = cpu(&server);
        for _ in 0..rounds {
            server.sh(change).expect_ok();
            ask();
        }
        let used = (cpu(&server) - before) / rounds as f64;
        let times = agent_times(&server, rounds);
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        format!("{:>9.1}{least:>7.1}{used:>9.1}", median(times))
    };
    let warm = asked(":");
    // Any change of the ruleset makes the agent read it anew.
    let cold = asked("nft add table inet other; nft delete table inet other");
    let [sshfix, peer] = [median(processes[0].clone()), median(processes[1].clone())];
    let limit = f64::from(PEER_SECONDS) * 1000.0;
    let peer = if peer < limit { format!("{peer:.1}") } else { format!("over {limit:.0}") };
    println!("{kind:<22}{count:>10}{warm}{cold}{sshfix:>14.1}{peer:>18}");
}

/// The newest so many answers, as the agent's log tells how long they took.
fn agent_times(server: &Server, count: usize) -> Vec<f64> {
    let log = server.sh("journalctl --sync; journalctl -u sshfix-agent -o cat --no-pager | grep 'answered in'").expect_ok();
    let times: Vec<f64> = log.lines().map(|line| line.rsplit(' ').nth(1).unwrap().parse::<f64>().unwrap() / 1000.0).collect();
    times[times.len() - count..].to_vec()
}

/// Milliseconds that the agent and the programs it ran have used so far (proc(5), `stat`: utime, stime, cutime, cstime in 1/100 s).
fn cpu(server: &Server) -> f64 {
    let stat = server.sh("cat /proc/$(systemctl show -P MainPID sshfix-agent)/stat").expect_ok();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(4).map(|ticks| ticks.parse::<f64>().unwrap() * 10.0).sum()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
