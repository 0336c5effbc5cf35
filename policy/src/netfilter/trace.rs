//! The trace of the netfilter stage: what the SYN, its answer and the ACK met at each hook, in the kernel's order, each rule as its
//! own tool prints it, with what it did, its counter and its owner. Evaluates nothing: it draws what the walk noted.

use super::deciding;
use super::list::{owner_of_legacy, owner_of_rule};
use super::outcome::{Culprit, Pass};
use super::reference::Reference;
use super::walk::{Hook, Met, Walk, What, traced};
use super::{conntrack, ipset, recent};
use crate::host::{HostState, Needs};
use crate::packet::{Doubt, On, Packet, Tracking, Tri};
use crate::subsystem::nf_tables::evaluate::{Frame, Hit, MOST_HITS};
use crate::subsystem::nf_tables::expression::Expression;
use crate::subsystem::nf_tables::owner;
use crate::subsystem::nf_tables::{Chain, End, Rule, State, render};
use crate::subsystem::xtables::evaluate as legacy;
use crate::subsystem::xtables::extension::targets::{TargetEffect, effect};
use crate::subsystem::xtables::{self, Action};
use crate::text::quoted::Text;
use crate::verdict::owner::Owner;
use crate::verdict::trace::{Counter, Handshake, Point, RulePlace, TraceLine};
use crate::verdict::{Connection, Evidence};

/// Lines of a whole trace; what comes later is only counted.
const MOST_LINES: usize = 2000;

