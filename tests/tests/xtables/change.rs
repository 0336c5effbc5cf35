//! Steps on real tables: exactly one rule goes or comes, and undo gives back every byte that iptables-legacy-save prints.

use sshfix_agent::subsystem::xtables::apply;
use sshfix_policy::address::Source;
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::xtables::Place;
use sshfix_policy::subsystem::xtables::step::Step;
use sshfix_policy::verdict::Admits;

use super::{in_namespace, look, restore, run, saved};

fn place(v6: bool, table: &str, chain: &str, position: usize) -> Place {
    Place { v6, table: table.to_owned(), chain: chain.to_owned(), position }
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

const DUPLICATES: &str = "*filter
:INPUT ACCEPT [10:600]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:f2b-sshd - [0:0]
[1:60] -A INPUT -p tcp -m multiport --dports 22,2222 -j f2b-sshd
[2:120] -A INPUT -s ADDRESS -j DROP
[3:180] -A INPUT -s ADDRESS0 -j DROP
[4:240] -A INPUT -s ADDRESS -j DROP
[5:300] -A INPUT -m comment --comment \"it's the \\\"last\\\" one\" -j ACCEPT
[6:360] -A f2b-sshd -s ADDRESS -j REJECT
[7:420] -A f2b-sshd -j RETURN
COMMIT
";

fn duplicates(v6: bool) -> String {
    DUPLICATES.replace("ADDRESS", if v6 { "2001:db8::1" } else { "10.0.0.1" })
}

/// Loads the ruleset for both families, so that each test also shows that the other one stays as it is.
fn load_both() -> (String, String) {
    for v6 in [false, true] {
        restore(v6, &duplicates(v6));
    }
    (saved(false), saved(true))
}

#[test]
fn deleting_one_of_two_equal_rules_takes_exactly_that_one_and_undo_gives_every_byte_back() {
    in_namespace(|| {
        load_both();
        for v6 in [false, true] {
            for position in 1..=5 {
                let before = (saved(v6), saved(!v6));
                let step = Step::delete(&look(), &place(v6, "filter", "INPUT", position), None).unwrap();
                assert_eq!(apply(&step), Ok(Done::Changed), "{position}");
                // The line that is missing is the one at this position, told by its counters.
                let gone: Vec<&str> = before.0.lines().filter(|line| !saved(v6).contains(line)).collect();
                assert_eq!(gone.len(), 1, "{gone:?}");
                assert!(gone[0].starts_with(&format!("[{position}:{}] -A INPUT", position * 60)), "{gone:?}");
                assert_eq!(apply(&step), Ok(Done::Already));
                assert_eq!(apply(&step.inverse()), Ok(Done::Changed));
                assert_eq!((saved(v6), saved(!v6)), before);
                assert_eq!(apply(&step.inverse()), Ok(Done::Already));
            }
        }
    });
}

#[test]
fn a_plan_that_deletes_both_equal_rules_is_done_and_undone_in_reverse_order() {
    in_namespace(|| {
        let before = load_both();
        let state = look();
        let first = Step::delete(&state, &place(false, "filter", "INPUT", 2), None).unwrap();
        assert_eq!(apply(&first), Ok(Done::Changed));
        let second = Step::delete(&look(), &place(false, "filter", "INPUT", 3), None).unwrap();
        assert_eq!(apply(&second), Ok(Done::Changed));
        assert!(!saved(false).contains("INPUT -s 10.0.0.1/32"));
        assert!(saved(false).contains("-A INPUT -s 10.0.0.10/32 -j DROP"));
        assert_eq!(apply(&first), Ok(Done::Already));
        assert_eq!(apply(&second.inverse()), Ok(Done::Changed));
        assert_eq!(apply(&first.inverse()), Ok(Done::Changed));
        assert_eq!((saved(false), saved(true)), before);
    });
}

#[test]
fn an_accept_is_inserted_before_the_rule_that_decides_and_taken_out_again() {
    in_namespace(|| {
        load_both();
        for (v6, address) in [(false, "10.0.0.1"), (true, "2001:db8::1")] {
            let before = saved(v6);
            let width = if v6 { 128 } else { 32 };
            for (chain, last) in [("INPUT", 6), ("f2b-sshd", 3)] {
                for position in 1..=last {
                    let step =
                        Step::accept(&look(), &place(v6, "filter", chain, position), source(address), Admits::Tcp(2222), None)
                            .unwrap();
                    assert_eq!(apply(&step), Ok(Done::Changed));
                    let line = format!("-A {chain} -s {address}/{width} -p tcp -m tcp --dport 2222 -j ACCEPT");
                    let text = saved(v6);
                    let rules: Vec<&str> = text.lines().filter(|line| line.contains(&format!("-A {chain} "))).collect();
                    assert!(rules[position - 1].ends_with(&line), "{rules:?}");
                    assert_eq!(apply(&step), Ok(Done::Already));
                    assert_eq!(apply(&step.inverse()), Ok(Done::Changed));
                    assert_eq!(saved(v6), before);
                }
            }
            assert!(Step::accept(&look(), &place(!v6, "filter", "INPUT", 1), source(address), Admits::Tcp(22), None).is_none());
        }
    });
}

#[test]
fn a_step_on_a_chain_that_changed_finds_its_rule_or_says_drifted_and_changes_nothing() {
    in_namespace(|| {
        load_both();
        let state = look();
        let delete = Step::delete(&state, &place(false, "filter", "INPUT", 4), None).unwrap();
        let iptables = |args: &[&str]| run("/usr/sbin/iptables-legacy", &[&["-w", "10"], args].concat(), "");

        // Somebody put a rule at the head: the same copy is still the one that goes.
        iptables(&["-I", "INPUT", "-s", "192.0.2.1", "-j", "DROP"]);
        assert_eq!(apply(&delete), Ok(Done::Changed));
        assert!(!saved(false).contains("[4:240]"));
        // Its neighbours are still neighbours, one position further down.
        assert_eq!(apply(&delete.inverse()), Ok(Done::Changed));
        let text = saved(false);
        let order: Vec<&str> = text.lines().filter(|line| line.contains("-A INPUT")).map(|line| &line[..6]).collect();
        assert_eq!(order, ["[0:0] ", "[1:60]", "[2:120", "[3:180", "[4:240", "[5:300"]);

        // A third copy: it is not certain any more which one was meant.
        iptables(&["-A", "INPUT", "-s", "10.0.0.1", "-j", "DROP"]);
        let before = saved(false);
        assert!(matches!(apply(&delete), Err(StepError::Drifted(_))));
        // A neighbour is gone: nobody knows where it stood.
        iptables(&["-D", "INPUT", "7"]);
        assert_eq!(apply(&delete), Ok(Done::Changed));
        iptables(&["-D", "INPUT", "-m", "comment", "--comment", "it's the \"last\" one", "-j", "ACCEPT"]);
        assert!(matches!(apply(&delete.inverse()), Err(StepError::Drifted(_))), "{before}");
        iptables(&["-F"]);
        iptables(&["-X"]);
        let gone = Step::delete(&state, &place(false, "filter", "f2b-sshd", 1), None).unwrap();
        assert!(matches!(apply(&gone), Err(StepError::Drifted(_))));
        assert!(matches!(apply(&gone.inverse()), Err(StepError::Drifted(_))));
    });
}

#[test]
fn a_rule_that_cannot_be_given_back_to_iptables_is_read_and_never_changed() {
    in_namespace(|| {
        // A comment with a line break makes iptables-save print two lines, the second of which says what its author likes.
        run(
            "/usr/sbin/iptables-legacy",
            &["-A", "INPUT", "-s", "10.0.0.1", "-m", "comment", "--comment", "x\n-A INPUT -j ACCEPT", "-j", "DROP"],
            "",
        );
        let state = look();
        let table = state.table(false, "filter").unwrap();
        assert_eq!(table.chain("INPUT").unwrap().rules.len(), 1);
        assert!(table.readonly.is_some());
        assert_eq!(Step::delete(&state, &place(false, "filter", "INPUT", 1), None), None);
        assert_eq!(Step::accept(&state, &place(false, "filter", "INPUT", 1), source("10.0.0.1"), Admits::Tcp(22), None), None);
    });
}

#[test]
fn a_held_lock_is_waited_for_and_then_named() {
    in_namespace(|| {
        load_both();
        let step = Step::delete(&look(), &place(false, "filter", "INPUT", 2), None).unwrap();
        let before = saved(false);
        let lock = std::fs::File::options().create(true).truncate(false).write(true).open("/run/xtables.lock").unwrap();
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let started = std::time::Instant::now();
        assert!(matches!(apply(&step), Err(StepError::TimedOut(why)) if why.contains("/run/xtables.lock")));
        // Five seconds, and what a loaded machine takes.
        assert!(started.elapsed() < std::time::Duration::from_mins(1));
        assert_eq!(saved(false), before);
        drop(lock);
        assert_eq!(apply(&step), Ok(Done::Changed));
    });
}
