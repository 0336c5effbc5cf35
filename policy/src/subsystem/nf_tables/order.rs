//! The order in which several rules can be deleted and put back. Changes no step but the place a deleted rule is told by.

use std::sync::Arc;

use super::same::others;
use super::{Chain, State, Step};
use crate::host::step::{Mismatch, Step as AnyStep};
use crate::host::{HostState, Part};

/// Puts deletions of rules in an order that can be undone: of several rules of one chain the last is deleted first.
///
/// A rule that is put back gets a new handle. Deleted from the first to the last, each would be told by a neighbour that is put
/// back before it and is no longer known by its old handle; in this order each is told by a rule that stays.
pub fn undoable(host: &HostState, steps: Vec<AnyStep>) -> Result<Vec<AnyStep>, Mismatch> {
    let Part::Present(state) = &host.nf_tables else { return Ok(steps) };
    let deletes = |step: &AnyStep| matches!(step, AnyStep::NfTables(Step::Rule { before: Some(_), after: None, .. }));
    if steps.iter().filter(|step| deletes(step)).count() < 2 {
        return Ok(steps);
    }
    let first = steps.iter().position(deletes).unwrap_or(0);
    let (mut deletions, mut rest): (Vec<AnyStep>, Vec<AnyStep>) = steps.into_iter().partition(deletes);
    deletions.sort_by_key(|step| std::cmp::Reverse(place(state, step)));
    let mut model = host.clone();
    let after = rest.split_off(first);
    let mut ordered = Vec::new();
    for mut step in rest.into_iter().chain(deletions).chain(after) {
        if let (AnyStep::NfTables(step), Part::Present(state)) = (&mut step, &model.nf_tables) {
            tell_place(state, step);
        }
        step.predict(&mut model)?;
        ordered.push(step);
    }
    Ok(ordered)
}

fn chain<'a>(state: &'a State, step: &Step) -> Option<(usize, &'a Arc<Chain>)> {
    let Step::Rule { family, table, chain, .. } = step else { return None };
    state.chains.iter().enumerate().find(|(_, one)| one.family == *family && one.table == *table && one.name == *chain)
}

/// The chain's and the rule's index.
fn place(state: &State, step: &AnyStep) -> Option<(usize, usize)> {
    let AnyStep::NfTables(step @ Step::Rule { before: Some(rule), .. }) = step else { return None };
    let (index, chain) = chain(state, step)?;
    chain.rules.iter().position(|one| one.handle == rule.handle).map(|place| (index, place))
}

/// Tells a deletion by the rule that follows now, and counts its twins as they are now.
fn tell_place(state: &State, step: &mut Step) {
    let Some((_, chain)) = chain(state, step) else { return };
    if let Step::Rule { before: Some(rule), after: None, next, others: twins, .. } = step
        && let Some(index) = chain.rules.iter().position(|one| one.handle == rule.handle)
    {
        *next = chain.rules.get(index + 1).map(|rule| rule.handle);
        *twins = others(&chain.rules, rule);
    }
}
