//! Steps on iptables-legacy: one rule, with what stands there before and after, and the neighbours that fix its place even
//! among equal rules. As data; the agent does them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::HostState;
use crate::host::step::{Mismatch, Reach};
use crate::subsystem::ipset::SetNames;
use crate::subsystem::xtables::extension::matches::Match;
use crate::subsystem::xtables::extension::targets::{StandardVerdict, Target};
use crate::subsystem::xtables::{Action, Chain, Place, Rule, State, family, program};
use crate::verdict::Admits;

/// One change of one legacy table. `before` to `after`; `None` is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where the rule stands, or will.
    pub place: Place,
    /// The rule before it, as text; `None` is the head of the chain.
    pub above: Option<String>,
    /// The rule after it, as text; `None` is the end of the chain.
    pub below: Option<String>,
    /// Of how many equal rules in the chain, this one included, it is which, from 1.
    pub copy: (usize, usize),
    /// As it is.
    pub before: Option<Rule>,
    /// As it will be.
    pub after: Option<Rule>,
    /// The sources whose verdict it can change; `None` means it could be anybody's.
    pub touches: Option<Vec<Source>>,
}

/// What is left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Nothing: the chain is as `after`.
    Nothing,
    /// Take the rule at this position (from 1) out.
    Delete(usize),
    /// Put the rule in so that it stands at this position.
    Insert(usize),
}

impl Step {
    /// Takes out the rule at a place. `None` when there is no such rule, or its exact text is not known.
    pub fn delete(state: &State, place: &Place, touches: Option<Vec<Source>>) -> Option<Self> {
        let chain = state.table(place.v6, &place.table)?.chain(&place.chain)?;
        let index = place.position.checked_sub(1)?;
        let rule = chain.rules.get(index)?;
        let text = rule.save.as_ref()?;
        let equal = |rules: &[Arc<Rule>]| rules.iter().filter(|one| one.save.as_ref() == Some(text)).count();
        Some(Self {
            place: place.clone(),
            above: index.checked_sub(1).and_then(|above| chain.rules.get(above)?.save.clone()),
            below: chain.rules.get(index + 1).and_then(|below| below.save.clone()),
            copy: (equal(chain.rules.get(..=index)?), equal(&chain.rules)),
            before: Some(Rule::clone(rule)),
            after: None,
            touches,
        })
    }

    /// Puts an accept (see [`Rule::accept`]) in so that it stands at a place; one past the last rule is just
    /// before the policy. Where forwarded packets come to the chain, it is about this host alone. `None` when there is no such place, or the texts around it are not known.
    pub fn accept(state: &State, place: &Place, source: Source, admits: Admits, mark: Option<&str>) -> Option<Self> {
        if place.v6 == source.is_ipv4() {
            return None;
        }
        let table = state.table(place.v6, &place.table)?;
        let chain = table.chain(&place.chain)?;
        let index = place.position.checked_sub(1)?;
        let rule = match admits {
            Admits::Tcp(_) if table.forwarded(&place.chain) => Rule::accept(source, admits, mark).to_this_host(place.v6),
            Admits::Tcp(_) | Admits::Icmpv6(_) => Rule::accept(source, admits, mark),
        };
        let text = |index: usize| chain.rules.get(index).map(|rule| rule.save.clone());
        let above = match index.checked_sub(1) {
            Some(above) => Some(text(above)??),
            None => None,
        };
        let below = match text(index) {
            Some(below) => Some(below?),
            None => None,
        };
        let equal = |rules: &[Arc<Rule>]| rules.iter().filter(|one| one.save == rule.save).count();
        Some(Self {
            place: place.clone(),
            above,
            below,
            copy: (equal(chain.rules.get(..index)?) + 1, equal(&chain.rules) + 1),
            before: None,
            after: Some(rule),
            touches: Some(admits.touches(source)),
        })
    }

    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { before: self.after.clone(), after: self.before.clone(), ..self.clone() }
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        let Place { table, chain, position, .. } = &self.place;
        let program = program(self.place.v6);
        match (&self.before, &self.after) {
            (Some(_), None) => format!("delete rule {position} of {program} chain {chain} in table {table}"),
            (None, Some(_)) => format!("insert rule {position} in {program} chain {chain} of table {table}"),
            _ => format!("replace rule {position} of {program} chain {chain} in table {table}"),
        }
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> String {
        let line = |sign: char, text: &str| format!("{sign}-A {} {text}\n", self.place.chain);
        let mut diff = format!("# {} table {}\n", program(self.place.v6), self.place.table);
        if let Some(above) = &self.above {
            diff.push_str(&line(' ', above));
        }
        for (sign, rule) in [('-', &self.before), ('+', &self.after)] {
            if let Some(rule) = rule {
                diff.push_str(&line(sign, &rule.text(self.place.v6, &SetNames::new())));
            }
        }
        if let Some(below) = &self.below {
            diff.push_str(&line(' ', below));
        }
        diff
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        let Place { chain, position, .. } = &self.place;
        match (&self.before, &self.after) {
            (Some(_), None) => format!("put the same rule back at position {position} of {chain}, with its counters"),
            _ => format!("delete the rule at position {position} of {chain}"),
        }
    }

