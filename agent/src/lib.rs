//! sshfix-agent: reads the host, applies small reversible steps, keeps the clock. Decides nothing that `policy` can decide.
//!
//! [`start`] puts it together; [`request`] takes a request from the socket to its reply; [`host`] and [`subsystem`] read the host and apply steps;
//! [`change`] makes every change and keeps its deadline, with [`store`] as its journal and [`audit`] as the records for people; [`look`] and
//! [`write`] are the two small services; [`drill`] kills changes on a copy; [`sys`] is the operating system. See docs/architecture.md.

pub mod agent;
pub mod audit;
pub mod change;
pub mod command_line;
pub mod config;
pub mod drill;
pub mod host;
pub mod identity;
pub mod logging;
pub mod look;
mod once;
pub mod patience;
pub mod random;
pub mod request;
pub mod start;
pub mod store;
pub mod subsystem;
pub mod sys;
pub mod turns;
mod units;
mod watchdog;
pub mod write;
