//! Runs the expressions of one rule over a packet, three-valued. Says whether the rule holds, on what that depends, and where it
//! leads. Follows no jump: that is `evaluate`'s work.

mod operate;
mod rewrite;

use super::evaluate::Evaluator;
use super::expression::{Expression, NatKind, Verdict};
use super::load::{self, Loaded};
use super::lookup::{Hit, lookup};
use super::registers::Registers;
use super::{Chain, Element, ElementData, Family, Rule, SetKey};
use crate::packet::{Bits, Doubt, On, Packet, Tri, Zone};
use crate::subsystem::xtables::extension::holds::{Matched, matches};
use operate::{bitwise, compare, swap};
use rewrite::{target_end, translate, untrack, write};

/// An element that a lookup of a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub set: SetKey,
    /// Which.
    pub element: Element,
    /// Whether it certainly holds the key.
    pub certain: bool,
}

/// Where a rule leads when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// To the next rule.
    Next,
    /// Out of the base chain, accepted; as this packet where it was translated.
    Accept(Option<Box<Packet>>),
    /// Nowhere; the text says how.
    Refuse(String),
    /// Through another chain and back.
    Jump(String),
    /// Through another chain and back to the caller.
    Goto(String),
    /// Back to the caller, or to the policy.
    Return,
    /// Anywhere; the text says what decides.
    Anything(String),
}

/// A rule that holds, or may hold.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// On what it depends; empty when it certainly holds.
    pub doubts: Vec<Doubt>,
    /// What its lookups found.
    pub found: Vec<Found>,
    /// Where it leads: one of these.
    pub ends: Vec<End>,
}

/// `NF_NAT_RANGE_*` numbers do not matter here; `NFT_META_MARK` and `NFT_CT_MARK` are both 3.
const MARK: u32 = 3;
/// `NFT_CT_ZONE`
const ZONE: u32 = 17;
/// `NFT_META_PKTTYPE`
const KIND: u32 = 19;

/// The rule that is being run.
struct Running<'r> {
    registers: Registers,
    /// The field that was loaded last, and what of a packet it is.
    label: &'static str,
    on: On,
    run: Run,
    packet: &'r mut Packet,
}

impl Running<'_> {
    /// Notes what a condition says; false when the rule does not hold.
    fn holds(&mut self, condition: Tri, doubt: impl FnOnce() -> Doubt) -> bool {
        if condition == Tri::Maybe {
            self.run.doubts.push(doubt());
        }
        condition != Tri::No
    }

    fn load(&mut self, register: u32, loaded: &Loaded) -> bool {
        self.registers.store(register, &loaded.bits);
        if let Some(excluded) = &loaded.excluded {
            self.registers.exclude(register, excluded);
        }
        (self.label, self.on) = (loaded.label, loaded.on);
        self.holds(loaded.breaks.invert(true), || Doubt::about(loaded.on, loaded.label))
    }

    /// Changes the packet, or makes what would change unknown where it is not certain that the rule holds.
    fn change(&mut self, change: impl FnOnce(&mut Packet)) {
        let mut changed = self.packet.clone();
        change(&mut changed);
        *self.packet = if self.run.doubts.is_empty() { changed } else { self.packet.join(&changed) };
    }

    fn depends_on_label(&self) -> Doubt {
        Doubt::about(self.on, self.label)
    }

    fn end(mut self, end: End) -> Run {
        self.run.ends.push(end);
        self.run
    }
}

