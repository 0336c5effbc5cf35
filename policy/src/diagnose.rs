//! The diagnosis: every stage's verdict, and every block of a connection in every subsystem with its lift.
//! Joins a fail2ban ticket with the kernel entries that enforce it. Asks the subsystems; holds no rule of theirs.

use crate::host::{HostState, Needs, Part};
use crate::netfilter;
use crate::reply::{Diagnosis, DiagnosisSchema, Subject};
use crate::step::Step;
use crate::subsystem::{fail2ban, hosts_access, listener, route};
use crate::trace::TraceLine;
use crate::verdict::{Block, Cause, Connection, Lift, Stage, Verdict};

/// The path of a new connection, stage by stage, and everything that blocks it; with `explain` also everything it meets.
/// Facts that are missing are added to `needs`; the answer is final only when none is.
pub fn diagnose(host: &HostState, subject: &Subject, explain: bool, needs: &mut Needs) -> Diagnosis {
    let connection = Connection { source: subject.address.into(), port: subject.port, user: subject.user.clone() };
    let (filters, delivered_to) = netfilter::judge(host, &connection, needs);
    let filtered = filters.verdict;
    // Who listens, and for which port hosts.allow is asked, is about the port that the packets are delivered to.
    let behind = Connection { port: delivered_to.unwrap_or(connection.port), ..connection.clone() };
    let mut stages = vec![
        route::evaluate(host, &connection, needs),
        filters,
        listener::evaluate(host, &behind),
        hosts_access::evaluate(host, &behind, needs),
    ];
    if explain {
        for report in &mut stages {
            report.trace = match report.stage {
                Stage::Route | Stage::Netfilter => trace(host, report.stage, &connection, needs),
                _ => trace(host, report.stage, &behind, needs),
            };
        }
    }
    let verdict = stages.iter().fold(Verdict::Accept, |all, stage| all.and(stage.verdict));
    let mut findings: Vec<_> = blocks_behind(host, &connection, filtered, needs).into_iter().map(|block| block.finding).collect();
    // Where a rule sends it to a port on which nobody listens, the rule is what is wrong.
    if delivered_to.is_none() || filtered != Verdict::Refuse {
        findings.extend(listener::blocks(host, &behind).into_iter().map(|block| block.finding));
    }
    Diagnosis { schema: DiagnosisSchema::V1, subject: subject.clone(), verdict, stages, findings, notes: notes(host) }
}

/// Everything the connection meets in one stage.
fn trace(host: &HostState, stage: Stage, connection: &Connection, needs: &mut Needs) -> Vec<TraceLine> {
    match stage {
        Stage::Route => route::trace(host, connection, needs),
        Stage::Netfilter => netfilter::trace(host, connection, needs),
        Stage::Listener => listener::trace(host, connection),
        Stage::HostsAccess => hosts_access::trace(host, connection, needs),
        Stage::SshdAdmission | Stage::SshdAccess | Stage::Account => Vec::new(),
    }
}

/// What routes, packet filters and hosts files together do to a connection: the part of the path that plans can change.
///
/// `read` is the host as it was read, `now` the same with some steps predicted. The kernel shows what the tickets that were
/// read really do; a ticket that a step would make refuses, because the model has no rule for it yet.
pub fn admission(read: &HostState, now: &HostState, connection: &Connection, needs: &mut Needs) -> (Verdict, String) {
    let known = fail2ban::bans(read);
    let new = fail2ban::bans(now).into_iter().find(|ban| {
        ban.source.overlaps(connection.source) && !known.iter().any(|old| old.source == ban.source && old.by == ban.by)
    });
    if let Some(ban) = new {
        return (Verdict::Refuse, format!("the ban of {} in {}", ban.source.short(), ban.by));
    }
    let route = route::evaluate(now, connection, needs);
    let netfilter = netfilter::evaluate(now, connection, needs);
    let hosts = hosts_access::evaluate(now, connection, needs);
    let verdict = route.verdict.and(netfilter.verdict).and(hosts.verdict);
    let decided = [netfilter, hosts].into_iter().find(|stage| stage.verdict == verdict).unwrap_or(route);
    let why = decided.evidence.first().map_or(decided.detail.clone(), |e| format!("{}: {}", e.source, e.text));
    (verdict, why)
}

