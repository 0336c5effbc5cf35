//! Placeholders until the netfilter room has its planners; deleted with their landing.
use crate::host::{HostState, Needs};

/// See `netfilter::plan_accept`.
pub fn plan_accept(_: &HostState, _: crate::address::Source, _: u16, _: &mut Needs) -> Result<Vec<crate::step::Step>, String> {
    Err("not yet".into())
}
/// See `netfilter::plan_remove`.
pub fn plan_remove(_: &HostState, _: &str, _: &mut Needs) -> Result<Vec<crate::step::Step>, String> {
    Err("not yet".into())
}
/// See `netfilter::bans`.
pub fn bans(_: &HostState, _: u16, _: &mut Needs) -> Vec<crate::reply::Ban> {
    Vec::new()
}
/// See `netfilter::firewall_list`.
pub fn firewall_list(_: &HostState, _: u16, _: &mut Needs) -> crate::reply::Firewall {
    crate::reply::Firewall { schema: crate::reply::FirewallSchema::V1, entries: Vec::new(), notes: Vec::new() }
}
