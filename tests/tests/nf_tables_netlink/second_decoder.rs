//! A second, independent decoder reads the same ruleset and agrees.

use super::agreement::agreement;
use super::*;

#[test]
fn a_second_decoder_agrees_on_tables_chains_rules_and_expressions() {
    in_namespace(|| {
        rulesets::load_nft();
        rulesets::load_iptables();
        let compared = agreement(&observe(&mut Ruleset::new()));
        assert!(compared > 300, "{compared}");
    });
}
