//! What a step opens beside this host: a rule, element or route that also refuses what this host forwards to others refuses it no
//! longer. Judges steps; plans none.

use crate::host::HostState;
use crate::host::step::Step;
use crate::subsystem::fail2ban;
use crate::subsystem::nf_tables::expression::{Expression, Verdict};
use crate::subsystem::nf_tables::forwarded::{Forwarded, forwarded};
use crate::subsystem::nf_tables::{self, Chain, Rule, SetKey, State};
use crate::subsystem::xtables::extension::decode::decode;
use crate::subsystem::xtables::extension::matches::Match;
use crate::subsystem::xtables::extension::targets::{StandardVerdict, Target};
use crate::subsystem::xtables::{self, Action};

/// The first step that opens hosts behind this one, too, in words; `None` where every step is about this host alone.
pub fn opens_others(host: &HostState, steps: &[Step]) -> Option<String> {
    steps.iter().find_map(|step| of_step(host, step))
}

fn of_step(host: &HostState, step: &Step) -> Option<String> {
    let said = |place: String| format!("`{}`: {place} refuses what this host forwards to hosts behind it, too", step.summary());
    match step {
        Step::NfTables(one) => of_nf_tables(host, one).map(said),
        Step::Xtables(one) => of_xtables(host, one).map(said),
        Step::Ipset(one) if one.before && !one.after => asked(host, &|rule| asks_set(host, rule, &one.query.set)).map(said),
        Step::Recent(one) if one.before.is_some() && one.after.is_none() => {
            asked(host, &|rule| rule.any(&|is| is.recent().is_some_and(|asked| asked.name == one.list))).map(said)
        }
        Step::Route(one) => {
            let route = one.before.as_ref().filter(|_| one.after.is_none())?;
            forwards(host, !route.destination.is_ipv4()).then(|| said(format!("the route `{route}`")))
        }
        Step::Fail2ban(fail2ban::Step::Ticket { before: Some(_), after: None, leftovers, through, .. }) => {
            opens_others(host, leftovers).or_else(|| through.iter().find_map(|one| of_step(host, &one.step)))
        }
        Step::Ipset(_) | Step::Recent(_) | Step::Fail2ban(_) | Step::HostsAccess(_) | Step::Sshd(_) | Step::Repair(_) => None,
    }
}

/// Whether this host may forward packets of a family. What was not read may be so.
fn forwards(host: &HostState, v6: bool) -> bool {
    host.route.present().and_then(|state| state.forwards.get(&v6)).is_none_or(|forwards| *forwards)
}

/// A chain that packets for others come to, of a family that this host forwards; a bridge forwards by itself.
fn is_forwarded(host: &HostState, state: &State, chain: &Chain) -> bool {
    use nf_tables::Family;
    let routes = match chain.family {
        Family::Ip => forwards(host, false),
        Family::Ip6 => forwards(host, true),
        Family::Inet | Family::Netdev => forwards(host, false) || forwards(host, true),
        Family::Bridge => true,
        Family::Arp => false,
    };
    routes && forwarded(state, chain) != Forwarded::No
}

fn place(chain: &Chain) -> String {
    format!("nft chain {} {} {}", chain.family, chain.table, chain.name)
}

fn of_nf_tables(host: &HostState, step: &nf_tables::Step) -> Option<String> {
    let state = host.nf_tables.present()?;
    match step {
        nf_tables::Step::Rule { family, table, chain, before: Some(before), after: None, .. } => {
            let chain = state.chains.iter().find(|one| (one.family, &one.table, &one.name) == (*family, table, chain))?;
            let accepts = matches!(before.expressions.last(), Some(Expression::Verdict(Verdict::Accept)));
            (!accepts && is_forwarded(host, state, chain)).then(|| place(chain))
        }
        nf_tables::Step::Element { set, before: Some(_), after: None, .. } | nf_tables::Step::Split { set, .. } => {
            let uses = |chain: &&std::sync::Arc<Chain>| chain.rules.iter().any(|rule| looks_up(chain, rule, set));
            state.chains.iter().filter(uses).find(|chain| is_forwarded(host, state, chain)).map(|chain| place(chain))
        }
        nf_tables::Step::Rule { .. } | nf_tables::Step::Element { .. } => None,
    }
}

fn looks_up(chain: &Chain, rule: &Rule, wanted: &SetKey) -> bool {
    let named = |expression: &Expression| matches!(expression, Expression::Lookup { set, .. } if *set == wanted.set);
    (chain.family, &chain.table) == (wanted.family, &wanted.table) && rule.expressions.iter().any(named)
}

fn of_xtables(host: &HostState, step: &xtables::Step) -> Option<String> {
    let (Some(before), None) = (&step.before, &step.after) else { return None };
    let accepts = matches!(before.action, Action::Target(Target::Verdict(StandardVerdict::Accept)));
    let table = host.xtables.present()?.table(step.place.v6, &step.place.table)?;
    let seen = !accepts && forwards(host, step.place.v6) && table.forwarded(&step.place.chain);
    seen.then(|| format!("{} chain {} of table {}", xtables::program(step.place.v6), step.place.chain, step.place.table))
}

/// A rule of either kind, by what it asks.
enum Asking<'h> {
    NfTables(&'h Rule, bool),
    Legacy(&'h xtables::Rule),
}

impl Asking<'_> {
    fn any(&self, holds: &dyn Fn(&Match) -> bool) -> bool {
        match self {
            Asking::NfTables(rule, v6) => rule.expressions.iter().any(|one| match one {
                Expression::Match { name, revision, info } => holds(&decode(*v6, name, *revision, info)),
                _ => false,
            }),
            Asking::Legacy(rule) => rule.matches.iter().any(holds),
        }
    }
}

/// Whether it asks the set with this name, or a list that holds it.
fn asks_set(host: &HostState, rule: &Asking<'_>, name: &str) -> bool {
    let names = host.set_names();
    rule.any(&|one| {
        let Match::Set { set, .. } = one else { return false };
        let held = |known: &crate::subsystem::ipset::Set| known.name == name || known.members.iter().any(|one| one.name == name);
        match host.ipset.sets.get(&set.index) {
            Some(Ok(known)) => held(known),
            // One that is not known may be it.
            Some(Err(_)) | None => names.get(&set.index).is_none_or(|known| known == name),
        }
    })
}

/// The first chain that forwarded packets come to and that has such a rule.
fn asked(host: &HostState, asks: &dyn Fn(&Asking<'_>) -> bool) -> Option<String> {
    let nft = host.nf_tables.present().and_then(|state| {
        let has = |chain: &&std::sync::Arc<Chain>| {
            let v6 = chain.family == nf_tables::Family::Ip6;
            chain.rules.iter().any(|rule| asks(&Asking::NfTables(rule, v6)))
        };
        state.chains.iter().filter(has).find(|chain| is_forwarded(host, state, chain)).map(|chain| place(chain))
    });
    nft.or_else(|| {
        let state = host.xtables.present()?;
        let families = [false, true].into_iter().filter(|v6| forwards(host, *v6));
        let tables = families.flat_map(|v6| state.tables(v6));
        tables.into_iter().find_map(|table| {
            let has = |chain: &xtables::Chain| chain.rules.iter().any(|rule| asks(&Asking::Legacy(rule)));
            let chain = table.chains.iter().find(|chain| has(chain) && table.forwarded(&chain.name))?;
            Some(format!("{} chain {} of table {}", xtables::program(table.v6), chain.name, table.name))
        })
    })
}
