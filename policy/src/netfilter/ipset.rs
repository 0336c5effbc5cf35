//! Which ipset elements decide about a connection: the `-m set` matches of a deciding rule together with what the sets hold,
//! whose sets they are, and which element a lift may delete. Works for iptables-nft and iptables-legacy rules alike.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::arrival::arrivals;
use super::deciding;
use super::no_plan::NoPlan;
use super::outcome::{Pass, Refusal};
use crate::address::Source;
use crate::host::block::Alternative;
use crate::host::step::Step;
use crate::host::{HostState, Need, Needs};
use crate::packet::Packet;
use crate::subsystem::ipset::{self, Entry, Key, Properties, Set, SetReference, State};
use crate::subsystem::nf_tables::Rule;
use crate::subsystem::nf_tables::expression::Expression;
use crate::subsystem::xtables::Action;
use crate::subsystem::xtables::extension::matches::Match;
use crate::subsystem::xtables::extension::targets::{Target, decode as decode_target};
use crate::verdict::{Connection, Evidence};

/// A set that holds the connection's address, as a rule asks it.
pub struct Held<'h> {
    /// The set.
    pub set: &'h Set,
    /// What it was asked for.
    pub key: Key,
    /// What it said.
    pub entry: &'h Entry,
    /// What it keeps with its elements, where that is known.
    properties: Option<&'h Result<Properties, String>>,
}

impl Held<'_> {
    /// The element as evidence.
    pub fn evidence(&self) -> Evidence {
        Evidence::new(format!("ipset {}", self.set.name), self.entry.text(self.set, &self.key))
    }

    /// Deletes the element, where it stands for nobody outside of what was asked. What is not known of the set yet is asked for, and
    /// until then it is taken for a plain one.
    pub fn delete(&self, connection: &Connection, needs: &mut Needs) -> Option<Step> {
        let properties = if let Some(known) = self.properties {
            *known.as_ref().ok()?
        } else {
            needs.insert(Need::IpsetProperties(self.set.name.clone()));
            Properties::default()
        };
        let step = ipset::Step::delete(self.set, properties, self.key.clone(), self.entry)?;
        let only = step.touches()?.iter().all(|source| connection.source.contains(*source));
        only.then_some(Step::Ipset(step))
    }

    /// Deletes the networks that hold the address, for everybody in them. They are plain: a network has its own length.
    pub fn range(&self, asked: Source) -> Option<Alternative> {
        let Entry::Wider(lengths) = self.entry else { return None };
        let Some(Ok(properties)) = self.properties else { return None };
        let steps: Vec<ipset::Step> =
            self.key.networks(lengths).filter_map(|key| ipset::Step::delete(self.set, *properties, key, &Entry::Exact)).collect();
        let opens = steps.iter().filter_map(ipset::Step::touches).flatten().collect();
        (!steps.is_empty()).then(|| Alternative::range(asked, steps.into_iter().map(Step::Ipset).collect(), opens))
    }

    /// The name by which its owner is known.
    pub fn owner_name(&self) -> &str {
        owner_name(self.set)
    }
}

/// The set's name without what fail2ban appends to those of IPv6.
pub fn owner_name(set: &Set) -> &str {
    let name = set.name.as_str();
    match name.strip_suffix('6') {
        Some(plain) if set.v6 == Some(true) && name.starts_with("f2b-") => plain,
        _ => name,
    }
}

/// Every set that a rule anywhere asks, by its index.
pub fn asked(host: &HostState) -> BTreeSet<u16> {
    let nft = host.nf_tables.present().into_iter().flat_map(|state| &state.chains).flat_map(|chain| &chain.rules);
    let legacy = host.xtables.present().into_iter().flat_map(|state| state.v4.iter().chain(&state.v6));
    let legacy = legacy.flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
    let of_legacy = legacy.flat_map(|rule| &rule.matches).filter_map(reference);
    nft.flat_map(|rule| asked_by(rule, false)).chain(of_legacy).map(|reference| reference.index).collect()
}

/// Deletes one element of a set that rules ask; the error says why not. Facts that are missing are added to `needs`, and then there is
/// no step yet.
pub fn remove(host: &HostState, set: &str, element: &str, needs: &mut Needs) -> Result<Option<Step>, NoPlan> {
    let indices = asked(host);
    let unknown = indices.iter().filter(|index| !host.ipset.sets.contains_key(index));
    let missing: Vec<Need> = unknown.map(|index| Need::Ipset(*index)).collect();
    if !missing.is_empty() {
        needs.extend(missing);
        return Ok(None);
    }
    let reference = format!("ipset/{set}/{element}");
    let gone = || NoPlan::GoneOrUnasked(reference.clone());
    let read = indices.iter().filter_map(|index| host.ipset.sets.get(index)?.as_ref().ok());
    let mut sets = read.flat_map(|set| set.members.iter().chain([set]));
    // One that could not be read may be this one.
    let unread = || {
        host.ipset
            .sets
            .values()
            .find_map(|set| set.as_ref().err())
            .map(|why| NoPlan::NotLookedFor { reference: reference.clone(), why: why.clone() })
    };
    let known = sets.find(|known| known.name == set).ok_or_else(|| unread().unwrap_or_else(gone))?;
    let key = Key::parse(&known.kind, element).filter(|key| key.to_string() == element);
    let key =
        key.ok_or_else(|| NoPlan::IpsetType { reference: reference.clone(), set: set.to_owned(), element: element.to_owned() })?;
    let query = known.query(key.clone());
    match (host.ipset.properties.get(set), host.ipset.entries.get(&query)) {
        (None, _) | (_, None) => {
            needs.extend([Need::IpsetProperties(set.to_owned()), Need::IpsetEntry(query)]);
            Ok(None)
        }
        (Some(Err(why)), _) | (_, Some(Entry::Unknown(why))) => Err(NoPlan::Unread { part: reference, why: why.clone() }),
        (_, Some(Entry::Absent)) => Err(gone()),
        (Some(Ok(properties)), Some(entry)) => {
            let step = ipset::Step::delete(known, *properties, key, entry);
            let not_exactly = || NoPlan::NotExactly { reference, set: set.to_owned(), element: element.to_owned() };
            Ok(Some(Step::Ipset(step.ok_or_else(not_exactly)?)))
        }
    }
}

