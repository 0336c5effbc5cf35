//! What in the two files keeps a source out, and the smallest edits that let it in: clients that name it are dropped, and where
//! a wider rule refuses it, one line of hosts.allow lets in this source and no other. The edited model is evaluated again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::document::{Document, Kind, Line, Rule};
use super::evaluate::{Client, Hit, Place, Port, Request, Tables, daemons_match};
use super::options::{self, Outcome};
use super::pattern::{self};
use super::{Content, Libwrap, NoPlan, SSHD, State, Step, Which};
use crate::address::Source;
use crate::host::Needs;
use crate::host::block::{Alternative, Block, Lift};
use crate::host::step;
use crate::packet::Tri;
use crate::ranges::Classes;
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::{Connection, Stage, Verdict};

/// How many other sources an edit is checked against, and how many lines are run for that at most.
const OTHERS: usize = 64;
/// See [`OTHERS`].
const LINES: usize = 400_000;

/// A line of the two files that keeps a connection out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is shown, and how it is lifted.
    pub block: Block,
    /// The one source that the line refuses for all daemons: `ALL: 203.0.113.7` of hosts.deny.
    pub all_daemons: Option<Source>,
}

/// See [`super::blocks`].
pub fn blocks(state: &State, connection: &Connection, needs: &mut Needs) -> Vec<Refused> {
    let source = connection.source;
    let tables = state.tables();
    let request = Request::new(SSHD, Port::Is(connection.port), source);
    let refusals = refusals(state, &tables, &request, source, needs);
    let lift = match edits(state, &tables, &refusals, &request, source) {
        Ok(steps) => Lift::Steps(steps),
        Err(no_plan) => Lift::ByHand(no_plan.to_string()),
    };
    let fix = match &lift {
        Lift::Steps(_) => format!("sshfix ctl unban {}", source.short()),
        Lift::ByHand(by_hand) => by_hand.clone(),
    };
    let linked = matches!(state.libwrap, Libwrap::Linked(_));
    let mut whole = whole(state, &tables, &refusals, &request, source).into_iter();
    // The edits of all blocks together are one step a file; they come with the first.
    let again = match &lift {
        Lift::Steps(_) => Lift::Steps(Vec::new()),
        Lift::ByHand(by_hand) => Lift::ByHand(by_hand.clone()),
    };
    let mut lifts = std::iter::once(lift);
    let marks = sshguard_marks(&tables);
    refusals
        .iter()
        .map(|refusal| {
            let (owner, cause) = owner_and_cause(&tables, refusal.place, &marks);
            let block = Block {
                finding: Finding {
                    cause,
                    blocking: linked && refusal.certain,
                    stage: Stage::HostsAccess,
                    owner,
                    since: None,
                    until: None,
                    evidence: state.evidence(&tables, refusal.place).into_iter().collect(),
                    fix: fix.as_str().into(),
                },
                // The edits of all blocks together are one step a file; they come with the first.
                lift: lifts.next().unwrap_or_else(|| again.clone()),
                managed: Vec::new(),
                alternatives: whole.next().into_iter().collect(),
            };
            Refused { block, all_daemons: all_daemons(&tables, refusal.place) }
        })
        .collect()
}

/// A line that keeps the source out.
pub struct Refusal {
    /// Where.
    pub place: Place,
    /// Clients of the line that name the source, or part of it, and nothing else.
    pub named: Vec<usize>,
    /// Whether it refuses all of the source for certain, and whoever it names besides.
    pub certain: bool,
    /// Whether it refuses the source by a pattern that reaches further.
    pub wide: bool,
}

/// Every line that refuses the source, found by taking one after the other away.
pub fn refusals(state: &State, tables: &Tables, request: &Request<'_>, source: Source, needs: &mut Needs) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = Vec::new();
    let mut dropped = BTreeSet::<Client>::new();
    let mut without = BTreeSet::<Place>::new();
    let mut known = BTreeMap::<Place, usize>::new();
    // Every turn takes a line or clients away, so it ends.
    loop {
        let mut trace = tables.trace(request, &state.facts, &without, &dropped);
        if trace.verdict() == Verdict::Unknown {
            needs.append(&mut trace.needs);
        }
        let refusing: Vec<_> =
            trace.hits.iter().filter_map(|hit| Some((refusing(hit, source)?, hit.matches == Tri::Yes))).collect();
        if refusing.is_empty() {
            return refusals;
        }
        for (place, certain) in refusing {
            let named: Vec<_> = rule_at(tables, place)
                .map(|rule| clients_within(rule, source))
                .unwrap_or_default()
                .into_iter()
                .filter(|client| !dropped.contains(&(place, *client)))
                .collect();
            let wide = named.is_empty();
            if wide {
                without.insert(place);
            } else {
                dropped.extend(named.iter().map(|client| (place, *client)));
            }
            if let Some(refusal) = known.get(&place).and_then(|at: &usize| refusals.get_mut(*at)) {
                refusal.wide |= wide;
                refusal.certain |= certain;
            } else {
                known.insert(place, refusals.len());
                refusals.push(Refusal { place, named, certain, wide });
            }
        }
    }
}

