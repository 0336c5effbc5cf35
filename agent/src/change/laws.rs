//! The laws of design.md on every plan of a generated set, killed and failed at every write of its journal and at every step:
//! after the next start the host is as before or as planned, never between.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use sshfix_policy::diagnose::admission;
use sshfix_policy::host::fake::FakeHost;
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{Done, Host, HostState, Needs, Part, Question, StepError};
use sshfix_policy::plan::goal::Goal;
use sshfix_policy::plan::{self, Plan};
use sshfix_policy::proof::lockout::{self, SafePlan};
use sshfix_policy::reply::Confirm;
use sshfix_policy::request::Intent;
use sshfix_policy::subsystem::fail2ban::{self, Ticket};
use sshfix_policy::subsystem::hosts_access::{self, Content, Facts, File, Libwrap};
use sshfix_policy::subsystem::nf_tables::expression::{CmpOp, Expression, PayloadBase, Verdict as NftVerdict};
use sshfix_policy::subsystem::nf_tables::{self, BaseChain, Chain, Element, Family, Rule, Set, SetKey, Table};
use sshfix_policy::subsystem::sshd::config::{Document, Tree};
use sshfix_policy::subsystem::{ipset, route, sshd, xtables};
use sshfix_policy::verdict::{AccessPath, Admits, Connection, PathOrigin, Verdict};

use crate::change::make::{self, Order};
use crate::change::recover;
use crate::store::{Blow, ChangeStage, Store};
use crate::sys::clock::{Boot, Moment};

const ADDRESS: &str = "203.0.113.7";
const RANGE: &str = "203.0.113.0/28";

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), content: Content::Bytes(text.as_bytes().to_vec()), read_only: None }
}

/// `ip saddr ADDRESS VERDICT` in a chain of family inet.
fn rule(handle: u64, last: u8, verdict: NftVerdict) -> Arc<Rule> {
    let compare = |sreg, data: &[u8]| Expression::Cmp { sreg, op: CmpOp::Eq, data: data.to_vec() };
    let expressions = vec![
        Expression::Meta { key: 15, dreg: 1 },
        compare(1, &[2]),
        Expression::Payload { dreg: 1, base: PayloadBase::Network, offset: 12, len: 4 },
        compare(1, &[203, 0, 113, last]),
        Expression::Verdict(verdict),
    ];
    Arc::new(Rule { handle, expressions, comment: None, raw_expressions: Vec::new(), userdata: Vec::new(), compat: None })
}

fn ruleset(policy_accept: bool, rules: Vec<Arc<Rule>>) -> Part<nf_tables::State> {
    let (table, name) = ("hand".to_owned(), "input".to_owned());
    let base = BaseChain { kind: "filter".to_owned(), hook: 1, priority: 0, policy_accept, devices: Vec::new() };
    let chain = Chain { family: Family::Inet, table: table.clone(), name, handle: 1, base: Some(base), rules };
    Part::Present(nf_tables::State {
        generation: 7,
        tables: vec![Table { family: Family::Inet, name: table, dormant: false }],
        chains: vec![Arc::new(chain)],
        ..nf_tables::State::default()
    })
}

