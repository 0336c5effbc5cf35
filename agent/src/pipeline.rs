//! One request from bytes to reply, read top to bottom: authenticate, authorize, observe, plan, prove, apply, verify, audit.
//! Each stage takes the type that only the stage before can make. Must not hold rules of its own: those are in `policy`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sshfix_policy::address::{self, Source};
use sshfix_policy::allowed_signers::AllowedSigners;
use sshfix_policy::authenticate::{self, AuthenticateError, AuthenticatedRequest};
use sshfix_policy::authorize::{self, AuthorizedRequest};
use sshfix_policy::host::{AccessPath, Host, HostState, Needs, Part, PathOrigin, Question};
use sshfix_policy::left::{self, Left};
use sshfix_policy::lockout::{self, SafePlan};
use sshfix_policy::plan;
use sshfix_policy::recorded as on_record;
use sshfix_policy::reply::{
    Body, Change, ChangeSchema, ChangeState, Confirm, ErrorCode, ErrorDocument, Reply, Subject, redacted,
};
use sshfix_policy::request::{Mode, Operation, Request};
use sshfix_policy::subsystem::{fail2ban, hosts_access, listener, sshd};
use sshfix_policy::wire::SignedRequest;
use sshfix_policy::{diagnose, verify};

use crate::audit::{self, AuditClosing, AuditError, AuditOpening, Auditor, Outcome};
use crate::change::{self, Settled};
use crate::config::Config;
use crate::identity::{Identity, IdentityError};
use crate::lease;
use crate::live::LiveHost;
use crate::observe::{observed, observed_with};
use crate::patience::{self, Patience};
use crate::places::{self, Lines};
use crate::refusal::{
    NoSafePlan, Refusal, failed, late, no_client, not_shown, not_stored, out_of_bounds, plan_changed, refused, refused_plan,
    too_many, too_many_words, unaudited,
};
use crate::report::{self, own_addresses};
use crate::serve::{Admission, Answer, Challenge, Peer};
use crate::store::{NewChange, NewLease, Store, StoreError};
use crate::sys::clock::Moment;
use crate::turns::{Held, InTurns, Line, Turn};
use crate::{config, decision, random};

/// Everything a request needs of the agent.
pub struct Agent {
    /// agent.toml.
    pub config: Arc<Config>,
    /// The key that signs replies; its fingerprint is the host identity.
    pub identity: Identity,
    /// Requests seen, audit records, journal, leases.
    pub store: Store,
    /// Keeps the audit records.
    pub auditor: Auditor,
    /// The host, to change it. Whoever has the turn is the one writer.
    pub host: InTurns<LiveHost>,
    /// The host, to look at it: questions never keep a change, nor its rollback, waiting.
    pub reader: InTurns<LiveHost>,
    /// Where requests wait that need no host.
    pub lines: Lines,
}

impl Agent {
    /// One that has done nothing yet.
    pub fn new(config: Arc<Config>, identity: Identity, store: Store) -> Self {
        let host = || {
            let host = LiveHost::new(Arc::clone(&config));
            let pulse = host.pulse();
            InTurns::new(host, config.limits.requests, pulse)
        };
        let (host, reader, lines) = (host(), host(), Lines::new(&config.limits));
        Self { config, identity, store, auditor: Auditor::default(), host, reader, lines }
    }
}

/// A request that may be served, on its way to its turn.
pub struct Asked {
    peer: Peer,
    challenge: Challenge,
    authorized: AuthorizedRequest,
    on_record: bool,
}

/// How often a change is planned again because others changed the host meanwhile.
const MAX_PLANS: usize = 5;
/// Debug builds only, for the lab: while this file is there, plans are made without the proof.
#[cfg(debug_assertions)]
const WITHOUT_PROOF: &str = "/run/sshfix/without-proof";

impl Answer for Agent {
    type Request = Asked;

    fn admissions(&self) -> &Arc<Line> {
        &self.lines.admissions
    }