/// The place of a line that refuses: for certain, or part of a range. A line that may match one address, for want of a fact,
/// is not taken for a block.
fn refusing(hit: &Hit, source: Source) -> Option<Place> {
    let known = hit.matches == Tri::Yes || source.single().is_none();
    hit.place.filter(|_| hit.outcome.refuses() && known)
}

pub fn rule_at(tables: &Tables, place: Place) -> Option<&Rule> {
    match &tables.line(place)?.kind {
        Kind::Rule(rule) => Some(rule),
        Kind::Skipped | Kind::Unterminated | Kind::TooLong | Kind::NeverRead => None,
    }
}

/// The clients before the first EXCEPT that name the source, or part of it, and nothing else.
fn clients_within(rule: &Rule, source: Source) -> Vec<usize> {
    named_clients(rule).into_iter().filter(|(_, net)| source.contains(*net)).map(|(at, _)| at).collect()
}

/// The clients before the first EXCEPT that name addresses and nothing else, and these.
fn named_clients(rule: &Rule) -> Vec<(usize, Source)> {
    let named = rule.clients();
    let named = named.iter().take_while(|token| !token.is_except()).enumerate();
    named.filter_map(|(at, token)| Some((at, pattern::named_source(token.text)?))).collect()
}

/// Lifting the nets that hold the source and more, by taking them out of the lines that name them. None where no line does, or where
/// that would not let the source in: behind it stands a rule against everybody.
fn whole(state: &State, tables: &Tables, refusals: &[Refusal], request: &Request<'_>, source: Source) -> Option<Alternative> {
    let mut dropped = BTreeSet::<Client>::new();
    let mut opened = vec![source];
    for Refusal { place, .. } in refusals {
        let named = named_clients(rule_at(tables, *place)?);
        for (client, net) in named.into_iter().filter(|(_, net)| net.overlaps(source)) {
            dropped.insert((*place, client));
            if net.contains(source) {
                opened.retain(|other| !net.contains(*other));
                if !opened.iter().any(|other| other.contains(net)) {
                    opened.push(net);
                }
            }
        }
    }
    if opened == [source] {
        return None;
    }
    let mut edited = state.clone();
    for which in [Which::Allow, Which::Deny] {
        set_lines(&mut edited, which, |document| without_clients(document, which, &dropped)).ok()?;
    }
    if edited.trace(request).verdict() != Verdict::Accept || opens_others(state, &edited, request, &opened) {
        return None;
    }
    Some(Alternative::range(source, steps(state, &edited, &opened).ok()?, opened))
}

/// The steps that lift all of them, checked by evaluating the edited files; or what a person must do.
fn edits(
    state: &State,
    tables: &Tables,
    refusals: &[Refusal],
    request: &Request<'_>,
    source: Source,
) -> Result<Vec<step::Step>, NoPlan> {
    let dropped: BTreeSet<Client> =
        refusals.iter().flat_map(|refusal| refusal.named.iter().map(|client| (refusal.place, *client))).collect();
    let mut edited = state.clone();
    for which in [Which::Allow, Which::Deny] {
        set_lines(&mut edited, which, |document| without_clients(document, which, &dropped))?;
    }
    // Where a rule behind them may still refuse, for want of a fact, the line makes sure.
    let unsure = !refusals.is_empty() && edited.trace(request).verdict() != Verdict::Accept;
    if unsure || refusals.iter().any(|refusal| refusal.wide) {
        insert(&mut edited, Which::Allow, &format!("{SSHD}: {}\n", pattern::pattern_for(source)), request)?;
    }
    let places =
        || refusals.iter().filter_map(|refusal| state.evidence(tables, refusal.place)).map(|evidence| evidence.source).collect();
    if edited.trace(request).verdict() != Verdict::Accept {
        return Err(NoPlan::NoEditIsSure(places()));
    }
    if opens_others(state, &edited, request, &[source]) {
        return Err(NoPlan::EveryEditOpensOthers(places()));
    }
    steps(state, &edited, &[source])
}

