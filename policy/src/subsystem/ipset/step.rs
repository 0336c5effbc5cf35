//! Steps on ipsets: one element, there before and not after, or the other way round. As data; the agent does them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, Key, Properties, Query, Set, State};
use crate::address::Source;
use crate::host::step::{Mismatch, Reach};
use crate::host::{HostState, Need, Needs};

/// One element of one set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The set and the element.
    pub query: Query,
    /// Whether it is there now.
    pub before: bool,
    /// Whether it will be.
    pub after: bool,
    /// Whether the set keeps a timeout, a comment, counters or skbinfo with its elements. They are not read, so an element that
    /// is added again has the set's default timeout and none of the others.
    pub extras: bool,
}

impl Step {
    /// Deletes the element of this key. `None` where the set holds it by another element, or with others.
    pub fn delete(set: &Set, properties: Properties, key: Key, entry: &Entry) -> Option<Self> {
        let deletes = *entry == Entry::Exact && !properties.masked && key.address.is_some();
        deletes.then(|| Self { query: set.query(key), before: true, after: false, extras: properties.extras })
    }

    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { before: self.after, after: self.before, ..self.clone() }
    }

    /// See [`crate::host::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        self.query.key.source().map(|source| vec![source])
    }

    /// See [`crate::host::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        Reach::Touched
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        let Query { set, key, .. } = &self.query;
        match (self.before, self.after) {
            (true, false) => format!("delete {key} from ipset {set}"),
            (false, true) => format!("add {key} to ipset {set}"),
            (true, true) | (false, false) => format!("leave {key} in ipset {set} as it is"),
        }
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> String {
        let Query { set, kind, key } = &self.query;
        let line = |there: bool, sign: char| if there { format!("{sign} {key}\n") } else { String::new() };
        format!("# ipset {set} ({kind})\n{}{}", line(self.before, '-'), line(self.after, '+'))
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        let undo = self.inverse().summary();
        if self.before && self.extras {
            format!("{undo}, with the set's default timeout; the element's own timeout, comment and counters are lost")
        } else {
            undo
        }
    }

    /// See [`crate::host::step::Step::needs`].
    pub fn needs(&self) -> Needs {
        Needs::from([Need::IpsetEntry(self.query.clone())])
    }

    fn mismatch(&self, what: &str) -> Mismatch {
        Mismatch(format!("{} in ipset {}: {what}", self.query.key, self.query.set))
    }

    /// Whether the element is there; an answer that leaves it open is a mismatch.
    pub fn look(&self, entry: &Entry) -> Result<bool, Mismatch> {
        match entry {
            Entry::Absent => Ok(false),
            Entry::Exact => Ok(true),
            Entry::Wider(_) => Err(self.mismatch("a wider element holds it too")),
            Entry::Unknown(why) => Err(self.mismatch(why)),
        }
    }

    fn now(&self, state: &State) -> Result<bool, Mismatch> {
        let entry = state.entries.get(&self.query).ok_or_else(|| self.mismatch("it was not looked up"))?;
        self.look(entry)
    }

    /// What a network that comes or goes changes in the answers for addresses in it. Whether an address is an element of its own beside
    /// a network cannot be asked: where the last network goes it is taken for none, and reading it again tells.
    fn predict_within(&self, state: &mut State) {
        let (Some(prefix), Some(net)) = (self.query.key.prefix, self.query.key.source()) else { return };
        for (query, entry) in &mut state.entries {
            let same =
                Key { address: self.query.key.address, prefix: self.query.key.prefix, ..query.key.clone() } == self.query.key;
            let inside = query.key.prefix.is_none() && query.key.source().is_some_and(|source| net.contains(source));
            if query.set != self.query.set || !same || !inside {
                continue;
            }
            *entry = match (entry.clone(), self.after) {
                (Entry::Wider(lengths), false) => {
                    match lengths.iter().copied().filter(|length| *length != prefix).collect::<Vec<_>>() {
                        rest if rest.is_empty() => Entry::Absent,
                        rest => Entry::Wider(rest),
                    }
                }
                (Entry::Wider(mut lengths), true) => {
                    lengths.push(prefix);
                    lengths.sort_unstable();
                    Entry::Wider(lengths)
                }
                (Entry::Absent | Entry::Exact, true) => Entry::Wider(vec![prefix]),
                (other, _) => other,
            };
        }
    }

    /// See [`crate::host::step::Step::predict`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        let now = self.now(&state.ipset)?;
        if now != self.before && now != self.after {
            return Err(self.mismatch("it is neither as planned before nor as wanted after"));
        }
        let entry = if self.after { Entry::Exact } else { Entry::Absent };
        state.ipset.entries.insert(self.query.clone(), entry);
        self.predict_within(&mut state.ipset);
        if let (false, Some(Ok(listing))) = (self.after, state.ipset.listings.get_mut(&self.query.set)) {
            let text = self.query.key.to_string();
            Arc::make_mut(listing).retain(|element| element.text != text);
        }
        Ok(())
    }

    /// See [`crate::host::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        match (self.now(&state.ipset)?, self.after) {
            (true, false) => Err(self.mismatch("it is still there")),
            (false, true) => Err(self.mismatch("it is not there")),
            (true, true) | (false, false) => Ok(()),
        }
    }
}