/// What this connection meets in the packet filters. Only what matched or may have, jumps and chain ends are listed.
pub fn trace(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<TraceLine> {
    let walked = traced(host, connection, needs);
    let mut drawing = Drawing { host, connection, walked: &walked, lines: Vec::new(), left_out: 0 };
    for met in &walked.met {
        let (hook, priority) = (met.hook.name().to_owned(), met.priority);
        let at = Point { packet: met.pass.into(), hook, priority, arrival: met.arrival.clone() };
        match &met.what {
            What::NfTables(hits, perhaps) => drawing.nf_tables(met, &at, hits, perhaps.as_deref(), needs),
            What::Legacy(hits) => drawing.legacy(met, &at, hits),
            What::Conntrack(found) => drawing.conntrack(&at, *found),
        }
    }
    let Drawing { mut lines, left_out, .. } = drawing;
    if left_out > 0 {
        let text = format!("{left_out} more lines are left out");
        lines.push(TraceLine::new("sshfix", text, "not shown"));
    }
    lines
}

/// The rules on the way that count packets, bytes or connections, each with what it says that the verdict depends on.
pub fn limits(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<(Doubt, Evidence)> {
    let mut limits = Vec::new();
    for met in traced(host, connection, needs).met {
        match met.what {
            What::NfTables(hits, _) => {
                let Some(state) = host.nf_tables.present() else { continue };
                for hit in hits {
                    let Some(chain) = state.chains.get(hit.frame.chain) else { continue };
                    let Some(rule) = hit.frame.rule.and_then(|index| chain.rules.get(index)) else { continue };
                    let line = nft_rule(host, state, chain, rule);
                    let rated = hit.doubts.into_iter().filter(|doubt| doubt.on == On::Rate);
                    limits.extend(rated.map(|doubt| (doubt, Evidence::new(line.source.as_str(), line.text.clone()))));
                }
            }
            What::Legacy(hits) => {
                let Some(state) = host.xtables.present() else { continue };
                for hit in hits {
                    let Some(doubt) = hit.depends.filter(|doubt| doubt.on == On::Rate) else {
                        continue;
                    };
                    limits.extend(
                        super::legacy_evidence(host, state, &hit.place).into_iter().map(|quoted| (doubt.clone(), quoted)),
                    );
                }
            }
            What::Conntrack(_) => {}
        }
    }
    limits
}

impl From<Pass> for Handshake {
    fn from(pass: Pass) -> Self {
        match pass {
            Pass::Syn => Handshake::Syn,
            Pass::Answer => Handshake::Answer,
            Pass::Ack => Handshake::Ack,
            Pass::Discovery(message) if message.kind() == 135 => Handshake::Solicitation,
            Pass::Discovery(_) => Handshake::Advertisement,
        }
    }
}

struct Drawing<'a> {
    host: &'a HostState,
    connection: &'a Connection,
    walked: &'a Walk,
    lines: Vec<TraceLine>,
    left_out: usize,
}

impl Drawing<'_> {
    fn push(&mut self, line: TraceLine) {
        if self.lines.len() < MOST_LINES || line.decides {
            self.lines.push(line);
        } else {
            self.left_out += 1;
        }
    }

    /// A base chain that held more than is kept says so.
    fn cut(&mut self, at: &Point, hits: usize, most: usize) {
        if hits == most {
            let mut line = TraceLine::new("sshfix", format!("more than {most} rules matched here"), "not shown");
            line.at = Some(at.clone());
            self.push(line);
        }
    }

    fn conntrack(&mut self, at: &Point, found: Tracking) {
        if conntrack::in_use(self.host, !self.connection.source.is_ipv4()) {
            let mut line = TraceLine::new("conntrack", format!("ct state {}", states(found)), "goes on");
            line.at = Some(at.clone());
            self.push(line);
        }
    }

    fn nf_tables(&mut self, met: &Met, at: &Point, hits: &[Hit], perhaps: Option<&str>, needs: &mut Needs) {
        let Some(state) = self.host.nf_tables.present() else { return };
        for hit in hits {
            let Some(chain) = state.chains.get(hit.frame.chain) else { continue };
            let rule = hit.frame.rule.and_then(|index| chain.rules.get(index));
            let mut line = match rule {
                Some(rule) => {
                    needs.extend(render::needs(state, chain, rule));
                    nft_rule(self.host, state, chain, rule)
                }
                None => nft_end(state, chain, hit.depth),
            };
            line.at = Some(at.clone());
            line.depth = hit.depth;
            line.effect = hit.ends.iter().map(|end| effect_of(end, met.pass)).collect::<Vec<_>>().join(" or ").into();
            line.depends = hit.doubts.iter().map(|doubt| doubt.to_string().into()).collect();
            if hit.depth == 0 {
                line.depends.extend(perhaps.map(Text::from));
            }
            line.depends.dedup();
            line.elements = elements(state, &hit.frame);
            let asked = deciding::in_frame(self.host, &hit.frame, !self.connection.source.is_ipv4());
            let held = ipset::held(self.host, self.connection, met.pass, &asked);
            line.elements.extend(held.iter().map(ipset::Held::evidence));
            let listed = recent::listed(self.host, self.connection, met.pass, &asked);
            line.elements.extend(listed.iter().map(recent::Listed::evidence));
            if rule.is_some() {
                let sets = hit.frame.found.iter().map(|found| found.set.set.as_str());
                line.owner = Some(nft_owner(state, chain, rule, sets.chain(held.iter().map(ipset::Held::owner_name))));
            }
            line.decides = self.walked.refusals.iter().any(|refusal| {
                refusal.pass == met.pass
                    && matches!(&refusal.culprit, Culprit::NfTables(event)
                        if event.frames.len() == hit.depth + 1 && event.frames.last() == Some(&hit.frame))
            });
            self.push(line);
        }
        self.cut(at, hits.len(), MOST_HITS);
    }

    fn legacy(&mut self, met: &Met, at: &Point, hits: &[legacy::Hit]) {
        let Some(state) = self.host.xtables.present() else { return };
        for hit in hits {
            let place = &hit.place;
            let Some(chain) = state.table(place.v6, &place.table).and_then(|table| table.chain(&place.chain)) else { continue };
            let rule = place.position.checked_sub(1).and_then(|index| chain.rules.get(index));
            let mut line = match rule {
                Some(rule) => {
                    let text = rule.line(&chain.name, place.v6, &self.host.set_names());
                    let mut line = TraceLine::new(place.to_string(), text, action(&rule.action, place.v6));
                    line.counter = Some(counter(rule.counters));
                    line
                }
                None => legacy_end(place, chain, hit.depth),
            };
            line.at = Some(at.clone());
            line.depth = hit.depth;
            line.depends.extend(hit.depends.as_ref().map(|doubt| Text::from(doubt.to_string())));
            line.place = Some(RulePlace {
                tool: xtables::program(place.v6).to_owned(),
                family: xtables::family(place.v6).to_owned(),
                table: place.table.clone(),
                chain: place.chain.clone(),
                handle: None,
                position: rule.is_some().then_some(place.position),
                reference: rule.is_some().then(|| Reference::Legacy(place.clone()).to_string()),
            });
            if let Some(rule) = rule {
                let asked = deciding::in_place(self.host, place);
                let held = ipset::held(self.host, self.connection, met.pass, &asked);
                line.elements.extend(held.iter().map(ipset::Held::evidence));
                let listed = recent::listed(self.host, self.connection, met.pass, &asked);
                line.elements.extend(listed.iter().map(recent::Listed::evidence));
                let mut owners = held.iter().map(|held| owner::of("", "", Some(held.owner_name()), std::iter::empty()));
                let owner = owners.find(|owner| *owner != Owner::Nobody).unwrap_or_else(|| owner_of_legacy(place, rule));
                line.owner = Some(owner);
            }
            line.decides = self.walked.refusals.iter().any(|refusal| {
                refusal.pass == met.pass && matches!(&refusal.culprit, Culprit::Legacy(outcome) if outcome.place == *place)
            });
            self.push(line);
        }
        self.cut(at, hits.len(), legacy::MOST_HITS);
    }
}

