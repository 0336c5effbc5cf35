//! Tells what was looked at to find the way of an answer: the lookup, the policy rules that it may meet, and the routes in the order
//! the kernel prefers them. Decides nothing.

use std::cmp;

use super::{Answer, Does, Fact, Kind, MOST_TRACED, Route, State, TABLES, evidence, fact, program, rp_filter, why};
use crate::address::{Source, canonical};
use crate::host::{HostState, Need, Needs, Part};
use crate::text::quoted::Text;
use crate::verdict::trace::TraceLine;
use crate::verdict::{Connection, Evidence};

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
            line.depends = depends.into_iter().map(Text::from).collect();
            line
        })
        .collect()
}
