//! sshfix-agent: reads the host, applies small reversible steps, keeps the clock. Decides nothing that `policy` can decide.

pub mod aftermath;
pub mod audit;
pub mod change;
pub mod check;
pub mod config;
pub mod deadline;
pub mod decision;
pub mod drill;
pub mod identity;
pub mod init;
pub mod lease;
pub mod listen;
pub mod live;
pub mod logging;
mod observe;
mod own;
pub mod pipeline;
pub mod random;
pub mod recover;
mod refusal;
pub mod report;
pub mod restart;
pub mod run;
pub mod serve;
pub mod store;
pub mod subsystem;
pub mod sys;
