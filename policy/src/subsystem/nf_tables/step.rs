//! Steps on nf_tables: one element or one rule, with what stands there before and after. As data; the agent does them.

use serde::{Deserialize, Serialize};

use super::{Element, Family, Rule, SetKey};
use crate::address::Source;
use crate::host::HostState;
use crate::step::Mismatch;

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
    /// See [`crate::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        match &mut inverse {
            Step::Element { before, after, .. } => std::mem::swap(before, after),
            Step::Rule { before, after, .. } => std::mem::swap(before, after),
        }
        inverse
    }

    /// See [`crate::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        match self {
            Step::Element { touches, .. } | Step::Rule { touches, .. } => touches.clone(),
        }
    }

    /// See [`crate::step::Step::summary`].
    pub fn summary(&self) -> String {
        unimplemented!("nf_tables helper")
    }

    /// See [`crate::step::Step::diff`].
    pub fn diff(&self) -> String {
        unimplemented!("nf_tables helper")
    }

    /// See [`crate::step::Step::undo`].
    pub fn undo(&self) -> String {
        unimplemented!("nf_tables helper")
    }

    /// See [`crate::step::Step::predict`].
    pub fn predict(&self, _state: &mut HostState) -> Result<(), Mismatch> {
        unimplemented!("nf_tables helper")
    }

    /// See [`crate::step::Step::holds`].
    pub fn holds(&self, _state: &HostState) -> Result<(), Mismatch> {
        unimplemented!("nf_tables helper")
    }
}