impl Evaluator<'_> {
    /// Runs one rule. `None` when it certainly does not hold. Changes that the rule makes to the packet before it leads
    /// anywhere are made even then.
    pub(super) fn run(&mut self, chain: &Chain, rule: &Rule, packet: &mut Packet) -> Option<Run> {
        let mut at = Running { registers: Registers::default(), label: "", on: On::Other, run: Run::default(), packet };
        for expression in &rule.expressions {
            let goes_on = match expression {
                Expression::Payload { dreg, base, offset, len } => {
                    let loaded = load::payload(at.packet, *base, *offset, *len);
                    at.load(*dreg, &loaded)
                }
                Expression::PayloadSet { sreg, base, offset, len } => {
                    let data = at.registers.load(*sreg, usize::try_from(*len).unwrap_or(0).min(64));
                    at.change(|packet| write(packet, *base, *offset, &data));
                    true
                }
                Expression::Meta { key, dreg } => {
                    let loaded = load::meta(at.packet, *key);
                    at.load(*dreg, &loaded)
                }
                Expression::MetaSet { key, sreg } => {
                    let data = at.registers.load(*sreg, 4);
                    match *key {
                        MARK => at.change(|packet| packet.mark = data),
                        KIND => at.change(|packet| packet.kind = data.part(0, 1)),
                        _ => {}
                    }
                    true
                }
                Expression::Ct { key, dreg, direction } => {
                    let loaded = load::ct(at.packet, *key, *direction);
                    at.load(*dreg, &loaded)
                }
                Expression::CtSet { key, sreg, direction } => {
                    if *key == MARK {
                        let data = at.registers.load(*sreg, 4);
                        at.change(|packet| packet.mark_connection(&data));
                    } else if *key == ZONE {
                        let number = at.registers.load(*sreg, 2).exact().and_then(|bytes| bytes.try_into().ok());
                        let zone = number.map_or(Zone::Unknown, |number| Zone::Is(u16::from_ne_bytes(number)));
                        let zone = if direction.is_none() { zone } else { Zone::Unknown };
                        at.change(|packet| packet.track(packet.tracked().zoned(zone, true)));
                    }
                    true
                }
                Expression::Cmp { sreg, op, data } => {
                    let condition = compare(&at.registers, *sreg, *op, data);
                    let doubt = at.depends_on_label();
                    at.holds(condition, || doubt)
                }
                Expression::Range { sreg, negated, from, to } => {
                    let condition = at.registers.load(*sreg, from.len()).within(from, to).invert(*negated);
                    let doubt = at.depends_on_label();
                    at.holds(condition, || doubt)
                }
                Expression::Bitwise { sreg, dreg, len, op } => {
                    let len = usize::try_from(*len).unwrap_or(0).min(64);
                    let bits = bitwise(&at.registers.load(*sreg, len), op);
                    at.registers.store(*dreg, &bits);
                    true
                }
                Expression::Byteorder { sreg, dreg, len, size, .. } => {
                    let len = usize::try_from(*len).unwrap_or(0).min(64);
                    let bits = swap(&at.registers.load(*sreg, len), *size);
                    at.registers.store(*dreg, &bits);
                    true
                }
                Expression::Immediate { dreg, data } => {
                    at.registers.store(*dreg, &Bits::exactly(data));
                    true
                }
                Expression::Lookup { set, sreg, dreg, invert } => {
                    let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                    let hit = self.find(&key, &at.registers, *sreg);
                    let (label, on) = (at.label, at.on);
                    match (hit, dreg) {
                        (Hit::Miss, _) if !invert => return None,
                        (Hit::Found(_), _) if *invert => return None,
                        (Hit::Miss, _) => true,
                        (Hit::Found(elements), None) => {
                            at.run.found.extend(found(&key, elements, true));
                            true
                        }
                        (Hit::Found(elements), Some(0)) => {
                            at.run.ends = elements.iter().map(verdict_of).collect();
                            at.run.found.extend(found(&key, elements, true));
                            return Some(at.run);
                        }
                        (Hit::Found(elements), Some(dreg)) => {
                            at.registers.store(*dreg, &data_of(&elements));
                            at.run.found.extend(found(&key, elements, true));
                            true
                        }
                        (Hit::Maybe(elements), dreg) => {
                            at.run.doubts.push(Doubt::about(on, format!("{label} in {}", named(&key))));
                            match dreg {
                                Some(0) if elements.is_empty() => {
                                    return Some(at.end(End::Anything(format!("what {} says", named(&key)))));
                                }
                                Some(0) => {
                                    at.run.ends = elements.iter().map(verdict_of).chain([End::Next]).collect();
                                    at.run.found.extend(found(&key, elements, false));
                                    return Some(at.run);
                                }
                                Some(dreg) if elements.is_empty() => at.registers.store_unknown(*dreg, 16),
                                Some(dreg) => at.registers.store(*dreg, &data_of(&elements)),
                                None if *invert => {}
                                None => at.run.found.extend(found(&key, elements, false)),
                            }
                            true
                        }
                    }
                }
                Expression::Verdict(verdict) => match end_of(verdict) {
                    None => return None,
                    Some(End::Next) => true,
                    Some(end) => return Some(at.end(end)),
                },
                Expression::Counter { .. } | Expression::Log { .. } | Expression::Dup => true,
                Expression::ExtensionHeader { dreg, kind, present } => {
                    let loaded = load::extension_header(*kind, *present);
                    at.load(*dreg, &loaded)
                }
                Expression::Limit { rate, unit, over, .. } => {
                    let over = if *over { "over " } else { "" };
                    at.holds(Tri::Maybe, || Doubt::rate(format!("limit rate {over}{rate}/{}", time_unit(*unit))))
                }
                Expression::Quota { bytes, over } => {
                    let over = if *over { "over " } else { "" };
                    at.holds(Tri::Maybe, || Doubt::rate(format!("quota {over}{bytes} bytes")))
                }
                Expression::Connlimit { count, over } => {
                    let over = if *over { "over " } else { "" };
                    at.holds(Tri::Maybe, || Doubt::rate(format!("ct count {over}{count}")))
                }
                Expression::Dynset { set, has_expressions, .. } => {
                    let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                    // Without expressions of its own it ends the rule only where the set is full (`nft_dynset_eval`).
                    let doubt = if *has_expressions {
                        Doubt::rate(format!("the meter {set}"))
                    } else {
                        Doubt::on(format!("room in set {set}"))
                    };
                    self.changed_sets.insert(key);
                    at.holds(Tri::Maybe, || doubt)
                }
                Expression::Objref { kind, name } => match object(*kind, name.as_deref().unwrap_or("from a map")) {
                    Object::GoesOn => true,
                    Object::Counts(doubt) => at.holds(Tri::Maybe, || doubt),
                    Object::Anything(what) => return Some(at.end(End::Anything(what))),
                },
                Expression::ObjectMap { set, sreg } => {
                    let key = SetKey { family: chain.family, table: chain.table.clone(), set: set.clone() };
                    let kind = self.set(&key).and_then(|set| set.object);
                    match self.find(&key, &at.registers, *sreg) {
                        Hit::Miss => return None,
                        Hit::Found(elements) => at.run.found.extend(found(&key, elements, true)),
                        Hit::Maybe(elements) => {
                            let doubt = Doubt::about(at.on, format!("{} in {}", at.label, named(&key)));
                            at.run.doubts.push(doubt);
                            at.run.found.extend(found(&key, elements, false));
                        }
                    }
                    match object(kind.unwrap_or(0), &format!("of map {}", key.set)) {
                        Object::GoesOn => true,
                        Object::Counts(doubt) => at.holds(Tri::Maybe, || doubt),
                        Object::Anything(what) => return Some(at.end(End::Anything(what))),
                    }
                }
                Expression::Fib { dreg, result, flags } => {
                    let loaded = load::fib(at.packet, *result, *flags);
                    at.load(*dreg, &loaded)
                }
                // nft_nat_inet_eval: packets of the other family go on to what follows; nft_tproxy_eval ends the rule.
                Expression::Nat { kind, family: Some(family), .. }
                    if matches!(family, 2 | 10) && (*family == 10) != at.packet.v6 =>
                {
                    *kind != NatKind::Tproxy
                }
                Expression::Nat { kind, address_register, port_register, ranges, .. } => {
                    let end = translate(&at, *kind, *address_register, *port_register, *ranges);
                    return Some(at.end(end));
                }
                Expression::Notrack => {
                    at.change(untrack);
                    true
                }
                Expression::Reject { kind, .. } => {
                    let how = if *kind == 1 { "rejected with a TCP reset" } else { "rejected with an ICMP error" };
                    return Some(at.end(End::Refuse(how.to_owned())));
                }
                Expression::Queue => return Some(at.end(End::Anything("a program on a queue".to_owned()))),
                Expression::Synproxy => return Some(at.end(End::Anything("synproxy".to_owned()))),
                // Where another device takes what this host sends is not known.
                Expression::Fwd if at.packet.reply => {
                    return Some(at.end(End::Anything("the other device that it is sent out by".to_owned())));
                }
                Expression::Fwd => return Some(at.end(End::Refuse("sent to another device".to_owned()))),
                Expression::Match { name, revision, info } => {
                    let condition = matches(name, *revision, info, &at.packet.view(), self.ipsets);
                    match condition {
                        Matched::Yes => true,
                        Matched::No => false,
                        Matched::Maybe(doubt) => at.holds(Tri::Maybe, || doubt),
                        Matched::Ask(need, doubt) => {
                            self.needs.insert(need);
                            at.holds(Tri::Maybe, || doubt)
                        }
                    }
                }
                Expression::Target { name, revision, info } => {
                    match target_end(&mut at, chain.family == Family::Ip6, name, *revision, info) {
                        None => true,
                        Some(end) => return Some(at.end(end)),
                    }
                }
                Expression::Opaque { name, dreg } => {
                    if let Some(dreg) = dreg {
                        at.registers.store_unknown(*dreg, 16);
                    }
                    match (name.as_str(), dreg) {
                        // They always load something (`nft_numgen.c`, `nft_hash.c`).
                        ("numgen", Some(_)) => (at.label, at.on) = ("`numgen`", On::Other),
                        ("hash", Some(_)) => (at.label, at.on) = ("`hash`", On::Other),
                        _ => {}
                    }
                    let goes_on = match (name.as_str(), dreg) {
                        ("numgen" | "hash", Some(_)) | ("last", _) => Tri::Yes,
                        // An option changed or removed (`nft_exthdr_tcp_set_eval`): only headers that lie end the rule.
                        ("exthdr", None) => Tri::from(at.packet.protocol == 6),
                        _ => Tri::Maybe,
                    };
                    at.holds(goes_on, || Doubt::on(format!("`{name}`")))
                }
                Expression::Unknown { name, text } => {
                    return Some(at.end(End::Anything(format!("the expression `{name}`, which sshfix does not know ({text})"))));
                }
            };
            if !goes_on {
                return None;
            }
        }
        Some(at.end(End::Next))
    }

    fn find(&mut self, key: &SetKey, registers: &Registers, sreg: u32) -> Hit {
        let Some(set) = self.set(key) else { return Hit::Maybe(Vec::new()) };
        if self.changed_sets.contains(key) {
            return Hit::Maybe(Vec::new());
        }
        let len = usize::try_from(set.key_len).unwrap_or(0).min(64);
        let ruled_out = |value: &[u8]| registers.equals(sreg, value) == Tri::No;
        let bits = registers.load(sreg, len);
        let exact = bits.exact().and_then(|exact| self.index.exact(self.state, key, exact, ruled_out));
        exact.unwrap_or_else(|| lookup(self.state, set, &bits, ruled_out, self.whole_sets, self.needs))
    }
}

