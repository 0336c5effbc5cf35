//! Takes the packets of a handshake through the host's hooks: `nf_tables`' base chains and iptables-legacy's tables together, in
//! the kernel's order (`nf_hook_slow`), with connection tracking and address translation at their points. Judges nothing itself.

mod calls;
mod connection;
mod discovery;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::arrival::{Arrival, arrivals};
use super::outcome::{Culprit, Pass, Refusal};
use super::prepared::Prepared;
use crate::host::{HostState, Needs, Part};
use crate::packet::{Bits, Doubt, Effort, Packet, Rewritten, Tracking, Tri};
use crate::subsystem::ipset;
use crate::subsystem::listener;
use crate::subsystem::nf_tables::evaluate::{Evaluator, Exit, Hit};
use crate::subsystem::nf_tables::index::Index;
use crate::subsystem::nf_tables::{SetKey, State};
use crate::subsystem::xtables::{self, evaluate as legacy};
use crate::verdict::{Connection, Verdict};

use calls::{CONNTRACK, Call, Called, orders};
pub use calls::{Hook, on_the_way, on_the_way_in};
use connection::{reversed, same_ends};
pub use discovery::{Hop, Undiscovered, lost};

/// On what it depends that a later nat chain sees a packet.
const EARLIER: &str = "whether an earlier nat chain translated it";
/// The flags of a TCP header that a handshake has.
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What a packet met at one point of a hook, for the trace.
#[derive(Clone, Debug)]
pub struct Met {
    /// Which packet.
    pub pass: Pass,
    /// At which hook.
    pub hook: Hook,
    /// At which priority.
    pub priority: i32,
    /// By which way in, where they differ.
    pub arrival: Option<String>,
    /// What becomes of the connection on that way.
    ends: Option<bool>,
    /// What.
    pub what: What,
}

/// What can be met.
#[derive(Clone, Debug)]
pub enum What {
    /// An `nf_tables` base chain, with what matched in it and on what it depends that it sees the packet at all.
    NfTables(Vec<Hit>, Option<String>),
    /// A legacy table.
    Legacy(Vec<legacy::Hit>),
    /// Connection tracking, which found this.
    Conntrack(Tracking),
}

/// What the packet filters do to a connection.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Everything that was met, where that was asked for.
    pub met: Vec<Met>,
    /// Every refusal that is possible; a certain one is the last.
    pub refusals: Vec<Refusal>,
    /// The port that the SYN was delivered to, where it is not the one asked for and known.
    pub delivered_to: Option<u16>,
    /// How the connection was taken to come in, where the outcome depends on it: `by eth0 to 192.0.2.1`.
    pub arrival: Option<String>,
    /// What keeps the next hop to an IPv6 client and this host from finding each other.
    pub undiscovered: Option<Undiscovered>,
    /// Whether some rule on the way could not be told, even if that changes nothing.
    open: bool,
}

impl Walk {
    /// Whether it gets through; `None` where that cannot be told.
    fn verdict(&self) -> Option<bool> {
        if self.decided().is_some() { Some(false) } else { self.refusals.is_empty().then_some(true) }
    }

    /// The refusal that decides, if there is one.
    pub fn decided(&self) -> Option<&Refusal> {
        self.refusals.iter().find(|refusal| refusal.certain)
    }
}

/// Takes the handshake through every hook: once without knowing where it comes in, and where that leaves something open, once for
/// every interface and address of the host it may come to. Where these differ, it is unknown.
pub fn walk(host: &HostState, connection: &Connection, needs: &mut Needs) -> Walk {
    let prepared = Prepared::new(host);
    handshake(&prepared, connection, false, needs).discovered(&prepared, connection, false, needs)
}

/// The same without neighbour discovery: what the rules alone do, which is the same for all addresses that they do not tell apart.
pub fn walk_by_rules(prepared: &Prepared<'_>, connection: &Connection, needs: &mut Needs) -> Walk {
    handshake(prepared, connection, false, needs)
}

