//! What of a request goes on record, and how much of it may: reasons, names and keywords are people's words and bounded together; proofs
//! and values are in no record. Must not decide who may ask.

use thiserror::Error;

use crate::access_proof::AccessProof;
use crate::request::audit::Filter;
use crate::request::{Mode, Operation, Request};

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
        Operation::Diagnose { user, .. } | Operation::Fix { user, .. } => text(user),
        Operation::Unban { jail, .. } | Operation::Fail2banIgnore { jail, .. } | Operation::Fail2banUnignore { jail, .. } => {
            text(jail)
        }
        Operation::Ban { jail, .. } => jail.len(),
        Operation::HostsAllow { daemon, .. } | Operation::HostsDeny { daemon, .. } | Operation::HostsRemove { daemon, .. } => {
            text(daemon)
        }
        Operation::FirewallRemove { reference } => reference.len(),
        // Each word costs a little more than its letters.
        Operation::SshdShow { keywords, user, .. } => keywords.iter().map(|word| word.len() + 3).sum::<usize>() + text(user),
        Operation::SshdSet { keyword, criteria, .. } | Operation::SshdUnset { keyword, criteria } => {
            keyword.len() + text(criteria)
        }
        Operation::Revoke { id } | Operation::Confirm { id, .. } | Operation::Rollback { id, .. } => id.len(),
        Operation::Changes { id } => text(id),
        Operation::AuditShow { filter: Filter { principal, change, .. } } => text(principal) + text(change),
        Operation::Banned { .. }
        | Operation::HostsList
        | Operation::FirewallList
        | Operation::FirewallWho { .. }
        | Operation::FirewallAccept { .. }
        | Operation::Fail2banJails
        | Operation::SshdCheck
        | Operation::SshdReload
        | Operation::SshdRestart
        | Operation::Allow { .. }
        | Operation::Leases
        | Operation::AuditVerify { .. }
        | Operation::AuditCheckpoint
        | Operation::Status => 0,
    }
}

/// The operation as it goes on record: without the proof of a confirm, the values of a keyword, and what a checkpoint says.
#[must_use]
pub fn operation(asked: &Operation) -> Operation {
    match asked {
        Operation::Confirm { id, .. } => Operation::Confirm { id: id.clone(), proof: Some(Box::new(AccessProof::withheld())) },
        Operation::SshdSet { keyword, criteria, .. } => {
            Operation::SshdSet { keyword: keyword.clone(), values: Vec::new(), criteria: criteria.clone() }
        }
        Operation::AuditVerify { .. } => Operation::AuditVerify { checkpoint: None },
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
        let revoke = |id: usize| Operation::Revoke { id: "y".repeat(id) };
        assert_eq!(check(&request(revoke(24), 1000)), Ok(()));
        assert_eq!(check(&request(revoke(25), 1000)), Err(TooManyWords(1025)));
        let keywords = Operation::SshdShow { keywords: vec!["a".to_owned(); 300], user: None, address: None, port: None };
        assert!(check(&request(keywords, 0)).is_err(), "many short ones");
        // Values are no words: a list of ciphers is long.
        let ciphers = Operation::SshdSet { keyword: "Ciphers".to_owned(), values: vec!["z".repeat(4000)], criteria: None };
        assert_eq!(check(&request(ciphers, 100)), Ok(()));
    }

    #[test]
    fn no_proof_and_no_value_goes_on_record_and_what_does_reads_back() {
        let set = Operation::SshdSet { keyword: "Banner".to_owned(), values: vec!["secret".to_owned()], criteria: None };
        let json = serde_json::to_string(&operation(&set)).unwrap();
        assert!(!json.contains("secret"), "{json}");
        let confirm = Operation::Confirm { id: "ab".to_owned(), proof: Some(Box::new(AccessProof::withheld())) };
        let json = serde_json::to_string(&operation(&confirm)).unwrap();
        assert_eq!(json, r#"{"confirm":{"id":"ab"}}"#);
        assert_eq!(serde_json::from_str::<Operation>(&json).unwrap(), confirm);
    }
}
