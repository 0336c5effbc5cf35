//! Runs a legacy table's chains over a packet as the kernel does (`ip_tables.c`, `ipt_do_table`), three-valued: where a match
//! cannot be told, both ways are followed, and every end that is possible is an outcome. Decides about one table at one hook.

use std::collections::BTreeMap;

use crate::host::Needs;
use crate::packet::{Doubt, Effort, On, Span, Tri, View};
use crate::subsystem::ipset;
use crate::subsystem::xtables::extension::holds::{Matched, holds, interface};
use crate::subsystem::xtables::extension::render;
use crate::subsystem::xtables::extension::targets::{TargetEffect, effect};
use crate::subsystem::xtables::{Action, Chain, Entry, Hook, Place, Rule, Table};

/// Ends kept for one table; the first of each kind always is.
const MAX_OUTCOMES: usize = 1000;
/// Packets kept for one chain at one depth.
const MAX_PACKETS: usize = 8;
/// Lines of the trace kept for one packet in one table.
pub const MOST_HITS: usize = 1000;

/// How the table can end for the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The packet goes on.
    Accept,
    /// It is dropped silently.
    Drop,
    /// It is refused with this answer, as `--reject-with` names it.
    Reject(String),
    /// It goes on to another host: its destination was translated. The walk over the hooks says so, no table does.
    Elsewhere(&'static str),
    /// It is delivered to this port of the host, where no SSH server listens. Said by the walk, too.
    Misdirected(u16),
    /// Cannot be told; why.
    Unknown(String),
}

/// One possible end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub end: End,
    /// The rule that decides, or the policy.
    pub place: Place,
    /// What it depends on, where it is not certain: the first match on the way that could not be told.
    pub depends: Option<Doubt>,
}

/// A rule that matched or may have, or the end of a chain: one line of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// How many jumps deep.
    pub depth: usize,
    /// Which rule; one past the last is the chain's end.
    pub place: Place,
    /// What its match depends on, where it is not certain.
    pub depends: Option<Doubt>,
}

/// What a table does to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Every possible end, in the order the kernel would come to them. Exactly one when it is certain.
    pub outcomes: Vec<Outcome>,
    /// What is known of the packet afterwards, if it goes on: marks, destination and tracking may have changed.
    pub view: View<'a>,
    /// The rules that matched or may have, in order; at most [`MOST_HITS`].
    pub hits: Vec<Hit>,
    /// Facts that are missing.
    pub needs: Needs,
}

impl Run<'_> {
    /// The only possible end, if there is only one kind.
    pub fn certain(&self) -> Option<&End> {
        let first = &self.outcomes.first()?.end;
        self.outcomes.iter().all(|one| std::mem::discriminant(&one.end) == std::mem::discriminant(first)).then_some(first)
    }
}

/// Runs the table's chain at a hook. A table without a chain there lets everything through, with no outcome at all.
/// The caller leaves the nat table out for packets that are not the first of their connection.
pub fn run<'a>(table: &Table, hook: Hook, view: View<'a>, sets: &ipset::State, effort: &mut Effort) -> Run<'a> {
    let mut runner = Runner {
        table,
        sets,
        outcomes: Vec::new(),
        ended: 0,
        after: None,
        hits: Vec::new(),
        needs: Needs::new(),
        effort,
        memory: BTreeMap::new(),
    };
    if let Some(chain) = table.at(hook) {
        let start = Flow { view, depends: None };
        if let Some(end) = runner.chain(chain, start, 0) {
            let verdict = if chain.policy_accept { End::Accept } else { End::Drop };
            let place = runner.place(chain, chain.rules.len());
            runner.note(0, place.clone(), None);
            runner.end(verdict, place, end);
        }
    }
    Run { outcomes: runner.outcomes, view: runner.after.unwrap_or(view), hits: runner.hits, needs: runner.needs }
}

/// The packet on its way, and what it depends on that it got there.
#[derive(Clone, Debug)]
struct Flow<'a> {
    view: View<'a>,
    depends: Option<Doubt>,
}

impl Flow<'_> {
    /// Either of two ways that meet again.
    fn join(self, other: Self) -> Self {
        Self { view: join(self.view, other.view), depends: self.depends.or(other.depends) }
    }
}

/// What holds of the packet whichever way it came.
fn join<'a>(one: View<'a>, two: View<'a>) -> View<'a> {
    fn same<T: PartialEq + Copy>(one: Option<T>, two: Option<T>) -> Option<T> {
        if one == two { one } else { None }
    }
    View {
        destination: one.destination.join(two.destination),
        destination_local: same(one.destination_local, two.destination_local),
        destination_port: one.destination_port.join(two.destination_port),
        tracking: one.tracking.join(two.tracking),
        zone: one.zone.join(two.zone),
        mark: same(one.mark, two.mark),
        connmark: same(one.connmark, two.connmark),
        dnat: same(one.dnat, two.dnat),
        tos: one.tos.join(two.tos),
        hop_limit: one.hop_limit.join(two.hop_limit),
        ..one
    }
}