    fn hello(&self, challenge: &Challenge) -> Vec<u8> {
        self.identity.hello(challenge.value, self.config.ssh_port).unwrap_or_else(|error| unanswered(&error))
    }

    fn admit(&self, peer: &Peer, challenge: &Challenge, frame: &[u8]) -> Admission<Asked> {
        match admit(self, peer, challenge, frame) {
            Ok(asked) => {
                let place = places::place(self, peer, &asked.authorized);
                Admission::Admitted(asked, place)
            }
            Err(over) => Admission::Reply(reply(self, challenge, over.0, over.1)),
        }
    }

    fn work(&self, asked: Asked, turn: Option<Turn>, patience: &Patience) -> Vec<u8> {
        // Nobody waits for it any more: it costs nothing, and there is nothing to record.
        if patience.is_gone() {
            return Vec::new();
        }
        let started = Instant::now();
        let body = answer(self, &asked, turn.as_ref());
        // The next one need not wait for the signature.
        drop(turn);
        let reply = reply(self, &asked.challenge, asked.authorized.request().id.clone(), body);
        // Read by tests/benches/diagnose.rs.
        tracing::debug!(uid = asked.peer.uid, pid = asked.peer.pid, "request answered in {} µs", started.elapsed().as_micros());
        reply
    }

    fn error(&self, challenge: &Challenge, error: ErrorDocument) -> Vec<u8> {
        reply(self, challenge, String::new(), Body::Error(error))
    }
}

/// Signs a reply and frames it.
fn reply(agent: &Agent, challenge: &Challenge, request: String, body: Body) -> Vec<u8> {
    let host = agent.identity.fingerprint().to_owned();
    let reply = Reply { request, challenge: challenge.text(), host, body };
    agent.identity.sign_reply(&reply).unwrap_or_else(|error| unanswered(&error))
}

/// No bytes: the connection is closed without a reply.
fn unanswered(error: &IdentityError) -> Vec<u8> {
    tracing::error!("a message could not be signed; the connection is closed without it: {error}");
    Vec::new()
}

/// From the bytes to a request that may be served. The error is the reply, with the id of the request where it is known.
fn admit(agent: &Agent, peer: &Peer, challenge: &Challenge, frame: &[u8]) -> Result<Asked, Box<(String, Body)>> {
    let authenticated = SignedRequest::decode(frame)
        .map_err(|error| Refusal::Refused(error.to_string()))
        .and_then(|signed| authenticate(agent, challenge, &signed));
    let id = authenticated.as_ref().map_or_else(|_| String::new(), |authenticated| authenticated.request().id.clone());
    let opening = opening(peer, authenticated.as_ref().ok());
    let on_record = authenticated.as_ref().map_or(true, |authenticated| has_record(agent, peer, authenticated));
    let authorized = authenticated
        .and_then(|authenticated| fits(authenticated, on_record))
        .and_then(|authenticated| is_new(agent, authenticated))
        .and_then(|authenticated| authorize(agent, authenticated));
    match authorized {
        Ok(authorized) => Ok(Asked { peer: *peer, challenge: *challenge, authorized, on_record }),
        Err(Refusal::Refused(_)) if !agent.auditor.refusals.has_own_record(peer.uid, Instant::now()) => {
            Err(Box::new((id, Body::Error(refused()))))
        }
        Err(refusal) if !on_record => Err(Box::new((id, said(peer, Err(refusal)).0))),
        Err(refusal) => Err(Box::new((id, recorded(agent, peer, &opening, &|| Err(refusal.clone()))))),
    }
}