/// The same, and notes everything that was met.
pub fn traced(host: &HostState, connection: &Connection, needs: &mut Needs) -> Walk {
    let prepared = Prepared::new(host);
    handshake(&prepared, connection, true, needs).discovered(&prepared, connection, true, needs)
}

fn handshake(prepared: &Prepared<'_>, connection: &Connection, noted: bool, needs: &mut Needs) -> Walk {
    let mut effort = Effort::default();
    let anyhow = one(prepared, connection, None, noted, &mut effort, needs);
    if !anyhow.open {
        return anyhow;
    }
    let arrivals = arrivals(prepared.host, connection, needs);
    if arrivals.is_empty() {
        return anyhow;
    }
    let walks =
        arrivals.iter().map(|arrival| (arrival, one(prepared, connection, Some(arrival), noted, &mut effort, needs))).collect();
    join(walks, anyhow.verdict())
}

/// What holds of all ways to come in. `known` is the verdict without knowing the way.
fn join(walks: Vec<(&Arrival, Walk)>, known: Option<bool>) -> Walk {
    let verdicts: Vec<Option<bool>> = walks.iter().map(|(_, walk)| walk.verdict()).collect();
    let Some(first) = verdicts.first().copied() else { return Walk::default() };
    let same = verdicts.iter().all(|verdict| *verdict == first);
    if same && first.is_some() {
        let ports_differ = walks.windows(2).any(|pair| matches!(pair, [(_, a), (_, b)] if a.delivered_to != b.delivered_to));
        let mut walks = walks.into_iter();
        let Some((arrival, mut walk)) = walks.next() else { return Walk::default() };
        let by_all = walks.all(|(other, _)| other.link == arrival.link);
        walk.arrival = match (&arrival.link, by_all) {
            _ if known == first => None,
            (Some(link), true) => Some(format!("by {}", link.name)),
            (_, _) => None,
        };
        if ports_differ {
            walk.delivered_to = None;
        }
        return walk;
    }
    let several = walks.len() > 1;
    let mut all = Walk { open: true, ..Walk::default() };
    for (arrival, walk) in walks {
        // Two ways in on which the same becomes of it need not be shown twice.
        let shown = all.met.iter().any(|met| met.ends == walk.verdict());
        let ends = walk.verdict();
        let by = Some(arrival.text()).filter(|_| several);
        all.met.extend(walk.met.into_iter().filter(|_| !shown).map(|met| Met { arrival: by.clone(), ends, ..met }));
        for mut refusal in walk.refusals {
            if refusal.certain && several && !same {
                refusal.certain = false;
                refusal.doubts.push(Doubt::arrival(format!("where it comes in: {}", arrival.text())));
            }
            if !all.refusals.contains(&refusal) {
                all.refusals.push(refusal);
            }
        }
    }
    all
}

/// Takes the handshake through every hook, coming in like this.
fn one(
    prepared: &Prepared<'_>,
    connection: &Connection,
    arrival: Option<&Arrival>,
    noted: bool,
    effort: &mut Effort,
    needs: &mut Needs,
) -> Walk {
    let (empty, host) = (State::default(), prepared.host);
    let syn = arrival.map_or_else(|| Packet::syn(connection), |arrival| arrival.syn(connection));
    let mut ipsets = Cow::Borrowed(&prepared.ipsets);
    // Of lists that are not known yet, nothing is told.
    if !ipsets.recent.lists.is_empty() {
        ipsets.to_mut().recent.changes = super::recent::changes(host, &syn, &prepared.ipsets);
    }
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
    let mut walker = Walker::new(prepared, connection, &empty, &ipsets, effort, needs);
    walker.open = !walk.refusals.is_empty();
    walker.met = noted.then(Vec::new);
    walker.refusals = walk.refusals;
    if let Some(delivered) = walker.through(&[Hook::Ingress, Hook::Prerouting, Hook::Input], syn.clone()) {
        let port = delivered.destination_port();
        if let Some(&[high, low]) = port.exact()
            && u16::from_be_bytes([high, low]) != connection.port
        {
            walk.delivered_to = Some(u16::from_be_bytes([high, low]));
        }
        if port.exact().is_none() && delivered.dnat != Tri::No {
            walker.open = true;
            walker.refuse(Culprit::Unread("to which port it is translated is not known".to_owned()), false, Vec::new());
        }
        if let Some(port) = walk.delivered_to
            && delivered.local == Tri::Yes
            && listener::evaluate(host, &Connection { port, ..connection.clone() }).verdict == Verdict::Refuse
        {
            match walker.redirect.take() {
                Some(culprit) => walker.refuse(culprit.misdirects(port), true, Vec::new()),
                None if delivered.rewritten != Rewritten::No => {
                    let why = format!("a rule rewrites its port to {port}, where no SSH server listens");
                    walker.refuse(Culprit::Unread(why), true, Vec::new());
                }
                None => {}
            }
        }
        walker.entry = delivered.tracking.entry();
        walker.delivered = Some(delivered.clone());
        if walker.taken(&delivered, SYN) {
            walker.answer(&syn, &delivered);
        }
    }
    walk.open = walker.open;
    walk.refusals = walker.refusals;
    walk.met = walker.met.unwrap_or_default();
    walk
}

