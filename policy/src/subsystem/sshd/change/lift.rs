//! From what the stages found to the steps that lift it. A remedy lets the login in that was asked about and, where that can be told,
//! nobody else; it is tried on the model, and what it unmasks is judged and lifted in turn. What has no remedy is told. What lifts nothing
//! that blocks is advice, and never a step.

use crate::host::step::Step;
use crate::host::{HostState, Needs, Part};
use crate::subsystem::sshd::change::no_plan::{NoPlan, tree as read_tree};
use crate::subsystem::sshd::change::plan::{Keyword, Planned, plan_edits, plan_lines, plan_reload, plan_set, plan_start};
use crate::subsystem::sshd::change::repair::Repair;
use crate::subsystem::sshd::config::{self, Document, Edit, Tree, evaluate};
use crate::subsystem::sshd::facts::ask::{Candidate, answer};
use crate::subsystem::sshd::facts::journal::Journal;
use crate::subsystem::sshd::facts::state::Manager;
use crate::subsystem::sshd::judge::admission::place;
use crate::subsystem::sshd::judge::broken::{self, Broken};
use crate::subsystem::sshd::judge::judgement::{Found, Remedy};
use crate::subsystem::sshd::judge::stages::stages;
use crate::subsystem::sshd::{Activation, resolved};
use crate::text::quoted::Text;
use crate::verdict::Connection;
use crate::verdict::cause::{Cause, Finding};

/// How often what a remedy unmasks is looked at.
const ROUNDS: usize = 8;
/// `sshd_config(5)`, `Port`.
const DEFAULT_PORT: &str = "22";
/// How many lines of a broken configuration are turned into comments.
const LINES_MAX: usize = 20;

impl Remedy {
    /// The steps for this login. What can stand in a Match block stands in one for it, wherever the line is that counts now.
    pub(crate) fn plan(&self, host: &HostState, login: &Connection, needs: &mut Needs) -> Result<(Vec<Step>, Vec<Text>), NoPlan> {
        let port = login.port;
        let planned = match self {
            Remedy::Set { keyword, criteria, values } => {
                let own = config::keyword::in_match(keyword).then(|| only(login)).flatten();
                let criteria = own.as_deref().or(criteria.as_deref());
                plan_set(host, port, Keyword { name: keyword, criteria }, values, needs)?
            }
            Remedy::Lines { keyword, lines } => plan_lines(host, port, keyword, lines, needs)?,
            Remedy::CommentOut { file, line } => comment_out(host, port, file, *line, needs)?,
            Remedy::Repair(mend) => return Ok((vec![Step::Repair(Repair { port, part: mend.clone() })], Vec::new())),
            Remedy::Reload => plan_reload(host, port, needs)?,
            Remedy::Start => plan_start(host, port, needs)?,
        };
        let Planned { steps, notes } = planned;
        Ok((steps.into_iter().map(Step::Sshd).collect(), notes))
    }
}

impl Found {
    /// Whether `fix` plans something for it: it blocks, or will, and none of its lines must be left to a person.
    pub fn is_fixed(&self, host: &HostState, port: u16) -> bool {
        let tree = match host.sshd.servers.get(&port) {
            Some(Part::Present(server)) => server.tree.as_ref().ok(),
            _ => None,
        };
        let by_hand = |remedy: &Remedy| match (remedy, tree) {
            (Remedy::CommentOut { file, line }, Some(tree)) => {
                !matches!(broken::judge(tree, file, *line), Ok(Broken::Comment { .. }))
            }
            _ => false,
        };
        matters(self) && !self.remedies.is_empty() && !self.remedies.iter().any(by_hand)
    }
}

/// The criteria of a Match block for this login alone; `None` of a range.
fn only(login: &Connection) -> Option<String> {
    let address = login.source.single()?;
    let user = login.user.as_ref().map_or_else(String::new, |user| format!("User {user} "));
    Some(format!("{user}Address {address}"))
}

/// Everything that lifts what sshd holds against a login, and what is left for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifts {
    /// In this order.
    pub steps: Vec<Step>,
    /// What a person must do, one line a cause.
    pub told: Vec<Text>,
    /// For the plan.
    pub notes: Vec<Text>,
}