struct Runner<'t, 'a> {
    table: &'t Table,
    sets: &'t ipset::State,
    outcomes: Vec<Outcome>,
    /// How many ends there were, kept or not.
    ended: usize,
    after: Option<View<'a>>,
    hits: Vec<Hit>,
    needs: Needs,
    effort: &'t mut Effort,
    /// By chain and depth: how often a jump led there, and what became of packets from the second one on.
    memory: BTreeMap<(&'t str, usize), (u32, Vec<Passage<'a>>)>,
}

/// What a chain did to a packet, kept for the next jump of such a packet to it: chains that jump to each other several times would
/// cost a power of their number else. Told from the chain on: what the packet depends on that it came there is left out.
#[derive(Clone, Debug)]
struct Passage<'a> {
    before: View<'a>,
    outcomes: Vec<Outcome>,
    ended: usize,
    after: Option<View<'a>>,
    hits: Vec<Hit>,
    back: Option<Flow<'a>>,
}

impl<'t, 'a> Runner<'t, 'a> {
    fn place(&self, chain: &Chain, index: usize) -> Place {
        Place { v6: self.table.v6, table: self.table.name.clone(), chain: chain.name.clone(), position: index + 1 }
    }

    fn end(&mut self, end: End, place: Place, flow: Flow<'a>) {
        if matches!(end, End::Accept | End::Unknown(_)) {
            self.leave(flow.view);
        }
        self.ended += 1;
        self.keep(Outcome { end, place, depends: flow.depends });
    }

    fn leave(&mut self, view: View<'a>) {
        self.after = Some(self.after.map_or(view, |before| join(before, view)));
    }

    /// Keeps an end where there is room, or where it is the first of its kind, or the first certain one.
    fn keep(&mut self, outcome: Outcome) {
        let kind = std::mem::discriminant(&outcome.end);
        let certain = outcome.depends.is_none();
        let same = |other: &Outcome| std::mem::discriminant(&other.end) == kind && (other.depends.is_none() || !certain);
        if self.outcomes.len() < MAX_OUTCOMES || !self.outcomes.iter().any(same) {
            self.outcomes.push(outcome);
        }
    }

