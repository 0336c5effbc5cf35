//! sshfix-agent: reads the host, applies small reversible steps, keeps the clock. Decides nothing that `policy` can decide.

pub mod audit;
pub mod change;
pub mod config;
pub mod drill;
pub mod host;
pub mod identity;
pub mod look;
mod once;
pub mod patience;
pub mod random;
pub mod request;
pub mod start;
pub mod store;
pub mod subsystem;
pub mod sys;
mod units;
mod watchdog;
pub mod write;
