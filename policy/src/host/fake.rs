//! `FakeHost`: the model as a host, for crash and property tests. Applies steps by predicting them, and fails where it is told to.
//! Stands in for no real subsystem: what those do is tried in the lab.

use crate::host::step::Step;
use crate::host::{Done, Host, HostState, Needs, Question, StepError};

/// A host made of a [`HostState`].
#[derive(Clone, Debug)]
pub struct FakeHost {
    /// What it is now.
    pub state: HostState,
    /// The number of `apply` calls after which the next ones do as `fault` says; `None` never fails.
    pub fail_after: Option<usize>,
    /// How it fails.
    pub fault: Fault,
    /// How many steps were applied or tried.
    pub applied: usize,
}

/// What an injected fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One step fails and changes nothing; later ones work again.
    FailOnce,
    /// One step is done, and reported as failed.
    FailAfterDoing,
    /// Nothing works any more: the rollback fails too.
    FailForEver,
}

impl FakeHost {
    /// A host that never fails.
    pub fn new(state: HostState) -> Self {
        Self { state, fail_after: None, fault: Fault::FailOnce, applied: 0 }
    }
}

impl Host for FakeHost {
    fn observe(&mut self, _question: &Question) -> HostState {
        self.state.clone()
    }

    fn lookup(&mut self, _state: &mut HostState, _needs: &Needs) {}

    fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        let now = self.applied;
        self.applied += 1;
        let faulty = match (self.fail_after, self.fault) {
            (Some(at), Fault::FailForEver) => now >= at,
            (Some(at), Fault::FailOnce | Fault::FailAfterDoing) => now == at,
            (None, _) => false,
        };
        if faulty && self.fault != Fault::FailAfterDoing {
            return Err(StepError::Failed(format!("injected: {}", step.summary())));
        }
        if step.holds(&self.state).is_ok() {
            return Ok(Done::Already);
        }
        step.predict(&mut self.state).map_err(|mismatch| StepError::Drifted(mismatch.0))?;
        if faulty {
            return Err(StepError::Failed(format!("injected after doing: {}", step.summary())));
        }
        Ok(Done::Changed)
    }
}
