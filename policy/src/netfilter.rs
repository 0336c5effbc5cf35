//! The netfilter stage: nf_tables and iptables-legacy together, base chains of both in the kernel's order.

use crate::host::{HostState, Needs};
use crate::verdict::{Block, Connection, StageReport};

/// What the packet filters do to a SYN of this connection and to its answer.
pub fn evaluate(_host: &HostState, _connection: &Connection, _needs: &mut Needs) -> StageReport {
    unimplemented!("netfilter helper")
}

/// Every rule, element and policy that keeps this connection out, found by lifting one after the other on the model;
/// entries that belong to fail2ban are `fail2ban-ban-stale` here, and `diagnose` joins them with their tickets.
pub fn blocks(_host: &HostState, _connection: &Connection, _needs: &mut Needs) -> Vec<Block> {
    unimplemented!("netfilter helper")
}