/// Everything a plan could lift that refuses this connection: fail2ban first, then netfilter, routes and hosts files.
pub fn blocks(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Block> {
    let filtered = netfilter::evaluate(host, connection, needs).verdict;
    blocks_behind(host, connection, filtered, needs)
}

/// The same, where it is known what the packet filters do.
fn blocks_behind(host: &HostState, connection: &Connection, filtered: Verdict, needs: &mut Needs) -> Vec<Block> {
    let mut blocks = fail2ban::blocks(host, connection);
    let tickets = blocks.len();
    let mut enforced = vec![false; tickets];
    for mut kernel in netfilter::blocks(host, connection, needs) {
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
            if let Part::Unreadable(why) = &host.fail2ban {
                // fail2ban may still hold the ticket, so this cannot be called stale; it cannot be asked either.
                kernel.finding.cause = Cause::Fail2banBan;
                kernel.finding.fix = format!("{} (fail2ban could not be asked and may ban again: {why})", kernel.finding.fix);
            }
        }
        blocks.push(kernel);
    }
    for mut refusal in route::blocks(host, connection, needs) {
        // fail2ban's `route` action makes a route for exactly the address it bans and takes it away with the ban. Somebody else may
        // have made this one, so it stays a step of its own: where fail2ban did the work, there is nothing left to do.
        let maker = blocks.iter().take(tickets).position(|ticket| bans_what_it_routes(ticket, &refusal));
        if let Some(index) = maker
            && let (Some(ticket), Some(flag)) = (blocks.get(index), enforced.get_mut(index))
        {
            *flag = true;
            refusal.finding.owner.clone_from(&ticket.finding.owner);
        }
        blocks.push(refusal);
    }
    let hosts = hosts_access::blocks(host, connection, needs);
    if filtered == Verdict::Accept {
        for (ticket, enforced) in blocks.iter_mut().zip(&enforced) {
            // The ticket exists, but no packet filter refuses; only a hosts file could be enforcing it.
            ticket.finding.blocking = *enforced || hosts.iter().any(|h| h.finding.owner.starts_with("fail2ban"));
        }
    }
    blocks.extend(hosts);
    blocks
}

/// Whether a ticket and a route that refuses are about the same address.
fn bans_what_it_routes(ticket: &Block, refusal: &Block) -> bool {
    let (Lift::Steps(unban), Lift::Steps(removal)) = (&ticket.lift, &refusal.lift) else { return false };
    let banned = unban.iter().find_map(|step| match step {
        Step::Fail2ban(fail2ban::Step::Ticket { source, .. }) => Some(*source),
        _ => None,
    });
    banned.is_some_and(|source| removal.iter().any(|step| step.touches() == Some(vec![source])))
}

/// Adds a kernel entry to the ticket that made it: its evidence, and its removal in case fail2ban leaves it behind.
fn join(ticket: &mut Block, kernel: Block) {
    ticket.finding.evidence.extend(kernel.finding.evidence);
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
    let unreadable = |name: &str, why: &str| format!("{name} could not be read, so its part is unknown: {why}");
    let mut notes = Vec::new();
    if let Part::Unreadable(why) = &host.fail2ban {
        notes.push(unreadable("fail2ban", why));
    }
    if let Part::Unreadable(why) = &host.route {
        notes.push(unreadable("the routes", why));
    }
    if let Part::Unreadable(why) = &host.nf_tables {
        notes.push(unreadable("nftables", why));
    }
    if let Part::Unreadable(why) = &host.xtables {
        notes.push(unreadable("iptables-legacy", why));
    }
    if let Part::Unreadable(why) = &host.listener {
        notes.push(unreadable("the listener on the SSH port", why));
    }
    if let Part::Unreadable(why) = &host.hosts_access {
        notes.push(unreadable("hosts.allow and hosts.deny", why));
    }
    for (name, why) in host.ipset.unreadable() {
        notes.push(unreadable(&name, &why));
    }
    if let Part::Absent(why) = &host.fail2ban {
        notes.push(format!("fail2ban: {why}"));
    }
    notes
}