/// Every host of the set: tickets, hosts files and rules in all combinations.
fn hosts() -> Vec<HostState> {
    let ticket = |text: &str| Ticket::new(text.parse().unwrap());
    let tickets = [vec![], vec![ADDRESS], vec![ADDRESS, "203.0.113.70"], vec![RANGE]];
    let files = [
        ("", ""),
        ("", "# kept\nsshd: 203.0.113.7 203.0.113.70\n"),
        ("sshd: 203.0.113.7 : deny\n", "ALL: 203.0.113.7\nsshd: 203.0.113.8\n"),
        ("sshd: 203.0.113.7, 203.0.113.8\nvsftpd: ALL\n", "sshd: ALL EXCEPT 192.0.2.9\n"),
    ];
    let rulesets = [
        Part::Absent("test".to_owned()),
        ruleset(true, vec![rule(2, 7, NftVerdict::Drop), rule(3, 8, NftVerdict::Drop)]),
        ruleset(true, vec![rule(2, 7, NftVerdict::Drop), rule(3, 7, NftVerdict::Drop), rule(4, 8, NftVerdict::Accept)]),
        ruleset(false, vec![rule(2, 9, NftVerdict::Accept), rule(3, 7, NftVerdict::Accept)]),
    ];
    let mut hosts = Vec::new();
    for banned in &tickets {
        for twice in [false, true] {
            let jail = |name: &str, banned: &[&str]| fail2ban::Jail {
                name: name.to_owned(),
                tickets: banned.iter().map(|text| ticket(text)).collect(),
                others: 0,
                ignore: Vec::new(),
                ignore_self: true,
            };
            let other: &[&str] = if twice { banned } else { &[] };
            for (allow, deny) in files {
                for nf_tables in &rulesets {
                    hosts.push(HostState {
                        fail2ban: Part::Present(fail2ban::State {
                            version: "1.1.0".to_owned(),
                            jails: vec![jail("recidive", other), jail("sshd", banned)],
                            notes: Vec::new(),
                        }),
                        hosts_access: Part::Present(hosts_access::State {
                            allow: file("/etc/hosts.allow", allow),
                            deny: file("/etc/hosts.deny", deny),
                            libwrap: Libwrap::Linked("test".to_owned()),
                            facts: Facts::default(),
                        }),
                        nf_tables: nf_tables.clone(),
                        ..HostState::empty()
                    });
                }
            }
        }
    }
    hosts
}

fn operations() -> Vec<Intent> {
    let (one, range) = (ADDRESS.parse().unwrap(), RANGE.parse().unwrap());
    let sshd = || Some("sshd".to_owned());
    vec![
        Intent::Unban { source: one, jail: None, ignore_for: None, range: false },
        Intent::Unban { source: one, jail: sshd(), ignore_for: Some(600), range: false },
        Intent::Unban { source: range, jail: None, ignore_for: None, range: false },
        Intent::Ban { source: one, jail: "sshd".to_owned() },
        Intent::HostsAllow { source: one, daemon: None },
        Intent::HostsDeny { source: one, daemon: None },
        Intent::HostsRemove { source: one, daemon: None },
        Intent::FirewallAccept { source: one },
        Intent::FirewallRemove { reference: "nft/inet/hand/input/handle/3".to_owned() },
        Intent::Fail2banIgnore { source: one, jail: None },
    ]
}

fn path() -> AccessPath {
    AccessPath { source: "192.0.2.9".parse().unwrap(), user: None, port: 22, origin: PathOrigin::Requester }
}

/// Every plan of the set that has steps, with its host; each only once.
fn plans() -> Vec<(HostState, SafePlan)> {
    let mut found = BTreeMap::new();
    for host in hosts() {
        for operation in operations() {
            let mut needs = Needs::new();
            let Ok(plan) = plan::plan(&operation, &host, 22, &mut needs) else { continue };
            let Ok(safe) = lockout::prove(plan, &host, &[path()], &mut needs) else { continue };
            if !safe.steps().is_empty() {
                found.entry(format!("{:?}{:?}{:?}", host.fail2ban, host.nf_tables, safe.steps())).or_insert((host.clone(), safe));
            }
        }
    }
    found.into_values().chain(mixed()).collect()
}

