//! The same rules through iptables-nft: the structs in its xt match and target expressions decode to the same as those in the
//! legacy blob.

use std::collections::BTreeMap;

use sshfix_agent::subsystem::nf_tables::Ruleset;
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::nf_tables::expression::Expression;
use sshfix_policy::subsystem::xtables::extension::decode;
use sshfix_policy::subsystem::xtables::extension::matches::Match;
use sshfix_policy::subsystem::xtables::extension::targets;
use sshfix_policy::subsystem::xtables::{Action, Rule};

use super::rules::{ALL, Rules, create_sets};
use super::{in_namespace, look, restore, run};

/// The rule that `look` finds last in the chain.
fn legacy(v6: bool, table: &str, chain: &str, rule: &str) -> Rule {
    restore(v6, &format!("*{table}\n:user - [0:0]\n{rule}\nCOMMIT\n"));
    Rule::clone(look().table(v6, table).unwrap().chain(chain).unwrap().rules.last().unwrap())
}

/// The xt expressions of the rule through iptables-nft.
fn nft(v6: bool, table: &str, chain: &str, rule: &str) -> Vec<Expression> {
    let program = if v6 { "/usr/sbin/ip6tables-nft-restore" } else { "/usr/sbin/iptables-nft-restore" };
    run(program, &[], &format!("*{table}\n:user - [0:0]\n{rule}\nCOMMIT\n"));
    let Part::Present(state) = Ruleset::new().observe() else { panic!("no nft ruleset") };
    let family = if v6 { "ip6" } else { "ip" };
    let chains = state.chains.iter().filter(|one| one.family.to_string() == family && one.table == table && one.name == chain);
    let rule = chains.flat_map(|chain| &chain.rules).next_back().unwrap();
    rule.expressions.clone()
}

#[test]
fn iptables_nft_structs_decode_as_the_legacy_ones_do() {
    in_namespace(|| {
        create_sets();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for Rules { v6, table, lines } in ALL {
            for rule in *lines {
                let chain = rule.split(' ').nth(1).unwrap();
                let want = legacy(*v6, table, chain, rule);
                for expression in nft(*v6, table, chain, rule) {
                    match expression {
                        Expression::Match { name, revision, info } => {
                            let got = decode::decode(*v6, &name, revision, &info);
                            assert!(!matches!(got, Match::Undecoded { .. }), "{rule}: {name} {revision}");
                            assert!(want.matches.contains(&got), "{rule}: {got:?} is not in {:?}", want.matches);
                            *seen.entry(name).or_default() += 1;
                        }
                        Expression::Target { name, revision, info } => {
                            let got = targets::decode(*v6, &name, revision, &info);
                            assert_eq!(Action::Target(got), want.action, "{rule}");
                            *seen.entry(name).or_default() += 1;
                        }
                        _ => {}
                    }
                }
            }
        }
        // What this iptables does not turn into expressions of its own.
        for name in
            ["conntrack", "set", "recent", "hashlimit", "connlimit", "addrtype", "iprange", "time", "LOG", "DNAT", "REJECT"]
        {
            assert!(seen.contains_key(name), "{name} was not compared: {seen:?}");
        }
    });
}