/// Lifts what blocks, and what would keep sshd from starting again; what is merely proposed is advice. `start`: nothing listens, and no
/// unit is masked.
pub fn lifts(host: &HostState, connection: &Connection, start: bool, needs: &mut Needs) -> Lifts {
    let mut lifts = Lifts::default();
    let mut state = host.clone();
    let mut tried: Vec<Finding> = Vec::new();
    // What a host that goes down has stopped is not started, and what it has not started yet it will.
    let mut waits = false;
    for round in 0..ROUNDS {
        let found = found(&state, connection, needs);
        if round == 0 && !found.iter().any(matters) {
            lifts.notes.extend(found.iter().filter(|one| !one.remedies.is_empty()).map(|one| advice(&one.finding)));
        }
        let next = found.iter().find(|one| matters(one) && !tried.iter().any(|old| same(old, &one.finding)));
        waits |= found.iter().any(|one| one.finding.blocking && one.finding.cause == Cause::HostShutdown);
        let Some(Found { finding, remedies }) = next else { break };
        tried.push(finding.clone());
        let told = finding.told();
        if remedies.is_empty() || waits && remedies.contains(&Remedy::Start) {
            if finding.blocking {
                lifts.told.push(told);
            }
            continue;
        }
        match steps_of(remedies, &state, connection, needs) {
            // Another line may win, or more than this one may refuse for the same reason.
            Ok((_, _, after)) if found_again(&after, connection, finding, needs) => {
                lifts.told.push(told + " (not done by sshfix: no edit for this login alone lifts it)");
            }
            Ok((steps, notes, after)) => {
                (lifts.steps, lifts.notes) = ([lifts.steps, steps].concat(), [lifts.notes, notes].concat());
                state = after;
            }
            Err(why) => lifts.told.push(told + " (not done by sshfix: " + why.words() + ")"),
        }
    }
    if start && !waits && !running(&state, connection.port) {
        match steps_of(&[Remedy::Start], &state, connection, needs) {
            Ok((steps, notes, _)) => (lifts.steps, lifts.notes) = ([lifts.steps, steps].concat(), [lifts.notes, notes].concat()),
            Err(why) => lifts.told.push(Text::from(format!("{}: ", Cause::SshdDown)) + why.words()),
        }
    }
    lifts
}