/// The set that a match asks, or those of a list. None where the match wants those who are not in it, or where it is not known.
pub fn members<'h>(facts: &'h State, reference: SetReference, needs: &mut Needs) -> &'h [Set] {
    // IPSET_INV_MATCH: it refuses everybody else.
    if reference.flags & 1 != 0 {
        return &[];
    }
    match facts.sets.get(&reference.index) {
        None => {
            needs.insert(Need::Ipset(reference.index));
            &[]
        }
        Some(Err(_)) => &[],
        Some(Ok(set)) if set.kind == "list:set" => &set.members,
        Some(Ok(set)) => std::slice::from_ref(set),
    }
}

/// The elements of a set, each with what its address field stands for, and the seconds it still has. The set is read whole.
pub fn listed<'h>(
    facts: &'h State,
    set: &Set,
    field: usize,
    needs: &mut Needs,
) -> impl Iterator<Item = (IpAddr, IpAddr, Option<u32>)> + use<'h> {
    let listing = facts.listings.get(&set.name);
    if listing.is_none() {
        needs.insert(Need::IpsetElements(set.name.clone()));
    }
    let elements = listing.into_iter().flatten().flat_map(|listing| listing.iter());
    elements.filter(|element| !element.nomatch).filter_map(move |element| {
        let (from, to) = element.addresses.get(field)?;
        Some((*from, *to, element.left))
    })
}

/// Which of a set's address fields is asked for the packet's source.
pub fn client_field(set: &Set, reference: SetReference) -> Option<usize> {
    let fields = set.kind.split_once(':')?.1.split(',');
    // IPSET_DIM_ONE_SRC 2, TWO_SRC 4, THREE_SRC 8
    let source = |dimension: u32| reference.flags.checked_shr(dimension).unwrap_or(0) & 1 != 0;
    let addresses = fields.zip(1..).filter(|(field, _)| matches!(*field, "ip" | "net"));
    addresses.enumerate().find(|(_, (_, dimension))| source(*dimension)).map(|(index, _)| index)
}

/// What is known of ipsets, with the names that legacy rules brought and with the sets that rules change while packets pass.
pub fn facts(host: &HostState) -> State {
    let mut facts = host.ipset.clone();
    facts.names = host.set_names();
    if facts.sets.is_empty() {
        return facts;
    }
    for rule in host.nf_tables.present().iter().flat_map(|state| &state.chains).flat_map(|chain| &chain.rules) {
        for expression in &rule.expressions {
            if let Expression::Target { name, revision, info } = expression
                && name == "SET"
            {
                changes(&decode_target(false, name, *revision, info), &mut facts);
            }
        }
    }
    let legacy = host.xtables.present().into_iter().flat_map(|state| state.v4.iter().chain(&state.v6));
    for rule in legacy.flat_map(|table| &table.chains).flat_map(|chain| &chain.rules) {
        if let Action::Target(target) = &rule.action {
            changes(target, &mut facts);
        }
    }
    facts
}

fn changes(target: &Target, facts: &mut State) {
    if let Target::Set { add, del, .. } = target {
        facts.grow.insert(add.index);
        facts.shrink.insert(del.index);
    }
}

/// Every set that holds the connection's address in the rules that decide.
pub fn decides<'h>(host: &'h HostState, connection: &Connection, refusal: &Refusal) -> Vec<Held<'h>> {
    held(host, connection, refusal.pass, &deciding::matches(host, !connection.source.is_ipv4(), refusal))
}

/// The sets that an `nf_tables` rule asks.
pub fn asked_by(rule: &Rule, v6: bool) -> Vec<SetReference> {
    deciding::of_rule(rule, v6).iter().filter_map(reference).collect()
}

/// The set that a match asks.
pub fn reference(one: &Match) -> Option<SetReference> {
    if let Match::Set { set, .. } = one { Some(*set) } else { None }
}

/// The sets that these matches ask and that hold the connection's address.
pub fn held<'h>(host: &'h HostState, connection: &Connection, pass: Pass, matches: &[Match]) -> Vec<Held<'h>> {
    let references: Vec<SetReference> = matches.iter().filter_map(reference).collect();
    if references.is_empty() || matches!(pass, Pass::Discovery(_)) {
        return Vec::new();
    }
    // Facts that are missing were asked for when the connection was evaluated.
    let arriving = arrivals(host, connection, &mut Needs::new()).into_iter().map(|arrival| arrival.syn(connection));
    let packets: Vec<Packet> = [Packet::syn(connection)]
        .into_iter()
        .chain(arriving)
        .map(|syn| match pass {
            Pass::Syn | Pass::Ack | Pass::Discovery(_) => syn,
            Pass::Answer => syn.answer(),
        })
        .collect();
    let one = |reference| packets.iter().find_map(|packet| host.ipset.held(reference, &packet.view()));
    let properties = |set: &Set| host.ipset.properties.get(&set.name);
    let held = references.into_iter().filter_map(one);
    held.map(|(set, key, entry)| Held { set, key, entry, properties: properties(set) }).collect()
}