/// A host on which a step of every subsystem fits, and plans of all pairs and triples of them, in both directions.
fn mixed() -> Vec<(HostState, SafePlan)> {
    let mut host = hosts().into_iter().find(|host| matches!(host.nf_tables, Part::Present(_))).unwrap();
    let set = SetKey { family: Family::Inet, table: "hand".to_owned(), set: "bad".to_owned() };
    let element = Element { key: vec![203, 0, 113, 7], ..Element::default() };
    let state = host.nf_tables.present_mut().unwrap();
    let key = set.clone();
    state.sets.push(Arc::new(Set {
        key,
        handle: 9,
        flags: 0,
        key_type: 7,
        key_len: 4,
        fields: Vec::new(),
        data_type: None,
        data_len: None,
        object: None,
    }));
    state.dumps.insert(set.clone(), vec![element.clone()]);
    let chain = state.chains[0].rules.clone();
    let legacy = xtables::Rule::accept(ADDRESS.parse().unwrap(), Admits::Tcp(22), None);
    let chain_of = |rules| xtables::Chain {
        name: "INPUT".to_owned(),
        hook: Some(xtables::Hook::Input),
        policy_accept: true,
        counters: (0, 0),
        rules,
    };
    let table = xtables::Table {
        v6: false,
        name: "filter".to_owned(),
        chains: vec![Arc::new(chain_of(vec![Arc::new(legacy)]))],
        readonly: None,
    };
    host.xtables = Part::Present(xtables::State { v4: vec![table], ..xtables::State::default() });
    let place = xtables::Place { v6: false, table: "filter".to_owned(), chain: "INPUT".to_owned(), position: 1 };
    let query = ipset::Query {
        set: "bad".to_owned(),
        kind: "hash:ip".to_owned(),
        key: ipset::Key { address: Some("203.0.113.7".parse().unwrap()), ..ipset::Key::default() },
    };
    host.ipset.entries.insert(query.clone(), ipset::Entry::Exact);
    let blackhole = route::Route {
        destination: ADDRESS.parse().unwrap(),
        kind: route::Kind::Blackhole,
        table: 254,
        metric: 0,
        tos: 0,
        protocol: 3,
        via: None,
        device: None,
        preference: None,
        message: Vec::new(),
    };
    let fact =
        route::Fact { answer: route::Answer::Refused(route::Kind::Blackhole), routes: vec![blackhole.clone()], ways: Vec::new() };
    let facts = BTreeMap::from([(blackhole.destination, fact)]);
    host.route = Part::Present(route::State { facts, ..route::State::default() });

    let ticket = |jail: &str, before: bool| {
        let ticket = Ticket::new(ADDRESS.parse().unwrap());
        let (before, after) = if before { (Some(ticket), None) } else { (None, Some(ticket)) };
        let source = ADDRESS.parse().unwrap();
        Step::Fail2ban(fail2ban::Step::Ticket {
            jail: jail.to_owned(),
            source,
            before,
            after,
            leftovers: Vec::new(),
            through: Vec::new(),
        })
    };
    let edit = |file: hosts_access::Which, path: &str, before: &str, after: &str| {
        Step::HostsAccess(hosts_access::Step {
            file,
            path: path.to_owned(),
            before: Some(before.as_bytes().to_vec()),
            after: Some(after.as_bytes().to_vec()),
            touches: None,
        })
    };
    let steps = vec![
        ticket("recidive", false),
        ticket("sshd", false),
        Step::Fail2ban(fail2ban::Step::Ignore { jail: "sshd".to_owned(), entry: ADDRESS.to_owned(), before: false, after: true }),
        edit(hosts_access::Which::Allow, "/etc/hosts.allow", "", "sshd: 203.0.113.7\n"),
        edit(hosts_access::Which::Deny, "/etc/hosts.deny", "", "ALL: 203.0.113.7\n"),
        Step::NfTables(nf_tables::Step::Element {
            set,
            before: Some(element),
            after: None,
            touches: None,
            text: ADDRESS.to_owned(),
        }),
        Step::NfTables(nf_tables::Step::Rule {
            family: Family::Inet,
            table: "hand".to_owned(),
            chain: "input".to_owned(),
            next: Some(3),
            others: 0,
            before: Some(Rule::clone(&chain[0])),
            after: None,
            touches: None,
            text: "ip saddr 203.0.113.7 drop".to_owned(),
        }),
        Step::Xtables(xtables::step::Step::delete(host.xtables.present().unwrap(), &place, None).unwrap()),
        Step::Ipset(ipset::Step { query, before: true, after: false, extras: false }),
        Step::Route(route::Step { before: Some(blackhole), after: None }),
        sshd_edit(&mut host),
    ];
    let mut plans = Vec::new();
    for (first, one) in steps.iter().enumerate() {
        for (second, two) in steps.iter().enumerate().skip(first + 1) {
            let mut sets = vec![vec![one.clone(), two.clone()], vec![two.clone(), one.clone()]];
            sets.extend(steps.iter().skip(second + 1).map(|three| vec![one.clone(), two.clone(), three.clone()]));
            plans.extend(sets.into_iter().map(|steps| {
                // Of which nothing is verified but the steps: some of these ban.
                let operation = Intent::SshdReload;
                let confirm = Confirm::Required;
                let plan = Plan {
                    goal: Goal::of(&operation, 22),
                    intent: operation,
                    steps,
                    opens: vec![],
                    closes: vec![],
                    confirm,
                    lease: None,
                    alternatives: vec![],
                    notes: vec![],
                };
                (host.clone(), SafePlan::unproven(plan, &[]))
            }));
        }
    }
    plans
}