/// Everything the stages of sshd find.
fn found(state: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Found> {
    stages(state, connection, needs).into_iter().flat_map(|(_, found)| found).collect()
}

fn found_again(after: &HostState, connection: &Connection, finding: &Finding, needs: &mut Needs) -> bool {
    found(after, connection, needs).iter().any(|one| matters(one) && same(&one.finding, finding))
}

/// What refuses, now or when sshd starts again.
fn matters(one: &Found) -> bool {
    one.finding.blocking || matters_later(one.finding.cause)
}

fn advice(finding: &Finding) -> Text {
    Text::from("advice only, because it blocks nothing now: ") + finding.told()
}

/// The same cause for the same reason.
fn same(old: &Finding, new: &Finding) -> bool {
    old.cause == new.cause && old.evidence.first() == new.evidence.first()
}

/// What does not refuse now, and will when sshd starts again.
fn matters_later(cause: Cause) -> bool {
    matches!(cause, Cause::SshdConfigInvalid | Cause::SshdHostkeys | Cause::SshdPrivsepDir)
}

fn running(host: &HostState, port: u16) -> bool {
    matches!(host.sshd.servers.get(&port), Some(Part::Present(server)) if server.running)
}

type Steps = (Vec<Step>, Vec<Text>, HostState);

/// The steps of remedies, each planned on what the ones before it leave.
fn steps_of(remedies: &[Remedy], host: &HostState, login: &Connection, needs: &mut Needs) -> Result<Steps, NoPlan> {
    let (mut steps, mut notes, mut state) = (Vec::new(), Vec::new(), host.clone());
    for remedy in remedies {
        let (more, said) = remedy.plan(&state, login, needs)?;
        for step in more {
            step.predict(&mut state)?;
            if let Step::Sshd(step) = &step {
                begins_anew(&mut state, login.port, &step.activation);
            }
            steps.push(step);
        }
        notes.extend(said);
    }
    Ok((steps, notes, state))
}

/// An sshd that reads its files again knows of no penalty and of nobody at its door; what it told before is over.
fn begins_anew(state: &mut HostState, port: u16, activation: &Activation) {
    let server = state.sshd.servers.get(&port);
    let each = matches!(server, Some(Part::Present(server)) if matches!(server.manager, Manager::Connections(_)));
    if *activation == Activation::Nothing && !each {
        return;
    }
    if let Some(journal) = &mut state.sshd.journal {
        *journal = Journal::silent();
    }
    if let Some(Part::Present(server)) = state.sshd.servers.get_mut(&port) {
        server.startups = None;
        server.unauthenticated.clear();
        if matches!(activation, Activation::Start(_)) {
            server.running = true;
        }
    }
}

/// Comments the line out, asks sshd, and goes on with the line it complains of next. Where one of them must stay, nothing is edited.
fn comment_out(host: &HostState, port: u16, file: &str, line: usize, needs: &mut Needs) -> Result<Planned, NoPlan> {
    let Some(server) = resolved(host, port, needs) else { return Ok(Planned::default()) };
    let mut tree = read_tree(&server)?.clone();
    let mut edits: Vec<Edit> = Vec::new();
    let (mut file, mut line) = (file.to_owned(), line);
    let mut ports = None;
    for _ in 0..LINES_MAX {
        let (lines, names_port) = match broken::judge(&tree, &file, line).map_err(NoPlan::NoSuchLine)? {
            Broken::Comment { lines, port } => (lines, port),
            Broken::ByHand { what, why } => return Err(NoPlan::LineStays { what, why }),
        };
        if names_port {
            ports = Some((file.clone(), line));
        }
        let mut document = tree.files.get(&file).cloned().unwrap_or_default();
        let before = document.bytes();
        commented(&mut document, &lines);
        let why = match lines.as_slice() {
            [_, .., last] => format!("{file} line {line} is the one that `sshd -t` names; its block ends with line {last}"),
            _ => format!("{file} line {line} is the one that `sshd -t` names"),
        };
        match edits.iter_mut().find(|edit| edit.path == file) {
            Some(edit) => edit.after = document.bytes(),
            None => {
                edits.push(Edit { path: file.clone(), before, after: document.bytes(), why: why.into(), besides: Vec::new() });
            }
        }
        tree.files.insert(file.clone(), document);
        let Candidate { port, mut changes } = server.candidate(port);
        changes.extend(edits.iter().map(|edit| (edit.path.clone(), edit.after.clone())));
        let Some(answer) = answer(host, &Candidate { port, changes }, needs) else { return Ok(Planned::default()) };
        let next = answer.test.as_ref().err().and_then(|said| said.lines().find_map(place));
        let Some((next_file, next_line)) = next else { break };
        (file, line) = (next_file, next_line);
    }
    if let Some((file, line)) = ports {
        listens_as_before(&tree, &server.invocation.options, port, (&file, line))?;
    }
    plan_edits(host, port, edits, needs)
}

/// The line that sshd named says so; the others are its block.
fn commented(document: &mut Document, lines: &[usize]) {
    for (at, number) in lines.iter().enumerate() {
        let text = document.line(*number).map(ToString::to_string).unwrap_or_default();
        let what = if at == 0 { "sshd does not take this line" } else { "of the block above" };
        document.replace(*number, &format!("# {what}: {text}"));
    }
}

/// A line that may have named the port is left to a person where sshd would listen elsewhere without it. By the files: while it is down, sshd
/// prints nothing.
fn listens_as_before(tree: &Tree, options: &[String], port: u16, (file, line): (&str, usize)) -> Result<(), NoPlan> {
    let settings = evaluate(tree, options, None)?;
    let ports: Vec<&str> =
        settings.get("port").into_iter().flatten().flat_map(|line| &line.arguments).map(String::as_str).collect();
    let ports = if ports.is_empty() { vec![DEFAULT_PORT] } else { ports };
    if ports == [port.to_string()] {
        return Ok(());
    }
    let ports = ports.into_iter().map(str::to_owned).collect();
    Err(NoPlan::ListensElsewhere { file: file.to_owned(), line, ports, port })
}
