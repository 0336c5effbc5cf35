//! A finding together with the steps that would lift it. Plans nothing: which of them are taken is the plan's.

use crate::address::Source;
use crate::host::step::Step;
use crate::verdict::cause::Finding;

/// A finding together with the way to lift it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What is shown.
    pub finding: Finding,
    /// How it is lifted.
    pub lift: Lift,
    /// What the command of the manager that made it does to the packet filters. To predict by; never done by sshfix.
    pub managed: Vec<Step>,
    /// What else would lift it, and is not done unless it is asked for.
    pub alternatives: Vec<Alternative>,
}

impl Block {
    /// A finding that sshfix does not lift: its `fix` says what a person must do.
    pub fn told(finding: Finding) -> Self {
        let lift = Lift::ByHand(finding.fix.as_str().to_owned());
        Self { finding, lift, managed: Vec::new(), alternatives: Vec::new() }
    }
}

/// A way to lift a block that is not taken by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// By these steps, in this order.
    pub steps: Vec<Step>,
    /// At most these get in by it.
    pub opens: Vec<Source>,
    /// Why it is not taken.
    pub why_not: String,
    /// Whether it is what `--range` asks for: the whole range that an element, rule, ticket or route names.
    pub range: bool,
}

impl Alternative {
    /// Lifting the whole range that holds what was asked for.
    pub fn range(asked: Source, steps: Vec<Step>, opens: Vec<Source>) -> Self {
        let bits = |source: &Source| source.net().max_prefix_len() - source.net().prefix_len();
        let many = |sources: &[Source]| {
            sources.iter().try_fold(0_u64, |sum, source| sum.checked_add(1_u64.checked_shl(bits(source).into())?))
        };
        let others = match (many(&opens), many(&[asked])) {
            (Some(all), Some(own)) => format!("{} others", all.saturating_sub(own)),
            _ => "more others than can be counted".to_owned(),
        };
        Self { steps, opens, why_not: format!("also lifts it for {others}; needs --range"), range: true }
    }
}

/// How a block is lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lift {
    /// By these steps, in this order.
    Steps(Vec<Step>),
    /// Not by sshfix: what a person must do instead.
    ByHand(String),
}
