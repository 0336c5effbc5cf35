//! iptables-legacy against the real kernel, in throw-away network namespaces, with rulesets that the real iptables loaded.
//! Needs root; without it the tests say so, and fail under `CI=true`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_possible_truncation, clippy::format_push_string)]

mod change;
mod compat;
mod rules;

use sshfix_agent::subsystem::xtables::{Texts, observe};
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::xtables::State;
use sshfix_tests::lab::{feed as run, in_namespace};

fn restore(v6: bool, ruleset: &str) {
    run(&tool(v6, "restore"), &["--counters", "-w", "10"], ruleset);
}

fn tool(v6: bool, what: &str) -> String {
    format!("/usr/sbin/{}-legacy-{what}", if v6 { "ip6tables" } else { "iptables" })
}

/// What iptables-legacy-save prints, counters included, the two lines with the date left out.
fn saved(v6: bool) -> String {
    let text = run(&tool(v6, "save"), &["-c"], "");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.join("\n")
}

fn look() -> State {
    match observe() {
        Part::Present(state) => state,
        Part::Absent(why) | Part::Unreadable(why) => panic!("{why}"),
    }
}

fn names() -> String {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    read("/proc/thread-self/net/ip_tables_names") + &read("/proc/thread-self/net/ip6_tables_names")
}

#[test]
fn looking_creates_no_table() {
    in_namespace(|| {
        assert_eq!(names(), "");
        assert!(matches!(observe(), Part::Absent(_)));
        assert_eq!(names(), "", "observing made the kernel create a table");
        restore(false, "*mangle\n-A INPUT -s 203.0.113.7/32 -j DROP\nCOMMIT\n");
        let state = look();
        assert_eq!((state.v4.len(), state.v6.len()), (1, 0));
        assert_eq!(names(), "mangle\n");
    });
}

/// iptables-legacy-save runs only where a table is another one than before: it prints what the bytes alone do not tell.
#[test]
fn the_text_of_rules_is_kept_for_the_very_same_rules_only() {
    in_namespace(|| {
        let mut texts = Texts::default();
        let mut rules = || match texts.observe() {
            Part::Present(state) => {
                let chain = state.v4[0].chain("INPUT").unwrap().clone();
                chain.rules.iter().map(|rule| (rule.save.clone().unwrap(), rule.counters)).collect::<Vec<_>>()
            }
            Part::Absent(why) | Part::Unreadable(why) => panic!("{why}"),
        };
        let table = |counters: &str, string: &str| {
            format!("*filter\n:INPUT ACCEPT [0:0]\n{counters} -A INPUT -m string --string {string} --algo bm -j DROP\nCOMMIT\n")
        };
        // Only counters are another: the text stays, the counters do not.
        for (counters, want) in [("[1:40]", (1, 40)), ("[2:80]", (2, 80))] {
            restore(false, &table(counters, "one"));
            let rules = rules();
            assert!(rules[0].0.contains("\"one\"") && rules[0].1 == want, "{rules:?}");
        }
        // A match that sshfix does not decode.
        restore(false, &table("[2:80]", "two"));
        assert!(rules()[0].0.contains("\"two\""));
    });
}