/// Puts an sshd into the host, with the step that edits two of its files.
fn sshd_edit(host: &mut HostState) -> Step {
    let (main, drop_in) = ("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/50-x.conf");
    let mut tree = Tree::new(main);
    tree.files.insert(main.to_owned(), Document::parse(b"# kept\nInclude sshd_config.d/*.conf\nUsePAM yes\n"));
    tree.files.insert(drop_in.to_owned(), Document::parse(b"PermitRootLogin yes\n"));
    tree.includes.insert("/etc/ssh/sshd_config.d/*.conf".to_owned(), vec![drop_in.to_owned()]);
    let edit = |path: &str, after: &[u8]| sshd::FileEdit {
        path: path.to_owned(),
        before: tree.files[path].bytes(),
        after: after.to_vec(),
    };
    let unit = sshd::Through::Unit("ssh.service".to_owned());
    let step = sshd::Step {
        port: 22,
        files: vec![edit(main, b"# kept\nInclude sshd_config.d/*.conf\nUsePAM no\n"), edit(drop_in, b"PermitRootLogin no\n")],
        activation: sshd::Activation::Reload(unit),
        why: Vec::new(),
        effect: Vec::new(),
        listened: Vec::new(),
        undoing: false,
    };
    let server = sshd::Server {
        tree: Ok(tree),
        effective: Ok(sshd::Effective::default()),
        ..sshd::Server::with_files(sshd::Invocation::plain("/usr/sbin/sshd"), &[])
    };
    host.sshd.servers.insert(22, Part::Present(server));
    Step::Sshd(step)
}

fn at(seconds: u64) -> Moment {
    let since_boot = Duration::from_secs(seconds);
    Moment { wall: Timestamp::UNIX_EPOCH + since_boot, boot: Boot::number(1), since_boot }
}

/// Dies, or fails after doing, at its n-th call.
struct Mortal {
    host: FakeHost,
    at: Option<(usize, Death)>,
}

#[derive(Clone, Copy, Debug)]
enum Death {
    Before,
    After,
    Fails,
    FailsAfterDoing,
}

impl Host for Mortal {
    fn observe(&mut self, question: &Question) -> HostState {
        self.host.observe(question)
    }

    fn lookup(&mut self, _: &mut HostState, _: &Needs) {}

    fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        let now = self.at.filter(|(at, _)| *at == self.host.applied).map(|(_, death)| death);
        match now {
            Some(Death::Before) => resume_unwind(Box::new("killed before the step")),
            Some(Death::Fails) => {
                self.host.applied += 1;
                return Err(StepError::Failed("injected".to_owned()));
            }
            _ => {}
        }
        let done = self.host.apply(step);
        match now {
            Some(Death::After) => resume_unwind(Box::new("killed after the step")),
            Some(Death::FailsAfterDoing) => Err(StepError::Failed("injected after doing".to_owned())),
            _ => done,
        }
    }
}