fn counter((packets, bytes): (u64, u64)) -> Counter {
    Counter { packets, bytes }
}

fn nft_place(chain: &Chain, handle: Option<u64>) -> RulePlace {
    let reference = handle.map(|handle| {
        let (family, table, chain) = (chain.family, chain.table.clone(), chain.name.clone());
        Reference::Rule { family, table, chain, handle }.to_string()
    });
    RulePlace {
        tool: "nft".to_owned(),
        family: chain.family.to_string(),
        table: chain.table.clone(),
        chain: chain.name.clone(),
        handle,
        position: None,
        reference,
    }
}

fn nft_rule(host: &HostState, state: &State, chain: &Chain, rule: &Rule) -> TraceLine {
    let source = format!("nft {} {} {} handle {}", chain.family, chain.table, chain.name, rule.handle);
    let mut line = TraceLine::new(source, render::rule(state, chain, rule, &host.set_names()), "");
    line.place = Some(nft_place(chain, Some(rule.handle)));
    line.counter = rule.expressions.iter().find_map(|expression| match expression {
        Expression::Counter { packets, bytes } => Some(counter((*packets, *bytes))),
        _ => None,
    });
    line
}

/// A base chain ends in its policy, another one goes back to where it was called.
fn nft_end(state: &State, chain: &Chain, depth: usize) -> TraceLine {
    let place = format!("nft {} {} {}", chain.family, chain.table, chain.name);
    let mut line = match &chain.base {
        Some(base) if depth == 0 && render::compat(state, chain) => {
            let policy = if base.policy_accept { "ACCEPT" } else { "DROP" };
            TraceLine::new(format!("{place} policy"), format!("-P {} {policy}", chain.name), "")
        }
        Some(_) if depth == 0 => TraceLine::new(format!("{place} policy"), render::policy(chain), ""),
        Some(_) | None => TraceLine::new(format!("{place} end"), format!("end of chain {}", chain.name), ""),
    };
    line.place = Some(nft_place(chain, None));
    line
}

fn legacy_end(place: &xtables::Place, chain: &xtables::Chain, depth: usize) -> TraceLine {
    let program = xtables::program(place.v6);
    let from = format!("{program} {} {}", place.table, place.chain);
    if depth > 0 {
        return TraceLine::new(format!("{from} end"), format!("end of chain {}", chain.name), "return");
    }
    let (policy, effect) = if chain.policy_accept { ("ACCEPT", "accept") } else { ("DROP", "dropped by the policy") };
    let mut line = TraceLine::new(format!("{from} policy"), format!("-P {} {policy}", chain.name), effect);
    line.counter = Some(counter(chain.counters));
    line
}

