//! Before which line a request waits for its turn: what it needs decides, and who asks decides who is next. What only looks at records
//! has lines of its own, so that a busy host keeps no confirm waiting. Grants nothing.

use std::sync::Arc;
use std::time::Duration;

use sshfix_policy::host::{HostState, Part};
use sshfix_policy::request::allowed_signers::Credential;
use sshfix_policy::request::authenticate::AuthenticatedRequest;
use sshfix_policy::request::authorize::AuthorizedRequest;
use sshfix_policy::request::{Decision, Mode, Operation, Query, Records, Request};
use sshfix_policy::subsystem::{ipset, sshd};

use crate::agent::Agent;
use crate::config::Limits;
use crate::request::serve::{Peer, Place};
use crate::turns::{Asker, Claim, Line, Precedence, Width};

/// A status comes without the subsystems where the host is being read for others for so long.
const STATUS_WAITS: Duration = Duration::from_secs(1);

/// The lines that stand before nothing but the agent's time.
#[derive(Debug)]
pub struct Lines {
    /// Requests that nobody looked at yet, by user.
    pub admissions: Arc<Line>,
    /// Confirms, changes, leases: what must be answered at once.
    decisions: Arc<Line>,
    /// Audit records, which are read whole.
    records: Arc<Line>,
}

impl Lines {
    /// Empty ones.
    pub fn new(limits: &Limits) -> Self {
        let waiting = limits.requests;
        Self {
            admissions: Line::new(Width { at_once: 6, of_one: 2, waiting: limits.connections_per_user }),
            decisions: Line::new(Width { at_once: 4, of_one: 2, waiting }),
            records: Line::new(Width { at_once: 2, of_one: 1, waiting }),
        }
    }
}

/// What a request needs for itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    /// The host, to change it.
    Writer,
    /// The host, to look at it.
    Reader,
    /// A little time, at once.
    Decision,
    /// Some time.
    Records,
}

fn needed(request: &Request) -> Needed {
    match &request.operation {
        Operation::Query(_) => Needed::Reader,
        Operation::Intent(_) => match request.mode {
            Mode::DryRun => Needed::Reader,
            Mode::Apply { .. } => Needed::Writer,
        },
        Operation::Decision(Decision::Rollback { .. }) => Needed::Writer,
        Operation::Decision(Decision::Confirm { .. }) | Operation::Records(Records::Changes { .. } | Records::Leases) => {
            Needed::Decision
        }
        Operation::Records(Records::AuditShow { .. } | Records::AuditVerify { .. } | Records::AuditCheckpoint) => Needed::Records,
    }
}

/// Whose share a request is of: a key has one, whatever names its line lets it take; who a CA certified has it by that name.
pub(crate) fn signer(authenticated: &AuthenticatedRequest) -> String {
    match authenticated.credential() {
        Credential::Key(_) => authenticated.fingerprint(),
        Credential::Certificate(_) => authenticated.principal().to_owned(),
    }
}

/// The place of a request that may be served.
pub(crate) fn place(agent: &Agent, peer: &Peer, authorized: &AuthorizedRequest) -> Place {
    let asked = authorized.request();
    let line = match needed(asked) {
        Needed::Writer => agent.host.line(),
        Needed::Reader => agent.reader.line(),
        Needed::Decision => &agent.lines.decisions,
        Needed::Records => &agent.lines.records,
    };
    let precedence = if peer.is_root() { Precedence::Root } else { Precedence::Others };
    Place {
        line: Arc::clone(line),
        claim: Claim { asker: Asker::Principal(signer(authorized.signer())), precedence },
        without_turn_after: matches!(asked.operation, Operation::Query(Query::Status)).then_some(STATUS_WAITS),
        time: agent.config.limits.question_time(),
    }
}

/// A host of which nothing was read, because others have it read.
pub(crate) fn unread_host(port: u16) -> HostState {
    fn busy<T>() -> Part<T> {
        Part::Unreadable("the agent is busy reading the host for other requests; retry in a moment".to_owned())
    }
    HostState {
        at: jiff::Timestamp::now(),
        fail2ban: busy(),
        hosts_access: busy(),
        nf_tables: busy(),
        xtables: busy(),
        ipset: ipset::State::new(),
        listener: busy(),
        route: busy(),
        ufw: None,
        sshd: sshd::State { servers: [(port, busy())].into(), ..sshd::State::default() },
    }
}
