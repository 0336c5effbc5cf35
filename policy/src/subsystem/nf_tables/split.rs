//! Takes addresses out of a range of an interval set: the range goes and what is left of it comes, in one batch. Builds the step and
//! predicts it; whether it lifts anything is found by evaluating again.

use super::lookup::holds;
use super::{Element, ElementKey, Set, SetKey, State, Step, render};
use crate::address::Source;
use crate::packet::{Bits, Tri};
use crate::ranges::span;

/// Takes `source` out of an element whose key has the client's address at `place` (bytes into the key). What is left keeps data,
/// timeout, time left, comment and counters. `None` where the set cannot be changed, keeps no ranges, or the element does not reach
/// beyond the source.
pub fn split(state: &State, set: &SetKey, element: &Element, place: usize, source: Source) -> Option<Step> {
    let known: &Set = state.sets.iter().find(|one| one.key == *set)?;
    let v6 = !source.is_ipv4();
    let len = if v6 { 16 } else { 4 };
    if !known.interval() || known.anonymous() || known.constant() || element.catchall {
        return None;
    }
    let end = element.key_end.as_ref()?;
    let part =
        |key: &[u8]| Some(key.get(place..place + len)?.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte)));
    let (first, last) = (part(&element.key)?, part(end)?);
    let (from, to) = span(source);
    if from < first || last < to || (first, last) == (from, to) {
        return None;
    }
    let put = |key: &[u8], number: u128| {
        let bytes = number.to_be_bytes();
        let mut key = key.to_vec();
        let part = key.get_mut(place..place + len)?;
        part.copy_from_slice(bytes.get(bytes.len() - len..)?);
        Some(key)
    };
    let piece = |low: u128, high: u128| {
        let (key, end) = (put(&element.key, low)?, put(end, high)?);
        Some(Element { key_end: (end != key).then_some(end), key, ..element.clone() })
    };
    let mut after = Vec::new();
    if first < from {
        after.push(piece(first, from.checked_sub(1)?)?);
    }
    if to < last {
        after.push(piece(to.checked_add(1)?, last)?);
    }
    let text = |element: &Element| render::element(state, set, element);
    Some(Step::Split {
        set: set.clone(),
        texts: (vec![text(element)], after.iter().map(text).collect()),
        before: vec![element.clone()],
        after,
        source,
    })
}

/// Whether both have the same key or the same range.
pub(super) fn bounds(one: &Element, other: &Element) -> bool {
    let end = |element: &Element| element.key_end.clone().unwrap_or_else(|| element.key.clone());
    one.catchall == other.catchall && one.key == other.key && end(one) == end(other)
}

/// The elements that the step looks at.
pub(super) fn keys<'a>(set: &'a SetKey, before: &'a [Element], after: &'a [Element]) -> impl Iterator<Item = ElementKey> + 'a {
    before.iter().chain(after).map(|element| ElementKey { set: set.clone(), key: element.key.clone() })
}

/// Whether all of these stand in the set as they are here; the error says that one was not looked up.
pub(super) fn stand(state: &State, set: &SetKey, elements: &[Element]) -> Result<bool, &'static str> {
    let mut all = true;
    for element in elements {
        let found = match (state.dumps.get(set), state.elements.get(&ElementKey { set: set.clone(), key: element.key.clone() })) {
            (Some(dump), _) => dump.iter().find(|one| bounds(one, element)),
            (None, Some(fact)) => fact.as_ref().filter(|one| bounds(one, element)),
            (None, None) => return Err("it was not looked up"),
        };
        all &= found.is_some_and(|found| found.same(element));
    }
    Ok(all)
}

/// `before` becomes `after` in what is known of the set.
pub(super) fn replace(state: &mut State, set: &SetKey, before: &[Element], after: &[Element]) {
    let model = state.sets.iter().find(|one| one.key == *set).cloned();
    let held_by = |elements: &[Element], key: &[u8]| {
        let holds = |element: &&Element| match &model {
            Some(set) => holds(set, element, &Bits::exactly(key)) == Tri::Yes,
            None => element.key == key,
        };
        elements.iter().find(holds).cloned()
    };
    for (key, fact) in state.elements.iter_mut().filter(|(key, _)| key.set == *set) {
        if let Some(now) = held_by(after, &key.key) {
            *fact = Some(now);
        } else if held_by(before, &key.key).is_some() {
            *fact = None;
        }
    }
    if let Some(dump) = state.dumps.get_mut(set) {
        dump.retain(|one| !before.iter().any(|element| bounds(one, element)));
        dump.extend(after.iter().cloned());
    }
}
