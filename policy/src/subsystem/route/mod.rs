//! route: whether the host's answer finds its way back to the client, by what the kernel says to a route lookup, and the routes
//! that refuse it (blackhole, unreachable, prohibit, throw). Knows nothing of packet filters; must not guess a gateway.

mod block;
mod ipsec;
mod policy_rule;
pub mod rp_filter;
mod step;
mod trace;

use std::cmp;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::{HostState, Need, Needs, Part};
use crate::link::Links;
use crate::ranges::{self, Classes, Span};
use crate::subsystem::route::rp_filter::Reverse;
use crate::subsystem::{nf_tables, xtables};
use crate::verdict::{Connection, Evidence, Stage, StageReport, Verdict};

pub use block::blocks;
pub use ipsec::{IpsecDoes, IpsecPolicy};
pub use policy_rule::{Does, PolicyRule};
pub use step::Step;
pub use trace::trace;

/// The tables that every host looks in, in this order (ip-rule(8)): local, main, default. Others need a policy rule.
const TABLES: [u32; 3] = [255, MAIN, 253];
/// `RT_TABLE_MAIN`
const MAIN: u32 = 254;
/// Routes listed in a trace.
const MOST_TRACED: usize = 50;

/// What was asked of the kernel so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// By the address or range asked about.
    pub facts: BTreeMap<Source, Fact>,
    /// The host's interfaces and own addresses, once they were asked for.
    #[serde(default)]
    pub links: Option<Arc<Links>>,
    /// By the address asked about, what the interfaces' reverse path filters do to its packets; the text says why that is not known.
    #[serde(default)]
    pub reverse: BTreeMap<Source, Result<Reverse, String>>,
    /// By the number of the interface and the address asked about, the state of the kernel's neighbour entry; the text says why that is
    /// not known.
    #[serde(default)]
    pub neighbours: BTreeMap<u32, BTreeMap<IpAddr, Result<Neighbour, String>>>,
    /// All routes of IPv4 (`false`) and IPv6 (`true`), where they were asked for; the text says why they could not be listed.
    #[serde(default)]
    pub tables: BTreeMap<bool, Result<Arc<Tables>, String>>,
    /// The policy rules of IPv4 (`false`) and IPv6 (`true`), in their order; the text says why they could not be listed.
    #[serde(default)]
    pub rules: BTreeMap<bool, Result<Vec<PolicyRule>, String>>,
    /// Whether this host forwards packets of IPv4 (`false`) and IPv6 (`true`) to others, where that was read.
    #[serde(default)]
    pub forwards: BTreeMap<bool, bool>,
    /// The port that is asked about: what policy rules by port are about.
    #[serde(default)]
    pub port: Option<u16>,
    /// By the address asked about, the policy rules that may send a login's packets otherwise than the kernel answered.
    #[serde(default)]
    pub perhaps: BTreeMap<Source, Vec<Perhaps>>,
    /// The policies of `IPsec`; the text says why they could not be listed.
    #[serde(default)]
    pub ipsec: Option<Result<Vec<IpsecPolicy>, String>>,
}

/// A policy rule that asks for what a lookup cannot say of a login, and by which its packets would not arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Perhaps {
    /// As `ip rule` prints it.
    pub rule: String,
    /// What becomes of them.
    pub then: String,
    /// Whether it is about packets with a mark alone.
    pub marked: bool,
}

/// The state of a neighbour entry (`NUD_*`, `linux/neighbour.h`); 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour(pub u16);

impl Neighbour {
    /// `NUD_PERMANENT`: somebody wrote it, and nothing asks whether it is right.
    pub const PERMANENT: Neighbour = Neighbour(0x80);
    /// No entry (`NUD_NONE`).
    pub const NONE: Self = Self(0);
    /// `NUD_VALID`: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
    const VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;

