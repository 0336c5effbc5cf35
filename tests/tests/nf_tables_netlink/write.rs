//! A step and its inverse leave the ruleset as it was, byte for byte; a step that no longer fits changes nothing.

use super::*;
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::nf_tables::expression::{BitwiseOp, CmpOp, Expression, PayloadBase, Verdict};
use sshfix_policy::subsystem::nf_tables::{ElementData, Rule, Step, same};

/// Everything there is, with counters, without handles (they are new after every undo).
fn listing() -> String {
    let nft = run("/usr/sbin/nft", &["list", "ruleset"], "");
    let stateless = run("/usr/sbin/nft", &["-s", "list", "ruleset"], "");
    // Shows what nft cannot: the contents of xt matches.
    let rules: String = ["/usr/sbin/iptables-nft-save", "/usr/sbin/ip6tables-nft-save"]
        .iter()
        .flat_map(|save| run(save, &["-c", "-t", "filter"], "").lines().map(|line| format!("{line}\n")).collect::<Vec<_>>())
        .filter(|line| !line.starts_with('#'))
        .collect();
    format!("{nft}\n{stateless}\n{rules}")
}

fn rule_step(chain: &Chain, next: Option<u64>, before: Option<&Rule>, after: Option<&Rule>) -> Step {
    let others = before.or(after).map_or(0, |rule| same::others(&chain.rules, rule));
    Step::Rule {
        family: chain.family,
        table: chain.table.clone(),
        chain: chain.name.clone(),
        next,
        others,
        before: before.cloned(),
        after: after.cloned(),
        touches: None,
        text: "a rule".to_owned(),
    }
}

fn element_step(set: &SetKey, before: Option<&Element>, after: Option<&Element>) -> Step {
    Step::Element {
        set: set.clone(),
        before: before.cloned(),
        after: after.cloned(),
        touches: None,
        text: "an element".to_owned(),
    }
}

/// Applies the step and takes it back, each twice: the second time there is nothing to do.
fn there_and_back(ruleset: &mut Ruleset, step: &Step) {
    // As it comes back from the journal.
    let step: Step = serde_json::from_str(&serde_json::to_string(step).unwrap()).unwrap();
    let before = listing();
    ruleset.check(&step).unwrap_or_else(|error| panic!("{error}: {step:?}"));
    assert_eq!(listing(), before, "a dry run changed something");
    assert_eq!(ruleset.apply(&step), Ok(Done::Changed), "{step:?}");
    assert_ne!(listing(), before, "{step:?}");
    assert_eq!(ruleset.apply(&step), Ok(Done::Already), "{step:?}");
    let inverse = step.inverse();
    assert_eq!(ruleset.apply(&inverse), Ok(Done::Changed), "{inverse:?}");
    assert_eq!(listing(), before, "{step:?}");
    assert_eq!(ruleset.apply(&inverse), Ok(Done::Already), "{inverse:?}");
    // And once more, on the rule that has another handle now; a fresh agent knows only the journal.
    let mut fresh = Ruleset::new();
    assert_eq!(fresh.apply(&step), Ok(Done::Changed), "{step:?}");
    assert_eq!(fresh.apply(&inverse), Ok(Done::Changed), "{inverse:?}");
    assert_eq!(listing(), before, "{step:?}");
}

fn delete_and_undo_every_rule(at_least: usize, kept: usize) {
    let mut ruleset = Ruleset::new();
    let (mut deleted, mut refused) = (0, 0);
    let places: Vec<(Family, String, String, usize)> = observe(&mut ruleset)
        .chains
        .iter()
        .flat_map(|chain| (0..chain.rules.len()).map(|index| (chain.family, chain.table.clone(), chain.name.clone(), index)))
        .collect();
    for (family, table, name, index) in places {
        let state = observe(&mut ruleset);
        let chain = state.chains.iter().find(|one| (one.family, &one.table, &one.name) == (family, &table, &name)).unwrap();
        let rule = &chain.rules[index];
        let next = chain.rules.get(index + 1).map(|next| next.handle);
        let step = rule_step(chain, next, Some(rule), None);
        let owns = |expression: &Expression| match expression {
            Expression::Lookup { set, .. } => set.starts_with("__"),
            Expression::Verdict(Verdict::Jump(chain)) => chain.starts_with("__"),
            // `tcp option maxseg size set` and `osf name`: the kernel dumps them with flags that it does not accept.
            Expression::Opaque { name, dreg } => name == "osf" || (name == "exthdr" && dreg.is_none()),
            _ => false,
        };
        if name.starts_with("__chain") || rule.expressions.iter().any(owns) {
            let before = listing();
            assert!(matches!(ruleset.apply(&step), Err(StepError::Failed(_))), "{rule:?}");
            assert_eq!(listing(), before);
            refused += 1;
        } else {
            there_and_back(&mut ruleset, &step);
            deleted += 1;
        }
    }
    assert!(deleted >= at_least && refused == kept, "deleted {deleted}, refused {refused}");
}

#[test]
fn every_kind_of_nft_rule_is_deleted_and_put_back() {
    in_namespace(|| {
        rulesets::load_nft();
        delete_and_undo_every_rule(60, 6);
    });
}

#[test]
fn every_kind_of_iptables_rule_is_deleted_and_put_back() {
    in_namespace(|| {
        rulesets::load_iptables();
        delete_and_undo_every_rule(50, 0);
    });
}
