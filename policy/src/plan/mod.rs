//! Plans: from an intent and what was read of the host to the exact steps, what they open and close, and the digest of
//! what is shown. Pure; the same host gives the same plan. Proving it safe is `lockout`'s, doing it is the agent's.

pub mod difference;
pub mod error;
pub mod goal;
pub mod lease;

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::address::Source;
use crate::diagnose::{self, blocks};
use crate::host::block::{Alternative, Lift};
use crate::host::lease::{Item, Leases};
use crate::host::step::{Mismatch, Reach, Step};
use crate::host::{HostState, Needs};
use crate::netfilter;
use crate::plan::difference::{Difference, difference};
use crate::plan::error::{LeaseError, PlanError};
use crate::plan::goal::{Affects, Goal};
use crate::reply::{Confirm, NotTaken, PathDocument, PlanDocument, PlanSchema, StepDocument};
use crate::request::Intent;
use crate::subsystem::{fail2ban, hosts_access, listener, nf_tables, sshd};
use crate::text::quoted::Text;
use crate::verdict::Connection;
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
#[cfg(test)]
use crate::words;

/// What is done to the host, not yet proven safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What was asked: shown, and in the digest.
    pub intent: Intent,
    /// What it is for: decided by.
    pub goal: Goal,
    /// In order; empty when there is nothing to do.
    pub steps: Vec<Step>,
    /// Sources that get in afterwards and did not, or perhaps not, before.
    pub opens: Vec<Source>,
    /// Sources that got in, or perhaps did, and do not afterwards.
    pub closes: Vec<Source>,
    /// Whether it must be confirmed before a deadline: unless it is known to keep nobody out.
    pub confirm: Confirm,
    /// An allow that ends by itself, made by some of the steps.
    pub lease: Option<Lease>,
    /// What would lift a block too, and is not done.
    pub alternatives: Vec<NotTaken>,
    /// What a person should know besides.
    pub notes: Vec<Text>,
}

/// The part of a plan that ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The id it gets.
    pub id: String,
    /// For what.
    pub purpose: LeasePurpose,
    /// Seconds from when the plan is applied.
    pub seconds: u64,
    /// What is taken back then.
    pub items: Vec<Item>,
}

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeasePurpose {
    /// The source gets in.
    Access(Source),
    /// The source is not banned again.
    NoBan(Source),
}

impl fmt::Display for LeasePurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeasePurpose::Access(source) => write!(f, "{} gets in", source.short()),
            LeasePurpose::NoBan(source) => write!(f, "{} is not banned again", source.short()),
        }
    }
}

/// Plans the intent where no lease runs.
pub fn plan(intent: &Intent, host: &HostState, port: u16, needs: &mut Needs) -> Result<Plan, PlanError> {
    plan_beside(&Leases::default(), intent, host, port, needs)
}

/// Plans the intent. Facts that are missing are added to `needs`; the plan is final only when none is.
pub fn plan_beside(leases: &Leases, intent: &Intent, host: &HostState, port: u16, needs: &mut Needs) -> Result<Plan, PlanError> {
    let found = planned(leases, intent, host, port, needs);
    #[cfg(test)]
    words::same(&found, decided, || planned(leases, intent, host, port, &mut Needs::new()));
    found
}

/// What of a plan is decided, and not only said.
#[cfg(test)]
fn decided(found: &Result<Plan, PlanError>) -> impl fmt::Debug + PartialEq + use<> {
    let plan = found.as_ref().map_err(std::mem::discriminant);
    plan.map(|plan| {
        (plan.goal.clone(), plan.steps.clone(), plan.opens.clone(), plan.closes.clone(), plan.confirm, plan.lease.clone())
    })
}