/// One step for every file that differs, which can change what becomes of these sources.
pub fn steps(state: &State, edited: &State, touched: &[Source]) -> Result<Vec<step::Step>, NoPlan> {
    let mut steps = Vec::new();
    for which in [Which::Allow, Which::Deny] {
        let (old, new) = (state.file(which), edited.file(which));
        if old.content == new.content {
            continue;
        }
        if let Some(why) = &old.read_only {
            return Err(NoPlan::ReadOnly { path: old.path.clone(), why: why.clone() });
        }
        steps.push(step::Step::HostsAccess(Step {
            file: which,
            path: old.path.clone(),
            before: old.content.bytes().map(<[u8]>::to_vec),
            after: new.content.bytes().map(<[u8]>::to_vec),
            touches: Some(touched.to_vec()),
        }));
    }
    Ok(steps)
}

/// Lets an edit make new content out of a file that was read.
pub fn set_lines(state: &mut State, which: Which, edit: impl FnOnce(&Document) -> Vec<u8>) -> Result<(), NoPlan> {
    let file = state.file_mut(which);
    match &file.content {
        Content::Unreadable(why) => {
            return Err(NoPlan::Unreadable { path: file.path.clone(), why: why.clone() });
        }
        Content::Bytes(bytes) => file.content = Content::Bytes(edit(&Document::parse(bytes))),
        Content::Missing => {
            let new = edit(&Document::parse(&[]));
            if !new.is_empty() {
                file.content = Content::Bytes(new);
            }
        }
    }
    Ok(())
}

/// The file without these clients; a rule that names nobody else goes as a whole.
pub fn without_clients(document: &Document, which: Which, dropped: &BTreeSet<Client>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, line) in document.lines.iter().enumerate() {
        let place = Place { which, line: index };
        let drop: Vec<_> = dropped.range((place, 0)..=(place, usize::MAX)).map(|(_, client)| *client).collect();
        match &line.kind {
            Kind::Rule(rule) if !drop.is_empty() => bytes.extend(rule.without_clients(&line.raw, &drop).unwrap_or_default()),
            _ => bytes.extend(&line.raw),
        }
    }
    bytes
}

/// How the comment line above the line of a lease begins.
const MARK: &[u8] = b"# sshfix lease ";

/// Puts a line where nothing before it can decide about the request: at the end of the file, or before the first line that may
/// match it or at which libwrap would stop.
pub fn insert(state: &mut State, which: Which, line: &str, request: &Request<'_>) -> Result<(), NoPlan> {
    let tables = state.tables();
    let trace = tables.trace(request, &state.facts, &BTreeSet::new(), &BTreeSet::new());
    let first_hit = trace.hits.iter().filter_map(|hit| hit.place).find(|place| place.which == which).map(|place| place.line);
    set_lines(state, which, |document| {
        let open = document.lines.iter().position(|line| !line.is_closed());
        let mut at = first_hit.into_iter().chain(open).min().unwrap_or(document.lines.len());
        // Not between the mark of a lease and its line.
        let is_mark = |at: usize| document.lines.get(at).is_some_and(|line| line.raw.starts_with(MARK));
        while let Some(before) = at.checked_sub(1).filter(|before| is_mark(*before)) {
            at = before;
        }
        let (before, after) = document.lines.split_at_checked(at).unwrap_or((&document.lines, &[]));
        let raw = |lines: &[Line]| lines.iter().flat_map(|line| line.raw.clone()).collect::<Vec<_>>();
        [raw(before), line.as_bytes().to_vec(), raw(after)].concat()
    })
}

/// Whether any other source that the files name, or that lies beside these, gets in by the edit.
pub fn opens_others(before: &State, after: &State, request: &Request<'_>, opened: &[Source]) -> bool {
    let (tables, edited) = (before.tables(), after.tables());
    let lines = [Which::Allow, Which::Deny].map(|which| tables.get(which).map_or(0, |document| document.lines.len()));
    let lines = lines.iter().sum::<usize>().max(1);
    let mut others: BTreeSet<Source> = [&tables, &edited]
        .into_iter()
        .flat_map(|tables| [Which::Allow, Which::Deny].map(|which| tables.get(which).map(named_sources).unwrap_or_default()))
        .flatten()
        .take((LINES / lines).min(OTHERS))
        .collect();
    others.extend(opened.iter().flat_map(|source| beside(*source)));
    others.extend(["192.0.2.1", "8.8.8.8", "2001:db8::1", "2a00::1"].iter().filter_map(|text| text.parse::<Source>().ok()));
    let verdict = |state: &State, tables: &Tables, other: Source| {
        let request = Request { client: pattern::Address::In(other), ..request.clone() };
        tables.trace(&request, &state.facts, &BTreeSet::new(), &BTreeSet::new()).verdict()
    };
    others
        .into_iter()
        .filter(|other| !opened.iter().any(|source| source.overlaps(*other)))
        .any(|other| verdict(before, &tables, other) != Verdict::Accept && verdict(after, &edited, other) == Verdict::Accept)
}

