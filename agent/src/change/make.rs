//! The one way in which a change is made: `begin`, `apply`, `verify`, `settle`. Each stage takes what only the stage before can make, so
//! that nothing stays on a host that was not read back. What is requested, what the agent does by itself and what the drill proves all
//! come through here. The only code that applies plans. Decides nothing about the steps, and says nothing of them.

use std::time::Duration;

use sshfix_policy::diagnose::remaining::{self, Left};
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{Done, Host, HostState, Question, StepError};
use sshfix_policy::proof::lockout::SafePlan;
use sshfix_policy::proof::verify::{self, Deviation};
use sshfix_policy::reply::Failure;
use sshfix_policy::text::quoted::Text;
use sshfix_policy::verdict::subsystem::Subsystem;

use super::{TakenBack, kept, undo};
use crate::change::said;
use crate::host::observe::observed;
use crate::patience;
use crate::store::{ChangeStage, NewChange, NewLease, StepEvent, Store, StoreError};
use crate::sys::clock::{Deadline, Moment};

/// What programs of others leave half done for a moment is done after this.
const SETTLES: Duration = Duration::from_millis(500);

/// A change that is planned and proven, with all that it takes to make it.
#[derive(Debug)]
pub struct Order<'a> {
    /// The change id.
    pub id: String,
    /// Who asked for it, or for what it follows from.
    pub principal: &'a str,
    /// What it is about, to read the host again,
    pub question: &'a Question,
    /// the host as it was read when the plan was made,
    pub read: &'a HostState,
    /// and the plan.
    pub plan: &'a SafePlan,
    /// How long it waits for its confirm; `None` where its verification confirms it.
    pub waits: Option<Duration>,
    /// The lease that it makes.
    pub lease: Option<NewLease>,
}

/// Why a change was not begun. The host is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    /// Others changed the host since it was read: what was planned and proven on it may not hold any more.
    #[error("{0}")]
    Drifted(StepError),
    /// Nobody waits for it any more.
    #[error("nobody waits for it")]
    Late,
    /// Its plan and its undo could not be written down.
    #[error(transparent)]
    NotStored(StoreError),
}

/// The host is as it was planned on, and the plan with its undo is on the disk.
#[derive(Debug)]
#[must_use]
pub struct Begun<'a, H> {
    host: &'a mut H,
    store: &'a Store,
    order: Order<'a>,
    deadline: Option<Deadline>,
}

/// All steps are done and journalled; not yet verified.
#[derive(Debug)]
#[must_use]
pub(super) struct Applied<'a, H> {
    begun: Begun<'a, H>,
    done: Vec<(Step, Done)>,
}

/// The host was read back, and is as the plan said.
#[derive(Debug)]
#[must_use]
pub(super) struct Verified<'a, H> {
    applied: Applied<'a, H>,
    seen: Box<Seen>,
}

/// What the host that was read back shows besides.
#[derive(Debug, Default)]
pub struct Seen {
    /// What is as predicted and still not what was asked for.
    pub notes: Vec<Text>,
    /// What still keeps the source out, where an address was to get in again.
    pub left: Option<Left>,
}

/// What became of a change whose host was read back as predicted.
#[derive(Debug)]
pub struct Settled {
    /// Until when it waits for its confirm; `None` where it stays.
    pub deadline: Option<Deadline>,
    /// Whether any step found something to do.
    pub changed: bool,
    /// What was seen.
    pub seen: Box<Seen>,
}

/// The change did not happen. The failure and the outcome of the rollback travel together.
#[derive(Debug)]
pub struct Failed {
    /// What a person is told.
    pub failure: Box<Failure>,
    /// Whether a step found the host changed by others since the plan was made.
    pub drifted: bool,
    /// Whether its rollback left something beside the steps that is not as before.
    pub besides: bool,
    /// What was seen before it was taken back, where it was read back at all.
    pub seen: Box<Seen>,
}

impl Failed {
    /// Whether the host is as it was before the change.
    pub fn clean(&self) -> bool {
        self.failure.stuck.is_empty()
    }
}

