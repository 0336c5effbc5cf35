//! The kernel as oracle: random rulesets of nft, iptables-nft, iptables-legacy and ipset side by side are loaded in a namespace, real
//! connections from every client to every address of the server tried, and what became of them compared with the verdict. It may be
//! unknown where the truth hangs on something that cannot be known; it must never be wrong. `tests/campaign` runs any number.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_precision_loss, clippy::format_push_string)]

mod discovery;
mod lift;
mod report;
#[path = "../nf_tables_netlink/agreement.rs"]
mod second_decoder;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use report::{Judged, Report};
use sshfix_agent::config::Config;
use sshfix_agent::host::live::LiveHost;
use sshfix_agent::subsystem::{nf_tables, xtables};
use sshfix_policy::host::{Host as _, HostState, Needs, Part};
use sshfix_policy::netfilter::evaluate;
use sshfix_policy::subsystem::route;
use sshfix_policy::verdict::{Connection, Verdict};
use sshfix_tests::lab::{Client, Fate, WIRE_CLIENTS, WIRE_SERVERS, Wire, root_or_skip};
use sshfix_tests::rulesets::{Dice, Ruleset};

/// The packet filters, interfaces and routes of this thread's network namespace.
fn observe() -> HostState {
    HostState {
        at: jiff::Timestamp::now(),
        nf_tables: nf_tables::Ruleset::new().observe(),
        xtables: xtables::observe(),
        route: Part::Present(route::State::default()),
        ..HostState::empty()
    }
}

/// Asks until every fact is there, as the agent does.
fn asked<T>(live: &mut LiveHost, host: &mut HostState, mut question: impl FnMut(&HostState, &mut Needs) -> T) -> T {
    let mut all = Needs::new();
    for _ in 0..50 {
        let mut needs = Needs::new();
        let answer = question(host, &mut needs);
        needs.retain(|need| !all.contains(need));
        if needs.is_empty() {
            return answer;
        }
        live.lookup(host, &needs);
        all.extend(needs);
    }
    panic!("the question is never answered");
}

/// What the model says of a client.
#[derive(Clone, Debug)]
struct Said {
    verdict: Verdict,
    detail: String,
    evidence: String,
}

fn connection(client: Client) -> Connection {
    Connection { source: client.0.parse().unwrap(), port: 22, user: None }
}

fn said(live: &mut LiveHost, host: &mut HostState, client: Client) -> Said {
    let connection = connection(client);
    let report = asked(live, host, |host, needs| evaluate(host, &connection, needs));
    let quoted: Vec<_> = report.evidence.iter().map(|one| format!("{}: {}", one.source, one.text.as_str())).collect();
    Said { verdict: report.verdict, detail: report.detail.as_str().to_owned(), evidence: quoted.join("; ") }
}

fn live() -> LiveHost {
    LiveHost::new(Arc::new(Config::default()))
}

/// A client with every address of the server that it can connect to.
fn tries(client: Client) -> Vec<(Client, IpAddr)> {
    let servers = WIRE_SERVERS.iter().map(|(server, _)| server.parse::<IpAddr>().unwrap());
    servers.filter(|server| server.is_ipv6() == client.0.contains(':')).map(|server| (client, server)).collect()
}

/// What becomes of everybody's connections: for each client its fates, address by address.
fn fates(wire: &Wire, patience: Duration) -> Vec<Vec<Fate>> {
    let all: Vec<_> = WIRE_CLIENTS.iter().flat_map(|client| tries(*client)).collect();
    let fates = wire.connect(&all, 22, patience);
    fates.chunks(2).map(<[Fate]>::to_vec).collect()
}

