//! Verification: whether the host, read again, is as the plan said it would be. Never trusts what a tool printed.

use crate::diagnose::{admission, blocks};
use crate::host::block::{Block, Lift};
use crate::host::step::{Mismatch, Step};
use crate::host::{HostState, Needs};
use crate::plan;
use crate::plan::goal::Goal;
use crate::plan::lease;
use crate::proof::lockout::SafePlan;
use crate::text::quoted::{Quote, Text};
use crate::verdict::{Connection, Evidence, Verdict};
#[cfg(test)]
use crate::words;

/// How the host, read again, is not as the plan said. The kind is for whoever decides, the text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// What a step touched is not as predicted.
    Step(Mismatch),
    /// Something that the plan could lift still refuses the source.
    NotLifted(Text),
    /// A lease was to let the source in, and something still refuses it.
    NotLetIn(Text),
    /// A protected way in is closed, and no step did that: a program that fail2ban ran, or others meanwhile.
    Closed(Text),
}

impl Deviation {
    /// What deviates, in one line.
    pub fn words(&self) -> Text {
        match self {
            Deviation::Step(mismatch) => mismatch.0.as_str().into(),
            Deviation::NotLifted(text) | Deviation::NotLetIn(text) | Deviation::Closed(text) => text.clone(),
        }
    }
}

/// What deviates from the prediction; empty means verified. `read` is the host the plan was made on, `observed` the host after the
/// last step. Facts that are missing are added to `needs`.
///
/// Checked: every touched part is as predicted; and after an `unban`, nothing that a plan could lift still refuses the source
/// ("unbanned" is never said while a rule for it is in the kernel). After a step of fail2ban, whose actions are programs of root's, also that
/// no protected way in is closed by something that no step predicts, and that somebody still listens.
pub fn deviations(plan: &SafePlan, read: &HostState, observed: &HostState, needs: &mut Needs) -> Vec<Deviation> {
    let found = deviating(plan, read, observed, needs);
    #[cfg(test)]
    words::same(&found, Vec::len, || deviating(plan, read, observed, &mut Needs::new()));
    found
}

fn deviating(plan: &SafePlan, read: &HostState, observed: &HostState, needs: &mut Needs) -> Vec<Deviation> {
    needs.extend(plan.steps().iter().flat_map(Step::needs));
    let predicted = match plan::predict(read, plan.steps()) {
        Ok(predicted) => predicted,
        Err(mismatch) => return vec![Deviation::Step(mismatch)],
    };
    // A step that does not hold in the prediction was superseded by a later one.
    let last_words = plan.steps().iter().filter(|step| step.holds(&predicted).is_ok());
    let mut deviations: Vec<Deviation> = last_words.filter_map(|step| step.holds(observed).err().map(Deviation::Step)).collect();
    match &plan.plan().goal {
        Goal::Unban(connection) => {
            let still = blocks(observed, connection, needs);
            deviations.extend(still.iter().filter(|block| liftable(block)).map(|block| {
                let mut text = still_refused(connection, block);
                if let Some(Evidence { source, text: quoted }) = block.finding.evidence.first() {
                    text.push(Text::from(format!(": {source}: ")) + quoted.clone());
                }
                Deviation::NotLifted(text)
            }));
        }
        Goal::Repair(connection) => {
            let still = blocks(observed, connection, needs);
            let left = still.iter().filter(|block| liftable(block) && matches!(block.lift, Lift::Steps(_)));
            deviations.extend(left.map(|block| Deviation::NotLifted(still_refused(connection, block))));
        }
        Goal::LetIn(Connection { source, port, user: _ }) => {
            let why = lease::refused(observed, *source, *port, needs);
            deviations
                .extend(why.map(|why| Deviation::NotLetIn(Text::from(format!("{} is still blocked: ", source.short())) + why)));
        }
        // Their steps hold, which is all that was asked; `notes` looks at a ban.
        Goal::UnbanInJail(_)
        | Goal::EndLease { .. }
        | Goal::Ban { .. }
        | Goal::KeepOut
        | Goal::Add
        | Goal::Remove(_)
        | Goal::Configure => {}
    }
    deviations.extend(closed(plan, (read, &predicted), observed, needs).map(Deviation::Closed));
    deviations
}

/// The first protected way in that is closed for certain, and not by a step; where a step ran programs that nobody has read.
fn closed(plan: &SafePlan, (read, predicted): (&HostState, &HostState), observed: &HostState, needs: &mut Needs) -> Option<Text> {
    let jail = plan.steps().iter().find_map(|step| match step {
        Step::Fail2ban(step) => Some(step.jail()),
        _ => None,
    })?;
    let listens = |host: &HostState, port: u16| {
        let state = host.listener.present();
        state.map(|state| state.listeners.iter().any(|socket| socket.local.port() == port))
    };
    let mut found = None;
    // Who comes by no address is met by no filter.
    for path in plan.protected().iter().filter(|path| !path.has_no_address()) {
        let connection = Connection { source: path.source, port: path.port, user: path.user.clone() };
        let (now, why) = admission(observed, observed, &connection, needs);
        let was = || admission(read, predicted, &connection, &mut Needs::new()).0;
        let why = if listens(read, path.port) == Some(true) && listens(observed, path.port) == Some(false) {
            Text::from(format!("nobody listens on port {} any more", path.port))
        } else if now == Verdict::Refuse && was() != Verdict::Refuse {
            let by = Text::from(format!("{} is refused now by ", path.from())) + why;
            // A name is for who may know of it.
            path.user.as_ref().map(|user| Text::quote(Quote::Values("AllowUsers"), user.clone()) + " from ").unwrap_or_default()
                + by
        } else {
            continue;
        };
        found = found.or(Some(why));
    }
    let by = format!(
        ", which no step does: a program that jail {jail} of fail2ban runs (`actionban`, `actionunban` in /etc/fail2ban/action.d) did that, or \
         somebody else meanwhile. What it did stays: take it back by hand and correct the action, then retry"
    );
    found.map(|what| what + by)
}

fn still_refused(connection: &Connection, block: &Block) -> Text {
    format!("{} still refused ({})", connection.source.short(), block.finding.cause).into()
}

/// What is as predicted and still not what was asked for, one line each. A ban that lets the source in all the same is left to a
/// person: whether the jail's action failed or is about another port cannot be told from here.
pub fn notes(plan: &SafePlan, observed: &HostState, port: u16, needs: &mut Needs) -> Vec<Text> {
    let Goal::Ban { source, jail } = &plan.plan().goal else { return Vec::new() };
    let connection = Connection { source: *source, port, user: None };
    match admission(observed, observed, &connection, needs).0 {
        Verdict::Accept => vec![Text::from(format!(
            "fail2ban accepted the ban, but {} still reaches port {port}: the action of jail {jail} failed (fail2ban's log \
             shows why; some cannot ban ranges), or is for other ports",
            source.short()
        ))],
        Verdict::Refuse | Verdict::Unknown => Vec::new(),
    }
}

/// Blocks that remain on purpose (a wider ban that was stepped around) have no steps.
fn liftable(block: &Block) -> bool {
    match &block.lift {
        Lift::Steps(steps) => !steps.is_empty(),
        Lift::ByHand(_) => true,
    }
}
