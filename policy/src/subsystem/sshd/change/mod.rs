//! Steps on sshd: what is asked of its lines, the step that does it, and the steps that lift what a stage found. Applies nothing.

pub(crate) mod exempt;
pub(crate) mod lift;
pub(crate) mod no_plan;
pub(crate) mod plan;
pub(crate) mod repair;
pub(crate) mod runs;
pub(crate) mod scope;
pub(crate) mod step;
