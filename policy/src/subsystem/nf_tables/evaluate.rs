//! Walks base chains as the kernel does (`nft_do_chain`), over a packet whose fields may be unknown. A rule that may hold adds
//! what it would do to what is possible, and the walk goes on; so the cost stays that of one packet. Knows no hook order.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::early::fails_early;
use super::index::Index;
use super::remember::{Memory, Passage};
use super::run::{End, Found, Run};
use super::{Chain, Family, Rule, Set, SetKey, State};
use crate::host::Needs;
use crate::packet::{Doubt, Effort, Packet, Tri};
use crate::subsystem::ipset;

/// `NFT_JUMP_STACK_SIZE`
const DEEPEST: usize = 16;
/// Rules of a walk that debug builds evaluate even where [`fails_early`] passes them by, to see that it is right.
const CHECKED: u32 = 20_000;
/// Events kept for one base chain; the first of each kind always is.
const MOST_EVENTS: usize = 1000;
/// Lines of the trace kept for one packet at one base chain.
pub const MOST_HITS: usize = 1000;

/// Reasons kept why a packet may have gone another way.
const MOST_PARTED: usize = 8;

/// Nothing is known of ipsets.
static NO_SETS: ipset::State = ipset::State::new();

/// A rule that decided, or led to the chain that did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The chain's index in [`State::chains`].
    pub chain: usize,
    /// The rule's index in it; `None` is the policy.
    pub rule: Option<usize>,
    /// What the rule's lookups found.
    pub found: Vec<Found>,
}

/// How a packet leaves a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// To the next base chain or hook.
    Accept,
    /// Nowhere; the text says how.
    Refuse(String),
}

/// One way a packet can leave a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// How.
    pub exit: Exit,
    /// The rules that led there, from the base chain down; the last one decided.
    pub frames: Vec<Frame>,
    /// On what it depends; empty when it is certain for packets that come so far.
    pub doubts: Vec<Doubt>,
}

/// A rule that matched or may have, or the end of a chain: one line of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// How many jumps deep.
    pub depth: usize,
    /// Which rule, with what its lookups found; without one it is the chain's end.
    pub frame: Frame,
    /// On what it depends; empty when it certainly matched.
    pub doubts: Vec<Doubt>,
    /// Where it leads: one of these.
    pub ends: Vec<End>,
}

/// What a base chain does to a packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every way it can leave, in the order of the rules.
    pub events: Vec<Event>,
    /// The packet as it goes on; `None` when it cannot.
    pub packet: Option<Packet>,
    /// What rules on the way depend on that may have led it elsewhere than where it is now; the first ones.
    pub doubts: Vec<Doubt>,
}

/// Evaluates base chains over one packet after the other.
pub struct Evaluator<'a> {
    pub(super) state: &'a State,
    pub(super) whole_sets: bool,
    pub(super) needs: &'a mut Needs,
    /// Sets that rules changed on the way.
    pub changed_sets: BTreeSet<SetKey>,
    /// What is known of ipsets.
    pub ipsets: &'a ipset::State,
    /// Everything that matched so far, in order, where that is wanted; at most [`MOST_HITS`].
    pub hits: Option<Vec<Hit>>,
    /// What may still be looked at. A ruleset that needs more is not evaluated to the end, and its verdict is unknown.
    pub effort: Effort,
    pub(super) index: Arc<Index<'a>>,
    memory: Memory,
    events: Vec<Event>,
    accepted: Option<Packet>,
    path: Vec<Frame>,
    doubts: Vec<Doubt>,
    parted: Vec<Doubt>,
}

impl<'a> Evaluator<'a> {
    /// `whole_sets` allows it to ask for whole sets, which is right only when the question is about a range.
    pub fn new(state: &'a State, whole_sets: bool, needs: &'a mut Needs) -> Self {
        Self::with(Arc::new(Index::new(state)), state, whole_sets, needs)
    }

