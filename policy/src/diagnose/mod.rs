//! The diagnosis: every stage's verdict, and every block of a connection in every subsystem with its lift.
//! Joins a fail2ban ticket with the kernel entries that enforce it. Asks the subsystems; holds no rule of theirs.

pub mod remaining;
pub mod status;

use crate::address::Source;
use crate::host::block::{Block, Lift};
use crate::host::step::Step;
use crate::host::{HostState, Need, Needs, Part};
use crate::netfilter;
use crate::reply::{Diagnosis, DiagnosisSchema, Subject};
use crate::subsystem::{fail2ban, hosts_access, listener, nf_tables, route, sshd};
use crate::text::quoted::Text;
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::trace::TraceLine;
use crate::verdict::{Connection, Stage, StageReport, Verdict};
use crate::words;

/// The path of a new connection, stage by stage, and everything that blocks it; with `explain` also everything it meets.
/// Facts that are missing are added to `needs`; the answer is final only when none is.
pub fn diagnose(host: &HostState, subject: &Subject, explain: bool, needs: &mut Needs) -> Diagnosis {
    let connection = Connection { source: subject.address.into(), port: subject.port, user: subject.user.clone() };
    let Path { verdict, stages, findings } = path(host, &connection, explain, needs);
    Diagnosis { schema: DiagnosisSchema::V1, subject: subject.clone(), verdict, stages, findings, notes: notes(host) }
}

/// The path of a connection, of one address or of a range.
pub struct Path {
    /// All stages together.
    pub verdict: Verdict,
    /// In order.
    pub stages: Vec<StageReport>,
    /// Every cause found.
    pub findings: Vec<Finding>,
}

/// What a diagnosis says, for a range of sources, too.
pub fn path(host: &HostState, connection: &Connection, explain: bool, needs: &mut Needs) -> Path {
    let found = path_of(host, connection, explain, needs);
    #[cfg(test)]
    words::same(&found, tests::decided, || path_of(host, connection, explain, &mut Needs::new()));
    found
}

fn path_of(host: &HostState, connection: &Connection, explain: bool, needs: &mut Needs) -> Path {
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        // Stages, in the order of the path.
        route: _,
        nf_tables: _,
        xtables: _,
        ipset: _,
        listener: _,
        hosts_access: _,
        sshd: _,
        // Blocks under the stage that enforces them; whose rule it is.
        fail2ban: _,
        ufw: _,
    } = host;
    let (filters, walked) = netfilter::judge(host, connection, needs);
    let (filtered, delivered_to) = (filters.verdict, walked.delivered_to);
    // Who listens, and for which port hosts.allow is asked, is about the port that the packets are delivered to.
    let behind = Connection { port: delivered_to.unwrap_or(connection.port), ..connection.clone() };
    let mut stages = vec![
        route::evaluate(host, connection, needs),
        filters,
        listener::evaluate(host, &behind),
        hosts_access::evaluate(host, &behind, needs),
    ];
    let (of_sshd, found): (Vec<_>, Vec<_>) = sshd::stages(host, &behind, needs).into_iter().unzip();
    stages.extend(of_sshd);
    if explain {
        for report in &mut stages {
            report.trace = match report.stage {
                Stage::Route | Stage::Netfilter => trace(host, report.stage, connection, needs),
                Stage::Listener | Stage::HostsAccess | Stage::SshdAdmission | Stage::SshdAccess | Stage::Account => {
                    trace(host, report.stage, &behind, needs)
                }
            };
        }
    }
    let verdict = stages.iter().fold(Verdict::Accept, |all, stage| all.and(stage.verdict));
    let mut findings: Vec<_> =
        blocks_behind(host, connection, (filtered, walked), needs).into_iter().map(|block| block.finding).collect();
    // Where a rule sends it to a port on which nobody listens, the rule is what is wrong.
    if delivered_to.is_none() || filtered != Verdict::Refuse {
        findings.extend(listener::blocks(host, &behind).into_iter().map(|block| block.finding));
    }
    let command = fix_command(connection);
    let power = |found: &sshd::Found| found.finding.blocking && found.finding.cause == Cause::HostShutdown;
    if found.iter().flatten().any(power) {
        for down in findings.iter_mut().filter(|finding| finding.cause == Cause::SshdDown) {
            down.blocking = false;
            down.fix = "nothing: the host is shutting down or not up yet".into();
        }
    }
    let in_vain = |found: &sshd::Found| found.finding.blocking && found.finding.cause == Cause::SshdListen;
    if found.iter().flatten().any(in_vain) {
        for down in findings.iter_mut().filter(|finding| finding.cause == Cause::SshdDown) {
            down.fix = "first give sshd an address to listen on (below): until then no start of it succeeds".into();
        }
    }
    for mut found in found.into_iter().flatten() {
        if found.is_fixed(host, connection.port) {
            found.finding.fix = Text::from(format!("`{command}`; or by hand: ")) + found.finding.fix;
        }
        findings.push(found.finding);
    }
    // A diagnosis names the command and plans no step, and reading this would make its cost depend on the size of the set.
    needs.retain(|need| !matches!(need, Need::IpsetProperties(_)));
    Path { verdict, stages, findings }
}

