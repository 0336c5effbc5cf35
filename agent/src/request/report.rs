//! The documents of the operations that change nothing, put together from what the subsystems report. Decides nothing.

use std::net::IpAddr;

use sshfix_policy::address::{Source, canonical};
use sshfix_policy::diagnose;
use sshfix_policy::diagnose::status;
use sshfix_policy::host::{HostState, Needs};
use sshfix_policy::netfilter;
use sshfix_policy::reply::{
    Bans, BansSchema, Body, ChangeBrief, ChangeDocument, ChangeEvent, ChangeState, ChangeStep, Changes, ChangesSchema, Confirm,
    DrillDocument, ErrorCode, Firewall, FirewallSchema, PlanDocument, PlanSchema, Status, StatusSchema, StepDocument, Who,
};
use sshfix_policy::subsystem::{fail2ban, hosts_access, listener};
use sshfix_policy::verdict::subsystem::Subsystem;
use sshfix_policy::verdict::{Connection, Verdict};

use crate::agent::Agent;
use crate::audit::{AuditClosing, Outcome};
use crate::change::lease;
use crate::store::{ChangeRecord, ChangeStage, Drill, StepEvent, StoreError};
use crate::sys::clock::Moment;

/// How many changes are listed.
const CHANGES: usize = 50;

/// Who is blocked, by every subsystem; with a source, only what concerns it.
pub fn bans(host: &HostState, source: Option<Source>, port: u16, needs: &mut Needs) -> Bans {
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        fail2ban: _,
        nf_tables: _,
        xtables: _,
        ipset: _,
        hosts_access: _,
        // Whose rule it is.
        ufw: _,
        // What they refuse is no ban.
        route: _,
        listener: _,
        sshd: _,
    } = host;
    let mut bans = fail2ban::bans(host);
    bans.extend(netfilter::bans(host, source, port, needs));
    bans.extend(hosts_access::bans(host));
    if let Some(source) = source {
        bans.retain(|ban| ban.source.overlaps(source));
    }
    let mut notes = diagnose::notes(host);
    if let Some(address) = source.and_then(Source::single).filter(|_| bans.is_empty()) {
        notes.extend(refused_all_the_same(host, address, port, needs));
    }
    Bans { schema: BansSchema::V1, bans, others: 0, notes }
}

/// What keeps an address out that no ban is about: a policy, a rule about everybody, or one that is not followed back to addresses.
fn refused_all_the_same(host: &HostState, address: IpAddr, port: u16, needs: &mut Needs) -> Option<String> {
    let connection = Connection { source: address.into(), port, user: None };
    let does = match netfilter::evaluate(host, &connection, needs).verdict {
        Verdict::Accept => return None,
        Verdict::Refuse => "refuse",
        Verdict::Unknown => "may refuse",
    };
    Some(format!("no ban is about {address} alone, but the packet filters {does} it: `sshfix ctl diagnose {address}`"))
}

/// Rules and sets that concern the SSH port.
pub fn firewall(host: &HostState, port: u16, needs: &mut Needs) -> Firewall {
    let mut firewall = netfilter::firewall_list(host, port, needs);
    firewall.schema = FirewallSchema::V1;
    firewall.notes.extend(diagnose::notes(host));
    firewall
}

/// Who reaches the port and who does not.
pub fn who(host: &HostState, port: u16, needs: &mut Needs) -> Who {
    let mut who = netfilter::partition::who(host, port, needs);
    who.notes.extend(diagnose::notes(host));
    who
}