/// Loads one ruleset, asks the model and the kernel, compares, lifts, and takes the rules away.
fn one(wire: &Wire, ruleset: &Ruleset, name: &str, lifts: bool, report: &mut Report) {
    let mut taken = ruleset.clone();
    let loaded = wire.server.enter(|| taken.load_what_is_taken());
    let ruleset = &taken;
    if let Err(error) = loaded {
        report.not_loaded(&error);
        wire.server.enter(|| ruleset.unload());
        return;
    }
    report.loaded(ruleset);
    let says: Vec<Said> = wire.server.enter(|| {
        let mut host = observe();
        if let Part::Present(state) = &host.nf_tables {
            report.compared += second_decoder::agreement(state);
        }
        let mut live = live();
        WIRE_CLIENTS.iter().map(|client| said(&mut live, &mut host, *client)).collect()
    });
    let truth = fates(wire, Duration::ZERO);
    for ((client, said), fates) in WIRE_CLIENTS.iter().zip(&says).zip(&truth) {
        let mut judged = report::judge(said, fates, ruleset);
        if judged == Judged::Wrong {
            // Rules that count have seen other connections meanwhile: this one alone, on rules that saw none, and with time.
            let fates: Vec<Fate> = tries(*client)
                .into_iter()
                .flat_map(|one| {
                    wire.server.enter(|| {
                        ruleset.unload();
                        ruleset.load().expect("what was loaded once");
                    });
                    wire.connect(&[one], 22, Duration::from_millis(if said.verdict == Verdict::Accept { 1200 } else { 10 }))
                })
                .collect();
            judged = report::judge(said, &fates, ruleset);
        }
        report.count(judged, *client, said, fates, name, ruleset);
    }
    if lifts && let Some(index) = says.iter().position(|said| said.verdict == Verdict::Refuse) {
        lift::lift(wire, ruleset, name, index, &says, report);
    }
    wire.server.enter(|| ruleset.unload());
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn the_verdict_agrees_with_the_kernel_about_real_connections() {
    if !root_or_skip() {
        return;
    }
    let (rulesets, seed) = (number("SSHFIX_RULESETS", 2000), number("SSHFIX_SEED", 1));
    let first = number("SSHFIX_FIRST", 0);
    let workers = number("SSHFIX_WORKERS", 2);
    let rare = usize::try_from(number("SSHFIX_RARE", 0)).ok().filter(|one_in| *one_in > 0);
    let next = AtomicU64::new(first);
    let started = Instant::now();
    let mut report = std::thread::scope(|scope| {
        let work = || {
            let wire = Wire::new();
            let mut report = Report::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= first + rulesets {
                    return report;
                }
                let dice = Dice::new(seed, number);
                let ruleset = Ruleset::random(&mut rare.map_or(dice.clone(), |one_in| dice.with_rare(one_in)));
                one(&wire, &ruleset, &format!("seed {seed} ruleset {number}"), number.is_multiple_of(4), &mut report);
            }
        };
        let workers: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
        let reports = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        reports.reduce(Report::add).unwrap()
    });
    report.took = started.elapsed();
    println!("{report}");
    report.expect_good(rulesets >= 500);
}

#[test]
fn every_disagreement_ever_found_stays_settled() {
    if !root_or_skip() {
        return;
    }
    let wire = Wire::new();
    let mut report = Report::default();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/disagreements");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{directory} is empty");
    for file in files {
        let ruleset = Ruleset::parse(&std::fs::read_to_string(&file).unwrap());
        one(&wire, &ruleset, &file.display().to_string(), true, &mut report);
    }
    println!("{report}");
    assert_eq!(report.refused_by_loader, 0, "a saved ruleset cannot be loaded");
    report.expect_good(false);
    assert_eq!(report.needless(), 0, "{report}");
}

#[test]
fn a_drop_of_neighbour_solicitations_is_said_and_keeps_an_ipv6_client_out() {
    if !root_or_skip() {
        return;
    }
    let wire = Wire::new();
    let client = WIRE_CLIENTS[3];
    let try_one = || {
        wire.client.sh("ip -6 neigh del 2001:db8:2::1 dev eth0");
        wire.connect(&tries(client)[..1], 22, Duration::from_millis(300))[0]
    };
    let says = || {
        wire.server.enter(|| {
            let mut host = observe();
            said(&mut live(), &mut host, client)
        })
    };
    assert_eq!(try_one(), Fate::Open(22), "neighbour discovery works without rules");
    assert_eq!((says().verdict, says().detail.as_str()), (Verdict::Accept, "accepted"));
    let drop = "=== ip6tables-nft\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 2001:db8::7/128 -p tcp -m tcp --dport 22 -j ACCEPT\n\
        ALSO-A INPUT -s 2001:db8::7/128 -j DROP\nCOMMIT\n";
    let ruleset = Ruleset::parse(&drop.replace("ALSO", ""));
    wire.server.enter(|| ruleset.load()).unwrap();
    assert_eq!(try_one(), Fate::Silent);
    let said = says();
    assert!(said.detail.starts_with("accepted; but its neighbour solicitation on eth0 is dropped"), "{}", said.detail);
    assert!(said.evidence.contains("-s 2001:db8::7/128 -j DROP"), "{}", said.evidence);
    wire.server.enter(|| ruleset.unload());
    let also = "-A INPUT -s 2001:db8::7/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT\n";
    let ruleset = Ruleset::parse(&drop.replace("ALSO", also));
    wire.server.enter(|| ruleset.load()).unwrap();
    assert_eq!(try_one(), Fate::Open(22));
    assert_eq!(says().detail, "accepted");
}
