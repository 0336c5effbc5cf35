//! The three stages that sshd decides, put together: which of them apply, and what each needs to know first.

use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::Settings;
use crate::subsystem::sshd::facts::journal::Told;
use crate::subsystem::sshd::facts::state::{Login, Need, Server, is_user_name};
use crate::subsystem::sshd::judge::judgement::{Found, Judgement};
use crate::subsystem::sshd::judge::limits::{self, About};
use crate::subsystem::sshd::judge::login::{client, local_address, settings};
use crate::subsystem::sshd::judge::{access, account, admission, algorithms, crash, penalty, power};
use crate::subsystem::sshd::quoting::{line, said};
use crate::text::quoted::Text;
use crate::verdict::cause::Cause;
use crate::verdict::{Connection, Stage, StageReport, Verdict};

/// The stages that apply: none where no OpenSSH server is; those of a login only where a user is asked about.
pub fn stages(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<(StageReport, Vec<Found>)> {
    let server = match host.sshd.servers.get(&connection.port) {
        None => {
            needs.insert(host::Need::Sshd(Need::Server(connection.port)));
            return Vec::new();
        }
        Some(Part::Absent(_)) => return Vec::new(),
        Some(Part::Unreadable(why)) => {
            return vec![Judgement::unknown(Text::from("sshd could not be asked: ") + said(why)).report(Stage::SshdAdmission)];
        }
        Some(Part::Present(_)) => match crate::subsystem::sshd::resolved(host, connection.port, needs) {
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

/// Files that changed since the running sshd read them: what it goes by is not known, unless this user came in since from there.
fn unread(server: &Server, about_it: &[&Told], user: &str) -> Option<Text> {
    let since = |told: &Told| server.read_at.is_some_and(|read_at| told.at >= read_at);
    let came_in = |told: &&Told| since(told) && told.came_in() == Some(user);
    if server.stale.is_empty() || !server.running || about_it.iter().any(came_in) {
        return None;
    }
    Some(
        Text::from("sshd has not read its files since they changed (")
            + line(&server.stale.join(", "))
            + "): `sshfix ctl sshd reload`",
    )
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
        return vec![Judgement::unknown("a login is judged for single addresses only").report(Stage::SshdAccess)];
    };
    let local = local_address(host, address);
    let login = Login::new(user, address, local.unwrap_or(address), connection.port);
    let Some(login) = login.filter(|_| is_user_name(user)) else {
        return vec![Judgement::unknown("that is no name sshfix asks about").report(Stage::SshdAccess)];
    };
    let (known, effective) = (host.sshd.accounts.get(user), crate::subsystem::sshd::login_as(host, server, &login, needs));
    if known.is_none() {
        needs.insert(host::Need::Sshd(Need::Account(user.to_owned())));
    }
    let (Some(known), Some(effective)) = (known, effective) else { return Vec::new() };
    let effective = match effective {
        Ok(effective) => effective,
        Err(why) => return vec![Judgement::unknown(Text::from("sshd -T: ") + said(why)).report(Stage::SshdAccess)],
    };
    if let Part::Unreadable(why) = known {
        return vec![Judgement::unknown(why.clone()).report(Stage::Account)];
    }
    let Some(client) = client(&login, known) else { return Vec::new() };
    let mut access = access::judge(host, server, effective, &client, known, needs);
    let told = host.sshd.journal.as_ref().map_or(&[][..], |journal| &journal.lines);
    let about_it = about_it(server, connection, told);
    let settings = settings(server, Some(&client));
    access.add(happened(server, effective, &about_it, Some(user), &settings));
    if let Some(why) = unread(server, &about_it, user).filter(|_| access.verdict == Verdict::Accept) {
        access = Judgement { verdict: Verdict::Unknown, detail: why + "; by them: " + access.detail, ..access };
    }
    let account = account::judge(host, effective, &settings, &client, known, needs);
    vec![access.report(Stage::SshdAccess), account.report(Stage::Account)]
}