    /// Runs a chain that a jump leads to, or recalls what it did to such a packet.
    fn pass(&mut self, chain: &'t Chain, flow: Flow<'a>, depth: usize) -> Option<Flow<'a>> {
        let (times, known) = self.memory.entry((chain.name.as_str(), depth)).or_default();
        *times = times.saturating_add(1);
        if *times == 1 {
            return self.chain(chain, flow, depth);
        }
        let passage = if let Some(passage) = known.iter().find(|passage| passage.before == flow.view).cloned() {
            let room = MOST_HITS.saturating_sub(self.hits.len());
            self.hits.extend(passage.hits.iter().take(room).cloned());
            passage
        } else {
            self.pass_anew(chain, flow.view, depth)
        };
        self.ended += passage.ended;
        for Outcome { end, place, depends } in passage.outcomes {
            // Each costs as much as a rule.
            self.effort.spend();
            self.keep(Outcome { end, place, depends: flow.depends.clone().or(depends) });
        }
        passage.after.into_iter().for_each(|view| self.leave(view));
        passage.back.map(|back| Flow { depends: flow.depends.or(back.depends), ..back })
    }

    /// Runs it as if nothing had been before, and keeps what it found.
    fn pass_anew(&mut self, chain: &'t Chain, before: View<'a>, depth: usize) -> Passage<'a> {
        let noted = self.hits.len();
        let outer = (std::mem::take(&mut self.outcomes), std::mem::take(&mut self.ended), self.after.take());
        let back = self.chain(chain, Flow { view: before, depends: None }, depth);
        let passage = Passage {
            before,
            outcomes: std::mem::take(&mut self.outcomes),
            ended: self.ended,
            after: self.after.take(),
            hits: self.hits.get(noted..).unwrap_or_default().to_vec(),
            back,
        };
        (self.outcomes, self.ended, self.after) = outer;
        let (_, known) = self.memory.entry((chain.name.as_str(), depth)).or_default();
        if known.len() < MAX_PACKETS && !self.effort.is_spent() {
            known.push(passage.clone());
        }
        passage
    }

    /// Runs a chain. What comes back is the packet where it leaves the chain at its end or by RETURN, if it can.
    fn chain(&mut self, chain: &'t Chain, flow: Flow<'a>, depth: usize) -> Option<Flow<'a>> {
        let (depends, ended) = (flow.depends.clone(), self.ended);
        let left = self.rules(chain, flow, depth)?;
        // If it can only come out again, that it came out depends on nothing in the chain.
        Some(if self.ended == ended { Flow { depends, ..left } } else { left })
    }

    fn rules(&mut self, chain: &'t Chain, flow: Flow<'a>, depth: usize) -> Option<Flow<'a>> {
        let mut flow = flow;
        let mut returned: Option<Flow<'a>> = None;
        for (index, rule) in chain.rules.iter().enumerate() {
            if depth > self.table.chains.len() || !self.effort.spend() {
                self.end(End::Unknown(Effort::exceeded()), self.place(chain, index), flow);
                return returned;
            }
            let matched = matches_rule(rule, &flow.view, self.table.v6, self.sets);
            let depends = match matched {
                Matched::No => continue,
                Matched::Yes => None,
                Matched::Maybe(reason) => Some(reason),
                Matched::Ask(need, reason) => {
                    self.needs.insert(need);
                    Some(reason)
                }
            };
            self.note(depth, self.place(chain, index), depends.clone());
            let passed = depends.is_some().then(|| flow.clone());
            let ended = self.ended;
            let taken = Flow { view: flow.view, depends: flow.depends.or(depends.clone()) };
            let next = match self.act(chain, index, rule, taken, depth) {
                Next::Goes(next) => Some(next),
                Next::Leaves(left) => {
                    returned = Some(match returned {
                        Some(before) => before.join(left),
                        None => left,
                    });
                    None
                }
                Next::Ended => None,
            };
            // The packet is still here if the rule let it go on, or if it may not have matched at all.
            let split = self.ended > ended || next.is_none();
            flow = match (next, passed) {
                (Some(next), None) => next,
                (None, None) => return returned,
                (Some(mut next), Some(passed)) => {
                    if !split {
                        next.depends.clone_from(&passed.depends);
                    }
                    passed.join(next)
                }
                (None, Some(passed)) => Flow { depends: passed.depends.or(depends), ..passed },
            };
        }
        if depth > 0 {
            self.note(depth, self.place(chain, chain.rules.len()), None);
        }
        Some(match returned {
            Some(before) => flow.join(before),
            None => flow,
        })
    }

    /// Adds a line to the trace.
    fn note(&mut self, depth: usize, place: Place, depends: Option<Doubt>) {
        if self.hits.len() < MOST_HITS {
            self.hits.push(Hit { depth, place, depends });
        }
    }

    fn act(&mut self, chain: &'t Chain, index: usize, rule: &Rule, flow: Flow<'a>, depth: usize) -> Next<'a> {
        let mut flow = flow;
        let target = match &rule.action {
            Action::Count => return Next::Goes(flow),
            Action::Jump(name) | Action::Goto(name) => {
                let table = self.table;
                let Some(next) = table.chain(name) else {
                    self.end(End::Unknown(format!("chain {name} does not exist")), self.place(chain, index), flow);
                    return Next::Ended;
                };
                return match (self.pass(next, flow, depth + 1), &rule.action) {
                    (None, _) => Next::Ended,
                    (Some(back), Action::Goto(_)) => Next::Leaves(back),
                    (Some(back), _) => Next::Goes(back),
                };
            }
            Action::Target(target) => target,
        };
        let place = self.place(chain, index);
        let view = &mut flow.view;
        match effect(view.v6, target) {
            TargetEffect::Accept | TargetEffect::SourceNat => self.end(End::Accept, place, flow),
            TargetEffect::Drop => self.end(End::Drop, place, flow),
            TargetEffect::Reject(with) => self.end(End::Reject(with), place, flow),
            TargetEffect::Return => return Next::Leaves(flow),
            TargetEffect::Continue => return Next::Goes(flow),
            TargetEffect::Mark { mask, value } => {
                view.mark = change(view.mark, mask, value);
                return Next::Goes(flow);
            }
            TargetEffect::MarkUnknown => {
                view.mark = None;
                return Next::Goes(flow);
            }
            TargetEffect::Connmark { mask, value } => {
                mark_connection(view, change(view.connmark, mask, value));
                return Next::Goes(flow);
            }
            TargetEffect::ConnmarkUnknown => {
                mark_connection(view, None);
                return Next::Goes(flow);
            }
            TargetEffect::Tos { mask, value } => {
                view.tos = view.tos.changed(mask, value);
                return Next::Goes(flow);
            }
            TargetEffect::HopLimit(change) => {
                view.hop_limit = change.of(view.hop_limit);
                return Next::Goes(flow);
            }
            TargetEffect::Notrack => {
                view.track(view.tracked().exempt());
                return Next::Goes(flow);
            }
            TargetEffect::Zone(zone) => {
                view.track(view.tracked().zoned(zone, false));
                return Next::Goes(flow);
            }
            TargetEffect::Destination { address, port, local } => {
                if let Some((low, high)) = address {
                    view.destination = Span { low, high };
                    view.destination_local = (low == high).then(|| view.packet.reaches(&view.address(low))).and_then(Tri::known);
                } else if local {
                    // nf_nat_redirect.c: the address of the interface it came in by
                    view.destination = Span { low: 0, high: if view.v6 { u128::MAX } else { u32::MAX.into() } };
                    view.destination_local = Some(true);
                }
                if let Some((low, high)) = port {
                    view.destination_port = Span { low: low.into(), high: high.into() };
                }
                view.dnat = Some(true);
                self.end(End::Accept, place, flow);
            }
            TargetEffect::Unknown(why) => {
                view.mark = None;
                self.end(End::Unknown(why), place, flow);
            }
        }
        Next::Ended
    }
}

