//! What is called at a hook, and in which order: base chains, legacy tables, connection tracking and translation by priority
//! (`nf_hook_slow`), and which of them see a packet at all. Calls nothing.

use crate::link::Link;
use crate::packet::{Interface, Packet};
use crate::subsystem::nf_tables::{BaseChain, Chain, Family, State};
use crate::subsystem::xtables;

/// `NF_IP_PRI_CONNTRACK`
pub(super) const CONNTRACK: i32 = -200;
/// `NF_IP_PRI_NAT_DST`: all nat chains before routing run at this point of the hook, whatever their own priority.
const NAT_DESTINATION: i32 = -100;
/// `NF_IP_PRI_NAT_SRC`
const NAT_SOURCE: i32 = 100;

/// A hook on the way. `Ingress` and `Egress` belong to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Ingress,
    Prerouting,
    Input,
    Output,
    Postrouting,
    Egress,
}

/// What is called at a hook.
#[derive(Clone, Debug)]
pub(super) enum Called<'a> {
    /// An `nf_tables` base chain; the text says on what it depends that it sees the packet at all.
    Chain(usize, Option<String>),
    /// A legacy table.
    Table(&'a xtables::Table),
    /// Connection tracking looks the packet up (`NF_IP_PRI_CONNTRACK`).
    Conntrack,
    /// The translation of a known connection (`NF_IP_PRI_NAT_DST`).
    Translate,
}

/// One call with its priority, and for nat chains their own among themselves.
pub(super) type Call<'a> = ((i32, i32), Called<'a>);

/// The orders in which calls of the same priority may run; the first is theirs.
pub(super) fn orders<'a>(group: &[Call<'a>]) -> Vec<Vec<Call<'a>>> {
    let order = |of: &[usize]| of.iter().filter_map(|index| group.get(*index).cloned()).collect();
    let numbers: Vec<usize> = (0..group.len()).collect();
    let reverse: Vec<usize> = numbers.iter().rev().copied().collect();
    match group.len() {
        3 => [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].iter().map(|of| order(of)).collect(),
        _ => vec![order(&numbers), order(&reverse)],
    }
}

/// What is called at a hook for a packet of this family: by priority, and nat chains by their own among themselves.
pub(super) fn calls<'a>(state: &State, legacy: Option<&'a xtables::State>, hook: Hook, packet: &Packet) -> Vec<Call<'a>> {
    let v6 = packet.v6;
    let mut calls = Vec::new();
    for (index, chain) in state.chains.iter().enumerate() {
        let Some(base) = &chain.base else { continue };
        if dormant(state, chain) {
            continue;
        }
        let seen = sees(chain, base, hook, v6, &devices(hook, packet));
        if seen != Sees::No {
            let perhaps = if let Sees::Perhaps(on) = seen { Some(on) } else { None };
            let priority = match (base.kind.as_str(), hook) {
                ("nat", Hook::Prerouting | Hook::Output) => NAT_DESTINATION,
                ("nat", Hook::Input | Hook::Postrouting) => NAT_SOURCE,
                _ => base.priority,
            };
            calls.push(((priority, base.priority), Called::Chain(index, perhaps)));
        }
    }
    let legacy_hook = match hook {
        Hook::Prerouting => Some(xtables::Hook::Prerouting),
        Hook::Input => Some(xtables::Hook::Input),
        Hook::Output => Some(xtables::Hook::Output),
        Hook::Postrouting => Some(xtables::Hook::Postrouting),
        Hook::Ingress | Hook::Egress => None,
    };
    if let (Some(legacy), Some(legacy_hook)) = (legacy, legacy_hook) {
        for table in legacy.tables(v6) {
            if table.at(legacy_hook).is_some()
                && let Some(priority) = xtables::priority(&table.name, legacy_hook)
            {
                calls.push(((priority, priority), Called::Table(table)));
            }
        }
    }
    if matches!(hook, Hook::Prerouting | Hook::Output) {
        calls.push(((CONNTRACK, CONNTRACK), Called::Conntrack));
    }
    match hook {
        Hook::Prerouting => calls.push(((NAT_DESTINATION, i32::MIN), Called::Translate)),
        Hook::Postrouting => calls.push(((NAT_SOURCE, i32::MIN), Called::Translate)),
        Hook::Ingress | Hook::Input | Hook::Output | Hook::Egress => {}
    }
    calls.sort_by_key(|(priority, _)| *priority);
    calls
}

/// Whether its table is turned off.
fn dormant(state: &State, chain: &Chain) -> bool {
    state.tables.iter().any(|table| table.dormant && table.family == chain.family && table.name == chain.table)
}

/// Whether this is a base chain that a packet on its way in to this host may pass.
pub fn on_the_way_in(state: &State, index: usize) -> bool {
    [false, true].into_iter().any(|v6| called(state, index, v6, &[Hook::Ingress, Hook::Prerouting, Hook::Input]))
}

