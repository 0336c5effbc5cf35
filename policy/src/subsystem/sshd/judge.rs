//! The three stages that sshd decides, put together: which of them apply, and what each needs to know first.

use std::net::IpAddr;

use super::config::{Client, Settings, evaluate};
use super::journal::Told;
use super::limits::{self, About};
use super::remedy::{Found, Remedy};
use super::state::{Account, Login, Need, Server, is_user_name};
use super::{Effective, access, account, admission, algorithms, crash, penalty, power};
use crate::host::{self, HostState, Needs, Part};
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::{Connection, Evidence, Stage, StageReport, Verdict};

/// What one stage, or a part of one, came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Its verdict.
    pub verdict: Verdict,
    /// One line for people.
    pub detail: String,
    /// What decided.
    pub evidence: Vec<Evidence>,
    /// What was found, blocking or not, and how it is lifted.
    pub blocks: Vec<Found>,
}

/// A finding that does not decide by itself, and that a person must lift.
pub fn found(cause: Cause, blocking: bool, owner: Owner, evidence: Vec<Evidence>, fix: String) -> Judgement {
    let stage = cause.stage();
    let finding = Finding { cause, blocking, stage, owner, since: None, until: None, evidence: evidence.clone(), fix };
    Judgement { verdict: Verdict::Accept, detail: String::new(), evidence, blocks: vec![Found { finding, remedies: Vec::new() }] }
}

impl Judgement {
    /// Nothing found.
    pub fn accept(detail: &str) -> Self {
        Self { verdict: Verdict::Accept, detail: detail.to_owned(), evidence: Vec::new(), blocks: Vec::new() }
    }

    /// It cannot be told.
    pub fn unknown(detail: String) -> Self {
        Self { verdict: Verdict::Unknown, detail, evidence: Vec::new(), blocks: Vec::new() }
    }

    /// The same, lifted by these, in this order.
    pub fn with(mut self, remedies: impl IntoIterator<Item = Remedy>) -> Self {
        if let Some(found) = self.blocks.last_mut() {
            found.remedies.extend(remedies);
        }
        self
    }

    /// A further part of the same stage. The first that refuses, else the first that is unknown, is the one whose words are shown.
    pub fn add(&mut self, other: Self) {
        let both = self.verdict.and(other.verdict);
        if both != self.verdict {
            self.detail = other.detail;
            self.evidence = other.evidence;
        }
        self.verdict = both;
        self.blocks.extend(other.blocks);
    }

    fn report(self, stage: Stage) -> (StageReport, Vec<Found>) {
        let Self { verdict, detail, evidence, blocks } = self;
        (StageReport::new(stage, verdict, detail, evidence), blocks)
    }
}

/// The stages that apply: none where no OpenSSH server is; those of a login only where a user is asked about.
pub fn stages(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<(StageReport, Vec<Found>)> {
    let server = match host.sshd.servers.get(&connection.port) {
        None => {
            needs.insert(host::Need::Sshd(Need::Server(connection.port)));
            return Vec::new();
        }
        Some(Part::Absent(_)) => return Vec::new(),
        Some(Part::Unreadable(why)) => {
            return vec![Judgement::unknown(format!("sshd could not be asked: {why}")).report(Stage::SshdAdmission)];
        }
        Some(Part::Present(_)) => match super::resolved(host, connection.port, needs) {
            Some(server) => server,
            None => return Vec::new(),
        },
    };
    let server = &server;
    if host.sshd.journal.is_none() {
        needs.insert(host::Need::Sshd(Need::Journal));
    }
    let told = host.sshd.journal.as_ref().map_or(&[][..], |journal| &journal.lines);
    let mut admission = admission::judge(host, server, connection, told);
    admission.add(power::judge(host, !server.running, needs));
    let about_it = about_it(server, connection, told);
    admission.add(crash::judge(host, Some(server), &about_it));
    // Where nothing listens for another reason, the stage `listener` says all.
    if !server.running && admission.blocks.is_empty() {
        return Vec::new();
    }
    if let (None, Ok(effective)) = (&connection.user, &server.effective) {
        admission.add(happened(server, effective, &about_it, None, &settings(server, None)));
    }
    let mut stages = vec![admission.report(Stage::SshdAdmission)];
    if let Some(user) = &connection.user {
        stages.extend(login(host, server, connection, user, needs));
    }
    one_shutdown(&mut stages);
    stages
}

/// A planned shutdown that keeps users out already is one finding, with the evidence of both.
fn one_shutdown(stages: &mut [(StageReport, Vec<Found>)]) {
    let is = |block: &Found, blocking: bool| block.finding.cause == Cause::HostShutdown && block.finding.blocking == blocking;
    if !stages.iter().any(|(_, blocks)| blocks.iter().any(|block| is(block, true))) {
        return;
    }
    let mut planned = Vec::new();
    for (_, blocks) in stages.iter_mut() {
        let (told, kept): (Vec<Found>, Vec<Found>) = std::mem::take(blocks).into_iter().partition(|block| is(block, false));
        planned.extend(told.into_iter().flat_map(|block| block.finding.evidence));
        *blocks = kept;
    }
    if let Some(block) = stages.iter_mut().flat_map(|(_, blocks)| blocks).find(|block| is(block, true)) {
        block.finding.evidence.extend(planned);
    }
}

/// The journal's lines about the client, and those about nobody.
fn about_it<'a>(server: &Server, connection: &Connection, told: &'a [Told]) -> Vec<&'a Told> {
    let Some(address) = connection.source.single() else { return Vec::new() };
    let net = server.effective.as_ref().map_or_else(|_| address.into(), |effective| penalty::block(effective, address));
    limits::concerning(told, &net)
}

