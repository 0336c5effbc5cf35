//! The three stages that sshd decides, put together: which of them apply, and what each needs to know first.

use super::config::Client;
use super::state::{Account, Login, Need, Server, is_user_name};
use super::{access, account, admission};
use crate::host::{self, HostState, Needs, Part};
use crate::verdict::{Connection, Evidence, Finding, Stage, StageReport, Verdict};

/// What one stage, or a part of one, came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Its verdict.
    pub verdict: Verdict,
    /// One line for people.
    pub detail: String,
    /// What decided.
    pub evidence: Vec<Evidence>,
    /// What was found, blocking or not.
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// Nothing found.
    pub fn accept(detail: &str) -> Self {
        Self { verdict: Verdict::Accept, detail: detail.to_owned(), evidence: Vec::new(), findings: Vec::new() }
    }

    /// It cannot be told.
    pub fn unknown(detail: String) -> Self {
        Self { verdict: Verdict::Unknown, detail, evidence: Vec::new(), findings: Vec::new() }
    }

    /// A further part of the same stage. The first that refuses, else the first that is unknown, is the one whose words are shown.
    pub fn add(&mut self, other: Self) {
        let both = self.verdict.and(other.verdict);
        if both != self.verdict {
            self.detail = other.detail;
            self.evidence = other.evidence;
        }
        self.verdict = both;
        self.findings.extend(other.findings);
    }

    fn report(self, stage: Stage) -> (StageReport, Vec<Finding>) {
        let Self { verdict, detail, evidence, findings } = self;
        (StageReport { stage, verdict, detail, evidence, trace: Vec::new() }, findings)
    }
}

/// The stages that apply: none where no OpenSSH server is; those of a login only where a user is asked about.
pub fn stages(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<(StageReport, Vec<Finding>)> {
    let server = match host.sshd.servers.get(&connection.port) {
        None => {
            needs.insert(host::Need::Sshd(Need::Server(connection.port)));
            return Vec::new();
        }
        Some(Part::Absent(_)) => return Vec::new(),
        Some(Part::Unreadable(why)) => {
            return vec![Judgement::unknown(format!("sshd could not be asked: {why}")).report(Stage::SshdAdmission)];
        }
        Some(Part::Present(server)) => server,
    };
    let admission = admission::judge(host, server, connection, needs);
    // Where nothing listens for another reason, the stage `listener` says all.
    if !server.running && admission.findings.is_empty() {
        return Vec::new();
    }
    let mut stages = vec![admission.report(Stage::SshdAdmission)];
    if let Some(user) = &connection.user {
        stages.extend(login(host, server, connection, user, needs));
    }
    stages
}

/// The stages `sshd_access` and `account`, once everything they need is known.
fn login(
    host: &HostState,
    server: &Server,
    connection: &Connection,
    user: &str,
    needs: &mut Needs,
) -> Vec<(StageReport, Vec<Finding>)> {
    let Some(address) = connection.source.single() else {
        return vec![Judgement::unknown("a login is judged for single addresses only".to_owned()).report(Stage::SshdAccess)];
    };
    let local = host.listener.present().and_then(|state| {
        let same = |ip: &&std::net::IpAddr| ip.is_ipv4() == address.is_ipv4() && ip.is_loopback() == address.is_loopback();
        state.addresses.iter().find(same).copied()
    });
    let login = Login::new(user, address, local.unwrap_or(address), connection.port);
    let Some(login) = login.filter(|_| is_user_name(user)) else {
        return vec![Judgement::unknown("that is no name sshfix asks about".to_owned()).report(Stage::SshdAccess)];
    };
    let (known, effective) = (host.sshd.accounts.get(user), host.sshd.logins.get(&login));
    let (Some(known), Some(effective)) = (known, effective) else {
        needs.insert(host::Need::Sshd(Need::Account(user.to_owned())));
        needs.insert(host::Need::Sshd(Need::Login(login)));
        return Vec::new();
    };
    let effective = match effective {
        Ok(effective) => effective,
        Err(why) => return vec![Judgement::unknown(format!("sshd -T: {why}")).report(Stage::SshdAccess)],
    };
    let groups = match known {
        Part::Present(Account { groups, .. }) => Some(groups.clone()),
        Part::Absent(_) => None,
        Part::Unreadable(why) => return vec![Judgement::unknown(why.clone()).report(Stage::Account)],
    };
    let client = Client {
        user: user.to_owned(),
        groups,
        host: address.to_string(),
        address,
        local_address: Some(login.local_address),
        local_port: connection.port,
    };
    let access = access::judge(host, server, effective, &client);
    let account = account::judge(host, effective, &client, known, needs);
    vec![access.report(Stage::SshdAccess), account.report(Stage::Account)]
}

/// The unit that runs it, for commands to paste.
pub fn unit(host: &HostState) -> String {
    let units = || host.listener.present().into_iter().flat_map(|state| state.units.iter().flatten());
    let service = units().find(|unit| unit.name.ends_with(".service") && unit.load == "loaded");
    service.map_or_else(|| "ssh".to_owned(), |unit| unit.name.trim_end_matches(".service").to_owned())
}
