//! Leases: what lets a source in for a while, whatever blocks it, and what takes exactly that back when the time is over. Every
//! part carries the lease's mark, so that it is found wherever it stands by then. Decides nothing about time.

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::diagnose::admission;
use crate::host::step::Step;
use crate::host::{HostState, Needs, Part};
use crate::netfilter;
use crate::plan::PlanError;
use crate::subsystem::{fail2ban, hosts_access, route, sshd};
use crate::verdict::{Connection, Verdict};

/// One thing that a lease added, or that it counts on because another lease did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Accept rules for this source whose comment is the mark, in any table.
    Rules {
        /// For whom.
        source: Source,
        /// `sshfix lease 3`
        mark: String,
    },
    /// A line of hosts.allow for this source, below a comment line that is the mark.
    Line {
        /// For whom.
        source: Source,
        /// `sshfix lease 3`
        mark: String,
        /// Whether there was no hosts.allow before.
        created: bool,
    },
    /// An entry of sshd's `PerSourcePenaltyExemptList`. The list has no place for a mark: it is ours because it was not there.
    Exempt {
        /// For whom.
        source: Source,
        /// Of the sshd on this port.
        port: u16,
    },
    /// An ignoreip entry of a jail. fail2ban keeps no comments: it is ours because it was not there.
    Ignore {
        /// In which jail.
        jail: String,
        /// As fail2ban prints it.
        entry: String,
    },
}

impl Item {
    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Item::Rules { source, .. } => format!("accept {} in the packet filter", source.short()),
            Item::Line { source, .. } => format!("{} in hosts.allow", source.short()),
            Item::Exempt { source, .. } => format!("{} in sshd's PerSourcePenaltyExemptList", source.short()),
            Item::Ignore { jail, entry } => format!("jail {jail} ignores {entry}"),
        }
    }

    /// Whether it holds for all of a source.
    fn covers(&self, wanted: Source) -> bool {
        match self {
            Item::Rules { source, .. } | Item::Line { source, .. } | Item::Exempt { source, .. } => source.contains(wanted),
            Item::Ignore { entry, .. } => entry.parse::<Source>().is_ok_and(|entry| entry.contains(wanted)),
        }
    }
}

/// A lease that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// What it added and counts on.
    pub items: Vec<Item>,
}

/// What planning must know of leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Those that run.
    pub running: Vec<Running>,
    /// The id of the one that is made.
    pub next: String,
    /// The longest that may be asked for, in seconds; 0 is any.
    pub longest: u64,
}

impl Leases {
    /// Whether a lease may last so long.
    pub fn permit(&self, seconds: u64) -> Result<(), PlanError> {
        if seconds == 0 {
            return Err(PlanError::Impossible("a lease lasts at least a second".to_owned()));
        }
        if self.longest > 0 && seconds > self.longest {
            let longest = self.longest;
            return Err(PlanError::Impossible(format!(
                "a lease lasts at most {longest} seconds ({} days) here, not {seconds}: limits.lease_seconds in agent.toml says so",
                longest / 86_400
            )));
        }
        Ok(())
    }

    /// What other leases added and one about this source can count on, so that it stays until the last of them ends.
    pub fn shared(&self, source: Source, but: &str) -> Vec<Item> {
        let others = self.running.iter().filter(|lease| lease.id != but);
        let mut items: Vec<Item> = others.flat_map(|lease| &lease.items).filter(|item| item.covers(source)).cloned().collect();
        items.sort();
        items.dedup();
        items
    }
}

/// The comment on everything that a lease adds.
pub fn mark(id: &str) -> String {
    format!("sshfix lease {id}")
}

/// The steps that let a source in now, whatever blocks it, and keep fail2ban from banning it meanwhile. Only adds: a ban stays and
/// is passed. Also what they add, as it is found again.
pub fn allow(
    host: &HostState,
    source: Source,
    port: u16,
    id: &str,
    notes: &mut Vec<String>,
    needs: &mut Needs,
) -> Result<(Vec<Step>, Vec<Item>), PlanError> {
    if source.net().prefix_len() == 0 {
        return Err(PlanError::Impossible("an address or a range is let in, not everybody".to_owned()));
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
    let mark = mark(id);
    let (mut steps, mut items) = (Vec::new(), Vec::new());
    // Before the way is open, so that no ban comes in between.
    match fail2ban {
        Part::Present(_) => {
            for step in fail2ban::plan_ignore(host, source, None).map_err(PlanError::Impossible)? {
                items.extend(ignored(&step));
                steps.push(step);
            }
        }
        Part::Absent(_) => {}
        Part::Unreadable(why) => notes.push(format!("fail2ban may ban it meanwhile, because it could not be told: {why}")),
    }
    let refused = route::evaluate(host, &connection, needs);
    if refused.verdict == Verdict::Refuse {
        return Err(PlanError::Impossible(format!(
            "{}: a lease only adds and cannot pass this; `sshfix ctl unban {}` lifts it",
            refused.detail,
            source.short()
        )));
    }
    let rules = netfilter::plan_accept(host, source, port, Some(&mark), needs).map_err(PlanError::Impossible)?;
    if !rules.is_empty() {
        items.push(Item::Rules { source, mark: mark.clone() });
    }
    steps.extend(rules);
    if hosts_access::evaluate(host, &connection, needs).verdict != Verdict::Accept {
        for step in hosts_access::plan_lease(host, source, &mark).map_err(PlanError::Impossible)? {
            let created = matches!(&step, Step::HostsAccess(step) if step.before.is_none());
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
        Err(why) => notes.push(format!("what sshd may hold against {} is not passed: {why}", source.short())),
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

/// How a lease is taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// What removes what is still there as it was added.
    pub steps: Vec<Step>,
    /// What is left, because somebody changed it or another lease counts on it.
    pub left: Vec<String>,
    /// What could not be looked at; the end must be tried again for it.
    pub unread: Vec<String>,
    /// What the reload of sshd brings into effect besides: files that somebody edited and sshd has not read yet.
    pub besides: Vec<String>,
}

impl End {
    /// An end that nobody looks at leaves sshd alone where a reload would bring edits of others into effect, and is tried again. The
    /// entry lets nobody in meanwhile.
    #[must_use]
    pub fn unattended(mut self) -> Self {
        if !self.besides.is_empty() {
            self.steps.retain(|step| !matches!(step, Step::Sshd(_)));
            self.unread.append(&mut self.besides);
        }
        self
    }
}

/// Takes back what a lease added, but what other leases that run count on. What is gone already is fine.
pub fn end(host: &HostState, lease: &Running, others: &[Running], needs: &mut Needs) -> End {
    let mut end = End::default();
    for item in &lease.items {
        if let Some(other) = others.iter().find(|other| other.id != lease.id && other.items.contains(item)) {
            end.left.push(format!("{}: lease {} counts on it", item.describe(), other.id));
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
                Err(why) => end.unread.push(format!("sshd's configuration: {why}")),
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
pub fn refused(host: &HostState, source: Source, port: u16, needs: &mut Needs) -> Option<String> {
    let (verdict, why) = admission(host, host, &Connection { source, port, user: None }, needs);
    (verdict == Verdict::Refuse).then_some(why)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
