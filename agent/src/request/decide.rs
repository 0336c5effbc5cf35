//! What a person decides about a change: keep it (`confirm`) or take it back (`rollback`), and what keeps the next change waiting.
//! A confirm counts only from who made the change, in time, over a connection made after it, and with a proof that the SSH port
//! still answers. Must not plan or apply anything.

use sshfix_policy::access_proof::{self, AccessProof};
use sshfix_policy::plan::goal::Goal;
use sshfix_policy::reply::{Body, Change, ChangeBrief, ChangeSchema, ChangeState, ErrorCode, ErrorDocument, Guarded, Names};
use sshfix_policy::request::authorize::AuthorizedRequest;
use sshfix_policy::text::quoted::Text;

use crate::agent::Agent;
use crate::change;
use crate::change::{kept, lease};
use crate::host::live::LiveHost;
use crate::request::refusal::{Refusal, not_stored};
use crate::request::report;
use crate::request::serve::Challenge;
use crate::store::{ChangeRecord, ChangeStage, StoreError};
use crate::subsystem::sshd;
use crate::sys::clock::Moment;

/// Keeps a pending change. Every reason against it is said: whoever asks is known and may ask. Without a proof it says whether only
/// that is missing, so that nobody makes a key exchange for a change that cannot be confirmed.
pub(crate) fn confirm(
    agent: &Agent,
    challenge: &Challenge,
    authorized: &AuthorizedRequest,
    id: &str,
    proof: Option<&AccessProof>,
) -> Result<Body, Refusal> {
    let now = Moment::now();
    let change = one(agent, id)?;
    let refused = |why: String| Refusal::from(not_confirmed(&change, &now, &why));
    mine(&change, authorized).map_err(refused)?;
    if change.stage != ChangeStage::Pending {
        return Err(refused(format!("it is {} and does not wait for a confirm", change.stage)));
    }
    if let Some(why) = change::overdue(&change, &now) {
        return Err(refused(why.to_owned()));
    }
    // Who was connected before could be let in by a state that is gone.
    if change.pending_since_boot.is_none_or(|pending| challenge.since_boot <= pending) {
        return Err(refused("this connection was made before the change was applied; connect again".to_owned()));
    }
    let Some(proof) = proof else { return Err(proof_needed(&change, &now).into()) };
    let cookie = access_proof::cookie(id, challenge.value.bytes());
    let keys =
        sshd::host_keys(agent.config.ssh_port).map_err(|why| refused(format!("the host keys of sshd are not known: {why}")))?;
    let proven = access_proof::verify(proof, &cookie, &keys)
        .map_err(|why| refused(format!("the proof of access does not hold: {why}")))?;
    let detail = format!("confirmed by {}; {proven}", authorized.signer().principal());
    match agent.store.change_state(id, ChangeStage::Confirmed, &detail) {
        Ok(()) => {
            lease::revoked(agent, Goal::of(&change.operation, agent.config.ssh_port).ended_lease(), &[]);
            kept::forget(change.steps.iter().map(|record| &record.step));
        }
        // Its deadline came in this very moment.
        Err(StoreError::Transition { from, .. }) => return Err(refused(format!("it is {from} by now"))),
        Err(error) => return Err(not_stored(&error)),
    }
    Ok(Body::Change(document(&change, ChangeState::Confirmed, true, Vec::new())))
}

/// Takes a pending or stuck change back at once; with `abandon`, leaves a stuck one to the person who asks.
pub(crate) fn roll_back(
    agent: &Agent,
    host: &mut LiveHost,
    authorized: &AuthorizedRequest,
    id: &str,
    abandon: bool,
) -> Result<Body, Refusal> {
    let now = Moment::now();
    let change = one(agent, id)?;
    mine(&change, authorized).map_err(|why| Refusal::from(not_rolled_back(&change, &why)))?;
    let principal = authorized.signer().principal();
    match (change.stage, abandon) {
        (ChangeStage::Stuck, true) => {
            let detail = format!("left to {principal}: {}", change.detail);
            agent.store.change_state(id, ChangeStage::Abandoned, &detail).map_err(|error| not_stored(&error))?;
            kept::forget(change.steps.iter().map(|record| &record.step));
            let notes = vec![format!("sshfix does nothing more about it. To do by hand: {}", change.detail)];
            Ok(Body::Change(document(&change, ChangeState::Abandoned, true, notes)))
        }
        (ChangeStage::Stuck | ChangeStage::Pending, false) => {
            let why = format!("rolled back by {principal}");
            let taken = change::take_back(host, &agent.store, change.clone(), &why, &now);
            let state = if taken.stuck.is_empty() { ChangeState::RolledBack } else { ChangeState::Stuck };
            let notes = taken.notes.into_iter().chain(taken.stuck).collect();
            let besides = taken.besides;
            Ok(Body::Change(Change { besides, ..document(&change, state, state == ChangeState::Stuck, notes) }))
        }
        (ChangeStage::Begun | ChangeStage::Applying | ChangeStage::Verified | ChangeStage::RollingBack, false) => {
            let recovered = change::recover(host, &agent.store, &now).map_err(|error| not_stored(&error))?;
            let besides = recovered.iter().any(|one| one.id == id && one.taken.besides);
            let after = one(agent, id)?;
            let state = if after.stage == ChangeStage::Stuck { ChangeState::Stuck } else { ChangeState::RolledBack };
            Ok(Body::Change(Change { besides, ..document(&change, state, state == ChangeState::Stuck, vec![after.detail]) }))
        }
        (_, true) => Err(not_rolled_back(&change, "only a stuck change can be abandoned").into()),
        (ChangeStage::Confirmed | ChangeStage::RolledBack | ChangeStage::Abandoned, false) => {
            Err(not_rolled_back(&change, "it has ended already").into())
        }
    }
}

