//! One request from bytes to reply, read top to bottom: authenticate, authorize, observe, answer, audit. Each stage takes the type
//! that only the stage before can make. What changes the host goes on in `change::requested`. Must not hold rules of its own: those are in
//! `policy`.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use jiff::Timestamp;
use sshfix_policy::address::{self, Source};
use sshfix_policy::diagnose;
use sshfix_policy::diagnose::status;
use sshfix_policy::host::{Host, HostState, Needs, Question};
use sshfix_policy::redact::redacted;
use sshfix_policy::reply::{Body, ErrorDocument, Reply, Subject};
use sshfix_policy::request::allowed_signers::AllowedSigners;
use sshfix_policy::request::authenticate::{self, AuthenticateError, AuthenticatedRequest};
use sshfix_policy::request::authorize::{self, AuthorizedRequest};
use sshfix_policy::request::recorded as on_record;
use sshfix_policy::request::wire::SignedRequest;
use sshfix_policy::request::{Decision, Intent, Mode, Operation, Query, Records, Request};
use sshfix_policy::subsystem::{fail2ban, hosts_access, sshd};

use crate::agent::Agent;
use crate::audit::{self, AuditClosing, AuditError, AuditOpening, Outcome};
use crate::change::lease;
use crate::change::requested::Requested;
use crate::config;
use crate::host::live::LiveHost;
use crate::host::observe::observed;
use crate::identity::IdentityError;
use crate::patience::{self, Patience};
use crate::request::decide;
use crate::request::places::{self};
use crate::request::refusal::{
    Refusal, failed, late, no_client, not_shown, not_stored, refused, too_many, too_many_words, unaudited,
};
use crate::request::report::{self, own_addresses};
use crate::request::serve::{Admission, Answer, Challenge, Peer};
use crate::sys::memory;
use crate::turns::{Line, Turn};

/// A request that may be served, on its way to its turn.
pub struct Asked {
    peer: Peer,
    challenge: Challenge,
    authorized: AuthorizedRequest,
    on_record: bool,
}

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
        if reads_whole_sets(&asked.authorized.request().operation) {
            // The reply need not wait for it.
            let _ = std::thread::Builder::new().name("give-back".to_owned()).spawn(memory::give_back);
        }
        // Read by tests/benches/diagnose.rs.
        tracing::debug!(uid = asked.peer.uid, pid = asked.peer.pid, "request answered in {} µs", started.elapsed().as_micros());
        reply
    }

    fn error(&self, challenge: &Challenge, error: ErrorDocument) -> Vec<u8> {
        reply(self, challenge, String::new(), Body::Error(error))
    }
}

/// Whether an answer may have taken whole sets, and with them much memory.
fn reads_whole_sets(operation: &Operation) -> bool {
    match operation {
        Operation::Query(Query::Banned { source }) => source.is_none_or(|source| source.single().is_none()),
        Operation::Query(Query::FirewallWho { port: _ } | Query::FirewallList) => true,
        Operation::Query(_) | Operation::Intent(_) | Operation::Decision(_) | Operation::Records(_) => false,
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
        automatic: None,
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
            Err(error) => tracing::error!("a decision about a change was carried out, but could not be recorded: {error}"),
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
    matches!(
        operation,
        Operation::Query(Query::Status)
            | Operation::Records(Records::Changes { .. })
            | Operation::Decision(Decision::Rollback { abandon: false, .. })
    )
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
    let at_any_rate = matches!(request.operation, Operation::Decision(_) | Operation::Query(Query::Status));
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

/// Answers by kind. Records and a confirm never wait for the host.
fn serve(agent: &Agent, challenge: &Challenge, authorized: &AuthorizedRequest, turn: Option<&Turn>) -> Result<Body, Refusal> {
    let request = authorized.request();
    match &request.operation {
        Operation::Records(asked) => records(agent, asked),
        Operation::Decision(Decision::Confirm { id, proof }) => {
            decide::confirm(agent, challenge, authorized, id, proof.as_deref())
        }
        Operation::Decision(Decision::Rollback { id, abandon }) => {
            let mut host = held(agent, turn).ok_or_else(no_turn)?;
            // What was begun has no end but its own.
            patience::with(None, || decide::roll_back(agent, &mut host, authorized, id, *abandon))
        }
        Operation::Query(asked) => query(agent, request, asked, turn),
        Operation::Intent(intent) => change(agent, authorized, intent, turn),
    }
}

/// The host, where the turn is at it (`places`).
fn held<'a>(agent: &'a Agent, turn: Option<&Turn>) -> Option<MutexGuard<'a, LiveHost>> {
    turn.and_then(|turn| agent.host.held(turn).or_else(|| agent.reader.held(turn)))
}

fn no_turn() -> Refusal {
    failed(&"the request waited too long while the agent was busy")
}