    /// Whether its link address is known, so that packets to it are sent at once (`neigh_event_send`).
    pub fn known(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Whether its owner answered within half a minute or so, or somebody wrote the entry: REACHABLE, NOARP, PERMANENT.
    pub fn confirmed(self) -> bool {
        self.0 & (0x02 | 0x40 | 0x80) != 0
    }
}

/// As `ip neigh` prints it.
impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0x01 => "INCOMPLETE",
            0x02 => "REACHABLE",
            0x04 => "STALE",
            0x08 => "DELAY",
            0x10 => "PROBE",
            0x20 => "FAILED",
            0x40 => "NOARP",
            0x80 => "PERMANENT",
            _ => "no entry",
        })
    }
}

/// All routes of a family, in all tables, and what its policy rules say about destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// As the kernel listed them.
    pub routes: Vec<Route>,
    /// The destinations that `ip rule` lines are about.
    pub rules: Vec<Source>,
}

/// What routes to different destinations have in common: table, prefix length, type, metric, type of service, device.
type Alike<'a> = (u32, u8, Option<u8>, u32, u8, Option<&'a str>);

/// Adds the sets of addresses that the routes back to them tell apart: those whose longest routes are alike in every table. Routing
/// tables are read whole: what is missing is added to `needs`.
pub fn classes(host: &HostState, classes: &mut Classes, needs: &mut Needs) {
    let Part::Present(state) = &host.route else { return };
    let tables = match state.tables.get(&classes.v6()) {
        None => {
            needs.insert(Need::RouteTables(classes.v6()));
            return;
        }
        Some(Err(_)) => return classes.add_unknown(),
        Some(Ok(tables)) => tables,
    };
    let mut alike: BTreeMap<Alike<'_>, Vec<Span>> = BTreeMap::new();
    for route in &tables.routes {
        // `struct rtmsg` has the type at byte 7: a local address is another thing than a neighbour.
        let kind = route.message.get(7).copied();
        let length = route.destination.net().prefix_len();
        let key = (route.table, length, kind, route.metric, route.tos, route.device.as_deref());
        alike.entry(key).or_default().push(ranges::span(route.destination));
        if route.kind == Kind::Delivers && route.device.is_none() {
            // Several next hops: which one it is depends on the whole address (`fib_select_multipath`).
            classes.add_unknown();
        }
    }
    for spans in alike.into_values() {
        classes.add(spans);
    }
    for destination in &tables.rules {
        classes.add_source(*destination);
    }
}

/// What the kernel does with packets to one address, or to a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Of a route lookup; of a range, for its first address.
    pub answer: Answer,
    /// The routes that share addresses with it. Read only where something may refuse: empty where a single address has a way. Of a
    /// range whose first address has a way, only the routes that refuse.
    pub routes: Vec<Route>,
    /// The ways that answers from each of the host's own addresses take, to the address or the first one of the range.
    #[serde(default)]
    pub ways: Vec<Way>,
}

/// The way of an answer from one of the host's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The own address; `None` where the host has none that could be asked about.
    pub from: Option<IpAddr>,
    /// The number of the interface it leaves by.
    pub device: u32,
    /// The gateway, where there is one.
    pub via: Option<IpAddr>,
}

/// The kernel's answer to a route lookup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It goes out; the route as `ip route get` prints it.
    Goes(String),
    /// A route or a policy rule of this kind takes it: `EINVAL`, `EHOSTUNREACH`, `EACCES` (`fib_props` in
    /// `net/ipv4/fib_semantics.c`; `ip6_rt_type_to_error` in `net/ipv6/route.c`).
    Refused(Kind),
    /// No route leads there: `ENETUNREACH`.
    NoRoute,
    /// It cannot be told; the text says why.
    Unknown(String),
}