/// Serves it, with a record of it.
fn answer(agent: &Agent, asked: &Asked, turn: Option<&Turn>) -> Body {
    let Asked { peer, challenge, authorized, on_record } = asked;
    let record = if *on_record { recorded } else { counted };
    let body = record(agent, peer, &opening(peer, Some(authorized.signer())), &|| {
        let body = serve(agent, challenge, authorized, turn)?;
        // An answer without all that was to be read for it would be no answer.
        patience::current().filter(Patience::was_cut).map_or(Ok(body), |patience| Err(late(&patience)))
    });
    // The one place where a reply becomes what its signer may see; the record keeps all of it.
    redacted(body, &authorized.scope().clone().on(own_addresses()))
}

fn opening(peer: &Peer, authenticated: Option<&AuthenticatedRequest>) -> AuditOpening {
    // What is too long for a record is refused for it.
    let request = authenticated.map(AuthenticatedRequest::request).filter(|request| on_record::check(request).is_ok());
    AuditOpening {
        principal: authenticated.map(|authenticated| authenticated.principal().to_owned()),
        key: authenticated.map(AuthenticatedRequest::fingerprint),
        peer_uid: peer.uid,
        peer_pid: peer.pid,
        from: request.and_then(|request| request.from),
        request: request.map(|request| request.id.clone()),
        operation: request.map(|request| on_record::operation(&request.operation)),
        mode: request.map(|request| request.mode.clone()),
        reason: request.and_then(|request| request.reason.clone()),
        of_itself: None,
    }
}

/// Does something with a record that is opened before and closed after. Without a record little is done.
fn recorded(agent: &Agent, peer: &Peer, opening: &AuditOpening, work: &dyn Fn() -> Result<Body, Refusal>) -> Body {
    let sequence = match agent.auditor.open(&agent.store, opening) {
        Ok(sequence) => Some(sequence),
        // A disk that is full keeps nobody from asking why, nor from rolling back.
        Err(error) if opening.operation.as_ref().is_some_and(needs_no_record) => {
            agent.auditor.unrecorded(opening, &error);
            None
        }
        Err(error) => {
            tracing::error!("the audit record could not be opened; the request was refused: {error}");
            return Body::Error(unaudited(&error));
        }
    };
    let (body, closing) = said(peer, work());
    if let Some(sequence) = sequence {
        agent.auditor.close(&agent.store, &agent.identity, opening, sequence, closing);
    }
    body
}

/// Does something of which there is no record, because this signer has had too many: only what came of a change gets one, afterwards.
fn counted(agent: &Agent, peer: &Peer, opening: &AuditOpening, work: &dyn Fn() -> Result<Body, Refusal>) -> Body {
    let (body, closing) = said(peer, work());
    if matches!(&body, Body::Change(_)) {
        match agent.auditor.open(&agent.store, opening) {
            Ok(sequence) => agent.auditor.close(&agent.store, &agent.identity, opening, sequence, closing),
            Err(error) => tracing::error!("a decision about a change could not be recorded; it counts all the same: {error}"),
        }
    }
    body
}

/// What the peer hears, and what the record says.
fn said(peer: &Peer, answer: Result<Body, Refusal>) -> (Body, AuditClosing) {
    match answer {
        Ok(body) => {
            let closing = report::closing(&body);
            (body, closing)
        }
        Err(Refusal::Refused(reason)) => {
            tracing::warn!(uid = peer.uid, pid = peer.pid, "request refused: {reason}");
            (Body::Error(refused()), AuditClosing { outcome: Outcome::Refused, detail: reason, plan: None, change: None })
        }
        Err(Refusal::Error(document)) => {
            let body = Body::Error(document);
            let closing = report::closing(&body);
            (body, closing)
        }
    }
}

/// What is answered although its audit record cannot be written: it changes nothing, or puts back what was.
fn needs_no_record(operation: &Operation) -> bool {
    matches!(operation, Operation::Status | Operation::Changes { .. } | Operation::Rollback { abandon: false, .. })
}

