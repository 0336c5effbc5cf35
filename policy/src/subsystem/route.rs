//! route: whether the host's answer finds its way back to the client, by what the kernel says to a route lookup, and the routes
//! that refuse it (blackhole, unreachable, prohibit, throw). Knows nothing of packet filters; must not guess a gateway.

mod policy_rule;

use std::cmp;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::rp_filter::{self, Reverse};
use crate::address::{Source, canonical};
use crate::host::{HostState, Need, Needs, Part};
use crate::link::Links;
use crate::ranges::{self, Classes, Span};
use crate::step::{Mismatch, Reach, Step as AnyStep};
use crate::trace::TraceLine;
use crate::verdict::{Alternative, Block, Cause, Connection, Evidence, Finding, Lift, Stage, StageReport, Verdict};

pub use policy_rule::{Does, PolicyRule};

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
    /// All routes of IPv4 (`false`) and IPv6 (`true`), where they were asked for; the text says why they could not be listed.
    #[serde(default)]
    pub tables: BTreeMap<bool, Result<Arc<Tables>, String>>,
    /// The policy rules of IPv4 (`false`) and IPv6 (`true`), in their order; the text says why they could not be listed.
    #[serde(default)]
    pub rules: BTreeMap<bool, Result<Vec<PolicyRule>, String>>,
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
    let report = |verdict, detail, evidence| StageReport { stage: Stage::Route, verdict, detail, evidence, trace: Vec::new() };
    match &host.route {
        Part::Absent(why) => report(Verdict::Accept, why.clone(), Vec::new()),
        Part::Unreadable(why) => report(Verdict::Unknown, why.clone(), Vec::new()),
        Part::Present(state) => match fact(state, connection.source, needs) {
            None => report(Verdict::Unknown, "the route to it was not read".to_owned(), Vec::new()),
            Some(fact) => {
                let (verdict, detail, evidence) = fact.verdict(connection.source);
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

/// The kernel's answer to the lookup, and the routes that were looked at for it, in the order the kernel prefers them.
pub fn trace(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<TraceLine> {
    let Part::Present(state) = &host.route else { return Vec::new() };
    let source = connection.source;
    let Some(fact) = fact(state, source, needs) else { return Vec::new() };
    let asked = format!("{} get {}", program(source), source.first());
    let refusing = fact.decider(source);
    let mut lines = vec![match &fact.answer {
        Answer::Goes(route) => TraceLine::new(asked, route.clone(), "answers leave this way"),
        Answer::Refused(kind) => TraceLine::new(asked, kind.to_string(), format!("answers are not sent: {}", why(*kind))),
        Answer::NoRoute => TraceLine::new(asked, "no route", "answers are not sent"),
        Answer::Unknown(why) => TraceLine::new(asked, why.clone(), "unknown"),
    }];
    lines.extend(rules_met(state, source, fact, refusing.is_some(), needs));
    let mut routes: Vec<&Route> = fact.routes.iter().collect();
    routes.sort_by_key(|route| {
        let table = TABLES.iter().position(|table| *table == route.table).unwrap_or(TABLES.len());
        (table, cmp::Reverse(route.destination.net().prefix_len()), route.metric)
    });
    let (shown, rest) = routes.split_at(routes.len().min(MOST_TRACED));
    for route in shown {
        let decides = refusing == Some(*route);
        let effect = match (decides, route.kind) {
            (true, kind) => format!("takes it: {}", why(kind)),
            (false, Kind::Delivers) => "delivers, if no other route comes first".to_owned(),
            (false, kind) => format!("is a {kind} route, and another one comes first"),
        };
        let Evidence { source, text } = evidence(route);
        let mut line = TraceLine::new(source, text, effect);
        line.decides = decides;
        lines.push(line);
    }
    if !rest.is_empty() {
        lines.push(TraceLine::new(program(source), format!("{} more routes share addresses with it", rest.len()), "not shown"));
    }
    if let Some(Ok(reverse)) = state.reverse.get(&source) {
        lines.extend(rp_filter::trace(reverse));
    }
    if lines.iter().all(|line| !line.decides)
        && let Some(first) = lines.first_mut()
    {
        first.decides = true;
    }
    lines
}

/// The policy rules that the answer may meet. One that refuses decides where no route does.
fn rules_met(state: &State, source: Source, fact: &Fact, by_a_route: bool, needs: &mut Needs) -> Vec<TraceLine> {
    let program = if source.is_ipv4() { "ip rule" } else { "ip -6 rule" };
    let rules = match state.rules.get(&!source.is_ipv4()) {
        None => {
            needs.insert(Need::PolicyRules(!source.is_ipv4()));
            return Vec::new();
        }
        Some(Err(why)) => return vec![TraceLine::new(program, why.clone(), "unknown")],
        Some(Ok(rules)) => rules,
    };
    let own = state.links.iter().flat_map(|links| links.addresses()).map(|(_, net)| canonical(net.addr())).collect();
    let mut decided = by_a_route;
    let met = rules.iter().filter_map(|rule| Some((rule, rule.concerns(source, &own)?)));
    met.take(MOST_TRACED)
        .map(|(rule, depends)| {
            let mut line = TraceLine::new(program, rule.to_string(), rule.effect());
            if let (Does::Refuse(kind), Answer::Refused(answer)) = (&rule.does, &fact.answer) {
                line.decides = !decided && kind == answer;
                decided |= line.decides;
            }
            line.depends = depends;
            line
        })
        .collect()
}

/// The routes that refuse the source, each with its removal where it is about nobody else.
pub fn blocks(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Block> {
    let Part::Present(state) = &host.route else { return Vec::new() };
    let source = connection.source;
    let Some(fact) = fact(state, source, needs) else { return Vec::new() };
    let refused = matches!(fact.answer, Answer::Refused(_) | Answer::NoRoute);
    if source.single().is_some() && !refused {
        let reverse = state.reverse.get(&source).and_then(|reverse| reverse.as_ref().ok());
        let block = reverse.and_then(|reverse| rp_filter::block(connection, reverse, fact, state.links.as_deref()));
        return block.into_iter().collect();
    }
    let decider = fact.decider(source);
    let mut removed: Vec<&Route> = fact.within(source).collect();
    removed.extend(decider.filter(|route| source.contains(route.destination) && !removed.contains(route)));
    let rest: Vec<Route> = fact.routes.iter().filter(|route| !removed.contains(route)).cloned().collect();
    let mut blocks: Vec<Block> = removed.iter().map(|route| block(source, route, &rest)).collect();
    let first = Source::from(source.first());
    match best(&rest, first) {
        // The next one in line: taking away what is before it would not help.
        Some(route) if refused && route.refuses() => blocks.push(block(source, route, &rest)),
        _ => match decider {
            Some(route) if !removed.contains(&route) => blocks.push(block(source, route, &rest)),
            None if refused && blocks.is_empty() => blocks.push(without_route(fact, source)),
            _ => {}
        },
    }
    blocks
}

fn block(source: Source, route: &Route, rest: &[Route]) -> Block {
    let (fix, lift) = if source.contains(route.destination) {
        let step = AnyStep::Route(Step { before: Some(route.clone()), after: None });
        (format!("sshfix ctl unban {}", source.short()), Lift::Steps(vec![step]))
    } else {
        let others: Vec<Route> = rest.iter().filter(|one| !one.refuses()).cloned().collect();
        let next = best(&others, Source::from(source.first()))
            .map_or_else(String::new, |next| format!("; without the route, `{next}` would apply"));
        let advice = format!(
            "the route `{route}` refuses more than {source}; delete it (`{program} del {kind} {destination}`), or add a route for {source} \
             alone over the right gateway (`{program} add {source} via GATEWAY`){next}",
            program = program(source),
            source = source.short(),
            kind = route.kind,
            destination = route.destination.short(),
        );
        (advice.clone(), Lift::ByHand(advice))
    };
    let wider = !source.contains(route.destination) && route.refuses();
    let whole = || {
        let step = AnyStep::Route(Step { before: Some(route.clone()), after: None });
        Alternative::range(source, vec![step], vec![route.destination])
    };
    let alternatives = wider.then(whole).into_iter().collect();
    Block { finding: finding(vec![evidence(route)], fix), lift, managed: Vec::new(), alternatives }
}

/// Refused, and no route to delete.
fn without_route(fact: &Fact, source: Source) -> Block {
    let (text, advice) = match &fact.answer {
        Answer::NoRoute => (
            "no route".to_owned(),
            format!(
                "this host has no route to {source}: add one (`{program} add ...`)",
                source = source.short(),
                program = program(source)
            ),
        ),
        Answer::Refused(kind) => (
            format!("{kind} {}", source.short()),
            format!("no route refuses {}, so a policy rule does: see `ip rule` and delete it there", source.short()),
        ),
        Answer::Goes(route) | Answer::Unknown(route) => (route.clone(), String::new()),
    };
    let finding = finding(vec![Evidence::new(format!("{} get {}", program(source), source.short()), text)], advice.clone());
    Block { finding, lift: Lift::ByHand(advice), managed: Vec::new(), alternatives: Vec::new() }
}

fn finding(evidence: Vec<Evidence>, fix: String) -> Finding {
    Finding { cause: Cause::RouteBlackhole, blocking: true, owner: "nobody".to_owned(), since: None, until: None, evidence, fix }
}

/// A route that is deleted, or made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// As it is.
    pub before: Option<Route>,
    /// As it will be.
    pub after: Option<Route>,
}

impl Step {
    /// See [`AnyStep::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { before: self.after.clone(), after: self.before.clone() }
    }

    fn routes(&self) -> impl Iterator<Item = &Route> {
        self.before.iter().chain(&self.after)
    }

    /// See [`AnyStep::summary`].
    pub fn summary(&self) -> String {
        let said = |verb: &str, route: &Route| format!("{verb} the route `{route}`");
        match (&self.before, &self.after) {
            (_, Some(after)) => said("add", after),
            (Some(before), None) => said("delete", before),
            (None, None) => "change no route".to_owned(),
        }
    }

    /// See [`AnyStep::diff`].
    pub fn diff(&self) -> String {
        let program = self.routes().next().map_or("ip route", |route| program(route.destination));
        let line =
            |mark: char, route: &Option<Route>| route.as_ref().map_or_else(String::new, |route| format!("{mark} {route}\n"));
        format!("{program}\n{}{}", line('-', &self.before), line('+', &self.after))
    }

    /// See [`AnyStep::undo`].
    pub fn undo(&self) -> String {
        self.inverse().summary()
    }

    /// See [`AnyStep::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        Some(self.routes().map(|route| route.destination).collect())
    }

    /// See [`AnyStep::reach`].
    pub fn reach(&self) -> Reach {
        let takes_away_a_way = self.before.as_ref().is_some_and(|route| !route.refuses());
        let refuses = self.after.as_ref().is_some_and(Route::refuses);
        if takes_away_a_way || refuses { Reach::Anybody } else { Reach::Nobody }
    }

    /// See [`AnyStep::needs`].
    pub fn needs(&self) -> Needs {
        self.routes().map(|route| Need::Route(route.destination)).collect()
    }

    /// See [`AnyStep::predict`]. What takes the place of a deleted route is told by the routes that were read with it.
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        let state = match &mut state.route {
            Part::Present(state) => state,
            Part::Absent(why) | Part::Unreadable(why) => return Err(Mismatch(format!("routes: {why}"))),
        };
        for (source, fact) in &mut state.facts {
            let count = fact.routes.len();
            if let Some(before) = &self.before {
                fact.routes.retain(|route| !route.same(before));
            }
            if let Some(after) = &self.after
                && after.destination.overlaps(*source)
                && !fact.routes.iter().any(|route| route.same(after))
            {
                fact.routes.push(after.clone());
            }
            let changed = fact.routes.len() != count;
            let goes = matches!(fact.answer, Answer::Goes(_));
            if !changed || (goes && self.after.is_none()) {
                continue;
            }
            fact.answer = match best(&fact.routes, Source::from(source.first())) {
                _ if fact.routes.iter().any(|route| !TABLES.contains(&route.table)) => {
                    Answer::Unknown("policy rules choose among several routing tables".to_owned())
                }
                Some(route) if route.refuses() => Answer::Refused(route.kind),
                // The routes that deliver are not read where one does.
                _ if goes => continue,
                Some(route) => Answer::Goes(route.to_string()),
                None => Answer::NoRoute,
            };
        }
        Ok(())
    }

    /// See [`AnyStep::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        let state = match &state.route {
            Part::Present(state) => state,
            Part::Absent(why) | Part::Unreadable(why) => return Err(Mismatch(format!("routes: {why}"))),
        };
        let there = |route: &Route| match state.facts.get(&route.destination) {
            None => Err(Mismatch(format!("the routes to {} were not read", route.destination.short()))),
            Some(Fact { answer: Answer::Unknown(why), .. }) => Err(Mismatch(why.clone())),
            Some(fact) => Ok(fact.routes.iter().any(|one| one.same(route))),
        };
        match (&self.before, &self.after) {
            (_, Some(after)) if !there(after)? => Err(Mismatch(format!("there is no route `{after}`"))),
            (Some(before), None) if there(before)? => Err(Mismatch(format!("the route `{before}` is still there"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
