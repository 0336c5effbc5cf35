//! Takes the packets of a handshake through the host's hooks: `nf_tables`' base chains and iptables-legacy's tables together, in
//! the kernel's order (`nf_hook_slow`), with connection tracking and address translation at their points. Judges nothing itself.

use crate::host::{HostState, Needs, Part};
use crate::packet::{Packet, Tracking, Tri};
use crate::subsystem::ipset;
use crate::subsystem::nf_tables::evaluate::{Evaluator, Event, Exit};
use crate::subsystem::nf_tables::{BaseChain, Chain, Doubt, Family, State};
use crate::subsystem::xtables::{self, evaluate as legacy};
use crate::verdict::Connection;

/// Which packet of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The SYN, coming in.
    Syn,
    /// The SYN and ACK, going out.
    Answer,
    /// The ACK, coming in.
    Ack,
}

/// Who refuses, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// A rule or policy of `nf_tables`.
    NfTables(Event),
    /// A rule or policy of iptables-legacy.
    Legacy(legacy::Outcome),
    /// One that cannot be told, because this part could not be read.
    Unread(String),
}

/// A refusal on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of which packet.
    pub pass: Pass,
    /// By whom.
    pub culprit: Culprit,
    /// Whether it is certain that it refuses what comes so far.
    pub certain: bool,
    /// On what it depends otherwise.
    pub doubts: Vec<Doubt>,
}

/// What the packet filters do to a connection.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Every refusal that is possible; a certain one is the last.
    pub refusals: Vec<Refusal>,
    /// The port that the SYN was delivered to, where it is not the one asked for and known.
    pub delivered_to: Option<u16>,
}

impl Walk {
    /// The refusal that decides, if there is one.
    pub fn decided(&self) -> Option<&Refusal> {
        self.refusals.iter().find(|refusal| refusal.certain)
    }
}

/// A hook on the way. `Ingress` and `Egress` belong to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Ingress,
    Prerouting,
    Input,
    Output,
    Postrouting,
    Egress,
}

/// What is called at a hook.
#[derive(Clone, Debug)]
enum Called<'a> {
    /// An `nf_tables` base chain; the text says on what it depends that it sees the packet at all.
    Chain(usize, Option<String>),
    /// A legacy table.
    Table(&'a xtables::Table),
    /// Connection tracking looks the packet up (`NF_IP_PRI_CONNTRACK`).
    Conntrack,
    /// The translation of a known connection (`NF_IP_PRI_NAT_DST`).
    Translate,
}

/// `NF_IP_PRI_CONNTRACK`
const CONNTRACK: i32 = -200;
/// `NF_IP_PRI_NAT_DST`: all nat chains before routing run at this point of the hook, whatever their own priority.
const NAT_DESTINATION: i32 = -100;
/// `NF_IP_PRI_NAT_SRC`
const NAT_SOURCE: i32 = 100;

/// Takes the handshake through every hook.
pub fn walk(host: &HostState, connection: &Connection, needs: &mut Needs) -> Walk {
    let empty = State::default();
    let ipsets = super::ipset::facts(host);
    let mut walk = Walk::default();
    for (name, unreadable) in [("nftables", unreadable(&host.nf_tables)), ("iptables-legacy", unreadable(&host.xtables))] {
        if let Some(why) = unreadable {
            walk.refusals.push(Refusal {
                pass: Pass::Syn,
                culprit: Culprit::Unread(format!("{name} could not be read: {why}")),
                certain: false,
                doubts: Vec::new(),
            });
        }
    }
    let mut walker = Walker {
        state: host.nf_tables.present().unwrap_or(&empty),
        legacy: host.xtables.present(),
        ipsets: &ipsets,
        // Only a question about a range can need whole sets; what an address meets is asked for element by element.
        whole_sets: connection.source.single().is_none(),
        needs,
        pass: Pass::Syn,
        refusals: walk.refusals,
        entry: Tri::Maybe,
        delivered: None,
    };
    let syn = Packet::syn(connection);
    if let Some(delivered) = walker.through(&[Hook::Ingress, Hook::Prerouting, Hook::Input], syn.clone()) {
        let port = delivered.destination_port();
        if let Some(&[high, low]) = port.exact()
            && u16::from_be_bytes([high, low]) != connection.port
        {
            walk.delivered_to = Some(u16::from_be_bytes([high, low]));
        }
        walker.entry = delivered.tracking.entry();
        walker.delivered = Some(delivered.clone());
        walker.pass = Pass::Answer;
        if walker.through(&[Hook::Output, Hook::Postrouting, Hook::Egress], delivered.answer()).is_some() {
            walker.pass = Pass::Ack;
            walker.through(&[Hook::Ingress, Hook::Prerouting, Hook::Input], syn.follower(&delivered));
        }
    }
    walk.refusals = walker.refusals;
    walk
}