/// What is tried with each plan.
struct Trial<'a> {
    store: &'a mut Store,
    before: &'a HostState,
    after: &'a HostState,
    plan: &'a SafePlan,
    number: usize,
    now: u64,
    /// Whether it is over without being taken back.
    settled: bool,
}

impl Trial<'_> {
    fn id(&self) -> String {
        format!("c{}", self.number)
    }

    /// The whole life: begun, applied, verified, pending (or confirmed by its verification), and taken back at the deadline.
    fn live(&mut self, host: &mut Mortal, waits: bool) {
        let source = ADDRESS.parse().unwrap();
        let question = Question { sources: [source].into(), port: 22, everybody: false };
        let order = Order {
            id: self.id(),
            principal: "root",
            question: &question,
            read: self.before,
            plan: self.plan,
            waits: waits.then_some(Duration::from_mins(2)),
            lease: None,
        };
        let Ok(begun) = make::begin(host, self.store, order, || at(0)) else { return };
        let settled = begun.apply().and_then(|applied| applied.verify(|_| true)).and_then(|verified| verified.settle(&at(1)));
        self.settled = settled.is_ok();
        if self.settled && waits {
            self.now = 120;
            let _ = recover(host, self.store, &at(120));
        }
    }

    /// One life with this blow, or this death, and then the next start of the agent, before the deadline and after it.
    #[track_caller]
    fn run(&mut self, waits: bool, blow: Option<(usize, Blow)>, death: Option<(usize, Death)>) -> (usize, usize) {
        self.number += 1;
        self.now = 1;
        let mut mortal = Mortal { host: FakeHost::new(self.before.clone()), at: death };
        self.store.fuse.writes.store(0, Ordering::Relaxed);
        *self.store.fuse.at.lock().unwrap() = blow;
        let _ = catch_unwind(AssertUnwindSafe(|| self.live(&mut mortal, waits)));
        *self.store.fuse.at.lock().unwrap() = None;
        let counts = (self.store.fuse.writes.load(Ordering::Relaxed), mortal.host.applied);

        // Who was killed forgets; who only could not write goes on with what it knows, or is restarted.
        let goes_on = death.is_none() && matches!(blow, None | Some((_, Blow::Fails)));
        if !goes_on {
            self.store.forget();
        }
        let what = || format!("{blow:?} {death:?} waits: {waits}: {:#?}", self.plan.steps());
        let mut host = FakeHost::new(mortal.host.state);
        recover(&mut host, self.store, &at(self.now + 1)).unwrap();
        let stage = self.store.change(&self.id()).map(|change| change.stage);
        match stage {
            Ok(ChangeStage::Confirmed | ChangeStage::Pending) => assert_eq!(&host.state, self.after, "{}", what()),
            Ok(ChangeStage::RolledBack) | Err(_) => assert_eq!(&host.state, self.before, "{}", what()),
            Ok(other) => panic!("{other} after the next start: {}", what()),
        }
        recover(&mut host, self.store, &at(122)).unwrap();
        if waits {
            assert_eq!(&host.state, self.before, "{}", what());
        }
        assert!(self.store.unfinished_changes().unwrap().is_empty() && self.store.stuck_changes().unwrap().is_empty());
        counts
    }
}

