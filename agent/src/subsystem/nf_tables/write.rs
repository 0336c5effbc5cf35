//! Does one step in one atomic batch: looks at what the step touches, compares it with `before` and `after`, and sends the change
//! guarded by the generation it looked at. Decides nothing but whether the step still fits.

use nix::errno::Errno;
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::nf_tables::same::{Standing, is_of_another_table, place, standing};
use sshfix_policy::subsystem::nf_tables::{Chain, Element, Rule, Set, SetKey, State, Step};

use super::message::{APPEND, CREATE, EXCLUSIVE, nft};
use super::socket::{Change, Commit, Netlink, NetlinkError};
use super::{build, elements, read};

/// How often a step is looked at again because somebody else changed the ruleset in between.
const TRIES: usize = 8;

/// Why a step is given up when others commit all the time.
const MOVED: &str = "the ruleset changes faster than it can be read";
/// The kernel's names for the chains of `jump { ... }`.
const ANONYMOUS_CHAIN: &str = "__chain";

/// Why a step is not done: the kernel, or the step itself.
enum Stop {
    Netlink(NetlinkError),
    Step(StepError),
}

impl From<NetlinkError> for Stop {
    fn from(error: NetlinkError) -> Self {
        Stop::Netlink(error)
    }
}

impl From<StepError> for Stop {
    fn from(error: StepError) -> Self {
        Stop::Step(error)
    }
}

/// What the kernel's failure means for the step.
pub fn explain(error: &NetlinkError, step: &Step) -> StepError {
    let subject = subject(step);
    match error {
        NetlinkError::TimedOut(what) => StepError::TimedOut(format!(
            "the kernel did not answer {what} in time; whether it was done must be read back ({subject})"
        )),
        NetlinkError::Kernel { errno: Errno::EPERM, .. } => StepError::Failed(format!(
            "the kernel does not permit the change: the table belongs to another program, or CAP_NET_ADMIN is missing; \
             nothing was changed ({subject})"
        )),
        // The kernel takes a whole batch or nothing of it.
        NetlinkError::Kernel { .. } | NetlinkError::Refused(_) | NetlinkError::Interrupted => {
            StepError::Failed(format!("{error}; nothing was changed ({subject})"))
        }
        NetlinkError::Socket(..) | NetlinkError::Malformed(_) => {
            StepError::Failed(format!("{error}; whether the change was done must be read back ({subject})"))
        }
    }
}

/// `before` becomes `after`. The outer error is the socket's, the inner one the step's.
pub fn apply(netlink: &mut Netlink, cached: &mut Option<State>, step: &Step) -> Result<Result<Done, StepError>, NetlinkError> {
    split(try_apply(netlink, cached, step))
}

/// What the kernel would say to the step, without doing it.
pub fn check(netlink: &mut Netlink, cached: &mut Option<State>, step: &Step) -> Result<Result<(), StepError>, NetlinkError> {
    split(try_check(netlink, cached, step))
}

fn split<T>(answer: Result<T, Stop>) -> Result<Result<T, StepError>, NetlinkError> {
    match answer {
        Ok(done) => Ok(Ok(done)),
        Err(Stop::Step(error)) => Ok(Err(error)),
        Err(Stop::Netlink(error)) => Err(error),
    }
}

fn try_apply(netlink: &mut Netlink, cached: &mut Option<State>, step: &Step) -> Result<Done, Stop> {
    let mut why = MOVED.to_owned();
    // A commit whose answer was lost; when the host is then as wanted, it was us.
    let mut unanswered = false;
    for _ in 0..TRIES {
        let state = fresh(netlink, cached)?;
        let intent = intent(netlink, &state, step)?;
        if intent.changes.is_empty() {
            return Ok(if unanswered { Done::Changed } else { Done::Already });
        }
        if let Trial::Again(reason) = try_out(netlink, &state, &intent)? {
            why = reason;
            continue;
        }
        match netlink.commit(state.generation, &intent.changes, "the change") {
            Ok(Commit::Done) => return Ok(Done::Changed),
            Ok(Commit::Moved) => {}
            Err(NetlinkError::Interrupted) => unanswered = true,
            Err(error) => return Err(error.into()),
        }
    }
    Err(StepError::Drifted(format!("{why} ({})", subject(step))).into())
}

