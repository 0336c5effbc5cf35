//! sshfix-policy: everything sshfix decides, and nothing it does. Pure: no files, network, processes, clock or randomness;
//! the same input gives the same answer. `agent` reads the host and applies steps, `ctl` asks.
//!
//! The rooms in the order of a request: [`request`] (what is asked and by whom; [`ssh`]: OpenSSH's formats), [`host`] (the model of the host and
//! steps on it), [`subsystem`] and [`netfilter`] (what each part makes of a connection; [`packet`]: what of a packet is known), [`verdict`] and
//! [`diagnose`] (the path, and what blocks it), [`plan`] (what is done about it), [`proof`] (nobody is locked out; it is done), [`reply`] (what is
//! answered, and [`redact`]: what of it a signer may see). [`access_proof`] is the proof of a confirm. [`address`], [`ranges`], [`link`] and [`text`] serve all of them. See docs/architecture.md.

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
pub mod redact;
pub mod reply;
pub mod request;
pub mod ssh;
pub mod subsystem;
pub mod text;
pub mod verdict;
mod words;
