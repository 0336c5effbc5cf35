//! The ways to lift a refusal that are not taken, to be shown beside the one that is: what opens more than was asked for, and what
//! would stay behind. Builds steps; takes none.

use super::attempt::{accepts, legacy_rule, refusal_owner, side};
use super::outcome::{Culprit, Pass, Refusal};
use super::{deciding, ipset};
use crate::address::Source;
use crate::host::HostState;
use crate::host::block::Alternative;
use crate::host::step::Step;
use crate::subsystem::nf_tables::lift::{delete_element, delete_rule, found_sources, rule_source};
use crate::subsystem::xtables;
use crate::verdict::Connection;

/// What else would lift this refusal than these steps. Nothing where a manager must do it.
pub fn alternatives(host: &HostState, connection: &Connection, refusal: &Refusal, taken: &[Step]) -> Vec<Alternative> {
    let managed = refusal_owner(host, connection, refusal).is_manager();
    if managed || taken.is_empty() || matches!(refusal.pass, Pass::Answer | Pass::Discovery(_)) {
        return Vec::new();
    }
    let mut all = wider(host, connection, refusal);
    let accept = accepts(host, connection, refusal).into_iter().find(|steps| !steps.is_empty());
    // Where just what was asked for is deleted, there is nothing to choose.
    if let Some(steps) = accept.filter(|steps| !all.is_empty() && steps.as_slice() != taken) {
        all.push(Alternative {
            steps,
            opens: vec![connection.source],
            why_not: "it would stay when the block is long gone, and let it past every later rule of the chain".to_owned(),
            range: false,
        });
    }
    all
}

/// Taking away the whole range that an element or a rule names, or a rule for everybody.
fn wider(host: &HostState, connection: &Connection, refusal: &Refusal) -> Vec<Alternative> {
    let source = connection.source;
    let (v6, side) = (!source.is_ipv4(), side(refusal.pass));
    let range = |step: Step, opens: Vec<Source>| Alternative::range(source, vec![step], opens);
    let mut all = Vec::new();
    match &refusal.culprit {
        Culprit::NfTables(event) => {
            let Some(state) = host.nf_tables.present() else { return all };
            for frame in event.frames.iter().rev() {
                let Some(chain) = state.chains.get(frame.chain) else { continue };
                let Some((index, rule)) = frame.rule.and_then(|index| Some((index, chain.rules.get(index)?))) else { continue };
                for found in &frame.found {
                    let sources = found_sources(state, chain, rule, &found.set, &found.element, v6, side);
                    if reach_beyond(&sources, source)
                        && let Some(step) = delete_element(state, &found.set, &found.element, Some(sources.clone()))
                    {
                        all.push(range(Step::NfTables(step), sources));
                    }
                }
                let asked = deciding::in_frame(host, frame, v6);
                all.extend(ipset::held(host, connection, refusal.pass, &asked).iter().filter_map(|held| held.range(source)));
                let named = rule_source(state, chain, rule, v6, side).into_iter().collect::<Vec<_>>();
                let delete = |touches| delete_rule(state, chain, index, touches, &host.set_names());
                if reach_beyond(&named, source)
                    && let Some(step) = delete(Some(named.clone()))
                {
                    all.push(range(Step::NfTables(step), named));
                } else if named.is_empty()
                    && frame.found.is_empty()
                    && Some(frame) == event.frames.last()
                    && let Some(step) = delete(None)
                {
                    all.push(for_everybody(Step::NfTables(step), v6));
                }
            }
        }
        Culprit::Legacy(outcome) => {
            let place = &outcome.place;
            let asked = deciding::in_place(host, place);
            all.extend(ipset::held(host, connection, refusal.pass, &asked).iter().filter_map(|held| held.range(source)));
            let (Some(state), Some(rule)) = (host.xtables.present(), legacy_rule(host, place)) else { return all };
            let named = rule.source(place.v6).into_iter().collect::<Vec<_>>();
            let delete = |touches| xtables::Step::delete(state, place, touches);
            if reach_beyond(&named, source)
                && let Some(step) = delete(Some(named.clone()))
            {
                all.push(range(Step::Xtables(step), named));
            } else if rule.entry.source.1 == 0
                && rule.matches.iter().all(|one| !matches!(one, xtables::extension::matches::Match::Set { .. }))
                && let Some(step) = delete(None)
            {
                all.push(for_everybody(Step::Xtables(step), v6));
            }
        }
        Culprit::Unread(_) | Culprit::Full(_) => {}
    }
    all
}

fn reach_beyond(sources: &[Source], asked: Source) -> bool {
    sources.iter().any(|source| source.overlaps(asked)) && !sources.iter().all(|source| asked.contains(*source))
}

/// Never done by an unban, not even with `--range`.
fn for_everybody(step: Step, v6: bool) -> Alternative {
    let everybody = if v6 { "::/0" } else { "0.0.0.0/0" };
    Alternative {
        steps: vec![step],
        opens: everybody.parse().into_iter().collect(),
        why_not: "it refuses everybody who comes so far; `sshfix ctl firewall list` and `firewall remove` take it away"
            .to_owned(),
        range: false,
    }
}
