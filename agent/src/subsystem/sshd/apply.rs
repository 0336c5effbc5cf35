//! Edits sshd's configuration and has it follow.

use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::sshd::Step;

/// Does one step.
pub fn apply(step: &Step) -> Result<Done, StepError> {
    Err(StepError::Failed(format!("{}: sshd cannot be changed yet; nothing was done", step.summary())))
}