/// Every plan: one write that fails and one kill after each write, with a deadline that passes. Every thirtieth: all the rest too.
#[test]
fn killed_or_failed_at_every_write_and_step_every_plan_ends_before_or_after() {
    let plans = plans();
    assert!(plans.len() >= 500, "only {} plans", plans.len());
    let mut lives = 0;
    for chunk in plans.chunks(30) {
        // In memory: what is tried is the order of the writes, not the disk.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut store = Store::open(&directory.path().join("state.db")).unwrap();
        let mut next = 0;
        for (index, (before, plan)) in chunk.iter().enumerate() {
            let after = plan::predict(before, plan.steps()).unwrap();
            let mut trial = Trial { store: &mut store, before, after: &after, plan, number: next, now: 0, settled: false };
            let whole = index == 0;
            for waits in if whole { &[true, false][..] } else { &[true] } {
                let blows = [Blow::Fails, Blow::DiesAfter, Blow::DiesBefore, Blow::FailsForEver];
                let blows = if whole { &blows[..] } else { &blows[..2] };
                let (writes, applied) = trial.run(*waits, None, None);
                assert!(trial.settled, "verified as predicted: {:#?}", plan.steps());
                for at in 0..writes {
                    for blow in blows {
                        _ = trial.run(*waits, Some((at, *blow)), None);
                    }
                }
                // An undo that fails is stuck, which is another test's business.
                let steps = plan.steps().len();
                for at in 0..if whole { applied } else { 0 } {
                    for death in [Death::Before, Death::After, Death::Fails, Death::FailsAfterDoing] {
                        if at < steps || matches!(death, Death::Before | Death::After) {
                            trial.run(*waits, None, Some((at, death)));
                        }
                    }
                }
            }
            lives += trial.number - next;
            next = trial.number;
        }
    }
    println!("{} plans, {lives} lives", plans.len());
}

#[test]
fn a_step_and_its_inverse_give_the_first_state_back_and_the_predicted_state_needs_no_plan() {
    for (host, plan) in plans() {
        let mut state = host.clone();
        for step in plan.steps() {
            assert_eq!(&step.inverse().inverse(), step);
            let before = state.clone();
            step.predict(&mut state).unwrap();
            let after = state.clone();
            step.inverse().predict(&mut state).unwrap();
            assert_eq!(state, before, "{step:#?}");
            state = after;
        }
        if plan.document().paths.is_empty() {
            continue;
        }
        let mut needs = Needs::new();
        match plan::plan(&plan.plan().intent, &state, 22, &mut needs) {
            Ok(again) => assert_eq!(again.steps, [], "{:?}", plan.plan().intent),
            // The reference is gone with its rule.
            Err(error) => assert!(matches!(plan.plan().intent, Intent::FirewallRemove { .. }), "{error}"),
        }
    }
}

