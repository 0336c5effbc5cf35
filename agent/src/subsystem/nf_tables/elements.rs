//! Elements of sets and maps: one by its key, without reading the set; or all, for questions about everybody. Folds the
//! kernel's separate interval ends into inclusive ranges. Never changes anything.

use nix::errno::Errno;
use sshfix_policy::subsystem::nf_tables::{Element, ElementData, Set, SetKey};

use super::decode;
use super::message::{Attributes, Attrs, Kind, NESTED, nft};
use super::read::comment;
use super::socket::{Netlink, NetlinkError};

/// A set with more elements is not read whole.
const MOST_ELEMENTS: usize = 2_000_000;
/// How often a set that keeps changing is read again.
const TRIES: usize = 5;

/// `NFTA_SET_ELEM_LIST_TABLE`, `_SET`, `_ELEMENTS`.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
pub const LIST_ELEMENTS: u16 = 3;
/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;
/// `NFTA_SET_ELEM_*`.
pub const KEY: u16 = 1;
pub const DATA: u16 = 2;
pub const FLAGS: u16 = 3;
pub const TIMEOUT: u16 = 4;
pub const EXPIRATION: u16 = 5;
pub const USERDATA: u16 = 6;
const EXPRESSION: u16 = 7;
pub const OBJECT: u16 = 9;
pub const KEY_END: u16 = 10;
const EXPRESSIONS: u16 = 11;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
pub const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`.
const CODE: u16 = 1;
const CHAIN: u16 = 2;
/// `NFT_SET_ELEM_INTERVAL_END`.
pub const INTERVAL_END: u32 = 1;
/// `NFT_SET_ELEM_CATCHALL`.
pub const CATCHALL: u32 = 2;

/// An element as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Raw {
    element: Element,
    flags: u32,
}

impl Raw {
    fn interval_end(&self) -> bool {
        self.flags & INTERVAL_END != 0
    }
}

/// Whether this set keeps ranges as a start and an exclusive end (rbtree), not as one element with both ends (pipapo).
pub fn split_ends(set: &Set) -> bool {
    set.interval() && !set.concat()
}

/// The element of a set that a packet with this key would find, or `None`.
pub fn lookup(netlink: &mut Netlink, set: &Set, key: &[u8]) -> Result<Option<Element>, NetlinkError> {
    if u32::try_from(key.len()) != Ok(set.key_len) {
        let what = format!("set {} has keys of {} bytes, not {}", set.key, set.key_len, key.len());
        return Err(NetlinkError::Refused(what));
    }
    match holding(netlink, set, key)? {
        Some(element) => Ok(Some(element)),
        // What no other element matches (`nft_set_catchall_lookup`).
        None => catchall(netlink, &set.key),
    }
}

/// The element that stands at the key of this one, whatever else it is; the catchall element for the catchall element.
pub fn at_key_of(netlink: &mut Netlink, set: &Set, element: &Element) -> Result<Option<Element>, NetlinkError> {
    if element.catchall { catchall(netlink, &set.key) } else { holding(netlink, set, &element.key) }
}

/// The key at which the range before this element's would end, if there is one and it goes up to this element. Where the kernel keeps
/// no end there (nft writes one for named sets; a loader may leave it out), that range grows when this element is taken out.
pub fn neighbour_end(netlink: &mut Netlink, set: &Set, element: &Element) -> Result<Option<Vec<u8>>, NetlinkError> {
    let before = predecessor(&element.key).filter(|_| split_ends(set) && !element.catchall);
    match before {
        Some(before) if holding(netlink, set, &before)?.is_some() => Ok(Some(element.key.clone())),
        Some(_) | None => Ok(None),
    }
}

/// The element that holds this key, but for the catchall element.
fn holding(netlink: &mut Netlink, set: &Set, key: &[u8]) -> Result<Option<Element>, NetlinkError> {
    let found = if split_ends(set) { interval(netlink, set, key)? } else { get(netlink, &set.key, key, 0)? };
    Ok(found.map(|raw| raw.element))
}

/// The element that stands for all keys no other element matches.
pub fn catchall(netlink: &mut Netlink, set: &SetKey) -> Result<Option<Element>, NetlinkError> {
    let wanted = Attrs::new().be32(FLAGS, CATCHALL);
    match one(netlink, set, &wanted) {
        // Kernels before 5.13 know no catchall elements.
        Err(NetlinkError::Kernel { errno: Errno::EINVAL | Errno::EOPNOTSUPP, .. }) => Ok(None),
        found => Ok(found?.map(|raw| raw.element)),
    }
}

/// The range of an rbtree set that holds the key. The kernel gives the start at or below the key, if that is not an end, and
/// the end at or above it, if that is not a start.
fn interval(netlink: &mut Netlink, set: &Set, key: &[u8]) -> Result<Option<Raw>, NetlinkError> {
    let Some(mut start) = get(netlink, &set.key, key, 0)? else { return Ok(None) };
    if start.interval_end() || start.element.key.as_slice() > key {
        return Ok(None);
    }
    // Ends are exclusive: the end of this range is above the key, and an end at the key is that of the range before.
    let end = match successor(key) {
        Some(next) => get(netlink, &set.key, &next, INTERVAL_END)?.filter(Raw::interval_end),
        None => None,
    };
    let last = match end.and_then(|end| predecessor(&end.element.key)) {
        Some(last) if last.as_slice() >= key && starts_at(netlink, set, &last, &start)? => last,
        // No end, or that of a later range.
        _ => search_last(netlink, set, key, &start)?,
    };
    start.element.key_end = (last != start.element.key).then_some(last);
    Ok(Some(start))
}

/// The last key of the range that starts here and holds `key`, where the kernel keeps no end for it: it goes on to the next
/// start or to the highest key. Found by halving; at most one question per bit.
fn search_last(netlink: &mut Netlink, set: &Set, key: &[u8], start: &Raw) -> Result<Vec<u8>, NetlinkError> {
    let highest = vec![0xff; key.len()];
    if starts_at(netlink, set, &highest, start)? {
        return Ok(highest);
    }
    let too_long = || NetlinkError::Refused(format!("set {} has keys of more than 16 bytes", set.key));
    let mut inside = number(key).ok_or_else(too_long)?;
    let mut outside = number(&highest).ok_or_else(too_long)?;
    while outside.saturating_sub(inside) > 1 {
        let middle = inside.midpoint(outside);
        if starts_at(netlink, set, &bytes(middle, key.len()), start)? {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    Ok(bytes(inside, key.len()))
}

/// Whether the range that holds `key` is the one that starts at `start`.
fn starts_at(netlink: &mut Netlink, set: &Set, key: &[u8], start: &Raw) -> Result<bool, NetlinkError> {
    let found = get(netlink, &set.key, key, 0)?;
    Ok(found.is_some_and(|found| !found.interval_end() && found.element.key == start.element.key))
}

fn get(netlink: &mut Netlink, set: &SetKey, key: &[u8], flags: u32) -> Result<Option<Raw>, NetlinkError> {
    let mut wanted = Attrs::new().nest(KEY, &value(key));
    if flags != 0 {
        wanted = wanted.be32(FLAGS, flags);
    }
    one(netlink, set, &wanted)
}

/// Asks for one element; `None` for ENOENT. (A set that is gone is ENOENT too; the generation id shows that.)
fn one(netlink: &mut Netlink, set: &SetKey, wanted: &Attrs) -> Result<Option<Raw>, NetlinkError> {
    let attrs = list(set).nest(LIST_ELEMENTS, &Attrs::new().nest(LIST_ELEMENT, wanted));
    let mut found = None;
    let asked = netlink.request(nft::GET_ELEMENT, set.family.number(), &attrs, "an element", |message| {
        if message.kind == Kind::Nft(nft::NEW_ELEMENT) && found.is_none() {
            found = elements(&message.attributes())?.pop();
        }
        Ok(())
    });
    match asked {
        Ok(()) => Ok(found),
        Err(NetlinkError::Kernel { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All elements of a set, ranges with both ends.
pub fn dump(netlink: &mut Netlink, set: &Set) -> Result<Vec<Element>, NetlinkError> {
    for _ in 0..TRIES {
        let mut raw = Vec::new();
        let dumped = netlink.dump(nft::GET_ELEMENT, set.key.family.number(), &list(&set.key), "a set", |message| {
            if message.kind == Kind::Nft(nft::NEW_ELEMENT) && raw.len() <= MOST_ELEMENTS {
                raw.extend(elements(&message.attributes())?);
            }
            Ok(())
        });
        match dumped {
            Ok(()) if raw.len() > MOST_ELEMENTS => {
                let what = format!("set {} has more than {MOST_ELEMENTS} elements, which is not read whole", set.key);
                return Err(NetlinkError::Refused(what));
            }
            Ok(()) if split_ends(set) => return Ok(fold(raw, set.key_len)),
            Ok(()) => return Ok(raw.into_iter().map(|raw| raw.element).collect()),
            Err(NetlinkError::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NetlinkError::Interrupted)
}

/// Joins starts and ends: a range ends before the next end or start, or at the highest key. Ends without a start (nft puts
/// one at zero) say nothing.
fn fold(mut raw: Vec<Raw>, key_len: u32) -> Vec<Element> {
    // At the same key the end of one range comes before the start of the next.
    raw.sort_by(|a, b| (&a.element.key, !a.interval_end()).cmp(&(&b.element.key, !b.interval_end())));
    let highest = vec![0xff; usize::try_from(key_len).unwrap_or(0)];
    let mut folded = Vec::new();
    let mut raw = raw.into_iter().peekable();
    while let Some(Raw { mut element, flags }) = raw.next() {
        if flags & CATCHALL == 0 {
            if flags & INTERVAL_END != 0 {
                continue;
            }
            let next = raw.peek().and_then(|next| predecessor(&next.element.key));
            let last = next.unwrap_or_else(|| highest.clone());
            element.key_end = (last != element.key).then_some(last);
        }
        folded.push(element);
    }
    folded
}

/// A key as a big-endian number; `None` when it has more than 16 bytes.
fn number(key: &[u8]) -> Option<u128> {
    (key.len() <= 16).then(|| key.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

/// A number as a big-endian key.
fn bytes(number: u128, len: usize) -> Vec<u8> {
    let all = number.to_be_bytes();
    all.get(all.len().saturating_sub(len)..).unwrap_or_default().to_vec()
}

/// The next key; `None` after the highest.
pub fn successor(key: &[u8]) -> Option<Vec<u8>> {
    if key.iter().all(|byte| *byte == 0xff) {
        return None;
    }
    Some(bytes(number(key)?.checked_add(1)?, key.len()))
}

/// The key before; `None` before zero.
fn predecessor(key: &[u8]) -> Option<Vec<u8>> {
    Some(bytes(number(key)?.checked_sub(1)?, key.len()))
}

/// `NFTA_DATA_VALUE`.
pub fn value(bytes: &[u8]) -> Attrs {
    Attrs::new().put(VALUE, bytes)
}

/// `NFTA_DATA_VERDICT` of a code and the chain it names.
pub fn verdict_attrs((code, chain): (u32, Option<&str>)) -> Attrs {
    let mut verdict = Attrs::new().be32(CODE, code);
    if let Some(chain) = chain {
        verdict = verdict.text(CHAIN, chain);
    }
    Attrs::new().nest(VERDICT, &verdict)
}

/// Names the set.
pub fn list(set: &SetKey) -> Attrs {
    Attrs::new().text(LIST_TABLE, &set.table).text(LIST_SET, &set.set)
}

fn elements(attributes: &Attributes<'_>) -> Result<Vec<Raw>, NetlinkError> {
    let Some(list) = attributes.nested(LIST_ELEMENTS) else { return Ok(Vec::new()) };
    list.filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, payload)| element(&Attributes(payload))).collect()
}

fn element(attributes: &Attributes<'_>) -> Result<Raw, NetlinkError> {
    let bytes = |kind| attributes.nested(kind).and_then(|data| data.get(VALUE)).map(<[u8]>::to_vec);
    // Left out where there are none (`nf_tables_fill_setelem`).
    let flags = if attributes.get(FLAGS).is_some() {
        let known = attributes.be32(FLAGS).filter(|flags| flags & !(INTERVAL_END | CATCHALL) == 0);
        known.ok_or_else(|| NetlinkError::Malformed("the flags of an element".to_owned()))?
    } else {
        0
    };
    let catchall = flags & CATCHALL != 0;
    let key = match bytes(KEY) {
        Some(key) => key,
        None if catchall => Vec::new(),
        None => return Err(NetlinkError::Malformed("an element without its key".to_owned())),
    };
    let data = match attributes.nested(DATA) {
        None => None,
        Some(data) => Some(match (data.get(VALUE), data.nested(VERDICT)) {
            (Some(value), _) => ElementData::Value(value.to_vec()),
            (None, Some(verdict)) => {
                let known = verdict.be32(CODE).and_then(|code| decode::verdict(code, verdict.text(CHAIN)));
                ElementData::Verdict(known.ok_or_else(|| NetlinkError::Malformed("the verdict of an element".to_owned()))?)
            }
            (None, None) => return Err(NetlinkError::Malformed("the data of an element".to_owned())),
        }),
    };
    let expressions = attributes.clone().filter(|(kind, _)| matches!(*kind, EXPRESSION | EXPRESSIONS));
    let userdata = attributes.get(USERDATA).unwrap_or_default().to_vec();
    Ok(Raw {
        flags,
        element: Element {
            key_end: bytes(KEY_END).filter(|end| *end != key),
            key,
            catchall,
            data,
            timeout_ms: attributes.be64(TIMEOUT),
            expires_ms: attributes.be64(EXPIRATION),
            comment: comment(&userdata),
            raw_expressions: expressions.fold(Attrs::new(), |all, (kind, payload)| all.put(kind | NESTED, payload)).finish(),
            object: attributes.text(OBJECT),
            userdata,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(key: u8, flags: u32) -> Raw {
        Raw { element: Element { key: vec![key], ..Element::default() }, flags }
    }

    fn ranges(raw: Vec<Raw>) -> Vec<(u8, u8)> {
        let ends = |element: &Element| {
            let first = element.key.first().copied().unwrap_or_default();
            (first, element.key_end.as_ref().and_then(|end| end.first().copied()).unwrap_or(first))
        };
        fold(raw, 1).iter().map(ends).collect()
    }

    #[test]
    fn starts_and_ends_become_inclusive_ranges_in_whatever_order_they_come() {
        // nft's end at zero, 10-19, 20-29 and the single 40.
        let dumped = [(41, 1), (40, 0), (30, 1), (20, 0), (20, 1), (10, 0), (0, 1)];
        let dumped = dumped.map(|(key, flags)| raw(key, flags)).to_vec();
        assert_eq!(ranges(dumped), [(10, 19), (20, 29), (40, 40)]);
    }

    #[test]
    fn a_range_without_an_end_goes_on_to_the_next_start_or_to_the_highest_key() {
        assert_eq!(ranges(vec![raw(0, 0), raw(10, 0), raw(20, 1), raw(250, 0)]), [(0, 9), (10, 19), (250, 255)]);
    }

    #[test]
    fn keys_count_as_big_endian_numbers_and_never_wrap() {
        assert_eq!(successor(&[10, 0, 0, 255]), Some(vec![10, 0, 1, 0]));
        assert_eq!(successor(&[255; 4]), None);
        assert_eq!(successor(&[255; 16]), None);
        assert_eq!(predecessor(&[10, 0, 1, 0]), Some(vec![10, 0, 0, 255]));
        assert_eq!(predecessor(&[0; 16]), None);
        assert_eq!(successor(&[0; 17]), None);
    }
}