fn try_check(netlink: &mut Netlink, cached: &mut Option<State>, step: &Step) -> Result<(), Stop> {
    let mut why = MOVED.to_owned();
    for _ in 0..TRIES {
        let state = fresh(netlink, cached)?;
        let intent = intent(netlink, &state, step)?;
        match try_out(netlink, &state, &intent)? {
            Trial::Fine => return Ok(()),
            Trial::Again(reason) => why = reason,
        }
    }
    Err(StepError::Drifted(format!("{why} ({})", subject(step))).into())
}

/// What the kernel says to a change before it is made.
enum Trial {
    /// It would do it, and undo it.
    Fine,
    /// Not like that: something is no longer as it was looked at.
    Again(String),
}

/// Lets the kernel validate the change, and then the change and its undo: a few expressions are dumped in a form the kernel does not
/// accept back, and what could not be put back is not deleted.
fn try_out(netlink: &mut Netlink, state: &State, intent: &Intent) -> Result<Trial, Stop> {
    if intent.changes.is_empty() {
        return Ok(Trial::Fine);
    }
    match netlink.check(state.generation, &intent.changes, "the change (dry run)") {
        Ok(Commit::Done) => {}
        Ok(Commit::Moved) | Err(NetlinkError::Interrupted) => return Ok(Trial::Again(MOVED.to_owned())),
        // Not there, or there already: an element can end by itself without a new generation.
        Err(NetlinkError::Kernel { errno: errno @ (Errno::ENOENT | Errno::EEXIST | Errno::ENOTEMPTY), .. }) => {
            return Ok(Trial::Again(format!("the kernel refuses the change with {errno}")));
        }
        Err(error) => return Err(error.into()),
    }
    if intent.undo.is_empty() {
        return Ok(Trial::Fine);
    }
    let both: Vec<Change> = intent.changes.iter().chain(&intent.undo).cloned().collect();
    match netlink.check(state.generation, &both, "the change and its undo (dry run)") {
        Ok(Commit::Done) => Ok(Trial::Fine),
        Ok(Commit::Moved) | Err(NetlinkError::Interrupted) => Ok(Trial::Again(MOVED.to_owned())),
        Err(NetlinkError::Kernel { errno, .. }) => {
            let what = format!("the kernel would not put it back ({errno}), so it is left alone; nothing was changed");
            Err(StepError::Failed(what).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The ruleset of this moment; its generation guards the batch.
fn fresh(netlink: &mut Netlink, cached: &mut Option<State>) -> Result<State, NetlinkError> {
    let state = read::ruleset(netlink, cached.as_ref())?;
    *cached = Some(state.clone());
    Ok(state)
}

/// What is to be sent.
#[derive(Default)]
struct Intent {
    /// Makes `after` of what is there now; empty when it is `after` already.
    changes: Vec<Change>,
    /// Puts back what `changes` deletes.
    undo: Vec<Change>,
}

fn intent(netlink: &mut Netlink, state: &State, step: &Step) -> Result<Intent, Stop> {
    match step {
        Step::Element { set, before, after, .. } => element_intent(netlink, state, set, before.as_ref(), after.as_ref()),
        Step::Split { set, before, after, .. } => split_intent(netlink, state, set, before, after),
        Step::Rule { family, table, chain, next, others, before, after, .. } => {
            let found = state.chains.iter().find(|one| (one.family, &one.table, &one.name) == (*family, table, chain));
            let found = found.ok_or_else(|| StepError::Drifted(format!("chain {family} {table} {chain} is gone")))?;
            Ok(rule_intent(state, found, (*next, *others), before.as_ref(), after.as_ref())?)
        }
    }
}

fn element_intent(
    netlink: &mut Netlink,
    state: &State,
    key: &SetKey,
    before: Option<&Element>,
    after: Option<&Element>,
) -> Result<Intent, Stop> {
    let set = state.sets.iter().find(|set| set.key == *key);
    let set = set.ok_or_else(|| StepError::Drifted(format!("set {key} is gone")))?;
    if set.constant() || set.anonymous() {
        return Err(StepError::Failed(format!("set {key} is constant: its elements cannot be changed")).into());
    }
    let Some(wanted) = before.or(after) else { return Ok(Intent::default()) };
    if before.zip(after).is_some_and(|(before, after)| (&before.key, before.catchall) != (&after.key, after.catchall)) {
        return Err(StepError::Failed(format!("a step on set {key} names two elements")).into());
    }
    let found = elements::at_key_of(netlink, set, wanted)?;
    let is = |wanted: Option<&Element>| match (&found, wanted) {
        (None, None) => true,
        (Some(found), Some(wanted)) => found.same(wanted),
        (None, Some(_)) | (Some(_), None) => false,
    };
    if is(after) {
        return Ok(Intent::default());
    }
    if !is(before) {
        let now = match (&found, before) {
            (None, _) => "no longer holds this element",
            (Some(_), None) => "holds an element where there was none",
            (Some(_), Some(_)) => "holds another element or range there",
        };
        return Err(StepError::Drifted(format!("set {key} {now}")).into());
    }
    let family = key.family.number();
    let add = |element| {
        let attrs = build::new_element(set, element);
        Change { message: nft::NEW_ELEMENT, family, flags: CREATE | EXCLUSIVE, attrs }
    };
    let mut intent = Intent::default();
    if let Some(before) = before {
        refuse_growth(netlink, state, set, before)?;
        let attrs = build::old_element(set, before);
        intent.changes.push(Change { message: nft::DEL_ELEMENT, family, flags: 0, attrs });
    }
    match (before, after) {
        (_, Some(after)) => intent.changes.push(add(after)),
        (Some(before), None) => intent.undo.push(add(before)),
        (None, None) => {}
    }
    Ok(intent)
}

/// A range before this one that has no end of its own would grow when this one is taken out.
fn refuse_growth(netlink: &mut Netlink, state: &State, set: &Set, before: &Element) -> Result<(), Stop> {
    let Some(end) = elements::neighbour_end(netlink, set, before)? else { return Ok(()) };
    // A lookup does not find an end where a range starts too; the kernel's own deletion does.
    let attrs = build::old_end(set, &end);
    let probe = Change { message: nft::DEL_ELEMENT, family: set.key.family.number(), flags: 0, attrs };
    match netlink.check(state.generation, &[probe], "the end of a range (dry run)") {
        Err(NetlinkError::Kernel { errno: Errno::ENOENT, .. }) => {
            let what = format!("set {} keeps the range before this one without an end of its own: it would grow", set.key);
            Err(StepError::Failed(what).into())
        }
        // When the ruleset moved on, the commit is refused too.
        answer => Ok(answer.map(|_: Commit| ())?),
    }
}

/// All of `before` becomes all of `after`; anything between is a mismatch.
fn split_intent(
    netlink: &mut Netlink,
    state: &State,
    key: &SetKey,
    before: &[Element],
    after: &[Element],
) -> Result<Intent, Stop> {
    let set = state.sets.iter().find(|set| set.key == *key);
    let set = set.ok_or_else(|| StepError::Drifted(format!("set {key} is gone")))?;
    let mut stand = |wanted: &[Element]| -> Result<bool, NetlinkError> {
        for element in wanted {
            if !elements::at_key_of(netlink, set, element)?.is_some_and(|found| found.same(element)) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    if stand(after)? {
        return Ok(Intent::default());
    }
    if !stand(before)? {
        return Err(StepError::Drifted(format!("set {key} no longer holds what this step changes")).into());
    }
    for element in before {
        refuse_growth(netlink, state, set, element)?;
    }
    let family = key.family.number();
    let delete = |element| Change { message: nft::DEL_ELEMENT, family, flags: 0, attrs: build::old_element(set, element) };
    let add = |element| {
        let attrs = build::new_element(set, element);
        Change { message: nft::NEW_ELEMENT, family, flags: CREATE | EXCLUSIVE, attrs }
    };
    // The kernel does not find an element of a range set that the same batch has made, so the undo cannot be tried out with it. It adds
    // the same attributes with another end, which is what is tried out here.
    let changes = before.iter().map(delete).chain(after.iter().map(add)).collect();
    Ok(Intent { changes, undo: Vec::new() })
}

fn rule_intent(
    state: &State,
    chain: &Chain,
    (mut next, others): (Option<u64>, usize),
    before: Option<&Rule>,
    after: Option<&Rule>,
) -> Result<Intent, StepError> {
    let name = format!("chain {} {} {}", chain.family, chain.table, chain.name);
    if chain.name.starts_with(ANONYMOUS_CHAIN) {
        return Err(StepError::Failed(format!("{name} is anonymous: its rules cannot be changed")));
    }
    let unclear = || StepError::Drifted(format!("{name} has several rules that could be the one of this step"));
    if let Some(after) = after {
        match standing(&chain.rules, next, others, after) {
            Standing::At(_) => return Ok(Intent::default()),
            Standing::Unclear => return Err(unclear()),
            Standing::Nowhere => {}
        }
    }
    let mut intent = Intent::default();
    if let Some(before) = before {
        let found = match standing(&chain.rules, next, others, before) {
            Standing::At(index) => chain.rules.get(index),
            Standing::Unclear => return Err(unclear()),
            Standing::Nowhere => None,
        };
        match found {
            Some(found) => {
                refuse_bound(state, chain, found)?;
                intent.changes.push(delete(chain, found.handle));
                if after.is_some() {
                    next = Some(found.handle); // a replacement stands where the rule stood
                } else {
                    intent.undo.push(insert(chain, before, None)?); // anywhere: it is only tried out
                }
            }
            None if is_of_another_table(&chain.rules, before) => {
                return Err(StepError::Drifted(format!("rule {} of {name} is another rule now", before.handle)));
            }
            None if after.is_none() => return Ok(Intent::default()),
            None => return Err(StepError::Drifted(format!("{name} no longer has this rule"))),
        }
    }
    if let Some(after) = after {
        if is_of_another_table(&chain.rules, after) {
            let what = format!(
                "{name} was made anew and has another rule {} now, so that the place of this one is not known",
                after.handle
            );
            return Err(StepError::Drifted(what));
        }
        if place(&chain.rules, next).is_none() {
            let what = format!("{name} no longer has the rule before which this one belongs");
            return Err(StepError::Drifted(what));
        }
        refuse_bound(state, chain, after)?;
        // Before the deletion, which would take the place away.
        intent.changes.insert(0, insert(chain, after, next)?);
    }
    Ok(intent)
}

fn delete(chain: &Chain, handle: u64) -> Change {
    let attrs = build::rule_handle(&chain.table, &chain.name, handle);
    Change { message: nft::DEL_RULE, family: chain.family.number(), flags: 0, attrs }
}

/// `nft insert rule ... position NEXT`, or `nft add rule` at the end.
fn insert(chain: &Chain, rule: &Rule, next: Option<u64>) -> Result<Change, StepError> {
    let attrs = build::rule(&chain.table, &chain.name, rule, next).ok_or_else(|| {
        StepError::Failed("the rule holds an expression that can only be put back as the kernel sent it".to_owned())
    })?;
    let flags = if next.is_some() { CREATE } else { CREATE | APPEND };
    Ok(Change { message: nft::NEW_RULE, family: chain.family.number(), flags, attrs })
}

/// An anonymous set or chain (`{ 22, 80 }`, `jump { ... }`) belongs to its rule: the kernel deletes it with the rule, and the
/// rule could not be put back.
fn refuse_bound(state: &State, chain: &Chain, rule: &Rule) -> Result<(), StepError> {
    let mut of_table = state.sets.iter().filter(|set| (set.key.family, &set.key.table) == (chain.family, &chain.table));
    let uses = |name: &str| {
        let name = [name.as_bytes(), &[0]].concat();
        rule.raw_expressions.windows(name.len()).any(|window| window == name)
    };
    let mut of_chains = state.chains.iter().filter(|one| (one.family, &one.table) == (chain.family, &chain.table));
    let bound = of_table.find(|set| set.anonymous() && uses(&set.key.set)).map(|set| &set.key.set);
    let bound =
        bound.or_else(|| of_chains.find(|one| one.name.starts_with(ANONYMOUS_CHAIN) && uses(&one.name)).map(|one| &one.name));
    match bound {
        None => Ok(()),
        Some(name) => Err(StepError::Failed(format!(
            "the rule owns {name}, which the kernel deletes with it: it could not be put back, so it is left alone"
        ))),
    }
}

/// What a step is about, for error messages.
fn subject(step: &Step) -> String {
    match step {
        Step::Element { set, text, .. } => format!("set {set}: {text}"),
        Step::Split { set, texts, .. } => format!("set {set}: {}", texts.0.join(", ")),
        Step::Rule { family, table, chain, text, .. } => format!("chain {family} {table} {chain}: {text}"),
    }
}