fn unreadable<T>(part: &Part<T>) -> Option<&str> {
    match part {
        Part::Unreadable(why) => Some(why),
        Part::Present(_) | Part::Absent(_) => None,
    }
}

struct Walker<'a, 'n> {
    state: &'a State,
    legacy: Option<&'a xtables::State>,
    ipsets: &'a ipset::State,
    whole_sets: bool,
    needs: &'n mut Needs,
    pass: Pass,
    refusals: Vec<Refusal>,
    /// Whether conntrack has an entry for the connection once the SYN was delivered.
    entry: Tri,
    /// The SYN as it was delivered.
    delivered: Option<Packet>,
}

impl<'a> Walker<'a, '_> {
    /// Takes a packet through hooks. `None` when it certainly does not get through.
    fn through(&mut self, hooks: &[Hook], mut packet: Packet) -> Option<Packet> {
        for hook in hooks {
            let calls = self.calls(*hook, packet.v6);
            let mut rest = calls.as_slice();
            while let Some(((priority, _), _)) = rest.first() {
                // What runs at the same priority does so in the order of registration, which cannot be read.
                let same = rest.iter().take_while(|((other, _), _)| other == priority).count();
                let (group, later) = rest.split_at(same);
                packet = self.group(*hook, group, &packet)?;
                rest = later;
            }
        }
        Some(packet)
    }

    fn group(&mut self, hook: Hook, group: &[((i32, i32), Called<'a>)], packet: &Packet) -> Option<Packet> {
        let ordered = group.len() == 1 || *group.first().map(|((priority, _), _)| priority)? == NAT_DESTINATION;
        let before = self.refusals.len();
        let after = self.in_order(hook, group, packet.clone())?;
        if ordered || after == *packet {
            return Some(after);
        }
        // Some of them change the packet, so each may see it changed or not.
        self.refusals.truncate(before);
        self.in_order(hook, group, packet.join(&after))
    }

    fn in_order(&mut self, hook: Hook, group: &[((i32, i32), Called<'a>)], mut packet: Packet) -> Option<Packet> {
        for (_, called) in group {
            packet = match called {
                Called::Chain(index, perhaps) => self.chain(hook, *index, perhaps.as_deref(), packet)?,
                Called::Table(table) => self.table(hook, table, packet)?,
                Called::Conntrack => self.track(packet),
                Called::Translate => self.translate(packet),
            };
        }
        Some(packet)
    }

    /// Connection tracking: the first packet makes a new entry; later ones belong to it, where there is one.
    fn track(&self, mut packet: Packet) -> Packet {
        let found = match (self.pass, self.entry) {
            (Pass::Syn, _) => Tracking::NEW,
            (Pass::Answer | Pass::Ack, Tri::Yes) => Tracking::ESTABLISHED,
            (Pass::Answer, Tri::No) => Tracking::INVALID,
            // Loose tracking takes it up in the middle of the connection.
            (Pass::Ack, Tri::No) => Tracking(Tracking::NEW.0 | Tracking::INVALID.0),
            (Pass::Answer | Pass::Ack, Tri::Maybe) => Tracking(Tracking::ESTABLISHED.0 | Tracking::NEW.0 | Tracking::INVALID.0),
        };
        // Packets that were exempted before stay so.
        let exempt = packet.tracking.0 & Tracking::UNTRACKED.0;
        let tracked = if packet.tracking.among(Tracking::UNTRACKED.0) == Tri::Yes { 0 } else { found.0 };
        packet.tracking = Tracking(exempt | tracked);
        packet
    }

    /// Later packets of the connection go where its first one went.
    fn translate(&self, mut packet: Packet) -> Packet {
        if let (Pass::Ack, Some(delivered)) = (self.pass, &self.delivered)
            && delivered.dnat != Tri::No
        {
            packet.set_destination(&delivered.destination());
            packet.set_destination_port(&delivered.destination_port());
            packet.local = delivered.local;
            packet.dnat = delivered.dnat;
        }
        packet
    }

    /// A nat chain sees only the first packet of a tracked connection (`nf_nat_inet_fn`).
    fn sees_nat(&self, packet: &Packet) -> Tri {
        if self.pass == Pass::Syn { packet.tracking.entry() } else { packet.tracking.among(Tracking::NEW.0) }
    }

    fn chain(&mut self, hook: Hook, index: usize, perhaps: Option<&str>, packet: Packet) -> Option<Packet> {
        let base = self.state.chains.get(index).and_then(|chain| chain.base.as_ref())?;
        let mut perhaps = perhaps.map(str::to_owned);
        if base.kind == "nat" {
            match self.sees_nat(&packet) {
                Tri::No => return Some(packet),
                Tri::Yes => {}
                Tri::Maybe => perhaps = Some("whether the connection is tracked".to_owned()),
            }
            // `nf_nat_inet_fn` stops once one chain has set the translation up.
            if hook == Hook::Prerouting && packet.dnat == Tri::Yes {
                return Some(packet);
            }
        }
        let mut evaluator = Evaluator::new(self.state, self.whole_sets, self.needs);
        evaluator.ipsets = self.ipsets;
        let outcome = evaluator.base_chain(index, &packet);
        let refusals = outcome.events.iter().filter(|event| matches!(event.exit, Exit::Refuse(_)));
        if outcome.packet.is_none() && perhaps.is_none() {
            // Nothing else is possible, so the last word is that of the first rule that needs no condition.
            let decided = refusals.clone().find(|event| event.doubts.is_empty()).or(outcome.events.last())?;
            self.refuse(Culprit::NfTables(decided.clone()), true, Vec::new());
            return None;
        }
        for event in refusals {
            let mut doubts = event.doubts.clone();
            doubts.extend(perhaps.iter().map(|text| Doubt { rate: false, text: text.clone() }));
            self.refuse(Culprit::NfTables(event.clone()), false, doubts);
        }
        match (outcome.packet, perhaps) {
            (Some(after), Some(_)) => Some(packet.join(&after)),
            (Some(after), None) => Some(after),
            (None, _) => Some(packet),
        }
    }

    fn table(&mut self, hook: Hook, table: &xtables::Table, packet: Packet) -> Option<Packet> {
        let hook = match hook {
            Hook::Prerouting => xtables::Hook::Prerouting,
            Hook::Input => xtables::Hook::Input,
            Hook::Output => xtables::Hook::Output,
            Hook::Postrouting => xtables::Hook::Postrouting,
            Hook::Ingress | Hook::Egress => return Some(packet),
        };
        let nat = table.name == "nat";
        let seen = if nat { self.sees_nat(&packet) } else { Tri::Yes };
        if seen == Tri::No || nat && hook == xtables::Hook::Prerouting && packet.dnat == Tri::Yes {
            return Some(packet);
        }
        let run = legacy::run(table, hook, packet.view(), self.ipsets);
        self.needs.extend(run.needs);
        let refuses = |outcome: &&legacy::Outcome| matches!(outcome.end, legacy::End::Drop | legacy::End::Reject(_));
        if seen == Tri::Yes && !run.outcomes.is_empty() && run.outcomes.iter().all(|outcome| refuses(&outcome)) {
            let decided = run.outcomes.iter().find(|outcome| outcome.depends.is_none()).or(run.outcomes.last())?;
            self.refuse(Culprit::Legacy(decided.clone()), true, Vec::new());
            return None;
        }
        for outcome in run.outcomes.iter().filter(|outcome| outcome.end != legacy::End::Accept) {
            let doubt = match (&outcome.end, &outcome.depends) {
                (legacy::End::Unknown(why), _) => why.clone(),
                (_, Some(depends)) => depends.clone(),
                (_, None) => "whether the packet comes so far".to_owned(),
            };
            let doubts = vec![super::doubt(&doubt)];
            self.refuse(Culprit::Legacy(outcome.clone()), false, doubts);
        }
        let mut after = packet.clone();
        after.take(&run.view);
        if seen == Tri::Maybe {
            after = after.join(&packet);
        }
        if after.local != Tri::Yes && !after.reply && packet.local == Tri::Yes {
            let depends = "whether the new destination is this host".to_owned();
            let end = legacy::End::Unknown(depends.clone());
            if let Some(place) = run.outcomes.first().map(|outcome| outcome.place.clone()) {
                let outcome = legacy::Outcome { end, place, depends: Some(depends.clone()) };
                self.refuse(Culprit::Legacy(outcome), false, vec![super::doubt(&depends)]);
            }
        }
        Some(after)
    }

    fn refuse(&mut self, culprit: Culprit, certain: bool, doubts: Vec<Doubt>) {
        self.refusals.push(Refusal { pass: self.pass, culprit, certain, doubts });
    }

    /// What is called at a hook for a packet of this family: by priority, and nat chains by their own among themselves.
    fn calls(&self, hook: Hook, v6: bool) -> Vec<((i32, i32), Called<'a>)> {
        let mut calls = Vec::new();
        for (index, chain) in self.state.chains.iter().enumerate() {
            let Some(base) = &chain.base else { continue };
            if self.dormant(chain) {
                continue;
            }
            let seen = sees(chain, base, hook, v6);
            if seen != Sees::No {
                let perhaps = if let Sees::Perhaps(on) = seen { Some(on) } else { None };
                let priority = match (base.kind.as_str(), hook) {
                    ("nat", Hook::Prerouting | Hook::Output) => NAT_DESTINATION,
                    ("nat", Hook::Input | Hook::Postrouting) => NAT_SOURCE,
                    _ => base.priority,
                };
                calls.push(((priority, base.priority), Called::Chain(index, perhaps)));
            }
        }
        let legacy_hook = match hook {
            Hook::Prerouting => Some(xtables::Hook::Prerouting),
            Hook::Input => Some(xtables::Hook::Input),
            Hook::Output => Some(xtables::Hook::Output),
            Hook::Postrouting => Some(xtables::Hook::Postrouting),
            Hook::Ingress | Hook::Egress => None,
        };
        if let (Some(legacy), Some(legacy_hook)) = (self.legacy, legacy_hook) {
            for table in legacy.tables(v6) {
                if table.at(legacy_hook).is_some()
                    && let Some(priority) = xtables::priority(&table.name, legacy_hook)
                {
                    calls.push(((priority, priority), Called::Table(table)));
                }
            }
        }
        if matches!(hook, Hook::Prerouting | Hook::Output) {
            calls.push(((CONNTRACK, CONNTRACK), Called::Conntrack));
        }
        if hook == Hook::Prerouting {
            calls.push(((NAT_DESTINATION, i32::MIN), Called::Translate));
        }
        calls.sort_by_key(|(priority, _)| *priority);
        calls
    }

    fn dormant(&self, chain: &Chain) -> bool {
        self.state.tables.iter().any(|table| table.dormant && table.family == chain.family && table.name == chain.table)
    }
}

/// Whether this is a base chain that a packet on its way in to this host may pass.
pub fn on_the_way_in(state: &State, index: usize) -> bool {
    let Some(chain) = state.chains.get(index) else { return false };
    let dormant = state.tables.iter().any(|table| table.dormant && table.family == chain.family && table.name == chain.table);
    let hooks = [Hook::Ingress, Hook::Prerouting, Hook::Input];
    let called =
        |base: &BaseChain| [false, true].into_iter().any(|v6| hooks.iter().any(|hook| sees(chain, base, *hook, v6) != Sees::No));
    !dormant && chain.base.as_ref().is_some_and(called)
}

/// Whether a base chain is called for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sees {
    Yes,
    No,
    /// The text says on what it depends.
    Perhaps(String),
}

/// Whether a base chain is called at this hook.
fn sees(chain: &Chain, base: &BaseChain, hook: Hook, v6: bool) -> Sees {
    let device = || {
        let only_loopback = !base.devices.is_empty() && base.devices.iter().all(|device| device == "lo");
        if only_loopback { Sees::No } else { Sees::Perhaps(format!("whether it passes {}", base.devices.join(" or "))) }
    };
    match chain.family {
        Family::Ip if v6 => Sees::No,
        Family::Ip6 if !v6 => Sees::No,
        Family::Arp => Sees::No,
        Family::Ip | Family::Ip6 | Family::Inet => match (base.hook, hook) {
            (0, Hook::Prerouting) | (1, Hook::Input) | (3, Hook::Output) | (4, Hook::Postrouting) => Sees::Yes,
            (5, Hook::Ingress) if chain.family == Family::Inet => device(),
            _ => Sees::No,
        },
        Family::Netdev => match (base.hook, hook) {
            (0, Hook::Ingress) | (1, Hook::Egress) => device(),
            _ => Sees::No,
        },
        Family::Bridge => match (base.hook, hook) {
            // Ahead of the IP hooks on the way in, behind them on the way out.
            (0 | 1, Hook::Ingress) | (3 | 4, Hook::Egress) => Sees::Perhaps("whether it passes a bridge".to_owned()),
            _ => Sees::No,
        },
    }
}
