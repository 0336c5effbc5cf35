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
pub mod sshd;
pub mod ufw;
pub mod xtables;

/// What the kernel quotes of others: the comment of a rule, an entry of an ipset, a line of a `recent` list. For tests without a kernel.
pub fn kernel_says(bytes: &[u8]) {
    let _ = nf_tables::comment(bytes);
    let _ = ipset::entry(bytes, None);
    let _ = String::from_utf8_lossy(bytes).lines().filter_map(recent::entry).count();
}
