//! sshfix-agent: reads the host, applies small reversible steps, keeps the clock. Decides nothing that `policy` can decide.

pub mod audit;
pub mod check;
pub mod config;
pub mod identity;
pub mod init;
pub mod listen;
pub mod logging;
pub mod random;
pub mod serve;
pub mod store;
pub mod subsystem;
pub mod sys;
