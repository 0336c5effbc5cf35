//! Matches and targets of xtables, which iptables-legacy and iptables-nft share: decoded from the kernel's structs, whether they hold for a
//! packet, and printed as iptables-save does. Runs no chain.

pub mod bytes;
pub mod decode;
pub mod depends;
pub mod holds;
pub mod matches;
pub mod render;
pub mod render_target;
pub mod targets;
