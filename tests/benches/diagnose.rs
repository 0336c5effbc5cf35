//! How long one question takes, whole processes, with 10 and with 100,000 banned addresses in an nft set:
//! `sshfix ctl diagnose` through a warm agent, `nft get element` and `fail2ban-client banned`, in turn.
//!
//! Run as root: `cargo bench -p sshfix-tests --bench diagnose [-- ROUNDS]`. A benchmark, not a test: it prints, it does not fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, clippy::cast_precision_loss)]

use std::fmt::Write;

use sshfix_tests::lab::{Release, Server, root_or_skip};

const FEW: usize = 10;
const MANY: usize = 100_000;
const COMMANDS: [&str; 5] = [
    "sshfix ctl diagnose 203.0.113.7 --json",
    "sshfix ctl diagnose 203.0.113.8 --json",
    "nft get element inet bench addresses { 203.0.113.7 }",
    "nft get element inet bench ranges { 203.0.113.7 }",
    "fail2ban-client banned 203.0.113.7",
];
const WHAT: [&str; 5] = [
    "sshfix ctl diagnose, banned",
    "sshfix ctl diagnose, not banned",
    "nft get element, hash",
    "nft get element, interval",
    "fail2ban-client banned",
];

/// Times each command in turn, inside the server: what the harness costs is not in the numbers.
const TIMER: &str = r#"
import json, shlex, subprocess, sys, time
rounds, commands = int(sys.argv[1]), [shlex.split(c.replace('{', "'{").replace('}', "}'")) for c in sys.argv[2:]]
times = [[] for _ in commands]
for _ in range(rounds):
    for command, own in zip(commands, times):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        own.append((time.perf_counter() - start) * 1000)
print(json.dumps(times))
"#;

fn main() {
    // `cargo bench` adds --bench.
    let rounds: usize = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(40);
    if !root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let few = server(release, FEW);
        let many = server(release, MANY);
        let mut times = [vec![vec![]; COMMANDS.len()], vec![vec![]; COMMANDS.len()]];
        // In small turns, so that what else the machine does hits both alike. The first turn only warms up.
        for turn in 0..=rounds.div_ceil(5) {
            for (server, own) in [&few, &many].into_iter().zip(&mut times) {
                let round = measure(server, 5);
                if turn > 0 {
                    own.iter_mut().zip(round).for_each(|(all, new)| all.extend(new));
                }
            }
        }
        let [few, many] = times.map(|commands| commands.into_iter().map(median).collect::<Vec<_>>());
        println!("\n{release}: median of {} whole processes, milliseconds", rounds.div_ceil(5) * 5);
        println!("{:<34}{:>10}{:>12}{:>12}", "", FEW, MANY, "ratio");
        for (index, what) in WHAT.iter().enumerate() {
            println!("{what:<34}{:>10.1}{:>12.1}{:>12.2}", few[index], many[index], many[index] / few[index]);
        }
        println!(
            "With {MANY}: nft get element takes {:.1} (hash) and {:.1} (interval) times as long as sshfix ctl diagnose,",
            many[2] / many[0],
            many[3] / many[0]
        );
        println!(
            "fail2ban-client banned {:.1} times. Goal: diagnose with {MANY} at most 2.00 times diagnose with {FEW}.",
            many[4] / many[0]
        );
    }
}

/// A server with this many addresses in a hash set and in an interval set, each used by a rule, and a warm agent.
fn server(release: Release, count: usize) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    let mut addresses = String::from("203.0.113.7");
    for number in 0..count - 1 {
        // Every second address, so that the interval set cannot merge them.
        write!(addresses, ", 10.{}.{}.{}", number >> 15 & 255, number >> 7 & 255, number << 1 & 255).unwrap();
    }
    let ruleset = format!(
        "table inet bench {{
            set addresses {{ type ipv4_addr; elements = {{ {addresses} }} }}
            set ranges {{ type ipv4_addr; flags interval; elements = {{ {addresses} }} }}
            chain input {{ type filter hook input priority 0; policy accept;
                ip saddr @addresses tcp dport 22 drop
                ip saddr @ranges tcp dport 22 drop
            }}
        }}"
    );
    server.run_with_input(&["nft", "-f", "-"], ruleset.as_bytes()).expect_ok();
    for _ in 0..3 {
        server.ctl(&["diagnose", "203.0.113.7"]).expect_status(8);
        server.ctl(&["diagnose", "203.0.113.8"]).expect_status(0);
    }
    server
}

fn measure(server: &Server, rounds: usize) -> Vec<Vec<f64>> {
    let rounds = rounds.to_string();
    let output = server.run(&[&["python3", "-c", TIMER, &rounds], &COMMANDS[..]].concat()).expect_ok();
    serde_json::from_str(&output).expect("the timer prints JSON")
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
