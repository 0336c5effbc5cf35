//! Names the routes that refuse a client, and the step that takes each away where it is about nobody else. Must not guess a gateway.

use super::{Answer, Fact, Route, Step, best, evidence, fact, program, rp_filter};
use crate::address::Source;
use crate::host::block::{Alternative, Block, Lift};
use crate::host::step::Step as AnyStep;
use crate::host::{HostState, Needs, Part};
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::{Connection, Evidence, Stage};

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
    Finding {
        cause: Cause::RouteBlackhole,
        blocking: true,
        stage: Stage::Route,
        owner: Owner::Nobody,
        since: None,
        until: None,
        evidence,
        fix: fix.into(),
    }
}