fn planned(leases: &Leases, intent: &Intent, host: &HostState, port: u16, needs: &mut Needs) -> Result<Plan, PlanError> {
    let mut notes = Vec::new();
    let mut lease = None;
    let mut alternatives = Vec::new();
    let steps = match intent {
        Intent::Unban { source, jail: Some(jail), ignore_for, range: _ } => {
            let mut steps = ignore(leases, host, (*source, Some(jail)), *ignore_for, &mut lease, &mut notes)?;
            steps.extend(unban_in_jail(host, *source, jail, port, needs)?);
            steps
        }
        Intent::Unban { source, jail: None, ignore_for, range } => {
            let mut steps = ignore(leases, host, (*source, None), *ignore_for, &mut lease, &mut notes)?;
            let connection = Connection { source: *source, port, user: None };
            steps.extend(unban(host, &connection, *range, (&mut notes, &mut alternatives), needs)?);
            steps
        }
        Intent::Fix { address, user, port: _ } => {
            let connection = Connection { source: (*address).into(), port, user: user.clone() };
            fix(host, &connection, (&mut notes, &mut alternatives), needs)?
        }
        Intent::Ban { source, jail } => fail2ban::plan_ban(host, *source, jail)?,
        Intent::HostsAllow { source, daemon } => hosts_access::plan_allow(host, *source, daemon.as_deref())?,
        Intent::HostsDeny { source, daemon } => hosts_access::plan_deny(host, *source, daemon.as_deref())?,
        Intent::HostsRemove { source, daemon } => hosts_access::plan_remove(host, *source, daemon.as_deref())?,
        Intent::FirewallAccept { source } => netfilter::plan_accept(host, *source, port, None, needs)?,
        Intent::FirewallRemove { reference } => netfilter::plan_remove(host, reference, needs)?,
        Intent::Fail2banIgnore { source, jail } => fail2ban::plan_ignore(host, *source, jail.as_deref())?,
        Intent::Fail2banUnignore { source, jail } => fail2ban::plan_unignore(host, *source, jail.as_deref())?,
        Intent::SshdSet { keyword, values, criteria } => {
            let keyword = sshd::Keyword { name: keyword, criteria: criteria.as_deref() };
            of_sshd(sshd::plan_set(host, port, keyword, values, needs), &mut notes)?
        }
        Intent::SshdUnset { keyword, criteria } => {
            let keyword = sshd::Keyword { name: keyword, criteria: criteria.as_deref() };
            of_sshd(sshd::plan_unset(host, port, keyword, needs), &mut notes)?
        }
        Intent::SshdReload => of_sshd(sshd::plan_reload(host, port, needs), &mut notes)?,
        Intent::SshdRestart => of_sshd(sshd::plan_restart(host, port, needs), &mut notes)?,
        Intent::Allow { source, seconds } => {
            leases.permit(*seconds)?;
            let (steps, mut items) = lease::allow(leases, host, *source, port, &mut notes, needs)?;
            items.extend(leases.shared(*source, &leases.next));
            if items.is_empty() {
                notes.push(
                    format!("{} is accepted already, and nothing can ban it: there is nothing to add", source.short()).into(),
                );
            } else {
                if steps.is_empty() {
                    notes.push(
                        "what accepts it was added by another lease, and now stays until the last of these leases ends".into(),
                    );
                }
                let purpose = LeasePurpose::Access(*source);
                lease = Some(Lease { id: leases.next.clone(), purpose, seconds: *seconds, items });
            }
            steps
        }
        Intent::Revoke { id } => {
            let known = leases.running.iter().find(|lease| lease.id == *id);
            let known = known.ok_or_else(|| LeaseError::NotRunning(id.clone()))?;
            let end = lease::end(host, known, &leases.running, needs);
            if !end.unread.is_empty() {
                return Err(LeaseError::Unread(end.unread).into());
            }
            notes.extend(end.left.into_iter().map(Text::from));
            notes.extend(end.besides);
            end.steps
        }
    };
    notes.extend(diagnose::notes(host).into_iter().map(Text::from));
    let plan = of_steps(intent, steps, host, port, needs)?;
    notes.extend(plan.notes);
    let notes = notes.into_iter().map(Text::said).collect();
    Ok(Plan { lease, alternatives, notes, ..plan })
}