/// What a route does with a packet (`rtm_type`, rtnetlink(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Delivers it: unicast, local, broadcast and the like.
    Delivers,
    /// Drops it silently.
    Blackhole,
    /// Drops it and says "host unreachable".
    Unreachable,
    /// Drops it and says "administratively prohibited".
    Prohibit,
    /// Ends the lookup in this table.
    Throw,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Delivers => "unicast",
            Kind::Blackhole => "blackhole",
            Kind::Unreachable => "unreachable",
            Kind::Prohibit => "prohibit",
            Kind::Throw => "throw",
        })
    }
}

/// One route of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// To whom.
    pub destination: Source,
    /// What it does.
    pub kind: Kind,
    /// Its table's number.
    pub table: u32,
    /// Lower wins among routes to the same destination.
    pub metric: u32,
    /// Type of service; a packet of a login has 0 when its route is chosen.
    pub tos: u8,
    /// Who made it (`rtm_protocol`): 3 is `ip route add`.
    pub protocol: u8,
    /// The gateway of a route that delivers.
    pub via: Option<IpAddr>,
    /// The interface.
    pub device: Option<String>,
    /// Router preference (RFC 4191) of an IPv6 route.
    pub preference: Option<u8>,
    /// The netlink message it is made and deleted with (`struct rtmsg` and attributes), without what moves by itself.
    pub message: Vec<u8>,
}

impl Route {
    /// Whether it is the kernel's key of the other: a table holds one route of it.
    fn same(&self, other: &Route) -> bool {
        (self.destination, self.kind, self.table, self.metric, self.tos)
            == (other.destination, other.kind, other.table, other.metric, other.tos)
    }

    fn refuses(&self) -> bool {
        matches!(self.kind, Kind::Blackhole | Kind::Unreachable | Kind::Prohibit)
    }
}

/// As `ip route` prints it; a table other than main is named.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != Kind::Delivers {
            write!(f, "{} ", self.kind)?;
        }
        if self.destination.net().prefix_len() == 0 { f.write_str("default") } else { f.write_str(&self.destination.short()) }?;
        if self.tos != 0 {
            write!(f, " tos {:#04x}", self.tos)?;
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if self.table != MAIN {
            write!(f, " table {}", self.table)?;
        }
        // /etc/iproute2/rt_protos; `ip` leaves `boot` out.
        match self.protocol {
            3 => Ok(()),
            2 => f.write_str(" proto kernel"),
            4 => f.write_str(" proto static"),
            9 => f.write_str(" proto ra"),
            11 => f.write_str(" proto zebra"),
            12 => f.write_str(" proto bird"),
            16 => f.write_str(" proto dhcp"),
            186 => f.write_str(" proto bgp"),
            other => write!(f, " proto {other}"),
        }?;
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        match self.preference {
            None => Ok(()),
            Some(0) => f.write_str(" pref medium"),
            Some(1) => f.write_str(" pref high"),
            Some(3) => f.write_str(" pref low"),
            Some(other) => write!(f, " pref {other}"),
        }
    }
}

/// The route that takes packets to this address: in each table the longest prefix, then the lowest metric; a `throw` goes on with the
/// next table.
fn best(routes: &[Route], address: Source) -> Option<&Route> {
    let find = |table| {
        let candidates =
            routes.iter().filter(|route| route.table == table && route.tos == 0 && route.destination.contains(address));
        candidates.max_by_key(|route| (route.destination.net().prefix_len(), cmp::Reverse(route.metric)))
    };
    TABLES.into_iter().filter_map(find).find(|route| route.kind != Kind::Throw)
}

impl Fact {
    /// The route that makes the kernel refuse this address. None where it goes, or where a policy rule or the want of a route does.
    fn decider(&self, source: Source) -> Option<&Route> {
        let kind = match self.answer {
            Answer::Refused(kind) => kind,
            Answer::NoRoute => Kind::Throw,
            Answer::Goes(_) | Answer::Unknown(_) => return None,
        };
        let first = Source::from(source.first());
        best(&self.routes, first).filter(|route| route.kind == kind).or_else(|| {
            let candidates = self.routes.iter().filter(|route| route.kind == kind && route.destination.contains(first));
            candidates.max_by_key(|route| (route.destination.net().prefix_len(), cmp::Reverse(route.metric)))
        })
    }

