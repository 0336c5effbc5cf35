//! Where a connection can come in and to which of the host's addresses: one pair after the other is tried. Takes for granted that a
//! SYN comes in by the interface that answers to it leave by, as it does where routing is symmetric, and that nothing brings a
//! public client to a private address of another interface: that of a container bridge or a tunnel. Evaluates nothing.

use std::net::IpAddr;
use std::sync::Arc;

use crate::host::{HostState, Need, Needs, Part};
use crate::link::{Link, Links};
use crate::packet::Packet;
use crate::verdict::Connection;

/// Pairs tried for one question. Where there are more, only the interfaces are told apart; where these are more, nothing is.
const MOST: usize = 16;

/// An interface and an address, as far as each is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where it comes in.
    pub link: Option<Arc<Link>>,
    /// The address of this host it comes to.
    pub to: Option<IpAddr>,
    /// To whom answers are handed there, where that is known: the client itself, or a gateway.
    pub hop: Option<IpAddr>,
    links: Arc<Links>,
}

impl Arrival {
    /// The SYN of a connection that comes in like this.
    pub fn syn(&self, connection: &Connection) -> Packet {
        Packet::syn(connection).arriving(self.link.as_ref(), self.to, Some(&self.links))
    }

    /// `by eth0 to 192.0.2.1`
    pub fn text(&self) -> String {
        let by = self.link.as_ref().map(|link| format!("by {}", link.name));
        let to = self.to.map(|to| format!("to {to}"));
        by.into_iter().chain(to).collect::<Vec<_>>().join(" ")
    }
}

/// The pairs to try; none where the interfaces cannot be known. What was not read yet is asked for.
pub fn arrivals(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Arrival> {
    let Part::Present(routes) = &host.route else { return Vec::new() };
    let Some(links) = &routes.links else {
        needs.insert(connection.source.single().map_or(Need::Links, |_| Need::Route(connection.source)));
        return Vec::new();
    };
    let v4 = connection.source.is_ipv4();
    let pair =
        |link: Option<&Arc<Link>>, to: Option<IpAddr>| Arrival { link: link.cloned(), to, hop: None, links: links.clone() };
    let first = connection.source.first();
    let own: Vec<IpAddr> = links.addresses().map(|(_, net)| net.addr()).filter(|own| own.is_ipv4() == v4).collect();
    let near = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let mut to: Vec<IpAddr> =
        own.iter().copied().filter(|to| to.is_loopback() == first.is_loopback() && near(to) == near(&first)).collect();
    let listening = listening(host, connection.port);
    if to.iter().any(|to| listening.contains(to)) {
        to.retain(|to| listening.contains(to));
    }
    let public = !private(first) && !private(connection.source.last());
    let brought =
        |by: &Link, own: IpAddr| !public || !private(own) || links.own_on(by, own) || !to.iter().any(|to| links.own_on(by, *to));
    let mut found = Vec::new();
    if connection.source.single().is_some_and(|source| links.own(source)) {
        let lo = links.all.iter().find(|link| link.is_loopback());
        found.extend(to.iter().map(|to| pair(lo, Some(*to))));
    } else if connection.source.single().is_some()
        && let Some(fact) = routes.facts.get(&connection.source)
        && !fact.ways.is_empty()
        && !near(&first)
    {
        found.extend(fact.ways.iter().filter_map(|way| {
            let link = links.get(way.device);
            let may_be = way.from.is_none_or(|from| to.contains(&from) && link.is_none_or(|link| brought(link, from)));
            may_be.then(|| Arrival { hop: way.via.or(Some(first)), ..pair(link.and_then(plain), way.from) })
        }));
    } else if connection.source.single().is_some() && !routes.facts.contains_key(&connection.source) {
        needs.insert(Need::Route(connection.source));
        return Vec::new();
    } else {
        // A range, or nobody with a route of his own: he may come by any interface.
        let hop = connection.source.single().filter(near);
        for link in links.outside() {
            let pairs = to.iter().filter(|to| brought(link, **to)).map(|to| pair(plain(link), Some(*to)));
            found.extend(pairs.map(|pair| Arrival { hop, ..pair }));
        }
    }
    bound(found)
}

/// Whether routers of the public Internet bring nothing to the address: RFC 1918, RFC 6598, RFC 4193.
fn private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || matches!(address.octets(), [100, 64..=127, ..]),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

/// A part of a VRF is seen under two names (`l3mdev_ip_rcv`), which this model does not follow: it counts as unknown.
fn plain(link: &Arc<Link>) -> Option<&Arc<Link>> {
    (link.master.is_none() && link.driver != "vrf").then_some(link)
}

/// The single addresses at which somebody listens on the port.
fn listening(host: &HostState, port: u16) -> Vec<IpAddr> {
    let Part::Present(state) = &host.listener else { return Vec::new() };
    let on_port = || state.listeners.iter().filter(|listener| listener.local.port() == port).map(|listener| listener.local.ip());
    if on_port().any(|address| address.is_unspecified()) { Vec::new() } else { on_port().collect() }
}

fn bound(mut found: Vec<Arrival>) -> Vec<Arrival> {
    if found.len() > MOST {
        for arrival in &mut found {
            arrival.to = None;
        }
    }
    let mut different: Vec<Arrival> = Vec::new();
    for arrival in found {
        if !different.iter().any(|one| one.to == arrival.to && one.link == arrival.link) {
            different.push(arrival);
        }
    }
    if different.len() > MOST { Vec::new() } else { different }
}
