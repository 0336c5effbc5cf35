//! One file per subsystem, named as in `policy`: reads its state and applies its steps on the real host.

pub mod conntrack;
pub mod fail2ban;
pub mod hosts_access;
pub mod ipset;
pub mod link;
pub mod listener;
pub mod nf_tables;
pub mod recent;
pub mod route;
mod rp_filter;
pub mod sshd;
pub mod ufw;
pub mod xtables;
