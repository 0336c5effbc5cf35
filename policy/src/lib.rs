//! sshfix-policy: everything sshfix decides, and nothing it does. Pure: no files, network, processes, clock or randomness;
//! the same input gives the same answer. `agent` reads the host and applies steps, `ctl` asks.

#![forbid(unsafe_code)]

pub mod address;
pub mod host;
pub mod netfilter;
pub mod reply;
pub mod request;
pub mod step;
pub mod subsystem;
pub mod verdict;