/// Agent, host and subsystems.
pub fn status(agent: &Agent, host: &HostState, needs: &mut Needs) -> Status {
    let subsystems = status::subsystems(host, agent.config.ssh_port, needs);
    let mut notes = diagnose::notes(host);
    if let Some(why) = agent.store.trouble() {
        notes.push(format!(
            "{why}; no change can be made until it is repaired, and a change that waits is rolled back at its deadline all the same. \
             Make room or put the file back, then `systemctl restart sshfix-agent`"
        ));
    }
    let leases = agent.store.leases().unwrap_or_else(|error| {
        notes.push(format!("the leases could not be read: {error}"));
        Vec::new()
    });
    let drill = agent.store.last_drill().unwrap_or_else(|error| {
        notes.push(format!("the last drill could not be read: {error}"));
        None
    });
    let mut waiting = Vec::new();
    for found in [agent.store.unfinished_changes(), agent.store.stuck_changes()] {
        match found {
            Ok(changes) => waiting.extend(changes.iter().map(|change| brief(change, &Moment::now()))),
            Err(error) => notes.push(format!("the changes could not be read: {error}")),
        }
    }
    let pending = waiting.iter().find(|change| change.state != ChangeStage::Stuck).map(|change| change.id.clone());
    let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let (sessions, sessions_unknown) = match listener::sessions(host) {
        Ok(sessions) => (sessions, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    Status {
        schema: StatusSchema::V1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname,
        host: agent.identity.fingerprint().to_owned(),
        port: agent.config.ssh_port,
        subsystems,
        paths: sessions
            .into_iter()
            .map(|path| path.user.as_ref().map_or_else(|| path.from(), |user| format!("{user} from {}", path.from())))
            .collect(),
        sessions_unknown,
        others: 0,
        pending,
        waiting,
        leases: leases.iter().map(|lease| lease::brief(lease, &Moment::now())).collect(),
        last_drill: drill.as_ref().map(|drill| drill.at),
        drill: drill.map(|Drill { passed, points, detail, .. }| DrillDocument { passed, points, detail }),
        notes,
    }
}

/// The newest changes, or one with its journal.
pub fn changes(agent: &Agent, id: Option<&str>) -> Result<Changes, StoreError> {
    let now = Moment::now();
    let changes = match id {
        None => agent.store.changes(CHANGES)?.iter().map(|change| change_document(change, &now)).collect(),
        Some(id) => {
            let mut change = change_document(&agent.store.change(id)?, &now);
            let event = |(index, event, at, detail): (usize, StepEvent, _, _)| ChangeEvent { at, step: index + 1, event, detail };
            change.events = agent.store.journal(id)?.into_iter().map(event).collect();
            vec![change]
        }
    };
    Ok(Changes { schema: ChangesSchema::V1, changes })
}

fn change_document(change: &ChangeRecord, now: &Moment) -> ChangeDocument {
    let brief = brief(change, now);
    ChangeDocument {
        id: brief.id,
        state: brief.state,
        principal: brief.principal,
        operation: Some(change.operation.clone().into()),
        digest: change.digest.clone(),
        started: change.started_at,
        deadline: change.deadline.map(|deadline| deadline.wall),
        seconds_left: brief.seconds_left,
        finished: change.finished_at,
        detail: change.detail.clone(),
        steps: change
            .steps
            .iter()
            .map(|record| ChangeStep {
                subsystem: record.step.subsystem(),
                summary: record.step.summary(),
                undo: record.step.undo(),
                event: record.event,
                detail: record.detail.clone(),
            })
            .collect(),
        events: Vec::new(),
    }
}

/// A change in one line, with the time it has left.
pub fn brief(change: &ChangeRecord, now: &Moment) -> ChangeBrief {
    // Only in the boot in which it was set does a deadline mean something.
    let deadline = change.deadline.filter(|_| !change.stage.is_end() && change.stage != ChangeStage::Stuck);
    ChangeBrief {
        id: change.id.clone(),
        principal: change.principal.clone(),
        state: change.stage,
        deadline: deadline.map(|deadline| deadline.wall),
        seconds_left: deadline.filter(|_| !change.boot.differs(&now.boot)).map(|deadline| deadline.left(now).as_secs()),
        detail: crate::change::said(is_of_sshd(change), change.detail.clone()),
    }
}

/// Whether some of its steps are sshd's.
pub fn is_of_sshd(change: &ChangeRecord) -> bool {
    change.steps.iter().any(|record| record.step.subsystem() == Subsystem::Sshd)
}

/// The host's own addresses, which are no secret to who may ask it. Where they cannot be read, they are hidden like any other.
pub fn own_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or(address.as_sockaddr_in6().map(|v6| canonical(IpAddr::V6(v6.ip()))))
    });
    addresses.collect()
}

/// The plan of a change as it was shown, or what its steps say of it.
pub fn plan_of(change: &ChangeRecord) -> PlanDocument {
    change.plan.clone().unwrap_or_else(|| PlanDocument {
        schema: PlanSchema::V1,
        digest: change.digest.clone(),
        operation: change.operation.clone().into(),
        steps: change
            .steps
            .iter()
            .map(|record| StepDocument {
                subsystem: record.step.subsystem(),
                summary: record.step.summary(),
                diff: record.step.diff(),
                undo: record.step.undo(),
                kept: record.step.is_kept(),
            })
            .collect(),
        opens: Vec::new(),
        closes: Vec::new(),
        paths: Vec::new(),
        other_paths: 0,
        other_sources: 0,
        confirm: if change.deadline.is_some() { Confirm::Required } else { Confirm::NotNeeded },
        alternatives: Vec::new(),
        verdict: None,
        stages: Vec::new(),
        notes: Vec::new(),
    })
}

/// What the audit record says became of a request.
pub fn closing(body: &Body) -> AuditClosing {
    let closing = |outcome, detail: &str, plan: Option<&PlanDocument>, change: Option<&str>| AuditClosing {
        outcome,
        detail: detail.to_owned(),
        plan: plan.map(|plan| plan.digest.clone()),
        change: change.map(str::to_owned),
    };
    match body {
        Body::Change(change) => {
            let outcome = match change.state {
                ChangeState::Confirmed => Outcome::Confirmed,
                ChangeState::Pending => Outcome::Pending,
                ChangeState::RolledBack => Outcome::RolledBack,
                ChangeState::Stuck => Outcome::Stuck,
                ChangeState::Unchanged => Outcome::Unchanged,
                ChangeState::Abandoned => Outcome::Abandoned,
            };
            let detail = change.failure.as_ref().map_or("", |failure| failure.message.as_str());
            closing(outcome, detail, Some(&change.plan), (!change.id.is_empty()).then_some(change.id.as_str()))
        }
        Body::Plan(plan) => closing(Outcome::Answered, "", Some(plan), None),
        Body::Error(error) => {
            let outcome = match error.code {
                ErrorCode::Refused => Outcome::Refused,
                ErrorCode::Busy
                | ErrorCode::PlanChanged
                | ErrorCode::Lockout
                | ErrorCode::NotConfirmed
                | ErrorCode::ProofNeeded
                | ErrorCode::Stuck => Outcome::NotApplied,
                ErrorCode::Failed | ErrorCode::Usage | ErrorCode::Unreachable => Outcome::Failed,
            };
            closing(outcome, error.message.as_str(), error.plan.as_deref(), None)
        }
        Body::Verification(found) => {
            let detail = found.problems.first().map_or("intact", |problem| problem.problem.as_str());
            closing(Outcome::Answered, detail, None, None)
        }
        Body::Diagnosis(_)
        | Body::Bans(_)
        | Body::Hosts(_)
        | Body::Firewall(_)
        | Body::Who(_)
        | Body::SshdShow(_)
        | Body::SshdCheck(_)
        | Body::Jails(_)
        | Body::Changes(_)
        | Body::Status(_)
        | Body::Leases(_)
        | Body::Audit(_)
        | Body::Checkpoint(_) => closing(Outcome::Answered, "", None, None),
    }
}
