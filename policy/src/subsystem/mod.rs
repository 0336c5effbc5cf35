//! One room per subsystem: its state, its steps, its verdict. Same file names as in the agent, which reads and writes them.

pub mod conntrack;
pub mod fail2ban;
pub mod hosts_access;
pub mod ipset;
pub mod listener;
pub mod nf_tables;
pub mod recent;
pub mod route;
pub mod sshd;
pub mod ufw;
pub mod xtables;