/// Whether this is a base chain that a packet of the handshake may pass, in or out.
pub fn on_the_way(state: &State, index: usize, v6: bool) -> bool {
    let hooks = [Hook::Ingress, Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting, Hook::Egress];
    called(state, index, v6, &hooks)
}

fn called(state: &State, index: usize, v6: bool, hooks: &[Hook]) -> bool {
    let Some(chain) = state.chains.get(index) else { return false };
    let called = |base: &BaseChain| hooks.iter().any(|hook| sees(chain, base, *hook, v6, &Devices::Unknown) != Sees::No);
    !dormant(state, chain) && chain.base.as_ref().is_some_and(called)
}

/// Whether a base chain is called for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sees {
    Yes,
    No,
    /// The text says on what it depends.
    Perhaps(String),
}

/// The devices a packet passes at this hook.
enum Devices<'a> {
    /// Some that are not `lo`, and perhaps a bridge.
    Unknown,
    /// This one, and perhaps these below it.
    Known(&'a Link, Vec<&'a Link>),
}

fn devices(hook: Hook, packet: &Packet) -> Devices<'_> {
    let interface = match hook {
        Hook::Ingress | Hook::Prerouting | Hook::Input => &packet.input,
        Hook::Output | Hook::Postrouting | Hook::Egress => &packet.output,
    };
    match (interface, &packet.links) {
        (Interface::Known(link), Some(links)) => Devices::Known(link, links.below(link).into_iter().map(AsRef::as_ref).collect()),
        (Interface::Known(link), None) if link.is_loopback() => Devices::Known(link, Vec::new()),
        (Interface::Known(_) | Interface::NotLoopback | Interface::None, _) => Devices::Unknown,
    }
}

/// The interface that a packet has where a base chain below the IP layer sees it, if that is another than the IP layer knows it by: the
/// port of a bridge (`NF_BR_LOCAL_IN` is called with the port as indev, `NF_BR_LOCAL_OUT` with it as outdev), the device of an
/// ingress or egress chain.
pub(super) fn interface_below(chain: &Chain, base: &BaseChain, hook: Hook, packet: &Packet) -> Option<Interface> {
    if !matches!(hook, Hook::Ingress | Hook::Egress) {
        return None;
    }
    let Devices::Known(link, below) = devices(hook, packet) else { return None };
    let candidates: Vec<&Link> = if chain.family == Family::Bridge {
        below.into_iter().filter(|port| link.driver != "bridge" || port.up && port.master == Some(link.index)).collect()
    } else if below.iter().any(|link| base.devices.contains(&link.name)) {
        below.into_iter().chain([link]).filter(|link| base.devices.contains(&link.name)).collect()
    } else {
        return None;
    };
    let one = match candidates.as_slice() {
        [one] => packet.links.as_ref().and_then(|links| links.all.iter().find(|link| link.index == one.index)),
        _ => None,
    };
    Some(one.map_or(Interface::NotLoopback, |one| Interface::Known(one.clone())))
}

/// Whether a base chain is called at this hook.
fn sees(chain: &Chain, base: &BaseChain, hook: Hook, v6: bool, devices: &Devices<'_>) -> Sees {
    let names = |link: &Link| base.devices.contains(&link.name);
    let device = || match devices {
        Devices::Known(link, _) if names(link) => Sees::Yes,
        Devices::Known(_, below) if !below.iter().any(|link| names(link)) => Sees::No,
        Devices::Unknown if !base.devices.is_empty() && base.devices.iter().all(|device| device == "lo") => Sees::No,
        Devices::Known(..) | Devices::Unknown => Sees::Perhaps(format!("whether it passes {}", base.devices.join(" or "))),
    };
    let bridge = || match devices {
        // From other hosts, everything comes to a bridge by its ports (`br_pass_frame_up`), and leaves by them (`br_dev_xmit`).
        Devices::Known(link, _) if link.driver == "bridge" => Sees::Yes,
        Devices::Known(_, below) if below.iter().all(|link| link.driver != "bridge") => Sees::No,
        Devices::Known(..) | Devices::Unknown => Sees::Perhaps("whether it passes a bridge".to_owned()),
    };
    match chain.family {
        Family::Ip if v6 => Sees::No,
        Family::Ip6 if !v6 => Sees::No,
        Family::Arp => Sees::No,
        Family::Ip | Family::Ip6 | Family::Inet => match (base.hook, hook) {
            (0, Hook::Prerouting) | (1, Hook::Input) | (3, Hook::Output) | (4, Hook::Postrouting) => Sees::Yes,
            (5, Hook::Ingress) if chain.family == Family::Inet => device(),
            _ => Sees::No,
        },
        Family::Netdev => match (base.hook, hook) {
            (0, Hook::Ingress) | (1, Hook::Egress) => device(),
            _ => Sees::No,
        },
        Family::Bridge => match (base.hook, hook) {
            // Ahead of the IP hooks on the way in, behind them on the way out.
            (0 | 1, Hook::Ingress) | (3 | 4, Hook::Egress) => bridge(),
            _ => Sees::No,
        },
    }
}
