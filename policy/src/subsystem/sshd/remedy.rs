//! From what the stages found to the steps that lift it. A remedy lets the login in that was asked about and, where that can be told,
//! nobody else; it is tried on the model, and what it unmasks is judged and lifted in turn. What has no remedy is told.

use super::admission::place;
use super::candidate::{Candidate, answer};
use super::config::{Changed, Document, Edit, Setting};
use super::judge::stages;
use super::plan::{Keyword, Planned, plan_edits, plan_lines, plan_reload, plan_set, plan_start};
use super::repair::{Mend, Repair};
use super::{Activation, resolved};
use crate::host::{HostState, Needs, Part};
use crate::step::Step;
use crate::verdict::{Cause, Connection, Finding};

/// How often what a remedy unmasks is looked at.
const ROUNDS: usize = 8;
/// How many lines of a broken configuration are turned into comments.
const LINES_MAX: usize = 20;

/// What was found, and how it is lifted; without a remedy the finding's `fix` says what a person must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is shown.
    pub finding: Finding,
    /// In this order.
    pub remedies: Vec<Remedy>,
}

/// One way to lift something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Sets a keyword.
    Set {
        /// Which.
        keyword: String,
        /// The criteria of the Match block; `None` for everybody.
        criteria: Option<String>,
        /// To what.
        values: Vec<String>,
    },
    /// Gives single lines of a list other values: lists add up over all files, and the other lines stay as they are.
    Lines {
        /// Which list.
        keyword: String,
        /// Each line, and its values to be.
        lines: Vec<Changed>,
    },
    /// Turns a line that sshd does not take into a comment, and every other one that it complains of then.
    CommentOut {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
    },
    /// Something besides the configuration.
    Repair(Mend),
    /// Has sshd read its files again, which also forgets its penalties.
    Reload,
    /// Starts the service that is down.
    Start,
}

impl Remedy {
    /// Sets a keyword where the line stands that counts now; `None` inside nested Match blocks. Without a line, for everybody.
    pub fn set(keyword: &str, setting: Option<&Setting>, values: Vec<String>) -> Option<Self> {
        let criteria = match setting.map(|setting| setting.under.as_slice()) {
            None | Some([]) => None,
            Some([(_, text)]) => Some(criteria(text)?),
            Some(_) => return None,
        };
        Some(Remedy::Set { keyword: keyword.to_owned(), criteria, values })
    }