fn authenticate(agent: &Agent, challenge: &Challenge, signed: &SignedRequest) -> Result<AuthenticatedRequest, Refusal> {
    let refuse = Refusal::Refused;
    let text = config::read_trusted(&agent.config.paths.allowed_signers).map_err(|error| refuse(error.to_string()))?;
    // A line that cannot be read allows nobody; `sshfix-agent check` shows it.
    let signers = AllowedSigners::parse(&text, &jiff::tz::TimeZone::system());
    let now = Timestamp::now();
    let context = authenticate::Context {
        host: agent.identity.fingerprint(),
        challenge: &challenge.value,
        age: challenge.given.elapsed(),
        now,
    };
    authenticate::authenticate(signed, &signers, &context).map_err(|error: AuthenticateError| refuse(error.to_string()))
}

/// Whether a request of this signer gets a record. Root may write what it wants on this host.
fn has_record(agent: &Agent, peer: &Peer, authenticated: &AuthenticatedRequest) -> bool {
    peer.is_root() || agent.auditor.rates.has_record(&places::signer(authenticated), Instant::now())
}

/// A request that fits into a record, or is answered without one.
fn fits(authenticated: AuthenticatedRequest, on_record: bool) -> Result<AuthenticatedRequest, Refusal> {
    let request = authenticated.request();
    on_record::check(request).map_err(too_many_words)?;
    let at_any_rate = matches!(request.operation, Operation::Confirm { .. } | Operation::Rollback { .. } | Operation::Status);
    if on_record || at_any_rate { Ok(authenticated) } else { Err(too_many()) }
}

/// A request that was not made before.
fn is_new(agent: &Agent, authenticated: AuthenticatedRequest) -> Result<AuthenticatedRequest, Refusal> {
    let now = Timestamp::now();
    let Request { id, operation, mode, .. } = authenticated.request();
    let purpose = audit::purpose(operation, mode);
    if agent.store.remember_request(purpose, id, now, now + 2 * authenticate::MAX_CHALLENGE_AGE) {
        Ok(authenticated)
    } else {
        Err(Refusal::Refused(format!("request id {id} was used before")))
    }
}

fn authorize(agent: &Agent, authenticated: AuthenticatedRequest) -> Result<AuthorizedRequest, Refusal> {
    let grants = config::grants(&agent.config.paths.policy).map_err(Refusal::Refused)?;
    authorize::authorize(authenticated, &grants, agent.config.ssh_port).map_err(|error| Refusal::Refused(error.to_string()))
}

