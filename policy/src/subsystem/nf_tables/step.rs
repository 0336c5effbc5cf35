//! Steps on `nf_tables`: one element or one rule, with what stands there before and after. As data; the agent does them.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lookup::holds;
use super::same::{Standing, is_of_another_table, others, place, standing};
use super::{Element, ElementKey, Family, Rule, SetKey, State, split};
use crate::address::Source;
use crate::host::step::{Mismatch, Reach};
use crate::host::{HostState, Need, Needs};
use crate::packet::{Bits, Tri};

/// One change of the ruleset. `before` to `after`; `None` is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// An element of a named set or map.
    Element {
        /// Where.
        set: SetKey,
        /// As it is.
        before: Option<Element>,
        /// As it will be.
        after: Option<Element>,
        /// The sources whose verdict it can change.
        touches: Option<Vec<Source>>,
        /// As `nft` prints the element: `203.0.113.7`, `203.0.113.0/24`, `203.0.113.7 . 22`.
        text: String,
    },
    /// A range of a named set, and what is left of it without some addresses: the one becomes the other in one batch.
    Split {
        /// Where.
        set: SetKey,
        /// As it is.
        before: Vec<Element>,
        /// As it will be.
        after: Vec<Element>,
        /// The addresses that are taken out, or put back.
        source: Source,
        /// `before` and `after` as `nft` prints them.
        texts: (Vec<String>, Vec<String>),
    },
    /// A rule.
    Rule {
        /// The table's family.
        family: Family,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// Where in the chain it stands (or will): before the rule with this handle; `None` is at the end. That rule must
        /// still be there when the step is taken back: of several rules of one chain the last is deleted first.
        next: Option<u64>,
        /// How many other rules of the chain do the same ([`super::same::others`]), before and after: iptables allows twins, and a
        /// rule that was put back has a new handle, so only their number tells whether this one is there.
        others: usize,
        /// As it is.
        before: Option<Rule>,
        /// As it will be; a new rule has handle 0 until the kernel gives it one.
        after: Option<Rule>,
        /// The sources whose verdict it can change.
        touches: Option<Vec<Source>>,
        /// The rule as its own tool prints it (`nft`, or `iptables-save` for iptables-nft rules).
        text: String,
    },
}

