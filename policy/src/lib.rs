//! sshfix-policy: everything sshfix decides, and nothing it does. Pure: no files, network, processes, clock or randomness;
//! the same input gives the same answer. `agent` reads the host and applies steps, `ctl` asks.

#![forbid(unsafe_code)]

pub mod access_proof;
pub mod address;
pub mod allowed_signers;
pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod blob;
pub mod certificate;
pub mod diagnose;
pub mod difference;
#[cfg(feature = "fake")]
pub mod fake;
pub mod file_edit;
pub mod grants;
pub mod host;
pub mod lease;
pub mod left;
pub mod link;
pub mod lockout;
pub mod merge;
pub mod netfilter;
pub mod owner;
pub mod packet;
pub mod pattern;
pub mod plan;
pub mod public_key;
pub mod ranges;
pub mod recorded;
pub mod reply;
pub mod request;
pub mod sshsig;
pub mod status;
pub mod step;
pub mod subsystem;
pub mod summary;
pub mod trace;
pub mod verdict;
pub mod verify;
pub mod wire;
mod words;