    /// See [`crate::host::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        self.touches.clone()
    }

    /// See [`crate::host::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        // `recent` keeps a list that other rules look in.
        let looks = |rule: &Rule| !rule.matches.iter().any(|one| matches!(one, Match::Recent { .. }));
        let refuses = |rule: &Rule| {
            let end = matches!(&rule.action, Action::Target(Target::Verdict(StandardVerdict::Drop) | Target::Reject(_)));
            end && looks(rule)
        };
        let accepts =
            |rule: &Rule| matches!(&rule.action, Action::Target(Target::Verdict(StandardVerdict::Accept))) && looks(rule);
        let opens = self.before.as_ref().is_none_or(refuses) && self.after.as_ref().is_none_or(accepts);
        if opens { Reach::Nobody } else { Reach::Anybody }
    }

    /// What is left to do on the chain as it is now; a chain that is neither as before nor as after is a mismatch.
    ///
    /// Whether the rule is there is told by the number of equal rules, because one of two equal rules may be meant. Other
    /// rules may have come and gone meanwhile: a rule is deleted where it stands now, and put back where its neighbours are.
    pub fn todo(&self, chain: &Chain) -> Result<Todo, Mismatch> {
        let wanted = |rule: &Option<Rule>| rule.as_ref().and_then(|rule| rule.save.clone());
        let (text, delete) = match (wanted(&self.before), wanted(&self.after)) {
            (Some(text), None) => (text, true),
            (None, Some(text)) => (text, false),
            _ => return Err(self.mismatch("the step holds no rule, or two")),
        };
        let equal: Vec<usize> =
            (0_usize..).zip(&chain.rules).filter(|(_, rule)| rule.save.as_ref() == Some(&text)).map(|(index, _)| index).collect();
        let (which, present) = self.copy;
        match (delete, equal.len()) {
            // A later step of the same plan may take out another copy.
            (true, found) if found < present => Ok(Todo::Nothing),
            (true, found) if found == present => {
                let index = which.checked_sub(1).and_then(|which| equal.get(which));
                index.map(|index| Todo::Delete(index + 1)).ok_or_else(|| self.mismatch("the step counts wrongly"))
            }
            (false, found) if found >= present => Ok(Todo::Nothing),
            (false, found) if found + 1 == present => self.gap(chain).map(Todo::Insert),
            (_, found) => Err(self.mismatch(&format!("the rule stands there {found} times, {present} were planned"))),
        }
    }

    /// The position between the two neighbours: the planned one if it is still between them, else the only one that is.
    fn gap(&self, chain: &Chain) -> Result<usize, Mismatch> {
        let text = |index: Option<usize>| index.and_then(|index| chain.rules.get(index)).and_then(|rule| rule.save.as_ref());
        let fits = |index: usize| {
            index <= chain.rules.len()
                && text(index.checked_sub(1)) == self.above.as_ref()
                && text(Some(index)) == self.below.as_ref()
        };
        if let Some(planned) = self.place.position.checked_sub(1)
            && fits(planned)
        {
            return Ok(self.place.position);
        }
        let mut gaps = (0..=chain.rules.len()).filter(|index| fits(*index));
        match (gaps.next(), gaps.next()) {
            (Some(only), None) => Ok(only + 1),
            _ => Err(self.mismatch("the rules around it changed, so its place is not certain")),
        }
    }

    fn mismatch(&self, what: &str) -> Mismatch {
        Mismatch(format!("{}: {what}", self.place))
    }

    fn chain<'s>(&self, state: &'s HostState) -> Result<&'s Chain, Mismatch> {
        let state = state.xtables.present().ok_or_else(|| self.mismatch("iptables-legacy was not read"))?;
        let table = state.table(self.place.v6, &self.place.table);
        let chain = table.and_then(|table| table.chain(&self.place.chain));
        chain.map(AsRef::as_ref).ok_or_else(|| self.mismatch("there is no such chain"))
    }

    /// See [`crate::host::step::Step::predict`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        let todo = self.todo(self.chain(state)?)?;
        let rules = state
            .xtables
            .present_mut()
            .and_then(|state| state.table_mut(self.place.v6, &self.place.table))
            .and_then(|table| table.chains.iter_mut().find(|chain| chain.name == self.place.chain))
            .map(|chain| &mut Arc::make_mut(chain).rules)
            .ok_or_else(|| self.mismatch("there is no such chain"))?;
        match (todo, &self.after) {
            (Todo::Nothing, _) => {}
            (Todo::Delete(position), _) => {
                rules.remove(position - 1);
            }
            (Todo::Insert(position), Some(rule)) => rules.insert(position - 1, Arc::new(rule.clone())),
            (Todo::Insert(_), None) => return Err(self.mismatch("the step holds no rule")),
        }
        Ok(())
    }

    /// See [`crate::host::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        match self.todo(self.chain(state)?)? {
            Todo::Nothing => Ok(()),
            Todo::Delete(position) => Err(self.mismatch(&format!("the rule still stands at position {position}"))),
            Todo::Insert(_) => Err(self.mismatch("the rule is not there")),
        }
    }

    /// `legacy/ip/filter/INPUT/3`: names the rule in `firewall list` and `firewall remove`.
    pub fn reference(place: &Place) -> String {
        format!("legacy/{}/{}/{}/{}", family(place.v6), place.table, place.chain, place.position)
    }
}
