//! sshfix-policy: everything sshfix decides, and nothing it does. Pure: no files, network, processes, clock or randomness;
//! the same input gives the same answer. `agent` reads the host and applies steps, `ctl` asks.

#![forbid(unsafe_code)]

pub mod access_proof;
pub mod address;
pub mod diagnose;
pub mod host;
pub mod link;
pub mod netfilter;
pub mod packet;
pub mod plan;
pub mod proof;
pub mod ranges;
pub mod reply;
pub mod request;
pub mod ssh;
pub mod subsystem;
pub mod text;
pub mod verdict;
mod words;