#[test]
fn what_the_proof_accepts_keeps_every_open_path_open_after_every_step() {
    let clients = ["192.0.2.9", ADDRESS, "203.0.113.8", "198.51.100.7"];
    let (mut accepted, mut refused) = (0, 0);
    for host in hosts() {
        for operation in operations() {
            let mut needs = Needs::new();
            let Ok(plan) = plan::plan(&operation, &host, 22, &mut needs) else { continue };
            let paths: Vec<AccessPath> = clients.map(|client| AccessPath { source: client.parse().unwrap(), ..path() }).into();
            let verdict = |state: &HostState, path: &AccessPath| {
                let connection = Connection { source: path.source, port: 22, user: None };
                admission(&host, state, &connection, &mut Needs::new()).0
            };
            let before: Vec<Verdict> = paths.iter().map(|path| verdict(&host, path)).collect();
            let steps = plan.steps.clone();
            let confirm = plan.confirm;
            match lockout::prove(plan, &host, &paths, &mut needs) {
                Ok(_) => {
                    let mut state = host.clone();
                    for step in &steps {
                        step.predict(&mut state).unwrap();
                        for (path, before) in paths.iter().zip(&before) {
                            let now = verdict(&state, path);
                            assert!(*before != Verdict::Accept || now == Verdict::Accept, "{operation:?} {path:?}");
                        }
                    }
                    accepted += 1;
                }
                Err(lockout::Lockout::Witness(witness)) => {
                    assert_eq!(confirm, Confirm::Required, "what closes must be confirmed: {witness}");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(accepted >= 500 && refused >= 50, "{accepted} accepted, {refused} refused");
}

/// A host on which `@admins` cannot be decided, so that nobody is known to get in; its rules begin with this one.
fn unknown_to_all(first: Arc<Rule>) -> HostState {
    let mut host = hosts().remove(0);
    host.nf_tables = ruleset(true, vec![first, rule(3, 7, NftVerdict::Accept)]);
    let files = host.hosts_access.present_mut().unwrap();
    files.deny = file("/etc/hosts.deny", "sshd: @admins\n");
    host
}

fn proven(host: &HostState, operation: &Intent, path: AccessPath) -> Result<Confirm, lockout::Lockout> {
    let mut needs = Needs::new();
    let plan = plan::plan(operation, host, 22, &mut needs).unwrap();
    lockout::prove(plan, host, &[path], &mut needs).map(|safe| safe.plan().confirm)
}

#[test]
fn nothing_hides_behind_a_way_in_that_was_unknown_before() {
    let now_and_then = Expression::Limit { rate: 10, unit: 60, burst: 5, kind: 0, over: false };
    let undecided = Rule {
        expressions: vec![now_and_then, Expression::Verdict(NftVerdict::Drop)],
        ..Rule::clone(&rule(2, 9, NftVerdict::Drop))
    };
    let host = unknown_to_all(Arc::new(undecided));
    let operations = operations();
    let remove = &operations[8];
    assert!(matches!(remove, Intent::FirewallRemove { .. }));
    let alice =
        AccessPath { source: ADDRESS.parse().unwrap(), user: Some("alice".to_owned()), port: 22, origin: PathOrigin::Session };
    // What was unknown stays unknown, but the step touches it: taking the accept away could be what cuts alice off.
    let refused = proven(&host, remove, alice.clone()).unwrap_err().to_string();
    assert!(refused.contains("after step 1 (") && refused.contains("alice from 203.0.113.7 (a live session)"), "{refused}");
    assert!(refused.contains("might be refused by"), "{refused}");
    // Where the rules let her in without it, what is undecided in hosts.deny is as it was.
    let decided = unknown_to_all(rule(2, 9, NftVerdict::Accept));
    assert_eq!(proven(&decided, remove, alice.clone()), Ok(Confirm::Required));
    // Others who are unknown alike are not touched, and what only opens hides nothing.
    assert_eq!(proven(&host, &operations[3], path()), Ok(Confirm::Required), "a ban of somebody else");
    assert_eq!(proven(&decided, &operations[4], alice.clone()), Ok(Confirm::NotNeeded), "an allow");
    // Known to get in, and cut off by the policy: the rule is named.
    let mut host = hosts().remove(0);
    host.nf_tables = ruleset(false, vec![rule(2, 9, NftVerdict::Accept), rule(3, 7, NftVerdict::Accept)]);
    let refused = proven(&host, remove, alice).unwrap_err().to_string();
    assert!(refused.contains("would be refused by") && refused.contains("inet hand input"), "{refused}");
}

#[test]
fn what_only_opens_needs_no_confirm_and_everything_else_does() {
    for (host, plan) in plans() {
        let Plan { intent: operation, closes, confirm, .. } = plan.plan();
        if plan.document().paths.is_empty() {
            continue;
        }
        let required = match operation {
            Intent::Ban { .. } | Intent::HostsDeny { .. } => true,
            Intent::Unban { .. } | Intent::HostsAllow { .. } | Intent::FirewallAccept { .. } | Intent::Fail2banIgnore { .. } => {
                false
            }
            Intent::FirewallRemove { .. } => {
                let rules = &host.nf_tables.present().unwrap().chains[0].rules;
                rules.iter().any(|rule| rule.handle == 3 && rule.only_accepts())
            }
            _ => !closes.is_empty(),
        };
        assert_eq!(*confirm == Confirm::Required, required, "{operation:?} closes {closes:?}: {:#?}", plan.steps());
        assert!(closes.is_empty() || required);
    }
}