    /// The same, with the index of this ruleset, which is made once.
    pub fn with(index: Arc<Index<'a>>, state: &'a State, whole_sets: bool, needs: &'a mut Needs) -> Self {
        Self {
            state,
            whole_sets,
            needs,
            changed_sets: BTreeSet::new(),
            ipsets: &NO_SETS,
            hits: None,
            index,
            effort: Effort::default(),
            memory: Memory::default(),
            events: Vec::new(),
            accepted: None,
            path: Vec::new(),
            doubts: Vec::new(),
            parted: Vec::new(),
        }
    }

    pub(super) fn set(&self, key: &SetKey) -> Option<&'a Set> {
        self.index.sets.get(key).copied()
    }

    /// What the base chain with this index does to the packet.
    pub fn base_chain(&mut self, index: usize, packet: &Packet) -> Outcome {
        self.events.clear();
        self.parted.clear();
        self.accepted = None;
        self.memory = Memory::default();
        let mut packet = packet.clone();
        if self.chain(index, &mut packet, 0) {
            let end = Frame { chain: index, rule: None, found: Vec::new() };
            self.path.push(end.clone());
            let policy_accept =
                self.state.chains.get(index).and_then(|chain| chain.base.as_ref()).is_some_and(|b| b.policy_accept);
            let refused = "dropped by the policy".to_owned();
            self.note(0, end, if policy_accept { End::Accept(None) } else { End::Refuse(refused.clone()) });
            if policy_accept {
                self.leave(Exit::Accept, Some(packet));
            } else {
                self.leave(Exit::Refuse(refused), None);
            }
            self.path.pop();
        }
        Outcome {
            events: std::mem::take(&mut self.events),
            packet: self.accepted.take(),
            doubts: std::mem::take(&mut self.parted),
        }
    }

    /// Whether a rule may hold for a packet and lead anywhere but to the next rule.
    pub fn may_decide(&mut self, chain: &Chain, rule: &Rule, packet: &Packet) -> bool {
        let mut packet = packet.clone();
        self.run(chain, rule, &mut packet).is_some_and(|run| run.ends.iter().any(|end| *end != End::Next))
    }

    /// What a rule finds for a packet and where it leads, taken by itself. `None` where it certainly does not hold. Whole sets are
    /// asked for only where `whole_sets` allows it.
    pub fn alone(&mut self, chain: &Chain, rule: &Rule, packet: &Packet, whole_sets: bool) -> Option<Run> {
        self.changed_sets.clear();
        let before = std::mem::replace(&mut self.whole_sets, whole_sets);
        let run = self.run(chain, rule, &mut packet.clone());
        self.whole_sets = before;
        run
    }

    /// Whether a rule may hold for a packet.
    pub fn may_match(&mut self, chain: &Chain, rule: &Rule, packet: &Packet) -> bool {
        let mut packet = packet.clone();
        self.run(chain, rule, &mut packet).is_some()
    }

    /// Walks a chain. False when no packet comes back to the caller; else the packet is as it comes back.
    fn chain(&mut self, index: usize, packet: &mut Packet, depth: usize) -> bool {
        let state = self.state;
        let Some(chain) = state.chains.get(index) else { return true };
        let mut returned: Option<Packet> = None;
        let known = Arc::clone(&self.index);
        let mut passes = known.passes(index, chain, packet);
        let mut from = 0;
        while let Some(number) = passes.next(from, packet) {
            // It costs more than the walk itself.
            debug_assert!(
                self.effort.spent() > CHECKED
                    || chain.rules.get(from..number).unwrap_or_default().iter().all(|rule| fails_early(rule, packet)),
                "passed by between {from} and {number} of {} for {packet:?}",
                chain.name
            );
            from = number + 1;
            let Some(rule) = chain.rules.get(number) else { break };
            let run = if !self.effort.spend() {
                let ends = vec![End::Anything(Effort::exceeded())];
                Some(Run { ends, ..Default::default() })
            } else if fails_early(rule, packet) {
                // It costs more than the walk itself.
                debug_assert!(
                    self.effort.spent() > CHECKED || self.run(chain, rule, &mut packet.clone()).is_none(),
                    "{rule:?} may hold for {packet:?}"
                );
                continue;
            } else {
                self.run(chain, rule, packet)
            };
            let Some(run) = run else { continue };
            if let Some(hits) = self.hits.as_mut().filter(|hits| hits.len() < MOST_HITS) {
                let frame = Frame { chain: index, rule: Some(number), found: run.found.clone() };
                hits.push(Hit { depth, frame, doubts: run.doubts.clone(), ends: run.ends.clone() });
            }
            if run.ends == [End::Next] {
                continue;
            }
            let doubts = self.doubts.len();
            let certain = run.doubts.is_empty() && run.ends.len() == 1;
            if run.doubts.is_empty() && !certain {
                self.doubts.push(Doubt::on("which element of a map it is"));
            }
            self.doubts.extend(run.doubts);
            if !certain && self.parted.len() < MOST_PARTED {
                self.parted.extend(self.doubts.iter().skip(doubts).cloned());
            }
            self.path.push(Frame { chain: index, rule: Some(number), found: run.found });
            // Those who come to the next rule.
            let mut on = if certain { None } else { Some(packet.clone()) };
            for end in run.ends {
                match end {
                    End::Next => join(&mut on, packet.clone()),
                    End::Accept(translated) => {
                        let packet = translated.map_or_else(|| packet.clone(), |translated| *translated);
                        self.leave_translated(packet);
                    }
                    End::Refuse(how) => self.leave(Exit::Refuse(how), None),
                    End::Return => join(&mut returned, packet.clone()),
                    End::Jump(name) => {
                        let mut inner = packet.clone();
                        if self.enter(chain.family, &chain.table, &name, &mut inner, depth) {
                            join(&mut on, inner);
                        }
                    }
                    End::Goto(name) => {
                        let mut inner = packet.clone();
                        if self.enter(chain.family, &chain.table, &name, &mut inner, depth) {
                            join(&mut returned, inner);
                        }
                    }
                    End::Anything(what) => {
                        let changed = self.anything(what, packet);
                        join(&mut on, packet.join(&changed));
                        join(&mut returned, packet.join(&changed));
                    }
                }
            }
            self.path.pop();
            self.doubts.truncate(doubts);
            if let Some(next) = on {
                *packet = next;
            } else {
                let Some(back) = returned else { return false };
                *packet = back;
                return true;
            }
            if self.effort.is_spent() {
                break;
            }
        }
        if depth > 0 {
            self.note(depth, Frame { chain: index, rule: None, found: Vec::new() }, End::Return);
        }
        if let Some(back) = returned {
            *packet = packet.join(&back);
        }
        true
    }

    /// Adds a line to the trace, where one is wanted.
    fn note(&mut self, depth: usize, frame: Frame, end: End) {
        if let Some(hits) = self.hits.as_mut().filter(|hits| hits.len() < MOST_HITS) {
            hits.push(Hit { depth, frame, doubts: Vec::new(), ends: vec![end] });
        }
    }

    /// Follows a jump or goto.
    fn enter(&mut self, family: Family, table: &str, name: &str, packet: &mut Packet, depth: usize) -> bool {
        match self.index.chains.get(&(family, table, name)).copied() {
            Some(index) if depth < DEEPEST => self.pass(index, packet, depth + 1),
            Some(_) => {
                *packet = self.anything("more jumps than the kernel allows".to_owned(), packet);
                true
            }
            None => {
                *packet = self.anything(format!("the chain {name}, which was not read"), packet);
                true
            }
        }
    }

    /// Walks a chain that a jump leads to, or recalls what it did to such a packet.
    fn pass(&mut self, index: usize, packet: &mut Packet, depth: usize) -> bool {
        if !self.memory.comes_again(index, depth) {
            return self.chain(index, packet, depth);
        }
        let changed = self.changed_sets.len();
        let passage = match self.memory.recall(index, depth, packet, changed) {
            Some(passage) => {
                if let Some(hits) = &mut self.hits {
                    let room = MOST_HITS.saturating_sub(hits.len());
                    hits.extend(passage.hits.iter().take(room).cloned());
                }
                passage
            }
            None => self.pass_anew(index, packet, depth, changed),
        };
        self.follow(passage, packet)
    }

    /// Walks it as if nothing had been before, and keeps what it found.
    fn pass_anew(&mut self, index: usize, packet: &Packet, depth: usize, changed: usize) -> Passage {
        let noted = self.hits.as_ref().map_or(0, Vec::len);
        let outer = (
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.path),
            std::mem::take(&mut self.doubts),
            std::mem::take(&mut self.parted),
            self.accepted.take(),
        );
        let mut inner = packet.clone();
        let back = self.chain(index, &mut inner, depth).then_some(inner);
        let passage = Passage {
            events: std::mem::take(&mut self.events),
            accepted: self.accepted.take(),
            back,
            parted: std::mem::take(&mut self.parted),
            hits: self.hits.as_ref().and_then(|hits| hits.get(noted..)).unwrap_or_default().to_vec(),
        };
        (self.events, self.path, self.doubts, self.parted, self.accepted) = outer;
        if !self.effort.is_spent() {
            self.memory.keep(index, depth, packet.clone(), changed, passage.clone());
        }
        passage
    }

    /// The packet after what a chain did to it. Each event costs as much as a rule.
    fn follow(&mut self, passage: Passage, packet: &mut Packet) -> bool {
        let Passage { events, accepted, back, parted, hits: _ } = passage;
        let room = MOST_PARTED.saturating_sub(self.parted.len());
        self.parted.extend(parted.into_iter().take(room));
        for Event { exit, frames, doubts } in events {
            self.effort.spend();
            let certain = self.doubts.is_empty() && doubts.is_empty();
            if self.keeps(&exit, certain) {
                let frames = self.path.iter().cloned().chain(frames).collect();
                let doubts = self.doubts.iter().cloned().chain(doubts).collect();
                self.events.push(Event { exit, frames, doubts });
            }
        }
        if let Some(accepted) = accepted {
            join(&mut self.accepted, accepted);
        }
        match back {
            Some(back) => {
                *packet = back;
                true
            }
            None => false,
        }
    }

    /// Every verdict is possible; gives the packet with everything forgotten that could have been changed.
    fn anything(&mut self, what: String, packet: &Packet) -> Packet {
        let mut changed = packet.clone();
        changed.forget();
        self.doubts.push(Doubt::on(what));
        self.leave(Exit::Accept, Some(packet.join(&changed)));
        self.leave(Exit::Refuse("refused".to_owned()), None);
        self.doubts.pop();
        changed
    }

    /// Accepted, with a new destination perhaps: what is not certainly this host's may be answered by another.
    fn leave_translated(&mut self, packet: Packet) {
        let elsewhere = if packet.dnat == Tri::No || packet.reply { Tri::No } else { packet.local.invert(true) };
        let sent = || Exit::Refuse(packet.elsewhere().to_owned());
        match elsewhere {
            Tri::No => self.leave(Exit::Accept, Some(packet)),
            Tri::Yes => {
                let sent = sent();
                self.leave(sent, None);
            }
            Tri::Maybe => {
                let sent = sent();
                self.doubts.push(Doubt::on("whether the new destination is this host"));
                self.leave(sent, None);
                self.doubts.pop();
                self.leave(Exit::Accept, Some(packet));
            }
        }
    }

    fn leave(&mut self, exit: Exit, packet: Option<Packet>) {
        if let Some(packet) = packet {
            join(&mut self.accepted, packet);
        }
        if self.keeps(&exit, self.doubts.is_empty()) {
            self.events.push(Event { exit, frames: self.path.clone(), doubts: self.doubts.clone() });
        }
    }

    /// Whether an event is kept: the first of its kind, and the first certain one, always, others while there is room.
    fn keeps(&self, exit: &Exit, certain: bool) -> bool {
        let same = |event: &Event| std::mem::discriminant(&event.exit) == std::mem::discriminant(exit);
        self.events.len() < MOST_EVENTS || !self.events.iter().any(|event| same(event) && (event.doubts.is_empty() || !certain))
    }
}

/// Adds a packet to those that go the same way.
fn join(all: &mut Option<Packet>, packet: Packet) {
    *all = Some(match all.take() {
        Some(others) => others.join(&packet),
        None => packet,
    });
}