/// The steps of a plan of sshd's, as steps of a host.
fn of_sshd(planned: Result<sshd::Planned, sshd::NoPlan>, notes: &mut Vec<Text>) -> Result<Vec<Step>, PlanError> {
    let planned = planned?;
    notes.extend(planned.notes.into_iter().map(Text::said));
    Ok(planned.steps.into_iter().map(Step::Sshd).collect())
}

/// The plan of steps that are known: in an order that can be undone, with what they open and close.
pub fn of_steps(intent: &Intent, steps: Vec<Step>, host: &HostState, port: u16, needs: &mut Needs) -> Result<Plan, PlanError> {
    needs.extend(steps.iter().flat_map(Step::needs));
    let steps = nf_tables::order::undoable(host, steps)?;
    let after = predict(host, &steps)?;
    let Difference { opens, closes, unshown, cut } = difference(host, &after, &steps, intent.source(), port, needs);
    let mut notes = Vec::new();
    notes.extend(
        netfilter::opens_others(host, &steps).map(|what| Text::from(format!("opens hosts behind this one, too: {what}"))),
    );
    if cut {
        notes.push("opens or closes more ranges than can be listed: the lists are cut".into());
    }
    let goal = Goal::of(intent, port);
    let confirm = confirm(&goal, &steps, &closes, &unshown);
    Ok(Plan { intent: intent.clone(), goal, steps, opens, closes, confirm, lease: None, alternatives: Vec::new(), notes })
}

/// What is missing of a lease that runs (`leases.next` is its id): what was added when it was made, less what is there.
pub fn missing_of_lease(
    leases: &Leases,
    intent: &Intent,
    host: &HostState,
    port: u16,
    needs: &mut Needs,
) -> Result<Plan, PlanError> {
    let (mut lease, mut notes) = (None, Vec::new());
    let steps = match intent {
        Intent::Unban { source, jail, ignore_for, .. } => {
            // Where fail2ban is not up yet, there is nothing to tell it.
            if host.fail2ban.present().is_none() {
                Vec::new()
            } else {
                ignore(leases, host, (*source, jail.as_deref()), *ignore_for, &mut lease, &mut notes)?
            }
        }
        _ => return plan_beside(leases, intent, host, port, needs),
    };
    let plan = of_steps(intent, steps, host, port, needs)?;
    notes.extend(plan.notes);
    Ok(Plan { lease, notes, ..plan })
}

/// Everything that lifts what `diagnose` finds. What only a person can do is told in the notes; where that is all, there is no plan.
fn fix(
    host: &HostState,
    connection: &Connection,
    (notes, alternatives): (&mut Vec<Text>, &mut Vec<NotTaken>),
    needs: &mut Needs,
) -> Result<Vec<Step>, PlanError> {
    let (mut steps, mut by_hand) = lifts(host, connection, false, alternatives, needs);
    let behind = diagnose::behind(host, connection, needs);
    let listening = listener::blocks(host, &behind);
    let startable = listening.iter().any(|block| block.finding.cause == Cause::SshdDown) && !listener::masked(host);
    for block in listening.into_iter().filter(|block| block.finding.cause != Cause::SshdDown || !startable) {
        by_hand.push(block.finding.told());
    }
    let sshd = sshd::lifts(host, &behind, startable, needs);
    steps.extend(sshd.steps);
    by_hand.extend(sshd.told);
    notes.extend(sshd.notes);
    if steps.is_empty() && !by_hand.is_empty() {
        return Err(PlanError::ByHand { client: connection.source, by_hand });
    }
    notes.extend(by_hand.into_iter().map(|line| Text::from("not done by sshfix: ") + line));
    Ok(steps)
}