/// Plans a change, and shows or makes it.
fn change(agent: &Agent, authorized: &AuthorizedRequest, intent: &Intent, turn: Option<&Turn>) -> Result<Body, Refusal> {
    let request = authorized.request();
    if let Intent::Fix { address, .. } = intent {
        address::of_a_client(*address).map_err(|error| no_client(&error))?;
    }
    let question = question(agent, request)?;
    let mut host = held(agent, turn).ok_or_else(no_turn)?;
    let host = &mut *host;
    let requested = Requested { agent, question: &question, authorized, intent };
    match &request.mode {
        Mode::DryRun => requested.shown(host),
        Mode::Apply { plan, confirm_within } => requested.made(host, plan.as_deref(), *confirm_within),
    }
}

/// Looks at the host and answers.
fn query(agent: &Agent, request: &Request, asked: &Query, turn: Option<&Turn>) -> Result<Body, Refusal> {
    if let Query::Diagnose { address, .. } = asked {
        address::of_a_client(*address).map_err(|error| no_client(&error))?;
    }
    let question = question(agent, request)?;
    let port = question.port;
    let Some(mut held) = held(agent, turn) else {
        return match asked {
            // Of itself, the agent can say how it is without the host.
            Query::Status => Ok(Body::Status(report::status(agent, &places::unread_host(port), &mut Needs::new()))),
            _ => Err(no_turn()),
        };
    };
    let host = &mut *held;
    match asked {
        Query::Diagnose { address, user, explain, port: _ } => {
            let subject = Subject { address: address::canonical(*address), user: user.clone(), port };
            if *explain {
                // The trace shows them.
                host.forget_counters();
            }
            let first = diagnose::first_needs(&subject);
            let answer = |state: &HostState, needs: &mut Needs| diagnose::diagnose(state, &subject, *explain, needs);
            Ok(Body::Diagnosis(host.answered(&question, first, answer).1))
        }
        Query::Banned { source } => {
            Ok(Body::Bans(observed(host, &question, |state, needs| report::bans(state, *source, port, needs)).1))
        }
        Query::HostsList => Ok(Body::Hosts(hosts_access::list(&host.observe(&question)))),
        Query::FirewallList => {
            Ok(Body::Firewall(observed(host, &question, |state, needs| report::firewall(state, port, needs)).1))
        }
        Query::FirewallWho { port: _ } => {
            Ok(Body::Who(observed(host, &question, |state, needs| report::who(state, port, needs)).1))
        }
        Query::SshdShow { keywords, user: _, address: _, port: _ } => {
            let login = request.login_shown();
            let asked = sshd::ShowQuestion { port, keywords, login: login.as_ref().map(|(user, from)| (user.as_str(), *from)) };
            match observed(host, &question, |state, needs| sshd::show(state, &asked, needs)).1 {
                Ok(Some(found)) => Ok(Body::SshdShow(found)),
                Ok(None) => Err(failed(&"sshd was not asked all that is needed")),
                Err(error) => Err(not_shown(&error)),
            }
        }
        Query::SshdCheck => match observed(host, &question, |state, needs| sshd::check(state, port, needs)).1 {
            Ok(Some(found)) => Ok(Body::SshdCheck(found)),
            Ok(None) => Err(failed(&"sshd was not asked all that is needed")),
            Err(why) => Err(failed(&why)),
        },
        Query::Fail2banJails => Ok(Body::Jails(fail2ban::jails(&host.observe(&question)).map_err(|why| failed(&why))?)),
        Query::Status => {
            let answer = |state: &HostState, needs: &mut Needs| report::status(agent, state, needs);
            Ok(Body::Status(host.answered(&question, status::first_needs(port), answer).1))
        }
    }
}

/// Answers from the records alone.
fn records(agent: &Agent, asked: &Records) -> Result<Body, Refusal> {
    let Agent { auditor, store, identity, .. } = agent;
    let body = match asked {
        Records::AuditShow { filter } => store.audit_search(filter).map(Body::Audit).map_err(AuditError::from),
        Records::AuditVerify { checkpoint } => auditor.verify(store, identity, checkpoint.as_deref()).map(Body::Verification),
        Records::AuditCheckpoint => auditor.checkpoint(store, identity).map(Body::Checkpoint),
        Records::Leases => lease::document(agent).map(Body::Leases).map_err(AuditError::from),
        Records::Changes { id } => {
            return report::changes(agent, id.as_deref()).map(Body::Changes).map_err(|error| not_stored(&error));
        }
    };
    body.map_err(|error| failed(&error))
}

/// What must be read to answer, and to prove that nobody is locked out.
fn question(agent: &Agent, request: &Request) -> Result<Question, Refusal> {
    let Request { operation, from, .. } = request;
    let port = operation.port().unwrap_or(agent.config.ssh_port);
    let mut sources: BTreeSet<Source> = operation.source().into_iter().collect();
    sources.extend(from.map(Source::from));
    sources.extend(agent.config.keep.iter().map(|keep| keep.address));
    // Whom changes of sshd concern is asked path by path, and whom the end of a lease concerns is known: no list of bans is read whole.
    let path_by_path = match operation {
        Operation::Intent(intent) => {
            sources.extend(lease::sources(agent, intent).map_err(|error| failed(&error))?);
            intent.is_about_sshd() || matches!(intent, Intent::Revoke { .. })
        }
        Operation::Query(_) | Operation::Decision(_) | Operation::Records(_) => false,
    };
    Ok(Question { sources, port, everybody: operation.source().is_none() && !path_by_path })
}
