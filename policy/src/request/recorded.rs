//! What of a request goes on record, and how much of it may: reasons, names and keywords are people's words and bounded together; proofs
//! and values are in no record. Must not decide who may ask.

use thiserror::Error;

use crate::access_proof::AccessProof;
use crate::request::audit::Filter;
use crate::request::{Decision, Intent, Mode, Operation, Query, Records, Request};

/// The most bytes of reason, ids, names and keywords of one request together.
pub const MAX_WORDS: usize = 1024;

/// More words than a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("its reason, ids, names and keywords have {0} bytes together; at most {MAX_WORDS} are taken")]
pub struct TooManyWords(usize);

/// Whether the words of a request are few enough.
pub fn check(request: &Request) -> Result<(), TooManyWords> {
    let words = words(request);
    if words <= MAX_WORDS { Ok(()) } else { Err(TooManyWords(words)) }
}

fn words(request: &Request) -> usize {
    let text = |word: &Option<String>| word.as_ref().map_or(0, String::len);
    let plan = match &request.mode {
        Mode::Apply { plan, .. } => text(plan),
        Mode::DryRun => 0,
    };
    text(&request.principal) + text(&request.reason) + text(&request.from_user) + plan + words_of(&request.operation)
}

fn words_of(operation: &Operation) -> usize {
    let text = |word: &Option<String>| word.as_ref().map_or(0, String::len);
    match operation {
        Operation::Query(Query::Diagnose { user, .. }) | Operation::Intent(Intent::Fix { user, .. }) => text(user),
        Operation::Intent(
            Intent::Unban { jail, .. } | Intent::Fail2banIgnore { jail, .. } | Intent::Fail2banUnignore { jail, .. },
        ) => text(jail),
        Operation::Intent(Intent::Ban { jail, .. }) => jail.len(),
        Operation::Intent(
            Intent::HostsAllow { daemon, .. } | Intent::HostsDeny { daemon, .. } | Intent::HostsRemove { daemon, .. },
        ) => text(daemon),
        Operation::Intent(Intent::FirewallRemove { reference }) => reference.len(),
        // Each word costs a little more than its letters.
        Operation::Query(Query::SshdShow { keywords, user, .. }) => {
            keywords.iter().map(|word| word.len() + 3).sum::<usize>() + text(user)
        }
        Operation::Intent(Intent::SshdSet { keyword, criteria, .. } | Intent::SshdUnset { keyword, criteria }) => {
            keyword.len() + text(criteria)
        }
        Operation::Intent(Intent::Revoke { id })
        | Operation::Decision(Decision::Confirm { id, .. } | Decision::Rollback { id, .. }) => id.len(),
        Operation::Records(Records::Changes { id }) => text(id),
        Operation::Records(Records::AuditShow { filter: Filter { principal, change, .. } }) => text(principal) + text(change),
        Operation::Query(
            Query::Banned { .. }
            | Query::HostsList
            | Query::FirewallList
            | Query::FirewallWho { .. }
            | Query::Fail2banJails
            | Query::SshdCheck
            | Query::Status,
        )
        | Operation::Intent(Intent::FirewallAccept { .. } | Intent::SshdReload | Intent::SshdRestart | Intent::Allow { .. })
        | Operation::Records(Records::Leases | Records::AuditVerify { .. } | Records::AuditCheckpoint) => 0,
    }
}

/// The operation as it goes on record: without the proof of a confirm, the values of a keyword, and what a checkpoint says.
#[must_use]
pub fn operation(asked: &Operation) -> Operation {
    match asked {
        Operation::Decision(Decision::Confirm { id, .. }) => {
            Operation::Decision(Decision::Confirm { id: id.clone(), proof: Some(Box::new(AccessProof::withheld())) })
        }
        Operation::Intent(Intent::SshdSet { keyword, criteria, .. }) => {
            Operation::Intent(Intent::SshdSet { keyword: keyword.clone(), values: Vec::new(), criteria: criteria.clone() })
        }
        Operation::Records(Records::AuditVerify { .. }) => Operation::Records(Records::AuditVerify { checkpoint: None }),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(operation: Operation, reason: usize) -> Request {
        Request {
            protocol: 1,
            host: String::new(),
            id: String::new(),
            challenge: String::new(),
            valid_for: 1,
            principal: None,
            operation,
            mode: Mode::DryRun,
            reason: Some("x".repeat(reason)),
            from: None,
            from_user: None,
        }
    }

    #[test]
    fn the_words_of_a_request_are_bounded_together() {
        let revoke = |id: usize| Operation::Intent(Intent::Revoke { id: "y".repeat(id) });
        assert_eq!(check(&request(revoke(24), 1000)), Ok(()));
        assert_eq!(check(&request(revoke(25), 1000)), Err(TooManyWords(1025)));
        let keywords =
            Operation::Query(Query::SshdShow { keywords: vec!["a".to_owned(); 300], user: None, address: None, port: None });
        assert!(check(&request(keywords, 0)).is_err(), "many short ones");
        // Values are no words: a list of ciphers is long.
        let ciphers =
            Operation::Intent(Intent::SshdSet { keyword: "Ciphers".to_owned(), values: vec!["z".repeat(4000)], criteria: None });
        assert_eq!(check(&request(ciphers, 100)), Ok(()));
    }

    #[test]
    fn no_proof_and_no_value_goes_on_record_and_what_does_reads_back() {
        let set = Operation::Intent(Intent::SshdSet {
            keyword: "Banner".to_owned(),
            values: vec!["secret".to_owned()],
            criteria: None,
        });
        let json = serde_json::to_string(&operation(&set)).unwrap();
        assert!(!json.contains("secret"), "{json}");
        let confirm =
            Operation::Decision(Decision::Confirm { id: "ab".to_owned(), proof: Some(Box::new(AccessProof::withheld())) });
        let json = serde_json::to_string(&operation(&confirm)).unwrap();
        assert_eq!(json, r#"{"confirm":{"id":"ab"}}"#);
        assert_eq!(serde_json::from_str::<Operation>(&json).unwrap(), confirm);
    }
}
