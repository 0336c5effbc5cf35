//! What keeps a connection out and how each block is lifted: refusals are lifted one after the other on the model and the
//! connection is evaluated again, so that every simultaneous block is found. A lift that changes nothing is not offered.

use jiff::SignedDuration;

use super::alternative::alternatives;
use super::attempt::{self, Attempt, attempts, legacy_accept, legacy_rule, missing, nft_accept, refusal_owner, side};
use super::no_plan::NoPlan;
use super::outcome::{Culprit, Pass, Refusal};
use super::walk::{Walk, walk};
use super::{evidence, how, ipset, managed, recent, trace, what};
use crate::address::Source;
use crate::host::block::{Block, Lift};
use crate::host::step::Step;
use crate::host::{HostState, Needs, Part};
use crate::packet::{Doubt, On};
use crate::subsystem::nf_tables::forwarded::{Forwarded, forwarded};
use crate::subsystem::nf_tables::lift::{Side, rule_source};
use crate::subsystem::nf_tables::render;
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::{Connection, Evidence, Stage};

/// Blocks listed for one connection; more are found once these are lifted.
const MOST_BLOCKS: usize = 64;

/// Every rule, element and policy that keeps this connection out. What may refuse for its rate is listed too, as not blocking and
/// with nothing to do; what may refuse for other reasons is only part of the stage. `walked` is the way the connection goes now.
pub fn blocks(host: &HostState, connection: &Connection, walked: Walk, needs: &mut Needs) -> Vec<Block> {
    let mut model = filters_of(host);
    let mut blocks = Vec::new();
    let mut walked = walked;
    while blocks.len() < MOST_BLOCKS {
        let Some(refusal) = next(&model, connection, &walked) else { break };
        let attempts = attempts(&model, connection, &refusal, needs);
        let lifted = first_that_works(&model, connection, &refusal, attempts, needs);
        let cause = cause(&model, connection, &refusal);
        let Some((attempt, after, again)) = lifted else {
            let advice = match &refusal.culprit {
                Culprit::Full(fill) => fill.fix(),
                _ => format!("no single step of sshfix opens this for {}; change it by hand", connection.source.short()),
            };
            blocks.push(block(&model, connection, &refusal, cause, Lift::ByHand(advice), needs));
            break;
        };
        // Nothing to predict on: what else refuses is found once a person has done it.
        let last = attempt.steps.is_empty();
        let (lift, managed) = match attempt.by_hand {
            Some(advice) => (Lift::ByHand(advice), attempt.steps),
            None => (Lift::Steps(attempt.steps), Vec::new()),
        };
        let alternatives = match &lift {
            Lift::Steps(taken) => alternatives(&model, connection, &refusal, taken),
            Lift::ByHand(_) => Vec::new(),
        };
        let wanted = alternatives.iter().flat_map(|one| &one.steps).filter_map(|step| match (step, model.nf_tables.present()) {
            (Step::NfTables(step), Some(state)) => Some(missing(state, step)),
            (Step::Ipset(step), _) if !model.ipset.entries.contains_key(&step.query) => Some(step.needs()),
            _ => None,
        });
        needs.extend(wanted.flatten());
        blocks.push(Block { managed, alternatives, ..block(&model, connection, &refusal, cause, lift, needs) });
        (model, walked) = (after, again);
        if last {
            break;
        }
    }
    let rated: Vec<&Refusal> =
        walked.refusals.iter().filter(|refusal| refusal.doubts.iter().any(|doubt| doubt.on == On::Rate)).collect();
    let limits = if rated.is_empty() { Vec::new() } else { trace::limits(&model, connection, needs) };
    for refusal in rated {
        if let Culprit::Full(fill) = &refusal.culprit {
            let mut listed = block(&model, connection, refusal, Cause::CtEstablished, Lift::Steps(Vec::new()), needs);
            (listed.finding.blocking, listed.finding.fix) = (false, fill.fix().into());
            blocks.push(listed);
            continue;
        }
        let mut listed = block(&model, connection, refusal, Cause::IptablesRatelimit, Lift::Steps(Vec::new()), needs);
        listed.finding.blocking = false;
        for (limit, quoted) in &limits {
            if refusal.doubts.contains(limit) && !listed.finding.evidence.contains(quoted) {
                listed.finding.evidence.insert(0, quoted.clone());
            }
        }
        listed.finding.fix = format!(
            "sshfix ctl firewall accept {}   # past the limit; or wait: it depends on {}",
            connection.source.short(),
            super::doubts(refusal)
        )
        .into();
        if !blocks.iter().any(|block| block.finding.evidence == listed.finding.evidence) {
            blocks.push(listed);
        }
    }
    blocks
}