/// Adds the sets of addresses that both files tell apart for sshd. Names of hosts and files of patterns are not followed.
pub fn classes(state: &State, classes: &mut Classes) {
    let tables = state.tables();
    for document in [Which::Allow, Which::Deny].into_iter().filter_map(|which| tables.get(which)) {
        for line in &document.lines {
            let Kind::Rule(rule) = &line.kind else { continue };
            if daemons_match(rule, SSHD, Port::Untold) == Tri::No {
                continue;
            }
            for token in rule.clients().iter().filter(|token| !token.is_except() && !token.text.eq_ignore_ascii_case(b"ALL")) {
                match pattern::named_source(token.text) {
                    Some(source) => classes.add_source(source),
                    None => classes.add_unknown(),
                }
            }
        }
    }
}

fn named_sources(document: &Document) -> Vec<Source> {
    let rules = document.lines.iter().filter_map(|line| match &line.kind {
        Kind::Rule(rule) => Some(rule),
        _ => None,
    });
    rules
        .flat_map(|rule| rule.clients().iter().filter_map(|token| pattern::named_source(token.text)).collect::<Vec<_>>())
        .collect()
}

/// The addresses just outside a source.
fn beside(source: Source) -> Vec<Source> {
    let next = |address: IpAddr, up: bool| match address {
        IpAddr::V4(v4) => {
            let number = u32::from(v4);
            if up { number.checked_add(1) } else { number.checked_sub(1) }.map(|number| Source::from(IpAddr::V4(number.into())))
        }
        IpAddr::V6(v6) => {
            let number = u128::from(v6);
            if up { number.checked_add(1) } else { number.checked_sub(1) }.map(|number| Source::from(IpAddr::V6(number.into())))
        }
    };
    [next(source.first(), false), next(source.last(), true)].into_iter().flatten().collect()
}

/// The source of a line of hosts.deny for all daemons and nothing but it.
fn all_daemons(tables: &Tables, place: Place) -> Option<Source> {
    let rule = rule_at(tables, place).filter(|rule| place.which == Which::Deny && rule.options().is_none())?;
    let (daemons, clients) = (rule.daemons(), rule.clients());
    let ([daemon], [client]) = (daemons.as_slice(), clients.as_slice()) else { return None };
    (daemon.text == b"ALL").then(|| pattern::named_source(client.text))?
}

/// Who wrote a line, where the file itself proves it; and the cause it stands for.
fn owner_and_cause(tables: &Tables, place: Place, marks: &[Place]) -> (Owner, Cause) {
    let lines = tables.get(place.which).map(|document| document.lines.as_slice()).unwrap_or_default();
    let before = lines.get(..place.line).unwrap_or_default();
    if marks.iter().filter(|mark| mark.which == place.which && mark.line < place.line).count() % 2 == 1 {
        return (Owner::Sshguard, Cause::SshguardBlock);
    }
    // DenyHosts writes `# DenyHosts: DATE | RULE` above every rule (its deny_hosts.py).
    let rule = tables.line(place).map(|line| line.raw.trim_ascii()).unwrap_or_default();
    let comment = before.last().map(|line| line.raw.trim_ascii()).unwrap_or_default();
    let denyhosts = comment.starts_with(b"# DenyHosts:") && !rule.is_empty() && comment.ends_with(rule);
    let owner = if denyhosts { Owner::DenyHosts } else { Owner::Nobody };
    let cause = if restricts(tables, place) { Cause::HostsAllowRestrict } else { Cause::HostsDeny };
    (owner, cause)
}

/// sshguard keeps its rules between two such lines (its hosts backend).
fn sshguard_marks(tables: &Tables) -> Vec<Place> {
    let mut marks = Vec::new();
    for which in [Which::Allow, Which::Deny] {
        let lines = tables.get(which).map(|document| document.lines.as_slice()).unwrap_or_default();
        let marked = lines.iter().enumerate().filter(|(_, line)| line.raw.trim_ascii() == b"###sshguard###");
        marks.extend(marked.map(|(line, _)| Place { which, line }));
    }
    marks
}

/// Whether this is a rule of hosts.deny against all, beside rules of hosts.allow that let some in.
fn restricts(tables: &Tables, place: Place) -> bool {
    let all = rule_at(tables, place).is_some_and(|rule| {
        rule.clients().iter().take_while(|token| !token.is_except()).any(|token| token.text.eq_ignore_ascii_case(b"ALL"))
    });
    let lets_in = |line: &Line| match &line.kind {
        Kind::Rule(rule) => {
            daemons_match(rule, SSHD, Port::Untold) != Tri::No
                && options::outcome(rule.options(), &Outcome::Grant) == Outcome::Grant
        }
        _ => false,
    };
    place.which == Which::Deny && all && tables.allow.as_ref().is_some_and(|document| document.lines.iter().any(lets_in))
}