/// Looks at the host for the last time and writes the change down. Until here it can end with the patience of who waits for it.
pub fn begin<'a, H: Host>(
    host: &'a mut H,
    store: &'a Store,
    order: Order<'a>,
    clock: impl FnOnce() -> Moment,
) -> Result<Begun<'a, H>, NotBegun> {
    host.unchanged(order.read).map_err(NotBegun::Drifted)?;
    if patience::is_over() {
        return Err(NotBegun::Late);
    }
    let started = clock();
    let deadline = order.waits.map(|time| started.deadline(time));
    store.change_begin(&written(&order, started, deadline)).map_err(NotBegun::NotStored)?;
    Ok(Begun { host, store, order, deadline })
}

/// As it is written down.
fn written(order: &Order<'_>, started: Moment, deadline: Option<Deadline>) -> NewChange {
    let Order { id, principal, question: _, read: _, plan, waits: _, lease } = order;
    NewChange {
        id: id.clone(),
        principal: (*principal).to_owned(),
        operation: plan.plan().intent.clone(),
        digest: plan.plan().digest(),
        plan: plan.document(),
        steps: plan.steps().to_vec(),
        started,
        deadline,
        lease: lease.clone(),
    }
}

impl<'a, H: Host> Begun<'a, H> {
    /// Makes it: applied, verified and settled. From here on it has no end but its own, whoever waits for it. `counts` says which
    /// deviations take it back.
    pub fn finish(self, counts: impl Fn(&Deviation) -> bool) -> Result<Settled, Failed> {
        patience::with(None, || self.apply()?.verify(counts)?.settle(&Moment::now()))
    }

    /// Does the steps, each journalled before and after. The first that fails takes them all back.
    pub(super) fn apply(self) -> Result<Applied<'a, H>, Failed> {
        let (store, id, plan) = (self.store, self.order.id.clone(), self.order.plan);
        let mut applied = Applied { begun: self, done: Vec::new() };
        if let Err(why) = store.change_state(&id, ChangeStage::Applying, "") {
            return Err(applied.fail(None, (0, "begin"), unjournalled(&why)));
        }
        for (index, step) in plan.steps().iter().enumerate() {
            let (number, summary) = (index + 1, step.summary());
            if let Err(why) = store.change_event(&id, index, StepEvent::Started, "") {
                return Err(applied.fail(None, (number, &summary), unjournalled(&why)));
            }
            let answer = applied.begun.host.apply(step);
            let (event, detail) = match &answer {
                Ok(Done::Changed) => (StepEvent::DoneChanged, String::new()),
                Ok(Done::Already) => (StepEvent::DoneAlready, String::new()),
                Err(error) => (StepEvent::Failed, error.to_string()),
            };
            let journalled = store.change_event(&id, index, event, &detail);
            match answer {
                Ok(done) => applied.done.push((step.clone(), done)),
                // It looked at the host and did nothing.
                Err(StepError::Drifted(_)) => {
                    return Err(Failed { drifted: true, ..applied.fail(None, (number, &summary), detail) });
                }
                // It may have done its work and then failed, so it is taken back like the others.
                Err(StepError::Failed(_) | StepError::TimedOut(_)) => {
                    return Err(applied.fail(Some((index, step.clone())), (number, &summary), detail));
                }
            }
            if let Err(why) = journalled {
                return Err(applied.fail(None, (number, &summary), unjournalled(&why)));
            }
        }
        Ok(applied)
    }
}