    fn plan(&self, host: &HostState, port: u16, needs: &mut Needs) -> Result<(Vec<Step>, Vec<String>), String> {
        let planned = match self {
            Remedy::Set { keyword, criteria, values } => {
                plan_set(host, port, Keyword { name: keyword, criteria: criteria.as_deref() }, values, needs)?
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

/// `Match Address 10.0.0.0/8 # office` without its first word and its comment.
fn criteria(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(|c: char| c.is_whitespace())?;
    let rest = rest.split(" #").next().unwrap_or(rest).trim();
    Some(rest.to_owned())
}

/// Everything that lifts what sshd holds against a login, and what is left for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifts {
    /// In this order.
    pub steps: Vec<Step>,
    /// What a person must do, one line a cause.
    pub told: Vec<String>,
    /// For the plan.
    pub notes: Vec<String>,
}

/// Lifts what blocks, and what would keep sshd from starting again; where nothing does, what is merely proposed. `start`: nothing listens,
/// and no unit is masked.
pub fn lifts(host: &HostState, connection: &Connection, start: bool, needs: &mut Needs) -> Lifts {
    let port = connection.port;
    let mut lifts = Lifts::default();
    let mut state = host.clone();
    let mut tried: Vec<Finding> = Vec::new();
    // What a host that goes down has stopped is not started, and what it has not started yet it will.
    let mut waits = false;
    for round in 0..ROUNDS {
        let found: Vec<Found> = stages(&state, connection, needs).into_iter().flat_map(|(_, found)| found).collect();
        let matters = |one: &&Found| one.finding.blocking || matters_later(one.finding.cause);
        let blocks = found.iter().any(|one| matters(&one));
        let proposed = round == 0 && !blocks;
        let next = found.iter().find(|one| (proposed || matters(one)) && !tried.iter().any(|old| same(old, &one.finding)));
        waits |= found.iter().any(|one| one.finding.blocking && one.finding.cause == Cause::HostShutdown);
        let Some(Found { finding, remedies }) = next else { break };
        tried.push(finding.clone());
        let told = format!("{} ({}): {}", finding.cause, finding.owner, finding.fix);
        if remedies.is_empty() || waits && remedies.contains(&Remedy::Start) {
            if finding.blocking {
                lifts.told.push(told);
            }
            continue;
        }
        match steps_of(remedies, &state, port, needs) {
            Ok((steps, notes, after)) => {
                (lifts.steps, lifts.notes) = ([lifts.steps, steps].concat(), [lifts.notes, notes].concat());
                state = after;
            }
            Err(why) => lifts.told.push(format!("{told} (not done by sshfix: {why})")),
        }
    }
    if start && !waits && !running(&state, port) {
        match steps_of(&[Remedy::Start], &state, port, needs) {
            Ok((steps, notes, _)) => (lifts.steps, lifts.notes) = ([lifts.steps, steps].concat(), [lifts.notes, notes].concat()),
            Err(why) => lifts.told.push(format!("{}: {why}", Cause::SshdDown)),
        }
    }
    lifts
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

type Steps = (Vec<Step>, Vec<String>, HostState);

/// The steps of remedies, each planned on what the ones before it leave.
fn steps_of(remedies: &[Remedy], host: &HostState, port: u16, needs: &mut Needs) -> Result<Steps, String> {
    let (mut steps, mut notes, mut state) = (Vec::new(), Vec::new(), host.clone());
    for remedy in remedies {
        let (more, said) = remedy.plan(&state, port, needs)?;
        for step in more {
            step.predict(&mut state).map_err(|mismatch| mismatch.0)?;
            if let Step::Sshd(step) = &step {
                begins_anew(&mut state, port, &step.activation);
            }
            steps.push(step);
        }
        notes.extend(said);
    }
    Ok((steps, notes, state))
}

/// An sshd that reads its files again knows of no penalty and of nobody at its door; what it told before is over.
fn begins_anew(state: &mut HostState, port: u16, activation: &Activation) {
    if *activation == Activation::Nothing {
        return;
    }
    if let Some(Ok(told)) = &mut state.sshd.journal {
        told.clear();
    }
    if let Some(Part::Present(server)) = state.sshd.servers.get_mut(&port) {
        server.startups = None;
        server.unauthenticated.clear();
        if matches!(activation, Activation::Start(_)) {
            server.running = true;
        }
    }
}

/// Comments the line out, asks sshd, and goes on with the line it complains of next.
fn comment_out(host: &HostState, port: u16, file: &str, line: usize, needs: &mut Needs) -> Result<Planned, String> {
    let Some(server) = resolved(host, port, needs) else { return Ok(Planned::default()) };
    let tree = server.tree.as_ref().map_err(Clone::clone)?;
    let mut edits: Vec<Edit> = Vec::new();
    let (mut file, mut line) = (file.to_owned(), line);
    for _ in 0..LINES_MAX {
        let known = edits.iter().position(|edit| edit.path == file);
        let before = tree.files.get(&file).ok_or_else(|| format!("{file} was not read"))?;
        let mut document = known.and_then(|at| edits.get(at)).map_or_else(|| before.clone(), |edit| Document::parse(&edit.after));
        let text = document.line(line).ok_or_else(|| format!("{file} has no line {line}"))?.to_string();
        if text.trim_start().starts_with('#') {
            return Err(format!("sshd complains of {file} line {line}, which is a comment"));
        }
        document.replace(line, &format!("# sshd does not take this line: {}", text.trim()));
        let why = format!("{file} line {line} is the one that `sshd -t` names");
        if let Some(edit) = known.and_then(|at| edits.get_mut(at)) {
            edit.after = document.bytes();
        } else {
            let (path, before, after) = (file.clone(), before.bytes(), document.bytes());
            edits.push(Edit { path, before, after, why, besides: Vec::new() });
        }
        let Candidate { port, mut changes } = server.candidate(port);
        changes.extend(edits.iter().map(|edit| (edit.path.clone(), edit.after.clone())));
        let Some(answer) = answer(host, &Candidate { port, changes }, needs) else { return Ok(Planned::default()) };
        let next = answer.test.as_ref().err().and_then(|said| said.lines().find_map(place));
        let Some((next_file, next_line)) = next else { break };
        (file, line) = (next_file, next_line);
    }
    plan_edits(host, port, edits, needs)
}