/// Observe, then answer or plan, prove, apply and verify.
fn serve(agent: &Agent, challenge: &Challenge, authorized: &AuthorizedRequest, turn: Option<&Turn>) -> Result<Body, Refusal> {
    let request = authorized.request();
    // What does not look at the host does not wait for it.
    if let Some(answer) = about_the_records(agent, &request.operation) {
        return answer;
    }
    if let Operation::Diagnose { address, .. } | Operation::Fix { address, .. } = &request.operation {
        address::of_a_client(*address).map_err(|error| no_client(&error))?;
    }
    let port = request.operation.port().unwrap_or(agent.config.ssh_port);
    let question = question(agent, request, port).map_err(|error| failed(&error))?;
    // Only the record: it never waits for the host.
    match &request.operation {
        Operation::Confirm { id, proof } => return decision::confirm(agent, challenge, authorized, id, proof.as_deref()),
        Operation::Changes { id } => {
            return Ok(Body::Changes(report::changes(agent, id.as_deref()).map_err(|e| not_stored(&e))?));
        }
        _ => {}
    }
    // Its turn is at the one or the other (`places`).
    let held = turn.and_then(|turn| agent.host.held(turn).or_else(|| agent.reader.held(turn)));
    let Some(mut held) = held else {
        return match request.operation {
            Operation::Status => Ok(Body::Status(report::status(agent, &places::unread_host()))),
            _ => Err(failed(&"the request had no turn at the host")),
        };
    };
    let host = &mut *held;
    match &request.operation {
        Operation::Diagnose { address, user, explain, .. } => {
            let subject = Subject { address: address::canonical(*address), user: user.clone(), port };
            if *explain {
                // The trace shows them.
                host.forget_counters();
            }
            let first = diagnose::first_needs(&subject);
            let answer = |state: &HostState, needs: &mut Needs| diagnose::diagnose(state, &subject, *explain, needs);
            Ok(Body::Diagnosis(observed_with(host, &question, first, answer).1))
        }
        Operation::Banned { source } => {
            Ok(Body::Bans(observed(host, &question, |state, needs| report::bans(state, *source, port, needs)).1))
        }
        Operation::HostsList => Ok(Body::Hosts(hosts_access::list(&host.observe(&question)))),
        Operation::FirewallList => {
            Ok(Body::Firewall(observed(host, &question, |state, needs| report::firewall(state, port, needs)).1))
        }
        Operation::FirewallWho { .. } => {
            Ok(Body::Who(observed(host, &question, |state, needs| report::who(state, port, needs)).1))
        }
        Operation::SshdShow { keywords, .. } => {
            let login = request.login_shown();
            let asked = sshd::ShowQuestion { port, keywords, login: login.as_ref().map(|(user, from)| (user.as_str(), *from)) };
            match observed(host, &question, |state, needs| sshd::show(state, &asked, needs)).1 {
                Ok(Some(found)) => Ok(Body::SshdShow(found)),
                Ok(None) => Err(failed(&"sshd was not asked all that is needed")),
                Err(error) => Err(not_shown(&error)),
            }
        }
        Operation::SshdCheck => match observed(host, &question, |state, needs| sshd::check(state, port, needs)).1 {
            Ok(Some(found)) => Ok(Body::SshdCheck(found)),
            Ok(None) => Err(failed(&"sshd was not asked all that is needed")),
            Err(why) => Err(failed(&why)),
        },
        Operation::Fail2banJails => Ok(Body::Jails(fail2ban::jails(&host.observe(&question)).map_err(|why| failed(&why))?)),
        Operation::Changes { .. } | Operation::Confirm { .. } => Err(failed(&"answered above")),
        // What was begun has no end but its own.
        Operation::Rollback { id, abandon } => {
            patience::with(None, || decision::roll_back(agent, host, authorized, id, *abandon))
        }
        Operation::Status => Ok(Body::Status(report::status(agent, &host.observe(&question)))),
        Operation::Leases | Operation::AuditShow { .. } | Operation::AuditVerify { .. } | Operation::AuditCheckpoint => {
            Err(failed(&"this was answered before"))
        }
        Operation::Allow { .. }
        | Operation::Revoke { .. }
        | Operation::Unban { .. }
        | Operation::Fix { .. }
        | Operation::Ban { .. }
        | Operation::HostsAllow { .. }
        | Operation::HostsDeny { .. }
        | Operation::HostsRemove { .. }
        | Operation::FirewallAccept { .. }
        | Operation::FirewallRemove { .. }
        | Operation::Fail2banIgnore { .. }
        | Operation::Fail2banUnignore { .. }
        | Operation::SshdSet { .. }
        | Operation::SshdUnset { .. }
        | Operation::SshdReload
        | Operation::SshdRestart => match &request.mode {
            Mode::DryRun => {
                let mut plan = planned(agent, host, &question, authorized)?.1.document();
                if plan.steps.is_empty() {
                    let (_, left) = observed(host, &question, |state, needs| left::left(&request.operation, state, port, needs));
                    if let Some(Left { verdict, stages, notes }) = left {
                        (plan.verdict, plan.stages) = (Some(verdict), stages);
                        plan.notes.extend(notes);
                    }
                }
                Ok(Body::Plan(plan))
            }
            Mode::Apply { plan, confirm_within } => {
                let within = agent.config.confirm.within(*confirm_within).map_err(|why| out_of_bounds(&why))?;
                patience::with(None, || decision::in_the_way(agent, host))?;
                make(agent, host, &question, authorized, plan.as_deref(), within)
            }
        },
    }
}

