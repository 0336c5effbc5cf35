//! Leases: what lets a source in for a while, whatever blocks it, and what takes exactly that back when the time is over. Every
//! part carries the lease's mark, so that it is found wherever it stands by then. Decides nothing about time.

use std::collections::BTreeSet;

use crate::address::Source;
use crate::diagnose::admission;
use crate::host::lease::{End, Item, Leases, Running, mark};
use crate::host::step::Step;
use crate::host::{HostState, Needs, Part};
use crate::netfilter;
use crate::plan::error::{LeaseError, PlanError};
use crate::subsystem::{fail2ban, hosts_access, route, sshd};
use crate::text::quoted::Text;
use crate::verdict::{Connection, Verdict};

impl Leases {
    /// Whether a lease may last so long.
    pub fn permit(&self, seconds: u64) -> Result<(), LeaseError> {
        if seconds == 0 {
            return Err(LeaseError::NoTime);
        }
        if self.longest > 0 && seconds > self.longest {
            return Err(LeaseError::TooLong { seconds, longest: self.longest });
        }
        Ok(())
    }
}

/// The host as it will be for a lease about this source once the others have ended: only what is for that very source stays.
pub fn without_others(leases: &Leases, host: &HostState, source: Source) -> Result<HostState, PlanError> {
    let mut alone = host.clone();
    let mut marks = BTreeSet::new();
    for item in leases.ends_without(source, &leases.next) {
        match item {
            Item::Rules { mark, .. } => _ = marks.insert(mark.as_str()),
            Item::Line { source, mark, created } => {
                let mut end = End::default();
                hosts_access::plan_unlease(&alone, *source, mark, *created, &mut end);
                for step in end.steps {
                    step.predict(&mut alone)?;
                }
            }
            Item::Ignore { jail, entry } => {
                if let Some(fail2ban) = alone.fail2ban.present_mut() {
                    let jails = fail2ban.jails.iter_mut().filter(|one| one.name == *jail);
                    jails.for_each(|jail| jail.ignore.retain(|one| one != entry));
                }
            }
            // sshd forgets all penalties when it is reloaded for the end: nothing is held against anybody then.
            Item::Exempt { .. } => {}
        }
    }
    netfilter::unmark(&mut alone, &marks);
    Ok(alone)
}

/// The steps that let a source in now, whatever blocks it, and keep fail2ban from banning it meanwhile. Only adds: a ban stays and
/// is passed. Also what they add, as it is found again. What other leases let in beside it does not count: they may end before.
pub fn allow(
    leases: &Leases,
    host: &HostState,
    source: Source,
    port: u16,
    notes: &mut Vec<Text>,
    needs: &mut Needs,
) -> Result<(Vec<Step>, Vec<Item>), PlanError> {
    if source.net().prefix_len() == 0 {
        return Err(LeaseError::Everybody.into());
    }
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        fail2ban,
        route: _,
        nf_tables: _,
        xtables: _,
        ipset: _,
        hosts_access: _,
        sshd: _,
        // Whose rule it is.
        ufw: _,
        // Where nobody listens, a lease does not help: `fix` does.
        listener: _,
    } = host;
    let connection = Connection { source, port, user: None };
    let mark = mark(&leases.next);
    let alone = without_others(leases, host, source)?;
    let (mut steps, mut items) = (Vec::new(), Vec::new());
    // Before the way is open, so that no ban comes in between.
    match fail2ban {
        Part::Present(_) => {
            for step in fail2ban::plan_ignore(&alone, source, None)? {
                items.extend(ignored(&step));
                steps.push(step);
            }
        }
        Part::Absent(_) => {}
        Part::Unreadable(why) => {
            notes.push(format!("fail2ban may ban it meanwhile, because sshfix cannot add it to ignoreip: {why}").into());
        }
    }
    let refused = route::evaluate(host, &connection, needs);
    if refused.verdict == Verdict::Refuse {
        return Err(LeaseError::Route { refusal: refused.detail, client: source }.into());
    }
    let rules = netfilter::plan_accept(&alone, source, port, Some(&mark), needs)?;
    if !rules.is_empty() {
        items.push(Item::Rules { source, mark: mark.clone() });
    }
    steps.extend(rules);
    if hosts_access::evaluate(&alone, &connection, needs).verdict != Verdict::Accept {
        let created = hosts_access::has_no_allow(&alone);
        for step in hosts_access::plan_lease(host, source, &mark)? {
            items.push(Item::Line { source, mark: mark.clone(), created });
            steps.push(step);
        }
    }
    match sshd::plan_exempt(host, source, port, needs) {
        Ok(planned) => {
            items.extend(planned.steps.first().map(|_| Item::Exempt { source, port }));
            steps.extend(planned.steps.into_iter().map(Step::Sshd));
            notes.extend(planned.notes);
        }
        Err(why) => {
            notes.push(Text::from(format!("a possible refusal of {} by sshd is not bypassed: ", source.short())) + why.words());
        }
    }
    Ok((steps, items))
}

/// The item of an ignoreip entry that is added.
pub fn ignored(step: &Step) -> Option<Item> {
    match step {
        Step::Fail2ban(fail2ban::Step::Ignore { jail, entry, after: true, .. }) => {
            Some(Item::Ignore { jail: jail.clone(), entry: entry.clone() })
        }
        _ => None,
    }
}

/// Takes back what a lease added, but what other leases that run count on. What is gone already is fine.
pub fn end(host: &HostState, lease: &Running, others: &[Running], needs: &mut Needs) -> End {
    let mut end = End::default();
    for item in &lease.items {
        if let Some(other) = others.iter().find(|other| other.id != lease.id && other.counts_on(item)) {
            end.left.push(format!("{}: lease {} needs it", item.describe(), other.id));
            continue;
        }
        match item {
            Item::Rules { source, mark } => netfilter::marked(host, *source, mark, &mut end),
            Item::Line { source, mark, created } => hosts_access::plan_unlease(host, *source, mark, *created, &mut end),
            Item::Exempt { source, port } => match sshd::plan_unexempt(host, *source, *port, needs) {
                Ok(planned) => {
                    end.steps.extend(planned.steps.into_iter().map(Step::Sshd));
                    end.besides.extend(planned.notes);
                }
                Err(why) => end.unread.push(format!("sshd's configuration: {}", why.words().as_str())),
            },
            Item::Ignore { jail, entry } => unignore(host, jail, entry, &mut end),
        }
    }
    end
}

/// fail2ban forgets its running ignoreip with a restart, so that no jail and no entry is fine.
fn unignore(host: &HostState, jail: &str, entry: &str, end: &mut End) {
    match &host.fail2ban {
        Part::Present(state) => {
            if state.jail(jail).is_some_and(|jail| jail.ignore.iter().any(|one| one == entry)) {
                let (jail, entry) = (jail.to_owned(), entry.to_owned());
                end.steps.push(Step::Fail2ban(fail2ban::Step::Ignore { jail, entry, before: true, after: false }));
            }
        }
        Part::Absent(_) => {}
        Part::Unreadable(why) => end.unread.push(format!("fail2ban could not be asked: {why}")),
    }
}

/// Why the source still is kept out on a host, if it is.
pub fn refused(host: &HostState, source: Source, port: u16, needs: &mut Needs) -> Option<Text> {
    let (verdict, why) = admission(host, host, &Connection { source, port, user: None }, needs);
    (verdict == Verdict::Refuse).then_some(why)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