impl<'a, H: Host> Applied<'a, H> {
    /// Reads the host again. A deviation that counts takes the change back.
    pub(super) fn verify(self, counts: impl Fn(&Deviation) -> bool) -> Result<Verified<'a, H>, Failed> {
        let Order { question, read, plan, .. } = &self.begun.order;
        let port = question.port;
        let mut look = || {
            let (_, found) = observed(self.begun.host, question, |state, needs| {
                let deviations = verify::deviations(plan, read, state, needs);
                let left = plan.plan().goal.path().map(|connection| remaining::left(connection, state, needs));
                (deviations, Seen { notes: verify::notes(plan, state, port, needs), left })
            });
            found
        };
        let (mut deviations, mut seen) = look();
        // An action may have sshd open its sockets anew, or load a ruleset in two steps.
        if deviations.iter().any(|one| matches!(one, Deviation::Closed(_))) {
            std::thread::sleep(SETTLES);
            (deviations, seen) = look();
        }
        let seen = Box::new(seen);
        let deviations: Vec<Text> = deviations.iter().filter(|one| counts(one)).map(Deviation::words).collect();
        if deviations.is_empty() {
            Ok(Verified { applied: self, seen })
        } else {
            Err(Failed { seen, ..self.roll_back(Text::joined(&deviations, "; ")) })
        }
    }

    fn changed(&self) -> bool {
        self.done.iter().any(|(_, done)| *done == Done::Changed)
    }

    /// Takes it back because its verification failed.
    fn roll_back(self, why: impl Into<Text>) -> Failed {
        self.fail(None, (0, "verify"), why)
    }

    fn fail(self, half_done: Option<(usize, Step)>, (step, summary): (usize, &str), message: impl Into<Text>) -> Failed {
        let message = message.into();
        let Begun { host, store, order, deadline: _ } = self.begun;
        let changed = self.done.into_iter().enumerate().filter(|(_, (_, done))| *done == Done::Changed);
        let mut steps: Vec<(usize, Step)> = changed.map(|(index, (step, _))| (index, step)).collect();
        steps.extend(half_done);
        let TakenBack { mut rolled_back, notes, besides, stuck } =
            undo(host, store, (&order.id, None), steps, message.as_str(), false);
        if stuck.is_empty() {
            kept::forget(order.plan.steps());
        }
        rolled_back.extend(notes);
        let of_sshd = order.plan.steps().iter().any(|step| step.subsystem() == Subsystem::Sshd);
        let words = |all: Vec<String>| all.into_iter().map(|words| said(of_sshd, words)).collect();
        let message = if of_sshd { said(true, message.as_str().to_owned()) } else { message };
        let (rolled_back, stuck) = (words(rolled_back), words(stuck));
        let failure = Failure { step, summary: summary.to_owned(), message, rolled_back, stuck };
        Failed { failure: Box::new(failure), drifted: false, besides, seen: Box::default() }
    }
}

impl<H: Host> Verified<'_, H> {
    /// A change with a deadline waits for its confirm, any other stays. One that took longer than it may wait is taken back, and so is one
    /// whose end or whose waiting cannot be recorded.
    pub(super) fn settle(self, now: &Moment) -> Result<Settled, Failed> {
        let Self { applied, seen } = self;
        let Begun { store, order, deadline, .. } = &applied.begun;
        let deadline = *deadline;
        let (end, detail, unrecorded) = match deadline {
            None => (ChangeStage::Confirmed, "confirmed by its verification", "its end could not be recorded"),
            Some(deadline) if deadline.is_over(now) => {
                let why = "it took longer than it may wait for its confirm".to_owned();
                return Err(Failed { seen, ..applied.roll_back(why) });
            }
            Some(_) => (ChangeStage::Pending, "waits for its confirm", "that it waits could not be recorded"),
        };
        let recorded =
            store.change_state(&order.id, ChangeStage::Verified, "").and_then(|()| store.change_state(&order.id, end, detail));
        if recorded.is_ok() && end == ChangeStage::Confirmed {
            kept::forget(applied.done.iter().map(|(step, _)| step));
        }
        match recorded {
            Ok(()) => Ok(Settled { deadline, changed: applied.changed(), seen }),
            Err(why) => Err(Failed { seen, ..applied.roll_back(format!("{unrecorded}: {why}")) }),
        }
    }
}

fn unjournalled(why: &StoreError) -> String {
    format!("the journal could not be written, so the change was stopped: {why}")
}
