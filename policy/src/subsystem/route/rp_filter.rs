//! `rp_filter`: which interfaces drop a client's packets because answers to it leave by another one (RFC 3704; `fib_validate_source` in
//! `net/ipv4/fib_frontend.c`; IPv4 only). The kernel itself was asked; this judges by which interface the packets may come in.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::host::block::{Block, Lift};
use crate::link::Links;
use crate::subsystem::route::{Fact, Kind, Route};
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::trace::TraceLine;
use crate::verdict::{Connection, Evidence, Stage, Verdict};

/// What the kernel said of packets from one address, interface by interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverse {
    /// The interfaces that drop them.
    pub filtered: Vec<Filtered>,
    /// The longest prefix among the routes to the client over the interfaces that answers leave by.
    pub longest: u8,
}

/// One interface that drops packets from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filtered {
    /// Its name.
    pub device: String,
    /// Its number.
    pub index: u32,
    /// What counts for it, the higher of `conf/all/rp_filter` and its own: 1 is strict, 2 is loose.
    pub value: u8,
    /// The own address that was asked about.
    pub to: IpAddr,
    /// The best route to the client that leads out by it, if there is one.
    pub route: Option<Route>,
}

impl Filtered {
    /// Whether the client's packets may well come in here: it is a neighbour on this link, or the route back over this link is as good
    /// as the one that answers take. Packets on the way that nobody expects are filtered for a reason.
    fn likely(&self, longest: u8) -> bool {
        self.route.as_ref().is_some_and(|route| {
            let length = route.destination.net().prefix_len();
            route.kind == Kind::Delivers && (route.via.is_none() && length > 0 || length >= longest)
        })
    }

    /// Where its own setting stands.
    pub fn file(&self) -> String {
        format!("/proc/sys/net/ipv4/conf/{}/rp_filter", self.device)
    }

    fn text(&self) -> String {
        let how = if self.value == 1 { "strict" } else { "loose" };
        format!("{} ({how}, with conf/all): packets that come in by {} are dropped", self.value, self.device)
    }

    /// Loose wins over strict, as the higher value, and lets in whoever has any route back.
    fn fix(&self) -> String {
        let file = self.file();
        let plain = file.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
        let file = if plain { file } else { format!("'{}'", file.replace('\'', r"'\''")) };
        format!("echo 2 > {file}   # loose; or route answers back by {}", self.device)
    }
}

impl Filtered {
    /// Sends answers back by this interface.
    fn route_back(&self, connection: &Connection) -> String {
        let via = self.route.as_ref().and_then(|route| route.via).map_or_else(String::new, |via| format!(" via {via}"));
        format!("ip route replace {}{via} dev {}   # answers go back where it comes from", connection.source.short(), self.device)
    }
}

/// Whether packets can come in by an interface at all: a dummy sends and never receives, and neither does a bridge without ports
/// (Docker's, while no container runs).
fn receives(links: Option<&Links>, index: u32) -> bool {
    let Some((links, link)) = links.and_then(|links| Some((links, links.get(index)?))) else { return true };
    match link.driver.as_str() {
        "dummy" | "nlmon" | "ifb" => false,
        "bridge" => links.all.iter().any(|port| port.master == Some(index)),
        _ => true,
    }
}

/// Of a client that answers have a way to: whether its own packets get in. `None` where no filter stands in their way.
pub fn judge<'r>(reverse: &'r Reverse, fact: &Fact, links: Option<&Links>) -> Option<(Verdict, String, Vec<&'r Filtered>)> {
    let likely: Vec<&Filtered> = reverse.filtered.iter().filter(|one| one.likely(reverse.longest)).collect();
    let first = likely.first()?;
    let filtered = |index: u32| reverse.filtered.iter().any(|one| one.index == index);
    let passing = fact.ways.iter().find(|way| !filtered(way.device) && receives(links, way.device));
    let by: Vec<&str> = likely.iter().map(|one| one.device.as_str()).collect();
    let by = by.join(" and ");
    Some(match passing {
        None => (
            Verdict::Refuse,
            format!("rp_filter drops its packets, which come in by {by}: answers leave by another interface"),
            likely,
        ),
        Some(way) => {
            let other =
                links.and_then(|links| links.get(way.device)).map_or_else(|| way.device.to_string(), |link| link.name.clone());
            let detail = format!(
                "rp_filter {} drops its packets if they come in by {by}; answers leave by {other}, and by that they get in",
                first.value
            );
            (Verdict::Unknown, detail, likely)
        }
    })
}

/// The filter and the route back, quoted.
pub fn evidence(filtered: &[&Filtered], fact: &Fact) -> Vec<Evidence> {
    let mut evidence: Vec<Evidence> = filtered.iter().map(|one| Evidence::new(one.file(), one.text())).collect();
    if let crate::subsystem::route::Answer::Goes(route) = &fact.answer {
        evidence.push(Evidence::new("ip route get", route.clone()));
    }
    evidence
}

/// What to do about it. Blocking only where the packets can come in by no other interface.
pub fn block(connection: &Connection, reverse: &Reverse, fact: &Fact, links: Option<&Links>) -> Option<Block> {
    let (verdict, _, filtered) = judge(reverse, fact, links)?;
    let first = filtered.first()?;
    let blocking = verdict == Verdict::Refuse;
    // Where nothing can come in by the way back, that is what is wrong.
    let fix = if blocking { first.route_back(connection) } else { first.fix() };
    let finding = Finding {
        cause: Cause::RouteBlackhole,
        blocking,
        stage: Stage::Route,
        owner: Owner::Nobody,
        since: None,
        until: None,
        evidence: evidence(&filtered, fact),
        fix: fix.as_str().into(),
    };
    let lift = if blocking { Lift::ByHand(fix) } else { Lift::Steps(Vec::new()) };
    Some(Block { finding, lift, managed: Vec::new(), alternatives: Vec::new() })
}

/// One line for each interface that drops the client's packets.
pub fn trace(reverse: &Reverse) -> Vec<TraceLine> {
    let line = |one: &Filtered| {
        let likely = one.likely(reverse.longest);
        let effect = format!("drops its packets if they come in by {}", one.device);
        let mut line = TraceLine::new(one.file(), one.value.to_string(), effect);
        let depends = if likely {
            format!("whether they come in by {}, as the route back over it would have it", one.device)
        } else {
            format!("whether they come in by {}, which no route suggests", one.device)
        };
        line.depends = vec![depends.into()];
        line
    };
    reverse.filtered.iter().map(line).collect()
}