/// Plans on the host as it is now, holds the plan against the grants, and proves that nobody is locked out.
fn planned(
    agent: &Agent,
    host: &mut LiveHost,
    question: &Question,
    authorized: &AuthorizedRequest,
) -> Result<(HostState, SafePlan), Refusal> {
    let request = authorized.request();
    let port = question.port;
    let leases = lease::known(agent).map_err(|error| not_stored(&error))?;
    let faults = std::cell::RefCell::new(Vec::new());
    let (state, safe) = observed(host, question, |state, needs| {
        let plan = plan::plan_beside(&leases, &request.operation, state, port, needs)?;
        authorized.permits(&plan, state)?;
        #[cfg(debug_assertions)]
        if std::path::Path::new(WITHOUT_PROOF).exists() {
            let sessions = listener::sessions(state).unwrap_or_default();
            return Ok(SafePlan::unproven(plan, &access_paths(agent, request, sessions, port)));
        }
        let refused = plan.clone();
        let proven = lockout::sessions(&plan, state).and_then(|sessions| {
            let paths = access_paths(agent, request, sessions, port);
            faults.replace(lockout::faults(&plan, state, &paths, needs));
            lockout::prove(plan, state, &paths, needs)
        });
        // No paths: the proof ends at the one that the refusal names.
        proven.map_err(|why| NoSafePlan::Lockout(why, Box::new(refused.document(Vec::new()))))
    });
    for fault in faults.take() {
        let user = fault.path.user.as_deref().unwrap_or("somebody");
        tracing::warn!(
            "{user} from {} is logged in, and yet the stage {} says: {}; it was changed since, or this is a fault of sshfix",
            fault.path.source.short(),
            fault.stage,
            fault.why
        );
    }
    // A plan on half a host is none.
    if let Some(patience) = patience::current().filter(Patience::was_cut) {
        return Err(late(&patience));
    }
    let safe = safe.map_err(|error| refused_plan(&request.operation, error))?;
    Ok((state, safe))
}

/// Makes the change that is planned now, if it is the one that was shown. A host that others change between the plan and its
/// first step is planned on again; the change is made only if the plan is still the same.
fn make(
    agent: &Agent,
    host: &mut LiveHost,
    question: &Question,
    authorized: &AuthorizedRequest,
    shown: Option<&str>,
    within: Duration,
) -> Result<Body, Refusal> {
    let request = authorized.request();
    let mut wanted = shown.map(str::to_owned);
    for _ in 0..MAX_PLANS {
        let (state, safe) = planned(agent, host, question, authorized)?;
        let digest = safe.plan().digest();
        if wanted.get_or_insert_with(|| digest.clone()) != &digest {
            return Err(plan_changed(&safe, "the plan is not the one that was shown; nothing was changed").into());
        }
        // A lease that counts on what others added has no steps, and is made all the same.
        if safe.steps().is_empty() && safe.plan().lease.is_none() {
            lease::revoked(agent, &request.operation, &safe.plan().notes);
            return nothing_to_do(host, question, &safe, &state);
        }
        match host.unchanged(&state) {
            Ok(()) => {
                // The last moment at which it can end for who does not wait; from here on it has no end but its own.
                if patience::is_over() {
                    return Err(patience::current().map_or_else(|| failed(&"nobody waits for it"), |patience| late(&patience)));
                }
                let body = patience::with(None, || change(agent, host, question, &state, authorized, &safe, within))?;
                if matches!(&body, Body::Change(change) if change.state == ChangeState::Confirmed) {
                    lease::revoked(agent, &request.operation, &safe.plan().notes);
                }
                return Ok(body);
            }
            Err(why) => tracing::info!("planned again: {why}"),
        }
    }
    Err(failed(&format!("the host was changed by others {MAX_PLANS} times while the change was planned")))
}