/// What became of connections of this client, and would again.
fn happened(server: &Server, effective: &Effective, told: &[&Told], user: Option<&str>, settings: &Settings) -> Judgement {
    let mut judgement = limits::judge(&About { effective, told, user, settings });
    judgement.add(algorithms::judge(server, told, settings));
    judgement
}

/// The lines that count for a login, or for everybody; none where the files cannot be followed.
pub fn settings(server: &Server, client: Option<&Client>) -> Settings {
    let Ok(tree) = &server.tree else { return Settings::new() };
    evaluate(tree, &server.invocation.options, client).unwrap_or_default()
}

/// The stages `sshd_access` and `account`, once everything they need is known.
fn login(
    host: &HostState,
    server: &Server,
    connection: &Connection,
    user: &str,
    needs: &mut Needs,
) -> Vec<(StageReport, Vec<Found>)> {
    let Some(address) = connection.source.single() else {
        return vec![Judgement::unknown("a login is judged for single addresses only".to_owned()).report(Stage::SshdAccess)];
    };
    let local = local_address(host, address);
    let login = Login::new(user, address, local.unwrap_or(address), connection.port);
    let Some(login) = login.filter(|_| is_user_name(user)) else {
        return vec![Judgement::unknown("that is no name sshfix asks about".to_owned()).report(Stage::SshdAccess)];
    };
    let (known, effective) = (host.sshd.accounts.get(user), super::login_as(host, server, &login, needs));
    if known.is_none() {
        needs.insert(host::Need::Sshd(Need::Account(user.to_owned())));
    }
    let (Some(known), Some(effective)) = (known, effective) else { return Vec::new() };
    let effective = match effective {
        Ok(effective) => effective,
        Err(why) => return vec![Judgement::unknown(format!("sshd -T: {why}")).report(Stage::SshdAccess)],
    };
    if let Part::Unreadable(why) = known {
        return vec![Judgement::unknown(why.clone()).report(Stage::Account)];
    }
    let Some(client) = client(&login, known) else { return Vec::new() };
    let mut access = access::judge(host, server, effective, &client, known, needs);
    let told = host.sshd.journal.as_ref().map_or(&[][..], |journal| &journal.lines);
    let about_it = about_it(server, connection, told);
    access.add(happened(server, effective, &about_it, Some(user), &settings(server, Some(&client))));
    let account = account::judge(host, effective, &client, known, needs);
    vec![access.report(Stage::SshdAccess), account.report(Stage::Account)]
}

/// A login of which all is known: what sshd makes of its files for it, who it is, and the account.
pub fn known_login<'a>(host: &'a HostState, connection: &Connection) -> Option<(&'a Effective, Client, &'a Part<Account>)> {
    let (user, address) = (connection.user.as_ref()?, connection.source.single()?);
    let login = Login::new(user, address, local_address(host, address).unwrap_or(address), connection.port)?;
    let effective = host.sshd.logins.get(&login)?.as_ref().ok()?;
    let account = host.sshd.accounts.get(user)?;
    Some((effective, client(&login, account)?, account))
}

/// The client as our own evaluation takes it; `None` where the account could not be read.
pub fn client(login: &Login, account: &Part<Account>) -> Option<Client> {
    let groups = match account {
        Part::Present(Account { groups, .. }) => Some(groups.clone()),
        Part::Absent(_) => None,
        Part::Unreadable(_) => return None,
    };
    Some(Client {
        user: login.user().to_owned(),
        groups,
        host: login.address.to_string(),
        address: login.address,
        local_address: Some(login.local_address),
        local_port: login.local_port,
    })
}

/// An address of the host that a client could come to, as far as can be told by its own.
pub fn local_address(host: &HostState, address: IpAddr) -> Option<IpAddr> {
    let same = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4() && ip.is_loopback() == address.is_loopback();
    host.listener.present()?.addresses.iter().find(same).copied()
}

/// The unit that runs it, for commands to paste.
pub fn unit(host: &HostState) -> String {
    let units = || host.listener.present().into_iter().flat_map(|state| state.units.iter().flatten());
    let service = units().find(|unit| unit.name.ends_with(".service") && unit.load == "loaded");
    service.map_or_else(|| "ssh".to_owned(), |unit| unit.name.trim_end_matches(".service").to_owned())
}