/// What using a named object does to a rule.
enum Object {
    GoesOn,
    /// It may end the rule.
    Counts(Doubt),
    Anything(String),
}

/// Of this kind, `NFT_OBJECT_*`.
fn object(kind: u32, name: &str) -> Object {
    match kind {
        // Counters, helpers, timeouts and security marks change no verdict.
        1 | 3 | 6..=8 => Object::GoesOn,
        // Ends the rule, or drops the packet: for want of an entry, by how many there are, or of a connection that is not new
        // (`nft_ct_expect_obj_eval`).
        9 => Object::Anything(format!("ct expectation {name}")),
        2 => Object::Counts(Doubt::rate(format!("quota {name}"))),
        4 => Object::Counts(Doubt::rate(format!("limit {name}"))),
        5 => Object::Counts(Doubt::rate(format!("ct count {name}"))),
        10 => Object::Anything(format!("synproxy {name}")),
        _ => Object::Counts(Doubt::rate(format!("object {name}"))),
    }
}

fn named(key: &SetKey) -> String {
    if key.set.starts_with("__") { "a list of the rule".to_owned() } else { format!("set {}", key.set) }
}

fn found(set: &SetKey, elements: Vec<Element>, certain: bool) -> Vec<Found> {
    let certain = certain && elements.len() == 1;
    elements.into_iter().map(|element| Found { set: set.clone(), element, certain }).collect()
}

