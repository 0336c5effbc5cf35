//! Looks a key of which some bits are known up in a set. A whole key asks for that one element; elements are compared one by one
//! only where the whole set was read. Reads nothing itself: what is missing is asked for in `Needs`.

use super::{Element, ElementKey, Set, State};
use crate::host::{Need, Needs};
use crate::packet::{Bits, Tri};

/// What a lookup finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hit {
    /// The set does not hold the key.
    Miss,
    /// The set holds it, by one of these elements.
    Found(Vec<Element>),
    /// It cannot be told; if at all, by one of these. None listed: by any.
    Maybe(Vec<Element>),
}

/// Looks a key up. `whole` says whether to ask for the whole set where only a part of the key is known.
pub fn lookup(state: &State, set: &Set, key: &Bits, ruled_out: impl Fn(&[u8]) -> bool, whole: bool, needs: &mut Needs) -> Hit {
    if let Some(elements) = state.dumps.get(&set.key) {
        return search(set, elements, key, ruled_out);
    }
    if let Some(exact) = key.exact() {
        let wanted = ElementKey { set: set.key.clone(), key: exact.to_vec() };
        return match state.elements.get(&wanted) {
            Some(Some(element)) => Hit::Found(vec![element.clone()]),
            Some(None) => Hit::Miss,
            None => {
                needs.insert(Need::Element(wanted));
                Hit::Maybe(Vec::new())
            }
        };
    }
    if whole || set.anonymous() {
        needs.insert(Need::SetElements(set.key.clone()));
    }
    Hit::Maybe(Vec::new())
}

fn search(set: &Set, elements: &[Element], key: &Bits, ruled_out: impl Fn(&[u8]) -> bool) -> Hit {
    let mut possible = Vec::new();
    for element in elements.iter().filter(|element| !element.catchall) {
        if element.key_end.is_none() && ruled_out(&element.key) {
            continue;
        }
        match holds(set, element, key) {
            Tri::Yes => return Hit::Found(vec![element.clone()]),
            Tri::No => {}
            Tri::Maybe => possible.push(element.clone()),
        }
    }
    let catchall = elements.iter().find(|element| element.catchall);
    match (possible.is_empty(), catchall) {
        (true, None) => Hit::Miss,
        (true, Some(catchall)) => Hit::Found(vec![catchall.clone()]),
        (false, None) if covers(set, &possible, key) => Hit::Found(possible),
        (false, None) => Hit::Maybe(possible),
        (false, Some(catchall)) => {
            possible.push(catchall.clone());
            Hit::Found(possible)
        }
    }
}

/// Whether one element holds the key; ranges of concatenations are compared field by field.
pub fn holds(set: &Set, element: &Element, key: &Bits) -> Tri {
    let Some(end) = &element.key_end else { return key.equals(&element.key) };
    if !set.concat() {
        return key.within(&element.key, end);
    }
    if set.fields.is_empty() {
        return Tri::Maybe;
    }
    let mut all = Tri::Yes;
    let mut offset = 0;
    for field in &set.fields {
        let len = usize::try_from(*field).unwrap_or(usize::MAX).min(64);
        let (Some(from), Some(to)) = (element.key.get(offset..offset + len), end.get(offset..offset + len)) else {
            return Tri::Maybe;
        };
        all = all.and(key.part(offset, len).within(from, to));
        offset += len.next_multiple_of(4);
    }
    all
}

/// Whether ranges that each hold a part of the possible keys hold all of them together.
fn covers(set: &Set, possible: &[Element], key: &Bits) -> bool {
    if set.concat() {
        return false;
    }
    let (low, high) = key.ends();
    let mut ranges: Vec<(&[u8], &[u8])> = possible
        .iter()
        .map(|element| (element.key.as_slice(), element.key_end.as_deref().unwrap_or(element.key.as_slice())))
        .collect();
    ranges.sort_unstable();
    let mut next = Some(low);
    for (from, to) in ranges {
        match &next {
            Some(wanted) if from > wanted.as_slice() => return false,
            Some(wanted) if to >= wanted.as_slice() => next = successor(to),
            Some(_) => {}
            None => return true,
        }
    }
    next.is_none_or(|wanted| wanted > high)
}

/// The next higher key; `None` after the highest.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carried) = byte.overflowing_add(1);
        *byte = sum;
        if !carried {
            return Some(next);
        }
    }
    None
}
