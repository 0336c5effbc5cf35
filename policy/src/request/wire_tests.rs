//! Requests as they stand on the wire and in records, to the byte: whatever becomes of the types, an older client and an older record mean the
//! same. Each line of `wire_tests.txt` is an action, the digest of a plan without steps where it has one, and the request.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use super::{Intent, Operation, Request};
use crate::plan::Plan;
use crate::plan::goal::Goal;
use crate::reply::Confirm;

#[test]
fn every_request_of_before_reads_and_writes_as_it_did() {
    let mut found = String::new();
    for line in include_str!("wire_tests.txt").lines() {
        let json = line.rsplit('\t').next().unwrap();
        let request: Request = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        let digest = match &request.operation {
            Operation::Intent(intent) => empty(intent.clone()).digest(),
            Operation::Query(_) | Operation::Decision(_) | Operation::Records(_) => "-".to_owned(),
        };
        let again = serde_json::to_string(&request).unwrap();
        writeln!(found, "{}\t{digest}\t{again}", request.operation.action()).unwrap();
    }
    assert_eq!(found, include_str!("wire_tests.txt"));
}

fn empty(intent: Intent) -> Plan {
    Plan {
        goal: Goal::of(&intent, 22),
        intent,
        steps: Vec::new(),
        opens: Vec::new(),
        closes: Vec::new(),
        confirm: Confirm::NotNeeded,
        lease: None,
        alternatives: Vec::new(),
        notes: Vec::new(),
    }
}

#[test]
fn a_field_or_an_operation_that_is_not_known_is_refused() {
    for wrong in [
        r#"{"diagnose":{"address":"203.0.113.7","more":1}}"#,
        r#"{"diagnose":{}}"#,
        r#"{"diagnos":{"address":"203.0.113.7"}}"#,
        r#""unban""#,
        r#"{"unban":{"source":"203.0.113.7"},"ban":{"source":"203.0.113.7","jail":"sshd"}}"#,
        "null",
        "{}",
    ] {
        assert!(serde_json::from_str::<Operation>(wrong).is_err(), "{wrong}");
    }
}