/// The answer to what is asked about audit records and leases.
fn about_the_records(agent: &Agent, operation: &Operation) -> Option<Result<Body, Refusal>> {
    let Agent { auditor, store, identity, .. } = agent;
    let body = match operation {
        Operation::AuditShow { filter } => store.audit_search(filter).map(Body::Audit).map_err(AuditError::from),
        Operation::AuditVerify { checkpoint } => auditor.verify(store, identity, checkpoint.as_deref()).map(Body::Verification),
        Operation::Leases => lease::document(agent).map(Body::Leases).map_err(AuditError::from),
        Operation::AuditCheckpoint => auditor.checkpoint(store, identity).map(Body::Checkpoint),
        _ => return None,
    };
    Some(body.map_err(|error| failed(&error)))
}

/// Applies, verifies, and says what became of it.
fn change(
    agent: &Agent,
    host: &mut LiveHost,
    question: &Question,
    read: &HostState,
    authorized: &AuthorizedRequest,
    safe: &SafePlan,
    within: Duration,
) -> Result<Body, Refusal> {
    let store = &agent.store;
    let mut notes = safe.plan().notes.clone();
    let id = random::hex::<5>().map_err(|error| failed(&error))?;
    let now = Moment::now();
    let deadline = match safe.plan().confirm {
        Confirm::Required => Some(now.deadline(within)),
        Confirm::NotNeeded => None,
    };
    let lease = safe.plan().lease.as_ref().map(|lease| new_lease(lease, safe));
    let begin = NewChange {
        id: id.clone(),
        principal: authorized.signer().principal().to_owned(),
        operation: authorized.request().operation.clone(),
        digest: safe.plan().digest(),
        plan: safe.document(),
        steps: safe.steps().to_vec(),
        started: now,
        deadline,
        lease,
    };
    store.change_begin(&begin).map_err(|error| not_stored(&error))?;
    let (mut verdict, mut stages) = (None, Vec::new());
    let outcome = change::apply(host, store, &id, safe).and_then(|applied| {
        let port = question.port;
        let (_, (differences, besides, left)) = observed(host, question, |state, needs| {
            let differences = verify::differences(safe, read, state, port, needs);
            let left = left::left(&safe.plan().operation, state, port, needs);
            (differences, verify::notes(safe, state, port, needs), left)
        });
        notes.extend(besides);
        if let Some(left) = left {
            (verdict, stages) = (Some(left.verdict), left.stages);
            notes.extend(left.notes);
        }
        if !differences.is_empty() {
            return Err(change::roll_back(host, store, applied, differences.join("; ")));
        }
        let changed = applied.changed();
        let settled = change::settle(host, store, applied, deadline, &Moment::now())?;
        Ok((settled, changed))
    });
    let (state, changed, failure) = match outcome {
        Ok((Settled::Confirmed, changed)) => (ChangeState::Confirmed, changed, None),
        Ok((Settled::Pending, changed)) => (ChangeState::Pending, changed, None),
        Err(failed) if failed.clean() && failed.drifted => {
            // The new dry run is shown, where there still is a plan.
            let Ok((_, again)) = planned(agent, host, question, authorized) else {
                return Err(self::failed(&failed.failure.message));
            };
            let what = format!("{}; what had been done was taken back, so nothing was changed", failed.failure.message);
            return Err(plan_changed(&again, &what).into());
        }
        Err(failed) if failed.clean() => (ChangeState::RolledBack, false, Some(failed.failure)),
        Err(failed) => (ChangeState::Stuck, true, Some(failed.failure)),
    };
    let deadline = deadline.filter(|_| state == ChangeState::Pending).map(|deadline| deadline.wall);
    let plan = Box::new(safe.document());
    let schema = ChangeSchema::V1;
    Ok(Body::Change(Change { schema, id, state, changed, deadline, plan, failure, verdict, stages, notes }))
}