/// The value of a map, or what its possible values have in common.
fn data_of(elements: &[Element]) -> Bits {
    let values = elements.iter().map(|element| match &element.data {
        Some(ElementData::Value(value)) => Bits::exactly(value),
        Some(ElementData::Verdict(_)) | None => Bits::unknown(16),
    });
    values.reduce(|a, b| a.join(&b)).unwrap_or_else(|| Bits::unknown(16))
}

fn verdict_of(element: &Element) -> End {
    match &element.data {
        Some(ElementData::Verdict(verdict)) => end_of(verdict).unwrap_or(End::Next),
        Some(ElementData::Value(_)) | None => End::Anything("a map without a verdict".to_owned()),
    }
}

/// Where a verdict leads; `None` ends the rule.
fn end_of(verdict: &Verdict) -> Option<End> {
    Some(match verdict {
        Verdict::Accept => End::Accept(None),
        Verdict::Drop => End::Refuse("dropped".to_owned()),
        Verdict::Queue => End::Anything("a program on a queue".to_owned()),
        Verdict::Continue => End::Next,
        Verdict::Break => return None,
        Verdict::Jump(chain) => End::Jump(chain.clone()),
        Verdict::Goto(chain) => End::Goto(chain.clone()),
        Verdict::Return => End::Return,
    })
}

fn time_unit(seconds: u64) -> String {
    match seconds {
        1 => "second".to_owned(),
        60 => "minute".to_owned(),
        3600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        604_800 => "week".to_owned(),
        other => format!("{other} seconds"),
    }
}