fn unreadable<T>(part: &Part<T>) -> Option<&str> {
    match part {
        Part::Unreadable(why) => Some(why),
        Part::Present(_) | Part::Absent(_) => None,
    }
}

struct Walker<'a, 'n> {
    /// See [`Walk::open`].
    open: bool,
    index: Arc<Index<'a>>,
    state: &'a State,
    legacy: Option<&'a xtables::State>,
    ipsets: &'a ipset::State,
    whole_sets: bool,
    effort: &'n mut Effort,
    needs: &'n mut Needs,
    pass: Pass,
    met: Option<Vec<Met>>,
    refusals: Vec<Refusal>,
    /// Whether conntrack has an entry for the connection once the SYN was delivered.
    entry: Tri,
    /// Whether connection tracking saw the answer.
    answered: Tri,
    /// The ends of the SYN as connection tracking saw it: source address and port, destination address and port.
    tuple: Option<[Bits; 4]>,
    /// The SYN as it was delivered.
    delivered: Option<Packet>,
    /// The rule that gave the SYN another destination on this host.
    redirect: Option<Culprit>,
    /// Sets that a rule changed for a packet before: what they hold now is not what was read.
    changed_sets: BTreeSet<SetKey>,
    /// Tells whether connections are tracked at all.
    prepared: &'a Prepared<'a>,
}

impl<'a, 'n> Walker<'a, 'n> {
    fn new(
        prepared: &'a Prepared<'a>,
        connection: &Connection,
        empty: &'a State,
        ipsets: &'a ipset::State,
        effort: &'n mut Effort,
        needs: &'n mut Needs,
    ) -> Self {
        let host = prepared.host;
        Self {
            open: false,
            index: Arc::clone(&prepared.index),
            state: host.nf_tables.present().unwrap_or(empty),
            legacy: host.xtables.present(),
            ipsets,
            // Only a question about a range can need whole sets; what an address meets is asked for element by element.
            whole_sets: connection.source.single().is_none(),
            effort,
            needs,
            pass: Pass::Syn,
            met: None,
            refusals: Vec::new(),
            entry: Tri::Maybe,
            answered: Tri::Maybe,
            tuple: None,
            delivered: None,
            redirect: None,
            changed_sets: BTreeSet::new(),
            prepared,
        }
    }

    /// Takes a packet through hooks. `None` when it certainly does not get through.
    fn through(&mut self, hooks: &[Hook], mut packet: Packet) -> Option<Packet> {
        for hook in hooks {
            let calls = calls::calls(self.state, self.legacy, *hook, &packet);
            let mut rest = calls.as_slice();
            while let Some((key, _)) = rest.first() {
                let same = rest.iter().take_while(|(other, _)| other == key).count();
                let (group, later) = rest.split_at(same);
                packet = self.group(*hook, group, &packet)?;
                rest = later;
            }
        }
        Some(packet)
    }