/// The elements that lookups found, as `nft list set` prints them; the lists of the rule itself stand in its text.
fn elements(state: &State, frame: &Frame) -> Vec<Evidence> {
    let named = frame.found.iter().filter(|found| !found.set.set.starts_with("__"));
    named
        .map(|found| Evidence::new(format!("nft set {}", found.set), render::whole_element(state, &found.set, &found.element)))
        .collect()
}

/// Whose element it is, else whose rule.
fn nft_owner<'a>(
    state: &State,
    chain: &Chain,
    rule: Option<&std::sync::Arc<Rule>>,
    sets: impl Iterator<Item = &'a str>,
) -> Owner {
    let mut of_sets = sets.map(|set| owner::of(&chain.table, &chain.name, Some(set), std::iter::empty()));
    let found = of_sets.find(|owner| *owner != Owner::Nobody);
    found.unwrap_or_else(|| rule.map_or(Owner::Nobody, |rule| owner_of_rule(state, chain, rule)))
}

fn effect_of(end: &End, pass: Pass) -> String {
    match end {
        End::Next => "goes on".to_owned(),
        End::Accept(None) => "accept".to_owned(),
        End::Accept(Some(packet)) => format!("accept{}", destination(packet, pass)),
        End::Refuse(how) => how.clone(),
        End::Jump(chain) => format!("jump {chain}"),
        End::Goto(chain) => format!("goto {chain}"),
        End::Return => "return".to_owned(),
        End::Anything(what) => format!("anything: {what} decides"),
    }
}

/// Where a translated SYN goes: `, to port 2222`.
fn destination(packet: &Packet, pass: Pass) -> String {
    if pass != Pass::Syn || packet.dnat != Tri::Yes {
        return String::new();
    }
    let address = packet.destination().exact().and_then(|bytes| {
        let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from)).ok()
    });
    let port = match packet.destination_port().exact() {
        Some(&[high, low]) => format!(" port {}", u16::from_be_bytes([high, low])),
        _ => String::new(),
    };
    format!(
        ", sent to {}{port}",
        address.map_or_else(|| "another address of this host".to_owned(), |address| address.to_string())
    )
}

fn action(action: &Action, v6: bool) -> String {
    let target = match action {
        Action::Count => return "goes on".to_owned(),
        Action::Jump(chain) => return format!("jump {chain}"),
        Action::Goto(chain) => return format!("goto {chain}"),
        Action::Target(target) => target,
    };
    match effect(v6, target) {
        TargetEffect::Accept | TargetEffect::SourceNat => "accept".to_owned(),
        TargetEffect::Drop => "dropped".to_owned(),
        TargetEffect::Reject(with) => format!("rejected with {with}"),
        TargetEffect::Return => "return".to_owned(),
        TargetEffect::Destination { .. } => "accept, sent to another destination".to_owned(),
        TargetEffect::Unknown(why) => format!("anything: {why}"),
        TargetEffect::Continue
        | TargetEffect::Mark { .. }
        | TargetEffect::MarkUnknown
        | TargetEffect::Connmark { .. }
        | TargetEffect::ConnmarkUnknown
        | TargetEffect::Tos { .. }
        | TargetEffect::HopLimit(_)
        | TargetEffect::Notrack
        | TargetEffect::Zone(_) => "goes on".to_owned(),
    }
}

/// As nft names them: `new`, `established`.
fn states(tracking: Tracking) -> String {
    let names = [
        (Tracking::INVALID, "invalid"),
        (Tracking::ESTABLISHED, "established"),
        (Tracking::RELATED, "related"),
        (Tracking::NEW, "new"),
        (Tracking::UNTRACKED, "untracked"),
    ];
    let possible: Vec<&str> = names.iter().filter(|(state, _)| tracking.0 & state.0 != 0).map(|(_, name)| *name).collect();
    possible.join(" or ")
}

impl Hook {
    /// As nft names it.
    fn name(self) -> &'static str {
        match self {
            Hook::Ingress => "ingress",
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
            Hook::Egress => "egress",
        }
    }
}

#[cfg(test)]
mod tests;