/// The accepts, and nothing else, that let a source reach the port; empty when it does already. With a mark they carry it as their
/// comment, so that they are found again.
pub fn plan_accept(
    host: &HostState,
    source: Source,
    port: u16,
    mark: Option<&str>,
    needs: &mut Needs,
) -> Result<Vec<Step>, NoPlan> {
    let connection = Connection { source, port, user: None };
    let mut model = filters_of(host);
    let mut steps = Vec::new();
    let mut walked = walk(&model, &connection, needs);
    while steps.len() < MOST_BLOCKS {
        let Some(refusal) = walked.decided().or(walked.refusals.first()).cloned() else { return Ok(steps) };
        let quoted = evidence(&model, &connection, &refusal, needs)
            .first()
            .map_or_else(String::new, |one| format!("{}: {}", one.source, one.text.as_str()));
        let attempts = match &refusal.culprit {
            _ if matches!(refusal.pass, Pass::Discovery(_)) => attempt::through_discovery(&model, &connection, mark, needs),
            Culprit::Unread(why) => return Err(NoPlan::Undecided(why.clone())),
            Culprit::Full(fill) => return Err(NoPlan::Full(fill.clone())),
            Culprit::NfTables(event) => nft_accept(&model, &connection, &refusal, event, mark),
            Culprit::Legacy(outcome) => legacy_accept(&model, &connection, &refusal, &outcome.place, mark).into_iter().collect(),
        };
        if let Some(command) = attempts.iter().find_map(|attempt| attempt.by_hand.clone()) {
            return Err(NoPlan::Owned { quoted, command });
        }
        let Some((attempt, after, again)) = first_that_works(&model, &connection, &refusal, attempts, needs) else {
            let shared = match &refusal.culprit {
                Culprit::NfTables(event) => model.nf_tables.present().is_some_and(|state| {
                    let chain = event.frames.last().and_then(|frame| state.chains.get(frame.chain));
                    chain.is_some_and(|chain| forwarded(state, chain) != Forwarded::No)
                }),
                Culprit::Legacy(_) | Culprit::Unread(_) | Culprit::Full(_) => false,
            };
            return Err(if shared { NoPlan::OpensHostsBehind { quoted } } else { NoPlan::NotOpened { quoted } });
        };
        steps.extend(attempt.steps);
        (model, walked) = (after, again);
    }
    Err(NoPlan::TooMany { most: MOST_BLOCKS, client: source })
}

/// The first attempt that lifts the refusal on the model, with the model and the walk after it.
fn first_that_works(
    model: &HostState,
    connection: &Connection,
    refusal: &Refusal,
    attempts: Vec<Attempt>,
    needs: &mut Needs,
) -> Option<(Attempt, HostState, Walk)> {
    attempts.into_iter().find_map(|attempt| {
        let mut after = model.clone();
        if !attempt.steps.iter().all(|step| step.predict(&mut after).is_ok()) {
            return None;
        }
        let again = walk(&after, connection, needs);
        attempt.works((model, refusal), (&after, &again)).then_some((attempt, after, again))
    })
}

/// Only the packet filters of a host: what is predicted on here.
fn filters_of(host: &HostState) -> HostState {
    let absent = || "not part of this question".to_owned();
    HostState {
        at: host.at,
        fail2ban: Part::Absent(absent()),
        hosts_access: Part::Absent(absent()),
        nf_tables: host.nf_tables.clone(),
        xtables: host.xtables.clone(),
        ipset: host.ipset.clone(),
        // Where a connection comes in, and to which address.
        listener: host.listener.clone(),
        route: host.route.clone(),
        // Who made a rule, by ufw's own words.
        ufw: host.ufw.clone(),
        sshd: crate::subsystem::sshd::State::default(),
    }
}

/// The refusal to lift next: the one that decides; for a range also one that refuses a part of it.
fn next(host: &HostState, connection: &Connection, walked: &Walk) -> Option<Refusal> {
    if let Some(decided) = walked.decided() {
        return Some(decided.clone());
    }
    // Certain to those whose next hop and this host do not know each other.
    if let Some(lost) = walked.refusals.iter().find(|refusal| matches!(refusal.pass, Pass::Discovery(_))) {
        return Some(lost.clone());
    }
    // Certain to those who come in one way: the others are lifted too.
    let by_arrival = |refusal: &&Refusal| matches!(refusal.doubts.as_slice(), [Doubt { on: On::Arrival, .. }]);
    if let Some(refused) = walked.refusals.iter().find(by_arrival) {
        return Some(refused.clone());
    }
    if connection.source.single().is_some() {
        return None;
    }
    walked.refusals.iter().find(|refusal| refuses_part(host, connection, refusal)).cloned()
}