/// What lifts all that is found for a login.
fn fix_command(connection: &Connection) -> String {
    let user = connection.user.as_ref().filter(|user| sshd::is_user_name(user));
    let user = user.map_or_else(String::new, |user| format!(" --user {user}"));
    format!("sshfix ctl fix {}{user}", connection.source.short())
}

/// The connection as it is behind the packet filters, which may send it to another port.
pub fn behind(host: &HostState, connection: &Connection, needs: &mut Needs) -> Connection {
    let (_, walked) = netfilter::judge(host, connection, needs);
    Connection { port: walked.delivered_to.unwrap_or(connection.port), ..connection.clone() }
}

/// What every diagnosis asks for, whatever the packet filters say: to be fetched at once.
pub fn first_needs(subject: &Subject) -> Needs {
    [Need::Route(subject.address.into()), Need::Sshd(sshd::Need::Server(subject.port))].into()
}

/// Everything the connection meets in one stage.
fn trace(host: &HostState, stage: Stage, connection: &Connection, needs: &mut Needs) -> Vec<TraceLine> {
    match stage {
        Stage::Route => route::trace(host, connection, needs),
        Stage::Netfilter => netfilter::trace(host, connection, needs),
        Stage::Listener => listener::trace(host, connection),
        Stage::HostsAccess => hosts_access::trace(host, connection, needs),
        Stage::SshdAdmission | Stage::SshdAccess | Stage::Account => sshd::trace(host, stage, connection, needs),
    }
}

/// What routes, packet filters and hosts files together do to a connection: the part of the path that plans can change.
///
/// `read` is the host as it was read, `now` the same with some steps predicted. The kernel shows what the tickets that were
/// read really do; a ticket that a step would make refuses, because the model has no rule for it yet.
pub fn admission(read: &HostState, now: &HostState, connection: &Connection, needs: &mut Needs) -> (Verdict, Text) {
    admission_by(netfilter::evaluate, read, now, connection, needs)
}

/// How packet filters are asked: with neighbour discovery ([`netfilter::evaluate`]), or one address standing for many, without
/// ([`netfilter::evaluate_rules`]).
pub type Filters = fn(&HostState, &Connection, &mut Needs) -> StageReport;

/// The same, with the packet filters asked like this.
pub fn admission_by(
    filters: Filters,
    read: &HostState,
    now: &HostState,
    connection: &Connection,
    needs: &mut Needs,
) -> (Verdict, Text) {
    let found = admission_of(filters, read, now, connection, needs);
    #[cfg(test)]
    words::same(&found, |(verdict, _)| *verdict, || admission_of(filters, read, now, connection, &mut Needs::new()));
    found
}

fn admission_of(
    filters: Filters,
    read: &HostState,
    now: &HostState,
    connection: &Connection,
    needs: &mut Needs,
) -> (Verdict, Text) {
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        fail2ban: _,
        route: _,
        nf_tables: _,
        xtables: _,
        ipset: _,
        hosts_access: _,
        // Whose rule it is.
        ufw: _,
        // No plan changes who listens; what sshd makes of a login, the proof asks path by path.
        listener: _,
        sshd: _,
    } = now;
    if let Some(ban) = fail2ban::new_tickets(read, now).find(|ban| ban.source.overlaps(connection.source)) {
        return (Verdict::Refuse, format!("the ban of {} in {}", ban.source.short(), Owner::jail(ban.jail)).into());
    }
    let [route, netfilter, hosts] = admission_stages(filters, now, connection, needs);
    let verdict = route.verdict.and(netfilter.verdict).and(hosts.verdict);
    let decided = [netfilter, hosts].into_iter().find(|stage| stage.verdict == verdict).unwrap_or(route);
    (verdict, decided.why())
}

/// Routes, packet filters and hosts files, each alone.
pub fn admission_stages(filters: Filters, now: &HostState, connection: &Connection, needs: &mut Needs) -> [StageReport; 3] {
    let (route, netfilter) = (route::evaluate(now, connection, needs), filters(now, connection, needs));
    [route, netfilter, hosts_access::evaluate(now, connection, needs)]
}

