//! The netlink room against the real kernel, in throw-away network namespaces, with rulesets that the real nft and
//! iptables-nft loaded. Needs root; without it the tests say so, and fail under `CI=true`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

mod agreement;
mod read;
mod rulesets;
mod second_decoder;
mod write;

use std::collections::BTreeSet;

use sshfix_agent::subsystem::nf_tables::Ruleset;
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::nf_tables::{Chain, Element, ElementKey, Family, SetKey, State};
use sshfix_tests::lab::{feed as run, in_namespace};

/// Loads a ruleset. nft wants each statement to end with a newline or semicolon, also before a brace.
fn nft(ruleset: &str) {
    run("/usr/sbin/nft", &["-f", "-"], &ruleset.replace(" }", "\n}"));
}

fn list() -> String {
    run("/usr/sbin/nft", &["-a", "list", "ruleset"], "")
}

fn observe(ruleset: &mut Ruleset) -> State {
    match ruleset.observe() {
        Part::Present(state) => state,
        Part::Absent(why) | Part::Unreadable(why) => panic!("{why}"),
    }
}

fn chain<'a>(state: &'a State, table: &str, name: &str) -> &'a Chain {
    state.chains.iter().find(|chain| chain.table == table && chain.name == name).expect("the chain")
}

fn set(table: &str, set: &str) -> SetKey {
    SetKey { family: Family::Inet, table: table.to_owned(), set: set.to_owned() }
}

fn find(ruleset: &mut Ruleset, set: &SetKey, key: &[u8]) -> Option<Element> {
    let mut state = observe(ruleset);
    let key = ElementKey { set: set.clone(), key: key.to_vec() };
    ruleset.lookup_elements(&mut state, &BTreeSet::from([key.clone()]), &BTreeSet::new()).unwrap();
    state.elements.remove(&key).expect("an answer")
}

fn dump(ruleset: &mut Ruleset, set: &SetKey) -> Vec<Element> {
    let mut state = observe(ruleset);
    ruleset.lookup_elements(&mut state, &BTreeSet::new(), &BTreeSet::from([set.clone()])).unwrap();
    state.dumps.remove(set).expect("an answer")
}