    /// The routes within a source that refuse, where every lookup finds them.
    fn within(&self, source: Source) -> impl Iterator<Item = &Route> {
        let found = move |route: &&Route| route.refuses() && TABLES.contains(&route.table) && source.contains(route.destination);
        self.routes.iter().filter(found)
    }

    fn verdict(&self, source: Source) -> (Verdict, String, Vec<Evidence>) {
        let single = source.single().is_some();
        let partly = || {
            let evidence: Vec<_> = self.within(source).map(evidence).collect();
            (Verdict::Unknown, format!("answers to a part of {} are refused by a route", source.short()), evidence)
        };
        match &self.answer {
            Answer::Unknown(why) => (Verdict::Unknown, why.clone(), Vec::new()),
            Answer::Goes(_) if self.within(source).next().is_some() => partly(),
            Answer::Goes(route) => {
                (Verdict::Accept, "answers have a route".to_owned(), vec![Evidence::new("ip route get", route.clone())])
            }
            Answer::Refused(kind) => match self.decider(source) {
                Some(route)
                    if single
                        || route.destination.contains(source)
                            && !self.routes.iter().any(|one| one.kind == Kind::Delivers && source.contains(one.destination)) =>
                {
                    (Verdict::Refuse, format!("answers are not sent: {}", why(*kind)), vec![evidence(route)])
                }
                Some(_) => partly(),
                // EINVAL has other meanings.
                None if *kind == Kind::Blackhole || !single => (
                    Verdict::Unknown,
                    "the kernel refuses a route to it, and no such route was found (see `ip rule`)".to_owned(),
                    Vec::new(),
                ),
                None => (
                    Verdict::Refuse,
                    format!("answers are not sent: {}, by a policy rule (see `ip rule`)", why(*kind)),
                    Vec::new(),
                ),
            },
            Answer::NoRoute if single => {
                let evidence = self.decider(source).map(evidence).into_iter().collect();
                (Verdict::Refuse, "answers are not sent: this host has no route to it".to_owned(), evidence)
            }
            Answer::NoRoute => {
                (Verdict::Unknown, format!("this host has no route to a part of {} at least", source.short()), Vec::new())
            }
        }
    }
}

fn why(kind: Kind) -> &'static str {
    match kind {
        Kind::Delivers => "the route delivers elsewhere",
        Kind::Blackhole => "a blackhole route drops them",
        Kind::Unreachable => "a route declares the address unreachable",
        Kind::Prohibit => "a route prohibits it",
        Kind::Throw => "no route is left",
    }
}

/// `ip route`, or `ip -6 route`, as the source.
fn evidence(route: &Route) -> Evidence {
    Evidence::new(program(route.destination), route.to_string())
}

fn program(source: Source) -> &'static str {
    if source.is_ipv4() { "ip route" } else { "ip -6 route" }
}

/// The fact about a source; where it was not read yet, it is asked for.
fn fact<'a>(state: &'a State, source: Source, needs: &mut Needs) -> Option<&'a Fact> {
    let fact = state.facts.get(&source);
    if fact.is_none() {
        needs.insert(Need::Route(source));
    }
    fact
}