/// A step for every subsystem that refuses the source; with `range`, those that lift the whole of what refuses it.
fn unban(
    host: &HostState,
    connection: &Connection,
    range: bool,
    (notes, alternatives): (&mut Vec<Text>, &mut Vec<NotTaken>),
    needs: &mut Needs,
) -> Result<Vec<Step>, PlanError> {
    let (steps, by_hand) = lifts(host, connection, range, alternatives, needs);
    if !by_hand.is_empty() {
        return Err(PlanError::ByHand { client: connection.source, by_hand });
    }
    for block in listener::blocks(host, connection) {
        notes.push(Text::from(format!("not a ban, left unchanged: {}: ", block.finding.cause)) + block.finding.fix);
    }
    Ok(steps)
}

/// The steps that lift every block of routes, packet filters, bans and hosts files, and what a person must do.
fn lifts(
    host: &HostState,
    connection: &Connection,
    range: bool,
    alternatives: &mut Vec<NotTaken>,
    needs: &mut Needs,
) -> (Vec<Step>, Vec<Text>) {
    let source = connection.source;
    let mut steps: Vec<Step> = Vec::new();
    let mut by_hand = Vec::new();
    for block in blocks(host, connection, needs) {
        let (chosen, others): (Vec<Alternative>, Vec<Alternative>) =
            block.alternatives.into_iter().partition(|one| range && one.range);
        alternatives.extend(others.iter().map(NotTaken::from));
        let lift = if chosen.is_empty() {
            block.lift
        } else {
            if let Lift::Steps(exact) = &block.lift
                && !exact.is_empty()
            {
                let why_not = "--range asks for the whole range".to_owned();
                alternatives.push(NotTaken { summary: summaries(exact), opens: vec![source], why_not });
            }
            Lift::Steps(chosen.into_iter().flat_map(|one| one.steps).collect())
        };
        match lift {
            // Two rules can share one element.
            Lift::Steps(lift) => {
                for step in lift {
                    if !steps.contains(&step) {
                        steps.push(step);
                    }
                }
            }
            Lift::ByHand(advice) => {
                by_hand.push(format!("{} ({}): {advice}", block.finding.cause, block.finding.owner).into());
            }
        }
    }
    (steps, by_hand)
}

fn summaries(steps: &[Step]) -> String {
    steps.iter().map(Step::summary).collect::<Vec<_>>().join("; ")
}

impl From<&Alternative> for NotTaken {
    fn from(one: &Alternative) -> Self {
        Self { summary: summaries(&one.steps), opens: one.opens.clone(), why_not: one.why_not.clone() }
    }
}

/// Only one jail's ticket and the kernel entries that jail made.
fn unban_in_jail(host: &HostState, source: Source, jail: &str, port: u16, needs: &mut Needs) -> Result<Vec<Step>, PlanError> {
    fail2ban::require_jail(host, jail)?;
    let connection = Connection { source, port, user: None };
    let owner = Owner::jail(jail);
    let mut steps = Vec::new();
    for block in blocks(host, &connection, needs).into_iter().filter(|block| block.finding.owner == owner) {
        match block.lift {
            Lift::Steps(lift) => steps.extend(lift),
            Lift::ByHand(advice) => {
                return Err(PlanError::ByHand { client: source, by_hand: vec![format!("{owner}: {advice}").into()] });
            }
        }
    }
    Ok(steps)
}