/// Where a packet is after a rule that matched.
enum Next<'a> {
    /// At the next rule.
    Goes(Flow<'a>),
    /// Back in the calling chain.
    Leaves(Flow<'a>),
    /// Nowhere: the table is done with it.
    Ended,
}

fn change(mark: Option<u32>, cleared: u32, flipped: u32) -> Option<u32> {
    // Clearing all makes it known whatever it was.
    if cleared == u32::MAX { Some(flipped) } else { mark.map(|mark| mark & !cleared ^ flipped) }
}

/// `xt_connmark.c`: without an entry the target does nothing.
fn mark_connection(view: &mut View<'_>, mark: Option<u32>) {
    view.connmark = match view.tracking.entry() {
        Tri::Yes => mark,
        Tri::No => return,
        Tri::Maybe => view.connmark.filter(|before| mark == Some(*before)),
    };
}

/// Whether a whole rule matches.
pub fn matches_rule(rule: &Rule, view: &View<'_>, v6: bool, sets: &ipset::State) -> Matched {
    let mut ask = None;
    let mut reason = match entry_matches(&rule.entry, view, v6) {
        Matched::No => return Matched::No,
        Matched::Yes => None,
        Matched::Maybe(reason) | Matched::Ask(_, reason) => Some(reason),
    };
    for one in &rule.matches {
        match holds(one, view, sets) {
            Matched::No => return Matched::No,
            Matched::Yes => {}
            Matched::Maybe(why) => {
                reason.get_or_insert(why);
            }
            Matched::Ask(need, why) => {
                reason.get_or_insert(why);
                ask = Some(need);
            }
        }
    }
    match (reason, ask) {
        (None, _) => Matched::Yes,
        (Some(why), None) => Matched::Maybe(why),
        (Some(why), Some(need)) => Matched::Ask(need, why),
    }
}

/// `ip_packet_match`, `ip6_packet_match`
fn entry_matches(entry: &Entry, view: &View<'_>, v6: bool) -> Matched {
    if view.v6 != v6 {
        return Matched::No;
    }
    let bits = if v6 { 128 } else { 32 };
    let inverted = |bit: u8| entry.invert & bit != 0;
    let source = view.source.masked(entry.source.0, entry.source.1, bits).invert(inverted(8));
    let destination = view.destination.masked(entry.destination.0, entry.destination.1, bits).invert(inverted(16));
    let input = interface(&entry.input, view.input).invert(inverted(1));
    let output = interface(&entry.output, view.output).invert(inverted(2));
    // No protocol is no condition, and `invert` counts only beside one.
    let protocol = if entry.protocol == 0 {
        Tri::Yes
    } else {
        Tri::from(entry.protocol == u16::from(view.packet.protocol)).invert(inverted(64))
    };
    // A SYN is no fragment.
    let fragment = if entry.fragment { Tri::from(inverted(32)) } else { Tri::from(!inverted(32)) };
    match source.and(destination).and(input).and(output).and(protocol).and(fragment) {
        Tri::Yes => Matched::Yes,
        Tri::No => Matched::No,
        Tri::Maybe => Matched::Maybe(if source == Tri::Maybe {
            Doubt::about(On::Source, format!("-s {}", render::network(entry.source.0, entry.source.1, v6, true)))
        } else if destination == Tri::Maybe {
            let network = render::network(entry.destination.0, entry.destination.1, v6, true);
            Doubt::about(On::Destination, format!("-d {network}"))
        } else if input == Tri::Maybe {
            Doubt::on(format!("-i {}", render::interface(&entry.input)))
        } else {
            Doubt::on(format!("-o {}", render::interface(&entry.output)))
        }),
    }
}
