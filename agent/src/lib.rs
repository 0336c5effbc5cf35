//! sshfix-agent: reads the host, applies small reversible steps, keeps the clock. Decides nothing that `policy` can decide.

pub mod subsystem;
pub mod sys;