/// What routes do to the host's answers.
pub fn evaluate(host: &HostState, connection: &Connection, needs: &mut Needs) -> StageReport {
    let report = |verdict, detail: String, evidence| StageReport::new(Stage::Route, verdict, detail, evidence);
    match &host.route {
        Part::Absent(why) => report(Verdict::Accept, why.clone(), Vec::new()),
        Part::Unreadable(why) => report(Verdict::Unknown, why.clone(), Vec::new()),
        Part::Present(state) => match fact(state, connection.source, needs) {
            None => report(Verdict::Unknown, "the route to it was not read".to_owned(), Vec::new()),
            Some(fact) => {
                let (verdict, detail, evidence) = fact.verdict(connection.source);
                if verdict == Verdict::Accept
                    && let Some((verdict, detail, evidence)) = not_asked(host, state, connection, fact)
                {
                    return report(verdict, detail, evidence);
                }
                match (verdict, state.reverse.get(&connection.source)) {
                    (Verdict::Accept, Some(Err(why))) => report(
                        Verdict::Unknown,
                        format!("whether rp_filter drops its packets could not be read: {why}"),
                        evidence,
                    ),
                    (Verdict::Accept, Some(Ok(reverse))) => match rp_filter::judge(reverse, fact, state.links.as_deref()) {
                        Some((verdict, detail, filtered)) => report(verdict, detail, rp_filter::evidence(&filtered, fact)),
                        None => report(verdict, detail, evidence),
                    },
                    (verdict, _) => report(verdict, detail, evidence),
                }
            }
        },
    }
}

/// What the kernel's answer to a lookup leaves out: routes that end on this host, rules by what only a login has, neighbours that were
/// written by hand, and `IPsec`.
fn not_asked(host: &HostState, state: &State, connection: &Connection, fact: &Fact) -> Option<(Verdict, String, Vec<Evidence>)> {
    let source = connection.source;
    let links = state.links.as_ref()?;
    if source.single().is_some_and(|source| source.is_loopback() || links.own(source)) {
        return None;
    }
    let unknown = |detail: String, evidence: Evidence| Some((Verdict::Unknown, detail, vec![evidence]));
    let swallows = |way: &&Way| links.get(way.device).is_some_and(|link| link.is_loopback() || link.driver == "dummy");
    if let Some(way) = fact.ways.iter().find(swallows) {
        let name = links.get(way.device).map_or_else(String::new, |link| link.name.clone());
        let Answer::Goes(route) = &fact.answer else { return None };
        let evidence = vec![Evidence::new("ip route get", route.clone())];
        return if fact.ways.iter().all(|way| swallows(&way)) {
            Some((Verdict::Refuse, format!("answers are not sent: their route ends on this host ({name})"), evidence))
        } else {
            Some((Verdict::Unknown, format!("some answers are not sent: their route ends on this host ({name})"), evidence))
        };
    }
    let marks = || {
        host.nf_tables.present().is_some_and(nf_tables::State::sets_marks)
            || host.xtables.present().is_some_and(xtables::State::sets_marks)
    };
    let perhaps = state.perhaps.get(&source).into_iter().flatten();
    if let Some(one) = perhaps.into_iter().find(|one| !one.marked || marks()) {
        let detail = format!("{}, if a policy rule is about packets of its login", one.then);
        return unknown(detail, Evidence::new("ip rule", one.rule.clone()));
    }
    for way in fact.ways.iter().filter(|_| source.single().is_some()) {
        let (Some(link), Some(hop)) = (links.get(way.device), way.via.or(source.single())) else { continue };
        let entry = state.neighbours.get(&way.device).and_then(|entries| entries.get(&hop));
        if link.resolves && entry == Some(&Ok(Neighbour::PERMANENT)) {
            let detail = format!("answers go by {hop}, whose link address was written by hand: whether it is right is not known");
            return unknown(
                detail,
                Evidence::new(format!("ip neigh show {hop} dev {}", link.name), Neighbour::PERMANENT.to_string()),
            );
        }
    }
    match &state.ipsec {
        None => None,
        Some(Err(why)) => {
            Some((Verdict::Unknown, format!("whether IPsec policies drop its packets could not be read: {why}"), Vec::new()))
        }
        Some(Ok(policies)) => {
            let own = links.addresses().map(|(_, net)| net.addr()).collect();
            let (detail, evidence) = ipsec::drops(policies, source, &own, connection.port)?;
            unknown(detail, evidence)
        }
    }
}

#[cfg(test)]
mod tests;