    /// What runs at the same priority does so in the order of registration, which cannot be read: every order is tried, of more than three
    /// the one that was read and its reverse.
    fn group(&mut self, hook: Hook, group: &[Call<'a>], packet: &Packet) -> Option<Packet> {
        let (before, met) = (self.refusals.len(), self.met.as_ref().map_or(0, Vec::len));
        let first = self.in_order(hook, group, packet.clone());
        if group.len() == 1 || first.as_ref() == Some(packet) {
            return first;
        }
        let shown = self.met.as_ref().map_or(0, Vec::len).max(met);
        let mut ends = vec![(first, self.refusals.split_off(before))];
        for order in orders(group).iter().skip(1) {
            let end = self.in_order(hook, order, packet.clone());
            self.met.iter_mut().for_each(|all| all.truncate(shown));
            ends.push((end, self.refusals.split_off(before)));
        }
        let (first, _) = ends.first()?;
        if ends.iter().all(|(end, _)| end == first) {
            // It ends the same, but in one order more may refuse it on the way than in another.
            let certain = first.is_none();
            let first = first.clone();
            for (_, refusals) in ends.into_iter().take(if certain { 1 } else { usize::MAX }) {
                let new = refusals.into_iter().filter(|refusal| !self.refusals.contains(refusal)).collect::<Vec<_>>();
                self.refusals.extend(new);
            }
            return first;
        }
        self.open = true;
        let mut joined: Option<Packet> = None;
        for (end, refusals) in ends {
            joined = match (joined, end) {
                (Some(one), Some(two)) => Some(one.join(&two)),
                (one, two) => one.or(two),
            };
            for mut refusal in refusals {
                if refusal.certain {
                    refusal.certain = false;
                    refusal.doubts.push(Doubt::on("which of several chains of the same priority runs first"));
                }
                if !self.refusals.contains(&refusal) {
                    self.refusals.push(refusal);
                }
            }
        }
        joined
    }

    fn in_order(&mut self, hook: Hook, group: &[Call<'a>], mut packet: Packet) -> Option<Packet> {
        for (_, called) in group {
            packet = match called {
                Called::Chain(index, perhaps) => self.chain(hook, *index, perhaps.as_deref(), packet)?,
                Called::Table(table) => self.table(hook, table, packet)?,
                Called::Conntrack => {
                    self.room(&packet)?;
                    if self.pass == Pass::Syn {
                        self.tuple = Some(packet.ends());
                    }
                    let tracked = self.track(packet);
                    self.meet(hook, CONNTRACK, What::Conntrack(tracked.tracking));
                    tracked
                }
                Called::Translate => self.translate(packet),
            };
        }
        Some(packet)
    }

    /// The answer, and then the ACK.
    fn answer(&mut self, syn: &Packet, delivered: &Packet) {
        self.pass = Pass::Answer;
        let Some(answer) = self.through(&[Hook::Output, Hook::Postrouting, Hook::Egress], delivered.answer()) else { return };
        self.answered = answer.tracking.among(Tracking::ESTABLISHED.0);
        if !self.translated(delivered, &answer, "it is exempt from connection tracking, so it is not translated back") {
            return;
        }
        if !self.taken(&answer, SYN | ACK)
            || !self.known(answer.rewritten, same_ends(&answer.ends(), &reversed(syn.ends())), "the client")
        {
            return;
        }
        // No host of the internet is more than some 30 hops away.
        let near = answer.hop_limit().within(&[0], &[31]) == Tri::Yes;
        self.lose(if near { Tri::Maybe } else { Tri::No }, "a rule lets it go only a few hops, which not every client is away");
        self.pass = Pass::Ack;
        let follower = syn.follower(delivered, &answer);
        let Some(routed) = self.through(&[Hook::Ingress, Hook::Prerouting], follower) else { return };
        if let Some(ack) = self.through(&[Hook::Input], routed.clone())
            && self.translated(delivered, &ack, "connection tracking does not know it, so it is not translated as the SYN was")
            && self.taken(&ack, ACK)
            && self.lose(
                // Connection tracking takes up an ACK whose SYN was exempt, and then nat chains see it alone.
                if delivered.dnat == Tri::No { ack.dnat } else { Tri::No },
                "a nat chain sends it elsewhere than the SYN, which was exempt from connection tracking",
            )
            && self.lose(
                self.collides(delivered, &ack),
                "connection tracking may drop it, as it may not find the SYN's connection from a zone of one direction",
            )
        {
            // Its connection is looked for ahead of the input hook, too, unless that is turned off (`tcp_v4_early_demux`).
            let early = same_ends(&routed.ends(), &delivered.ends()).and(Tri::Maybe);
            self.known(ack.rewritten, same_ends(&ack.ends(), &delivered.ends()).or(early), "this host");
        }
    }

    fn chain(&mut self, hook: Hook, index: usize, perhaps: Option<&str>, packet: Packet) -> Option<Packet> {
        let chain = self.state.chains.get(index)?;
        let base = chain.base.as_ref()?;
        let mut perhaps = perhaps.map(str::to_owned);
        if base.kind == "nat" {
            match self.sees_nat(&packet) {
                Tri::No => return Some(packet),
                Tri::Yes => {}
                Tri::Maybe => perhaps = Some("whether the connection is tracked".to_owned()),
            }
            // `nf_nat_inet_fn` stops once one chain has set the translation up.
            match packet.destined {
                Tri::Yes if hook == Hook::Prerouting => return Some(packet),
                Tri::Maybe if hook == Hook::Prerouting => perhaps = Some(EARLIER.to_owned()),
                Tri::Yes | Tri::Maybe | Tri::No => {}
            }
        }
        let mut evaluator = Evaluator::with(Arc::clone(&self.index), self.state, self.whole_sets, self.needs);
        evaluator.ipsets = self.ipsets;
        evaluator.effort = self.effort.clone();
        evaluator.changed_sets.clone_from(&self.changed_sets);
        evaluator.hits = self.met.is_some().then(Vec::new);
        let mut there = packet.clone();
        if let Some(interface) = calls::interface_below(chain, base, hook, &packet) {
            *(if hook == Hook::Egress { &mut there.output } else { &mut there.input }) = interface;
        }
        let mut outcome = evaluator.base_chain(index, &there);
        if let Some(after) = &mut outcome.packet {
            (after.input, after.output) = (packet.input.clone(), packet.output.clone());
        }
        self.effort.clone_from(&evaluator.effort);
        let hits = evaluator.hits.unwrap_or_default();
        self.changed_sets.append(&mut evaluator.changed_sets);
        self.meet(hook, base.priority, What::NfTables(hits, perhaps.clone()));
        self.open |=
            perhaps.is_some() || !outcome.doubts.is_empty() || outcome.events.iter().any(|event| !event.doubts.is_empty());
        let refusals = outcome.events.iter().filter(|event| matches!(event.exit, Exit::Refuse(_)));
        if outcome.packet.is_none() && perhaps.is_none() {
            // Nothing else is possible, so the last word is that of the first rule that needs no condition.
            let decided = refusals.clone().find(|event| event.doubts.is_empty()).or(outcome.events.last())?;
            self.refuse(Culprit::NfTables(decided.clone()), true, Vec::new());
            return None;
        }
        for event in refusals {
            let mut doubts = event.doubts.clone();
            doubts.extend(perhaps.iter().map(|text| Doubt::on(text.as_str())));
            if doubts.is_empty() {
                // It refuses whatever comes so far; a rule before it may lead past it.
                doubts.clone_from(&outcome.doubts);
                doubts.dedup();
            }
            self.refuse(Culprit::NfTables(event.clone()), false, doubts);
        }
        if let Some(after) = &outcome.packet
            && (after.dnat, packet.dnat) == (Tri::Yes, Tri::No)
        {
            self.redirect = outcome.events.last().cloned().map(Culprit::NfTables);
        }
        match (outcome.packet, perhaps) {
            (Some(after), Some(_)) => Some(packet.join(&after)),
            (Some(after), None) => Some(after),
            (None, _) => Some(packet),
        }
    }

    fn table(&mut self, at: Hook, table: &xtables::Table, packet: Packet) -> Option<Packet> {
        let hook = match at {
            Hook::Prerouting => xtables::Hook::Prerouting,
            Hook::Input => xtables::Hook::Input,
            Hook::Output => xtables::Hook::Output,
            Hook::Postrouting => xtables::Hook::Postrouting,
            Hook::Ingress | Hook::Egress => return Some(packet),
        };
        let nat = table.name == "nat";
        let earlier = if nat && hook == xtables::Hook::Prerouting { packet.destined } else { Tri::No };
        let seen = if nat { self.sees_nat(&packet) } else { Tri::Yes }.and(earlier.invert(true));
        if seen == Tri::No {
            return Some(packet);
        }
        let run = legacy::run(table, hook, packet.view(), self.ipsets, self.effort);
        self.needs.extend(run.needs);
        self.meet(at, xtables::priority(&table.name, hook).unwrap_or_default(), What::Legacy(run.hits));
        self.open |= seen == Tri::Maybe || run.outcomes.iter().any(|outcome| outcome.depends.is_some()) || run.outcomes.len() > 1;
        let refuses = |outcome: &&legacy::Outcome| matches!(outcome.end, legacy::End::Drop | legacy::End::Reject(_));
        if seen == Tri::Yes && !run.outcomes.is_empty() && run.outcomes.iter().all(|outcome| refuses(&outcome)) {
            let decided = run.outcomes.iter().find(|outcome| outcome.depends.is_none()).or(run.outcomes.last())?;
            self.refuse(Culprit::Legacy(decided.clone()), true, Vec::new());
            return None;
        }
        for (index, outcome) in run.outcomes.iter().enumerate().filter(|(_, outcome)| outcome.end != legacy::End::Accept) {
            let mut doubts = match (&outcome.end, &outcome.depends) {
                (legacy::End::Unknown(why), _) => vec![Doubt::on(why.as_str())],
                (_, Some(depends)) => vec![depends.clone()],
                (_, None) => {
                    let accepts = run.outcomes.iter().take(index).filter(|outcome| outcome.end == legacy::End::Accept);
                    accepts.filter_map(|outcome| outcome.depends.clone()).collect()
                }
            };
            doubts.dedup();
            self.refuse(Culprit::Legacy(outcome.clone()), false, doubts);
        }
        let mut after = packet.clone();
        after.take(&run.view);
        if (after.dnat, packet.dnat) == (Tri::Yes, Tri::No) {
            self.redirect = run.outcomes.last().cloned().map(Culprit::Legacy);
        }
        if seen == Tri::Maybe {
            after = after.join(&packet);
        }
        if after.local == Tri::No && packet.local == Tri::Yes && !after.reply && seen == Tri::Yes {
            let outcome = run.outcomes.into_iter().next()?;
            let end = legacy::End::Elsewhere(after.elsewhere());
            self.refuse(Culprit::Legacy(legacy::Outcome { end, ..outcome }), true, Vec::new());
            return None;
        }
        if after.local != Tri::Yes && !after.reply && packet.local == Tri::Yes {
            self.open = true;
            let depends = Doubt::on("whether the new destination is this host");
            let end = legacy::End::Unknown(depends.to_string());
            if let Some(place) = run.outcomes.first().map(|outcome| outcome.place.clone()) {
                let outcome = legacy::Outcome { end, place, depends: Some(depends.clone()) };
                self.refuse(Culprit::Legacy(outcome), false, vec![depends]);
            }
        }
        Some(after)
    }

    fn meet(&mut self, hook: Hook, priority: i32, what: What) {
        if let Some(met) = &mut self.met {
            met.push(Met { pass: self.pass, hook, priority, arrival: None, ends: None, what });
        }
    }

    fn refuse(&mut self, culprit: Culprit, certain: bool, doubts: Vec<Doubt>) {
        self.refusals.push(Refusal { pass: self.pass, culprit, certain, doubts });
    }
}
