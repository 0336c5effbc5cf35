//! Policy rules that ask for what a plain lookup does not say: a mark, a type of service, the client's port, or the interface that packets
//! come in by. The kernel is asked again with what they ask for. Changes none.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_sys::Socket;
use nix::libc;
use sshfix_policy::address::Source;
use sshfix_policy::subsystem::route::{Answer, Does, Perhaps, PolicyRule, State, Way};

use super::policy_rule::{Asks, with_asks};
use super::{DESTINATION_PORT, HEADER, IP_PROTOCOL, SOURCE_PORT, family, lookup_one, message, octets, own_ends};
use crate::sys::rtnetlink::ask;

/// `RT_TABLE_LOCAL`
const LOCAL: u32 = 255;
/// A port of a client.
const CLIENT_PORT: u16 = 40_000;
/// Rules that are asked about; of more, each is a doubt.
const MOST: usize = 64;

/// Adds the rules by which packets of a login from these sources may not arrive, where plain ones do.
pub(super) fn look_up(socket: &Socket, state: &mut State, sources: &BTreeSet<Source>, own: &BTreeSet<IpAddr>) -> io::Result<()> {
    for v4 in [true, false] {
        let of_family: Vec<Source> = sources.iter().filter(|source| source.is_ipv4() == v4).copied().collect();
        if of_family.is_empty() {
            continue;
        }
        let rules = with_asks(v4)?;
        for source in of_family {
            let Some(fact) = state.facts.get(&source).filter(|fact| matches!(fact.answer, Answer::Goes(_))) else { continue };
            let mut found = going_out(socket, source, own, state.port, &rules)?;
            found.extend(coming_in(socket, source, &fact.ways, state.port, &rules)?);
            state.perhaps.insert(source, found);
        }
    }
    Ok(())
}

fn going_out(
    socket: &Socket,
    source: Source,
    own: &BTreeSet<IpAddr>,
    port: Option<u16>,
    rules: &[(PolicyRule, Asks)],
) -> io::Result<Vec<Perhaps>> {
    let mut found = Vec::new();
    let concerned = rules.iter().filter(|(rule, asks)| *asks != Asks::default() && rule.concerns(source, own).is_some());
    for (asked, (rule, asks)) in concerned.enumerate() {
        let marked = asks.mark.is_some();
        let mut add = |then: &str| found.push(Perhaps { rule: rule.to_string(), then: then.to_owned(), marked });
        if asks.more || asked >= MOST {
            add("answers may go another way, or none");
            continue;
        }
        let to = source.first();
        for from in own_ends(to, own) {
            let (answer, way) = lookup_one(socket, to, from, asks, port)?;
            // `RTM_GETROUTE` says no more of a route that keeps it here.
            let here = way.is_some_and(|way| way.device == 1 && !own.contains(&to));
            if here || !matches!(answer, Answer::Goes(_)) {
                add("answers are not sent");
                break;
            }
        }
    }
    Ok(found)
}

/// Rules that come before the table of the host's own addresses: packets to them are looked up there, too.
fn coming_in(
    socket: &Socket,
    source: Source,
    ways: &[Way],
    port: Option<u16>,
    rules: &[(PolicyRule, Asks)],
) -> io::Result<Vec<Perhaps>> {
    let local = |rule: &PolicyRule| {
        let plain = rule.from.is_none() && rule.to.is_none() && rule.iif.is_none() && !rule.inverted;
        plain && rule.others.is_empty() && rule.protocol.is_none() && matches!(rule.does, Does::Look(LOCAL, _))
    };
    let before = rules.iter().map(|(rule, _)| rule).take_while(|rule| !local(rule));
    let Some(first) = before.into_iter().find(|rule| !matches!(rule.does, Does::Nop)) else { return Ok(Vec::new()) };
    for way in ways {
        let Some(to) = way.from else { continue };
        if !delivered(socket, source.first(), to, way.device, port)? {
            let then = format!("packets to {to} are not delivered to this host");
            return Ok(vec![Perhaps { rule: first.to_string(), then, marked: false }]);
        }
    }
    Ok(Vec::new())
}

/// Whether a packet that comes in by this interface is this host's. What the reverse path filter drops is `rp_filter`'s.
fn delivered(socket: &Socket, from: IpAddr, to: IpAddr, device: u32, port: Option<u16>) -> io::Result<bool> {
    let ((to, to_bits), (from, from_bits)) = (octets(to), octets(from));
    let v4 = to.len() == 4;
    let mut attributes = vec![
        DefaultNla::new(libc::RTA_DST, to),
        DefaultNla::new(libc::RTA_SRC, from),
        DefaultNla::new(libc::RTA_IIF, device.to_ne_bytes().to_vec()),
        DefaultNla::new(IP_PROTOCOL, vec![6]),
        DefaultNla::new(SOURCE_PORT, CLIENT_PORT.to_be_bytes().to_vec()),
    ];
    attributes.extend(port.map(|port| DefaultNla::new(DESTINATION_PORT, port.to_be_bytes().to_vec())));
    let mut header = [0; HEADER];
    let [first, second, third, ..] = &mut header;
    (*first, *second, *third) = (family(v4), to_bits, from_bits);
    let mut kind = None;
    let asked = ask(socket, libc::RTM_GETROUTE, 0, &message(header, &attributes), |bytes| {
        kind = bytes.get(7).copied();
        Ok(())
    });
    match asked {
        Ok(()) => Ok(kind == Some(libc::RTN_LOCAL)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EXDEV) => Ok(true),
            Some(libc::EINVAL | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}