/// Whether what it depends on is only which address of the range it is.
fn refuses_part(host: &HostState, connection: &Connection, refusal: &Refusal) -> bool {
    let v6 = !connection.source.is_ipv4();
    match &refusal.culprit {
        Culprit::NfTables(_) => {
            let client = match side(refusal.pass) {
                Side::Source => On::Source,
                Side::Destination => On::Destination,
            };
            !refusal.doubts.is_empty() && refusal.doubts.iter().all(|doubt| doubt.on == client)
        }
        Culprit::Legacy(outcome) => legacy_rule(host, &outcome.place).and_then(|rule| rule.source(v6)).is_some_and(|named| {
            named.overlaps(connection.source) && outcome.depends.as_ref().is_none_or(|doubt| doubt.on == On::Source)
        }),
        Culprit::Unread(_) | Culprit::Full(_) => false,
    }
}

/// The catalogue id of what refuses.
fn cause(host: &HostState, connection: &Connection, refusal: &Refusal) -> Cause {
    let owner = refusal_owner(host, connection, refusal);
    if !ipset::decides(host, connection, refusal).is_empty() {
        return owner.cause(Cause::IpsetEntry);
    }
    if !recent::decides(host, connection, refusal).is_empty() {
        return owner.cause(Cause::IptablesRatelimit);
    }
    if owner == Owner::Nobody && matches!(refusal.pass, Pass::Answer | Pass::Ack) && names_nobody(host, connection, refusal) {
        return Cause::CtEstablished;
    }
    match &refusal.culprit {
        Culprit::NfTables(event) => {
            let Some(state) = host.nf_tables.present() else { return Cause::NftRule };
            let chain = event.frames.last().and_then(|frame| state.chains.get(frame.chain));
            let compat = chain.is_some_and(|chain| render::compat(state, chain));
            owner.cause(if compat { Cause::IptablesRule } else { Cause::NftRule })
        }
        Culprit::Legacy(_) => owner.cause(Cause::IptablesRule),
        Culprit::Unread(_) => Cause::NftRule,
        Culprit::Full(_) => Cause::CtEstablished,
    }
}

/// Whether what refuses is a policy or a rule for everybody: then the accept for established connections is missing.
fn names_nobody(host: &HostState, connection: &Connection, refusal: &Refusal) -> bool {
    let v6 = !connection.source.is_ipv4();
    match &refusal.culprit {
        Culprit::NfTables(event) => event.frames.iter().all(|frame| {
            let chain = host.nf_tables.present().and_then(|state| Some((state, state.chains.get(frame.chain)?)));
            let named =
                chain.and_then(|(state, chain)| rule_source(state, chain, chain.rules.get(frame.rule?)?, v6, side(refusal.pass)));
            frame.found.is_empty() && named.is_none()
        }),
        Culprit::Legacy(outcome) => legacy_rule(host, &outcome.place).is_none_or(|rule| {
            let (_, mask) = if refusal.pass == Pass::Answer { rule.entry.destination } else { rule.entry.source };
            mask == 0
        }),
        Culprit::Unread(_) | Culprit::Full(_) => false,
    }
}

fn block(host: &HostState, connection: &Connection, refusal: &Refusal, cause: Cause, lift: Lift, needs: &mut Needs) -> Block {
    let owner = refusal_owner(host, connection, refusal);
    let until = match &refusal.culprit {
        Culprit::NfTables(event) => event.frames.iter().flat_map(|frame| &frame.found).find_map(|found| {
            let remaining = i64::try_from(found.element.expires_ms?).ok()?;
            host.at.checked_add(SignedDuration::from_millis(remaining)).ok()
        }),
        Culprit::Legacy(_) | Culprit::Unread(_) | Culprit::Full(_) => None,
    };
    let fix = match &lift {
        Lift::Steps(_) => format!("sshfix ctl unban {}", connection.source.short()).into(),
        Lift::ByHand(advice) => advice.into(),
    };
    let mut evidence = evidence(host, connection, refusal, needs);
    if evidence.is_empty() {
        evidence.push(Evidence::new("netfilter", format!("{} {}", what(refusal.pass), how(refusal))));
    }
    let owner = managed::maker(host, connection, refusal, owner, needs);
    let finding = Finding { cause, blocking: true, stage: Stage::Netfilter, owner, since: None, until, evidence, fix };
    Block { finding, lift, managed: Vec::new(), alternatives: Vec::new() }
}