fn new_lease(lease: &plan::Lease, safe: &SafePlan) -> NewLease {
    let summary = match &safe.plan().operation {
        Operation::Allow { source, .. } => format!("{} gets in", source.short()),
        Operation::Unban { source, .. } => format!("{} is not banned again", source.short()),
        other => other.action().to_string(),
    };
    NewLease { id: lease.id.clone(), summary, items: lease.items.clone(), time: Duration::from_secs(lease.seconds) }
}

/// What must be read to answer, and to prove that nobody is locked out.
fn question(agent: &Agent, request: &Request, port: u16) -> Result<Question, StoreError> {
    let mut sources: BTreeSet<Source> = request.operation.source().into_iter().collect();
    sources.extend(request.from.map(Source::from));
    sources.extend(agent.config.keep.iter().map(|keep| keep.address));
    sources.extend(lease::sources(agent, &request.operation)?);
    // Whom these concern is asked path by path: no list of bans is read whole for them.
    let path_by_path = matches!(
        request.operation,
        Operation::Revoke { .. }
            | Operation::SshdSet { .. }
            | Operation::SshdUnset { .. }
            | Operation::SshdReload
            | Operation::SshdRestart
    );
    Ok(Question { sources, port, everybody: request.operation.source().is_none() && !path_by_path })
}

/// Every way in that must not be lost: the requester's own as the signer claims it, live sessions, `keep` entries. A claim protects
/// the signer from the signer's own changes, and nobody else; a path of its own in the plan does nothing but refuse it.
fn access_paths(agent: &Agent, request: &Request, sessions: Vec<AccessPath>, port: u16) -> Vec<AccessPath> {
    let mut paths = BTreeSet::new();
    if let Some(from) = request.from.map(address::canonical).filter(|from| !from.is_loopback()) {
        paths.insert(AccessPath {
            source: Source::from(from),
            user: request.from_user.clone(),
            port,
            origin: PathOrigin::Requester,
        });
    }
    paths.extend(sessions);
    paths.extend(agent.config.kept_paths());
    paths.into_iter().collect()
}

/// An `unban` with nothing to lift: done, unless something that could refuse was not read.
fn nothing_to_do(host: &mut LiveHost, question: &Question, safe: &SafePlan, state: &HostState) -> Result<Body, Refusal> {
    let files_unread = match &state.hosts_access {
        Part::Present(files) => {
            [&files.allow, &files.deny].iter().any(|file| matches!(file.content, hosts_access::Content::Unreadable(_)))
        }
        Part::Unreadable(_) => true,
        Part::Absent(_) => false,
    };
    let blind = files_unread || matches!(state.nf_tables, Part::Unreadable(_)) || matches!(state.xtables, Part::Unreadable(_));
    if blind && matches!(safe.plan().operation, Operation::Unban { .. } | Operation::Fix { .. }) {
        return Err(ErrorDocument::new(
            ErrorCode::Failed,
            format!(
                "found nothing to lift, but not everything could be read; nothing was changed: {}",
                safe.plan().notes.join("; ")
            ),
            "make the named part readable and try again",
        )
        .into());
    }
    let operation = &safe.plan().operation;
    let (_, left) = observed(host, question, |state, needs| left::left(operation, state, question.port, needs));
    let mut notes = safe.plan().notes.clone();
    let (verdict, stages) = left.map_or((None, Vec::new()), |left| {
        notes.extend(left.notes);
        (Some(left.verdict), left.stages)
    });
    Ok(Body::Change(Change {
        schema: ChangeSchema::V1,
        id: String::new(),
        state: ChangeState::Unchanged,
        changed: false,
        deadline: None,
        plan: Box::new(safe.document()),
        failure: None,
        verdict,
        stages,
        notes,
    }))
}

/// The one writer's turn, for the agent itself. A request that panicked left at worst an unfinished change, which the next one recovers.
pub(crate) fn lock(host: &InTurns<LiveHost>) -> Held<'_, LiveHost> {
    host.lock()
}
