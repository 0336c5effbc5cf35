//! Verification: whether the host, read again, is as the plan said it would be. Never trusts what a tool printed.

use crate::diagnose::{admission, blocks};
use crate::host::block::{Block, Lift};
use crate::host::step::{Mismatch, Step};
use crate::host::{HostState, Needs};
use crate::plan;
use crate::plan::goal::Goal;
use crate::plan::lease;
use crate::proof::lockout::SafePlan;
use crate::text::quoted::Text;
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
}

impl Deviation {
    /// What deviates, in one line.
    pub fn words(&self) -> Text {
        match self {
            Deviation::Step(mismatch) => mismatch.0.as_str().into(),
            Deviation::NotLifted(text) | Deviation::NotLetIn(text) => text.clone(),
        }
    }
}

/// What deviates from the prediction; empty means verified. `read` is the host the plan was made on, `observed` the host after the
/// last step. Facts that are missing are added to `needs`.
///
/// Checked: every touched part is as predicted; and after an `unban`, nothing that a plan could lift still refuses the source
/// ("unbanned" is never said while a rule for it is in the kernel).
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
    deviations
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