/// The ignoreip entries of `--ignore-for`, before the unban, so that the ban cannot return in between.
fn ignore(
    leases: &Leases,
    host: &HostState,
    (source, jail): (Source, Option<&str>),
    seconds: Option<u64>,
    lease: &mut Option<Lease>,
    notes: &mut Vec<Text>,
) -> Result<Vec<Step>, PlanError> {
    let Some(seconds) = seconds else { return Ok(Vec::new()) };
    leases.permit(seconds)?;
    let alone = lease::without_others(leases, host, source)?;
    let steps = fail2ban::plan_ignore(&alone, source, jail)?;
    let mut items: Vec<Item> = steps.iter().filter_map(lease::ignored).collect();
    items.extend(leases.shared(source, &leases.next).into_iter().filter(|item| match item {
        Item::Ignore { jail: of, .. } => jail.is_none_or(|jail| jail == of),
        Item::Rules { .. } | Item::Line { .. } | Item::Exempt { .. } => false,
    }));
    if items.is_empty() {
        notes.push(format!("{} is ignored already: --ignore-for adds nothing, and nothing ends later", source.short()).into());
    } else {
        *lease = Some(Lease { id: leases.next.clone(), purpose: LeasePurpose::NoBan(source), seconds, items });
    }
    Ok(steps)
}

/// A plan that only opens is confirmed by its verification. Every other one must be confirmed by a person who can still get in:
/// one that closes something, whose purpose is to close, or whose steps the model cannot show to keep nobody out.
fn confirm(goal: &Goal, steps: &[Step], closes: &[Source], unshown: &[Source]) -> Confirm {
    let to_close = match goal {
        // What a lease added is all that its end takes away, and an allow only opens; but an edit of sshd is an edit of sshd.
        Goal::LetIn(_) | Goal::EndLease { .. } if !steps.iter().any(|step| matches!(step, Step::Sshd(_))) => {
            return Confirm::NotNeeded;
        }
        Goal::Ban { .. } | Goal::KeepOut | Goal::Remove(Affects::OtherDaemon) => true,
        Goal::Unban(_)
        | Goal::UnbanInJail(_)
        | Goal::Repair(_)
        | Goal::LetIn(_)
        | Goal::EndLease { .. }
        | Goal::Add
        | Goal::Remove(Affects::Sshd)
        | Goal::Configure => false,
    };
    let shown = |step: &Step| match step.reach() {
        Reach::Nobody => true,
        Reach::Touched => step
            .touches()
            .is_some_and(|touched| !touched.iter().any(|source| unshown.iter().any(|other| other.overlaps(*source)))),
        Reach::Anybody => false,
    };
    let needless = steps.is_empty() || !to_close && closes.is_empty() && steps.iter().all(shown);
    if needless { Confirm::NotNeeded } else { Confirm::Required }
}

/// The host after these steps, on the model.
pub fn predict(host: &HostState, steps: &[Step]) -> Result<HostState, Mismatch> {
    let mut state = host.clone();
    for step in steps {
        step.predict(&mut state)?;
    }
    Ok(state)
}

impl Plan {
    /// The digest of what is shown: the intent, every step's text, and how long a lease lasts. Equal digests mean the same change.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text);
        };
        field(&serde_json::to_string(&self.intent).unwrap_or_default());
        field(&self.lease.as_ref().map_or(0, |lease| lease.seconds).to_string());
        for step in &self.steps {
            for text in [step.subsystem().name(), &step.summary(), step.diff().as_str(), &step.undo()] {
                field(text);
            }
        }
        let mut text = String::from("sha256:");
        for byte in hash.finalize() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// As it is shown, with the access paths the proof looked at.
    pub fn document(&self, paths: Vec<PathDocument>) -> PlanDocument {
        PlanDocument {
            schema: PlanSchema::V1,
            digest: self.digest(),
            operation: self.intent.clone().into(),
            steps: self
                .steps
                .iter()
                .map(|step| StepDocument {
                    subsystem: step.subsystem(),
                    summary: step.summary(),
                    diff: step.diff(),
                    undo: step.undo(),
                    kept: step.is_kept(),
                })
                .collect(),
            opens: self.opens.clone(),
            closes: self.closes.clone(),
            paths,
            other_paths: 0,
            other_sources: 0,
            confirm: self.confirm,
            alternatives: self.alternatives.clone(),
            verdict: None,
            stages: Vec::new(),
            notes: self.notes.clone(),
        }
    }
}