/// Everything a plan could lift that refuses this connection: fail2ban first, then netfilter, routes and hosts files.
pub fn blocks(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Block> {
    let found = blocks_of(host, connection, needs);
    #[cfg(test)]
    words::same(&found, |blocks| tests::lifted(blocks), || blocks_of(host, connection, &mut Needs::new()));
    found
}

fn blocks_of(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Block> {
    let (filters, walked) = netfilter::judge(host, connection, needs);
    blocks_behind(host, connection, (filters.verdict, walked), needs)
}

/// The same, where it is known what the packet filters do.
fn blocks_behind(
    host: &HostState,
    connection: &Connection,
    (filtered, walked): (Verdict, netfilter::Walk),
    needs: &mut Needs,
) -> Vec<Block> {
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        fail2ban,
        nf_tables: _,
        xtables: _,
        ipset: _,
        route: _,
        hosts_access: _,
        // Whose rule it is.
        ufw: _,
        // What they refuse is no ban: `fix` asks them.
        listener: _,
        sshd: _,
    } = host;
    let mut blocks = fail2ban::blocks(host, connection);
    let tickets = blocks.len();
    let mut enforced = vec![false; tickets];
    for mut kernel in netfilter::blocks(host, connection, walked, needs) {
        if kernel.finding.cause == Cause::Fail2banBanStale {
            let owner = kernel.finding.owner.clone();
            let same_jail = blocks.iter().take(tickets).position(|ticket| ticket.finding.owner == owner);
            let ticket = same_jail.or((tickets > 0).then_some(0));
            if let Some(index) = ticket
                && let (Some(ticket), Some(flag)) = (blocks.get_mut(index), enforced.get_mut(index))
            {
                *flag = true;
                join(ticket, kernel);
                continue;
            }
            if let Part::Unreadable(why) = fail2ban {
                // fail2ban may still hold the ticket, so this cannot be called stale; it cannot be asked either.
                kernel.finding.cause = Cause::Fail2banBan;
                kernel.finding.fix.push(format!(" (fail2ban could not be asked and may ban again: {why})"));
            }
        }
        // fail2ban's actions `ufw` and `firewallcmd-rich-rules` refuse the very address through that manager. A ticket that nothing
        // else enforces made the rule; where it did not, the rule is still there after the unban, which is then rolled back.
        let maker = blocks.iter().take(tickets).position(|ticket| bans_through_a_manager(ticket, &kernel));
        if let Some(index) = maker
            && let (Some(ticket), Some(flag @ false)) = (blocks.get_mut(index), enforced.get_mut(index))
        {
            *flag = true;
            join_managed(ticket, kernel);
            continue;
        }
        blocks.push(kernel);
    }
    for mut refusal in route::blocks(host, connection, needs) {
        // fail2ban's `route` action makes a route for exactly the address it bans and takes it away with the ban. Somebody else may
        // have made this one, so it stays a step of its own: where fail2ban did the work, there is nothing left to do.
        let maker = blocks.iter().take(tickets).position(|ticket| bans_what_it_routes(ticket, &refusal));
        if let Some(index) = maker
            && let (Some(ticket), Some(flag)) = (blocks.get_mut(index), enforced.get_mut(index))
        {
            // The route is what the ban does: both are shown under its stage, unless a packet filter refuses before it.
            if !*flag {
                ticket.finding.stage = Stage::Route;
            }
            *flag = true;
            ticket.finding.evidence.extend(refusal.finding.evidence.iter().cloned());
            refusal.finding.owner.clone_from(&ticket.finding.owner);
        }
        blocks.push(refusal);
    }
    let mut hosts = hosts_access::blocks(host, connection, needs);
    for line in &mut hosts {
        // fail2ban's action `hostsdeny` writes this very line for the address it bans.
        let Some(source) = line.all_daemons else { continue };
        let mut made = blocks.iter_mut().zip(&enforced);
        if let Some((ticket, enforced)) = made.find(|(ticket, _)| banned_source(ticket) == Some(source)) {
            if !enforced {
                ticket.finding.stage = Stage::HostsAccess;
            }
            line.block.finding.owner.clone_from(&ticket.finding.owner);
        }
    }
    let by_line = hosts.iter().any(|line| matches!(line.block.finding.owner, Owner::Fail2ban(_)));
    if filtered == Verdict::Accept {
        for (ticket, enforced) in blocks.iter_mut().zip(&enforced) {
            // The ticket exists, but no packet filter refuses; only a hosts file could be enforcing it.
            ticket.finding.blocking = *enforced || by_line;
        }
    }
    blocks.extend(hosts.into_iter().map(|line| line.block));
    blocks
}

/// The source of the ticket that a block's lift ends.
fn banned_source(ticket: &Block) -> Option<Source> {
    let Lift::Steps(unban) = &ticket.lift else { return None };
    unban.iter().find_map(|step| match step {
        Step::Fail2ban(fail2ban::Step::Ticket { source, .. }) => Some(*source),
        _ => None,
    })
}

/// Whether a rule of ufw or firewalld refuses exactly what the ticket bans, and its manager's command takes just that rule back.
fn bans_through_a_manager(ticket: &Block, kernel: &Block) -> bool {
    let manager = matches!(kernel.finding.cause, Cause::UfwDeny | Cause::FirewalldDeny);
    let deletes = |step: &Step| match step {
        Step::NfTables(nf_tables::Step::Rule { after: None, .. }) => true,
        Step::Xtables(step) => step.after.is_none(),
        _ => false,
    };
    let exactly = |source: Source| kernel.managed.iter().all(|step| deletes(step) && step.touches() == Some(vec![source]));
    manager && !kernel.managed.is_empty() && banned_source(ticket).is_some_and(exactly)
}

/// Adds a rule of another manager to the ticket that made it through that manager.
fn join_managed(ticket: &mut Block, kernel: Block) {
    ticket.finding.evidence.extend(kernel.finding.evidence);
    if let (Lift::Steps(unban), Lift::ByHand(command)) = (&mut ticket.lift, kernel.lift)
        && let Some(Step::Fail2ban(fail2ban::Step::Ticket { through, .. })) = unban.last_mut()
    {
        let one = |step| fail2ban::Through { step, command: command.clone() };
        through.extend(kernel.managed.into_iter().map(one));
    }
}

/// Whether a ticket and a route that refuses are about the same address.
fn bans_what_it_routes(ticket: &Block, refusal: &Block) -> bool {
    let Lift::Steps(removal) = &refusal.lift else { return false };
    banned_source(ticket).is_some_and(|source| removal.iter().any(|step| step.touches() == Some(vec![source])))
}

/// Adds a kernel entry to the ticket that made it: its evidence, and its removal in case fail2ban leaves it behind.
fn join(ticket: &mut Block, kernel: Block) {
    ticket.finding.evidence.extend(kernel.finding.evidence);
    // With the ticket of the whole range goes what enforces it.
    let whole = ticket.alternatives.iter_mut().find(|one| one.range).and_then(|one| one.steps.last_mut());
    if let Some(Step::Fail2ban(fail2ban::Step::Ticket { leftovers, .. })) = whole {
        leftovers.extend(kernel.alternatives.into_iter().filter(|one| one.range).flat_map(|one| one.steps));
    }
    match (&mut ticket.lift, kernel.lift) {
        (Lift::Steps(unban), Lift::Steps(removal)) => {
            if let Some(Step::Fail2ban(fail2ban::Step::Ticket { leftovers, .. })) = unban.last_mut() {
                leftovers.extend(removal);
            } else {
                // The ticket of a wider range stays, so this opens the one address beside it.
                unban.extend(removal);
            }
        }
        (Lift::ByHand(_), _) => {}
        (lift @ Lift::Steps(_), by_hand @ Lift::ByHand(_)) => *lift = by_hand,
    }
}

/// What could not be read, one line each; what is merely not installed is no news.
pub fn notes(host: &HostState) -> Vec<String> {
    unread(host).into_iter().map(words::said).collect()
}

fn unread(host: &HostState) -> Vec<String> {
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        fail2ban,
        hosts_access,
        nf_tables,
        xtables,
        ipset,
        listener,
        route,
        // What could not be read of these is said where they are asked: by the rule's owner, by the stage.
        ufw: _,
        sshd: _,
    } = host;
    let parts = [
        ("fail2ban", fail2ban.unreadable()),
        ("the routes", route.unreadable()),
        ("nftables", nf_tables.unreadable()),
        ("iptables-legacy", xtables.unreadable()),
        ("the listener on the SSH port", listener.unreadable()),
        ("hosts.allow and hosts.deny", hosts_access.unreadable()),
    ];
    let unreadable = |name: &str, why: &str| format!("{name} could not be read, so its part is unknown: {why}");
    let mut notes: Vec<String> = parts.iter().filter_map(|(name, why)| why.map(|why| unreadable(name, why))).collect();
    for which in [hosts_access::Which::Allow, hosts_access::Which::Deny] {
        let file = hosts_access.present().map(|state| state.file(which));
        if let Some(hosts_access::File { path, content: hosts_access::Content::Unreadable(why), .. }) = file {
            notes.push(unreadable(path, why));
        }
    }
    for (name, why) in ipset.unreadable().into_iter().chain(ipset.recent.unreadable()) {
        notes.push(unreadable(&name, &why));
    }
    if let Part::Absent(why) = fail2ban {
        notes.push(format!("fail2ban: {why}"));
    }
    notes
}

#[cfg(test)]
mod tests;