/// The change that keeps the next one waiting, as an error: the stuck one, or the one that waits for its confirm. What was
/// interrupted is recovered, and what is stuck is tried once more, before anybody is turned away.
pub(crate) fn in_the_way(agent: &Agent, host: &mut LiveHost) -> Result<(), Refusal> {
    let now = Moment::now();
    let recovered = change::recover(host, &agent.store, &now).map_err(|error| not_stored(&error))?;
    for line in &recovered {
        tracing::warn!("{line}");
    }
    if let Some(stuck) = change::retry_stuck(host, &agent.store, &now).map_err(|error| not_stored(&error))?.first() {
        return Err(waiting(stuck, &now).into());
    }
    match agent.store.unfinished_changes().map_err(|error| not_stored(&error))?.first() {
        Some(pending) => Err(waiting(pending, &now).into()),
        None => Ok(()),
    }
}

/// `busy` or `stuck`, naming the change that is in the way.
pub(crate) fn waiting(change: &ChangeRecord, now: &Moment) -> ErrorDocument {
    let brief = report::brief(change, now);
    let ChangeBrief { id, principal, seconds_left, detail, .. } = &brief;
    let mut document = if change.stage == ChangeStage::Stuck {
        let mut stuck = ErrorDocument::new(
            ErrorCode::Stuck,
            Text::from(format!(
                "change {id} of {principal} is stuck, and no other change is made until it is rolled back or abandoned: "
            )) + detail.clone(),
            format!(
                "follow its advice, then `sshfix ctl rollback {id}`; or `sshfix ctl rollback {id} --abandon` leaves it as it is"
            ),
        );
        stuck.guarded = Some(Box::new(Guarded {
            names: Names::ChangeOf(principal.clone()),
            message: format!(
                "change {id} of {principal} is stuck, and no other change is made until it is rolled back or abandoned"
            ),
            advice: format!("ask {principal}, or root of this host"),
        }));
        stuck
    } else {
        let left = seconds_left.map_or(String::new(), |left| format!(" and ends by itself in {left} s"));
        ErrorDocument::new(
            ErrorCode::Busy,
            format!("change {id} of {principal} is {}{left}; nothing was changed", change.stage),
            format!("`sshfix ctl confirm {id}` keeps it, `sshfix ctl rollback {id}` rolls it back; then retry"),
        )
    };
    document.change = Some(Box::new(brief));
    document
}

fn one(agent: &Agent, id: &str) -> Result<ChangeRecord, Refusal> {
    agent.store.change(id).map_err(|error| match error {
        StoreError::Missing { .. } => Refusal::from(ErrorDocument::new(
            ErrorCode::Failed,
            format!("there is no change {id}; nothing was changed"),
            "`sshfix ctl changes` lists them",
        )),
        error => not_stored(&error),
    })
}

/// Whether who asks made the change, or may decide about those of others.
fn mine(change: &ChangeRecord, authorized: &AuthorizedRequest) -> Result<(), String> {
    let principal = authorized.signer().principal();
    if change.principal == principal || authorized.others() {
        return Ok(());
    }
    Err(format!("it belongs to {}, and no grant in policy.toml permits {principal} to decide about it", change.principal))
}

fn not_confirmed(change: &ChangeRecord, now: &Moment, why: &str) -> ErrorDocument {
    let brief = report::brief(change, now);
    let left = brief.seconds_left.filter(|_| change.stage == ChangeStage::Pending);
    let still = left.map_or(String::new(), |left| format!(" It waits {left} s more, then it is rolled back."));
    let mut document = ErrorDocument::new(
        ErrorCode::NotConfirmed,
        format!("change {} was not confirmed: {why}.{still}", change.id),
        format!("its requester confirms it with `sshfix ctl confirm {}`, which makes the new connections itself", change.id),
    );
    document.change = Some(Box::new(brief));
    document
}

fn proof_needed(change: &ChangeRecord, now: &Moment) -> ErrorDocument {
    let mut document = ErrorDocument::new(
        ErrorCode::ProofNeeded,
        format!("change {} can be confirmed, with a proof that the SSH port answers; it was not confirmed yet", change.id),
        format!("`sshfix ctl confirm {}` makes the proof itself", change.id),
    );
    document.change = Some(Box::new(report::brief(change, now)));
    document
}

fn not_rolled_back(change: &ChangeRecord, why: &str) -> ErrorDocument {
    ErrorDocument::new(
        ErrorCode::Failed,
        format!("change {} is {} and was not rolled back: {why}; nothing was changed", change.id, change.stage),
        "`sshfix ctl changes` shows what became of each",
    )
}

fn document(change: &ChangeRecord, state: ChangeState, changed: bool, notes: Vec<String>) -> Change {
    let notes = notes.into_iter().map(|note| change::said(report::is_of_sshd(change), note)).collect();
    let plan = Box::new(report::plan_of(change));
    let id = change.id.clone();
    Change {
        schema: ChangeSchema::V1,
        id,
        state,
        changed,
        deadline: None,
        plan,
        failure: None,
        besides: false,
        verdict: None,
        stages: Vec::new(),
        notes,
    }
}