impl Step {
    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        match &mut inverse {
            Step::Element { before, after, .. } => std::mem::swap(before, after),
            Step::Split { before, after, texts, .. } => {
                std::mem::swap(before, after);
                std::mem::swap(&mut texts.0, &mut texts.1);
            }
            Step::Rule { before, after, .. } => std::mem::swap(before, after),
        }
        inverse
    }

    /// See [`crate::host::step::Step::adds`].
    pub fn adds(&self) -> bool {
        match self {
            Step::Element { after, .. } => after.is_some(),
            Step::Split { after, .. } => !after.is_empty(),
            Step::Rule { after, .. } => after.is_some(),
        }
    }

    /// See [`crate::host::step::Step::of_another_boot`].
    #[must_use]
    pub fn without_handles(&self) -> Self {
        let mut step = self.clone();
        if let Step::Rule { next, before, after, .. } = &mut step {
            *next = None;
            for rule in [before, after].into_iter().flatten() {
                rule.handle = 0;
            }
        }
        step
    }

    /// Whether what it adds is in the ruleset, by content alone. What it only takes away stands where it is gone.
    pub fn stands(&self, state: &State) -> bool {
        match self {
            Step::Element { set, .. } | Step::Split { set, .. } => {
                let there = state.sets.iter().any(|one| one.key == *set);
                let holds = match self {
                    Step::Split { after, .. } => split::stand(state, set, after).unwrap_or(true),
                    Step::Element { after, before, .. } => {
                        let now = before.as_ref().or(after.as_ref()).map(|wanted| self.look(state, set, wanted));
                        match (now, after) {
                            (Some(Ok(now)), Some(after)) => now.is_some_and(|now| now.same(after)),
                            (Some(Ok(now)), None) => now.is_none(),
                            // It was not looked up.
                            (Some(Err(_)) | None, _) => true,
                        }
                    }
                    Step::Rule { .. } => true,
                };
                there && holds
            }
            Step::Rule { others: twins, before, after, .. } => {
                let rules = self.chain_index(state).ok().and_then(|index| state.chains.get(index)).map(|chain| &chain.rules);
                let Some(rules) = rules else { return false };
                match (before, after) {
                    (_, Some(after)) => others(rules, after) > *twins,
                    (Some(before), None) => others(rules, before) <= *twins,
                    (None, None) => false,
                }
            }
        }
    }

    /// See [`crate::host::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        match self {
            Step::Element { touches, .. } | Step::Rule { touches, .. } => touches.clone(),
            Step::Split { source, .. } => Some(vec![*source]),
        }
    }

    /// See [`crate::host::step::Step::reach`]. What an element does depends on the rules that use its set.
    pub fn reach(&self) -> Reach {
        let Step::Rule { before, after, .. } = self else { return Reach::Touched };
        let opens = before.as_ref().is_none_or(Rule::only_refuses) && after.as_ref().is_none_or(Rule::only_accepts);
        if opens { Reach::Nobody } else { Reach::Anybody }
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        match self {
            Step::Element { set, before, after, text, .. } => match (before, after) {
                (Some(_), None) => format!("remove {text} from set {set}"),
                (None, Some(_)) => format!("add {text} to set {set}"),
                (Some(_), Some(_)) => format!("change {text} in set {set}"),
                (None, None) => format!("leave {text} out of set {set}"),
            },
            Step::Split { set, source, texts: (before, after), .. } => match (before.as_slice(), after.as_slice()) {
                ([whole], _) => format!("take {} out of {whole} in set {set}", source.short()),
                (_, whole) => format!("put {} back into {} in set {set}", source.short(), whole.join(", ")),
            },
            Step::Rule { before, after, text, .. } => match (before, after) {
                (Some(rule), None) if rule.handle != 0 => format!("delete rule {} of {}: {text}", rule.handle, self.chain_name()),
                (Some(_), None) => format!("delete the rule of {}: {text}", self.chain_name()),
                (None, Some(_)) => format!("insert a rule in {}: {text}", self.chain_name()),
                (Some(_), Some(_)) => format!("replace a rule of {}: {text}", self.chain_name()),
                (None, None) => format!("leave {} as it is", self.chain_name()),
            },
        }
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> String {
        let (header, text, before, after) = match self {
            Step::Split { set, texts: (before, after), .. } => {
                let line = |mark: char, text: &String| format!("{mark} {text}\n");
                let (gone, new) = (before.iter().map(|text| line('-', text)), after.iter().map(|text| line('+', text)));
                return std::iter::once(format!("# nft set {set}\n")).chain(gone).chain(new).collect();
            }
            Step::Element { set, before, after, text, .. } => {
                (format!("# nft set {set}"), text, before.is_some(), after.is_some())
            }
            Step::Rule { before, after, text, next, .. } => {
                let place = match (before, next) {
                    (Some(rule), _) if rule.handle != 0 => format!(" handle {}", rule.handle),
                    (_, Some(next)) => format!(", before handle {next}"),
                    (_, None) => ", at the end".to_owned(),
                };
                (format!("# nft {}{place}", self.chain_name()), text, before.is_some(), after.is_some())
            }
        };
        // Writing to a String cannot fail.
        let mut diff = format!("{header}\n");
        if before {
            let _ = writeln!(diff, "- {text}");
        }
        if after {
            let _ = writeln!(diff, "+ {text}");
        }
        diff
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        match self {
            Step::Element { .. } | Step::Split { .. } => self.inverse().summary(),
            Step::Rule { before: Some(_), after: None, next, .. } => {
                let place = next.map_or_else(|| "at the end".to_owned(), |next| format!("before handle {next}"));
                format!("put the same rule back into {}, {place}", self.chain_name())
            }
            Step::Rule { .. } => format!("delete that rule of {} again", self.chain_name()),
        }
    }

    /// The facts that [`Step::predict`] and [`Step::holds`] look at.
    pub fn needs(&self) -> Needs {
        match self {
            Step::Element { set, before, after, .. } => {
                let key = before.as_ref().or(after.as_ref()).map(|element| element.key.clone());
                key.map(|key| Need::Element(ElementKey { set: set.clone(), key })).into_iter().collect()
            }
            Step::Split { set, before, after, .. } => split::keys(set, before, after).map(Need::Element).collect(),
            Step::Rule { .. } => Needs::new(),
        }
    }

    /// `inet filter input`
    fn chain_name(&self) -> String {
        match self {
            Step::Element { set, .. } | Step::Split { set, .. } => set.to_string(),
            Step::Rule { family, table, chain, .. } => format!("{family} {table} {chain}"),
        }
    }

    fn mismatch(&self, what: &str) -> Mismatch {
        match self {
            Step::Element { set, text, .. } => Mismatch(format!("{text} in set {set}: {what}")),
            Step::Split { set, source, .. } => Mismatch(format!("the range around {} in set {set}: {what}", source.short())),
            Step::Rule { text, .. } => Mismatch(format!("rule `{text}` of {}: {what}", self.chain_name())),
        }
    }

    /// See [`crate::host::step::Step::predict`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        let Some(state) = state.nf_tables.present_mut() else { return Err(self.mismatch("nftables was not read")) };
        match self {
            Step::Element { set, before, after, .. } => self.predict_element(state, set, before.as_ref(), after.as_ref()),
            Step::Split { set, before, after, .. } => {
                if split::stand(state, set, after).map_err(|what| self.mismatch(what))? {
                    return Ok(());
                }
                if !split::stand(state, set, before).map_err(|what| self.mismatch(what))? {
                    return Err(self.mismatch("it is neither as planned before nor as wanted after"));
                }
                split::replace(state, set, before, after);
                Ok(())
            }
            Step::Rule { next, others, before, after, .. } => {
                let index = self.chain_index(state)?;
                let chain = state.chains.get_mut(index).ok_or_else(|| self.mismatch("the chain is not there"))?;
                let rules = &mut Arc::make_mut(chain).rules;
                if let Some(after) = after
                    && let Standing::At(_) = standing(rules, *next, *others, after)
                {
                    return Ok(());
                }
                if let Some(before) = before {
                    match standing(rules, *next, *others, before) {
                        Standing::At(index) => {
                            rules.remove(index);
                        }
                        Standing::Nowhere if after.is_none() && !is_of_another_table(rules, before) => {}
                        Standing::Nowhere => return Err(self.mismatch("it is not there")),
                        Standing::Unclear => return Err(self.mismatch("several rules could be meant")),
                    }
                }
                if let Some(after) = after {
                    if is_of_another_table(rules, after) {
                        return Err(self.mismatch("its table was made anew, so that its place is not known"));
                    }
                    let index = place(rules, *next).ok_or_else(|| self.mismatch("the rule behind it is gone"))?;
                    rules.insert(index, Arc::new(after.clone()));
                }
                Ok(())
            }
        }
    }

    fn chain_index(&self, state: &State) -> Result<usize, Mismatch> {
        let Step::Rule { family, table, chain, .. } = self else { return Err(self.mismatch("it is no rule")) };
        let found = state.chains.iter().position(|one| one.family == *family && one.table == *table && one.name == *chain);
        found.ok_or_else(|| self.mismatch("the chain is not there"))
    }

    fn predict_element(
        &self,
        state: &mut State,
        set: &SetKey,
        before: Option<&Element>,
        after: Option<&Element>,
    ) -> Result<(), Mismatch> {
        let Some(wanted) = before.or(after) else { return Ok(()) };
        let now = self.look(state, set, wanted)?;
        let fits = |expected: Option<&Element>| match (now.as_ref(), expected) {
            (None, None) => true,
            (Some(now), Some(expected)) => now.same(expected),
            (Some(_), None) | (None, Some(_)) => false,
        };
        if fits(after) {
            return Ok(());
        }
        if !fits(before) {
            return Err(self.mismatch("it is neither as planned before nor as wanted after"));
        }
        let model = state.sets.iter().find(|one| one.key == *set).cloned();
        for (key, fact) in state.elements.iter_mut().filter(|(key, _)| key.set == *set) {
            let held =
                model.as_ref().map_or(key.key == wanted.key, |set| holds(set, wanted, &Bits::exactly(&key.key)) == Tri::Yes);
            if held {
                *fact = after.cloned();
            }
        }
        if let Some(dump) = state.dumps.get_mut(set) {
            dump.retain(|one| !split::bounds(one, wanted));
            dump.extend(after.cloned());
        }
        Ok(())
    }

    /// The element as it stands now: the one with the same key or range.
    fn look(&self, state: &State, set: &SetKey, wanted: &Element) -> Result<Option<Element>, Mismatch> {
        if let Some(dump) = state.dumps.get(set) {
            return Ok(dump.iter().find(|one| split::bounds(one, wanted)).cloned());
        }
        match state.elements.get(&ElementKey { set: set.clone(), key: wanted.key.clone() }) {
            Some(fact) => Ok(fact.clone().filter(|one| split::bounds(one, wanted))),
            None => Err(self.mismatch("it was not looked up")),
        }
    }

    /// See [`crate::host::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        let Some(state) = state.nf_tables.present() else { return Err(self.mismatch("nftables was not read")) };
        match self {
            Step::Element { set, before, after, .. } => {
                let Some(wanted) = after.as_ref().or(before.as_ref()) else { return Ok(()) };
                match (self.look(state, set, wanted)?, after) {
                    (None, None) => Ok(()),
                    (Some(now), Some(after)) if now.same(after) => Ok(()),
                    (Some(_), None) => Err(self.mismatch("it is still there")),
                    (None, Some(_)) => Err(self.mismatch("it is not there")),
                    (Some(_), Some(_)) => Err(self.mismatch("it is there, but not as planned")),
                }
            }
            Step::Split { set, after, .. } => {
                if split::stand(state, set, after).map_err(|what| self.mismatch(what))? {
                    return Ok(());
                }
                Err(self.mismatch("it is not as planned"))
            }
            Step::Rule { next, others, before, after, .. } => {
                let chain = state.chains.get(self.chain_index(state)?);
                let rules = chain.map_or(&[][..], |chain| chain.rules.as_slice());
                if let Some(after) = after {
                    return match standing(rules, *next, *others, after) {
                        Standing::At(_) => Ok(()),
                        Standing::Nowhere | Standing::Unclear => Err(self.mismatch("it is not there")),
                    };
                }
                match before.as_ref().map(|before| standing(rules, *next, *others, before)) {
                    Some(Standing::At(_)) => Err(self.mismatch("it is still there")),
                    Some(Standing::Unclear) => Err(self.mismatch("several rules could be meant")),
                    Some(Standing::Nowhere) | None => Ok(()),
                }
            }
        }
    }
}
