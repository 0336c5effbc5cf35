//! The no-lockout proof: no access path that is open now is closed by any prefix of a plan's steps.
//! Unknown counts as closed. The only maker of a [`SafePlan`], so nothing unproven can be applied.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use crate::diagnose::{admission, admission_stages};
use crate::host::step::{Mismatch, Reach, Step};
use crate::host::{HostState, Needs, Part};
use crate::netfilter;
use crate::plan::Plan;
use crate::reply::{Confirm, PathDocument, PlanDocument};
use crate::subsystem::listener;
use crate::subsystem::sshd::{self, Fault, WayIn};
use crate::text::quoted::Text;
use crate::verdict::{AccessPath, Connection, PathOrigin, Stage, StageReport, Verdict};
#[cfg(test)]
use crate::words;

/// A plan that the proof accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafePlan {
    plan: Plan,
    protected: Vec<AccessPath>,
    paths: Vec<PathDocument>,
}

/// Why the proof refuses. The host is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lockout {
    /// Somebody who may get in now would not any more.
    #[error("would lock out: {0}; nothing was changed")]
    Witness(Box<Witness>),
    /// Who is logged in could not be read, so that no session can be protected.
    #[error("cannot prove that nobody is locked out: who is logged in is not known: {0}; nothing was changed")]
    Unread(String),
    /// A step does not fit the model, so nothing can be proven.
    #[error("cannot prove that nobody is locked out: {0}; nothing was changed")]
    Model(#[from] Mismatch),
}

/// Who would be locked out, by which step and which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// From 1.
    pub step: usize,
    /// The step's summary.
    pub summary: String,
    /// Who would be cut off.
    pub path: AccessPath,
    /// What would become of them: refuse or unknown.
    pub verdict: Verdict,
    /// The rule, line or ticket.
    pub why: Text,
}

impl Lockout {
    /// The same as it is displayed, with what it quotes.
    pub fn words(&self) -> Text {
        match self {
            Lockout::Witness(witness) => Text::from("would lock out: ") + witness.words() + "; nothing was changed",
            Lockout::Unread(_) | Lockout::Model(_) => self.to_string().into(),
        }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().as_str())
    }
}

impl Witness {
    /// `after step 2 (...), alice from 198.51.100.7 (a live session) would be refused by inet filter input handle 9`
    fn words(&self) -> Text {
        let Self { step, summary, path, verdict, why } = self;
        let user = path.user.as_ref().map_or_else(String::new, |user| format!("{user} from "));
        let verdict = if *verdict == Verdict::Refuse { "would be refused" } else { "might be refused" };
        let origin = origin(path.origin);
        let who = format!("after step {step} ({summary}), {user}{} ({origin}) {verdict} by ", path.from());
        Text::from(who) + why.clone()
    }
}

impl SafePlan {
    /// A plan that nothing was proven about, so that the lab can try the lockout itself. Not in any release: the agent
    /// calls it in debug builds only.
    #[cfg(any(debug_assertions, feature = "fake"))]
    #[doc(hidden)]
    pub fn unproven(plan: Plan, paths: &[AccessPath]) -> Self {
        let shown = |path: &AccessPath| PathDocument {
            source: path.from(),
            user: path.user.clone(),
            before: Verdict::Unknown,
            after: Verdict::Unknown,
            origin: Some(path.origin),
            sshd: Vec::new(),
            risks: Vec::new(),
        };
        Self { plan, protected: paths.to_vec(), paths: paths.iter().map(shown).collect() }
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.plan.steps
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The ways in that it was proven for.
    pub fn protected(&self) -> &[AccessPath] {
        &self.protected
    }

    /// As it is shown.
    pub fn document(&self) -> PlanDocument {
        self.plan.document(self.paths.clone())
    }
}

/// Proves the plan for every access path and every intermediate state, or says who would be locked out by what.
///
/// The rule is *no worse*: a path accepted now stays accepted after every step, and not only while a neighbour entry lasts. A path
/// that is unknown now may stay unknown only while no step that could keep somebody out touches it, and in sshd only for reasons that
/// were there before, so that nothing can hide behind what is not known. A live session is accepted now, whatever the stages of sshd say.
/// A plan that may keep somebody out is refused where the live sessions could not be read. Facts that are missing are added to `needs`.
pub fn prove(plan: Plan, host: &HostState, paths: &[AccessPath], needs: &mut Needs) -> Result<SafePlan, Lockout> {
    #[cfg(test)]
    let again = plan.clone();
    let found = proof(plan, host, paths, needs);
    #[cfg(test)]
    words::same(&found, tests::decided, || proof(again, host, paths, &mut Needs::new()));
    found
}

fn proof(plan: Plan, host: &HostState, paths: &[AccessPath], needs: &mut Needs) -> Result<SafePlan, Lockout> {
    if let (Part::Unreadable(why), Confirm::Required) = (&host.listener, plan.confirm) {
        return Err(Lockout::Unread(why.clone()));
    }
    let verdict = |state: &HostState, path: &AccessPath, needs: &mut Needs| {
        if path.has_no_address() {
            return (Verdict::Accept, Text::default());
        }
        admission(host, state, &Connection { source: path.source, port: path.port, user: path.user.clone() }, needs)
    };
    let before: Vec<Verdict> = paths.iter().map(|path| verdict(host, path, needs).0).collect();
    let mut after = before.clone();
    let mut logins = Logins::of(&plan, host, paths, needs);
    let mut state = host.clone();
    for (index, step) in plan.steps.iter().enumerate() {
        step.predict(&mut state)?;
        let witness = |path: &AccessPath, verdict, why| {
            let (step, summary) = (index + 1, step.summary());
            Err(Lockout::Witness(Box::new(Witness { step, summary, path: path.clone(), verdict, why })))
        };
        if matches!(step, Step::Sshd(_)) {
            // Whoever a packet filter or a ban keeps out for now is to get in again when that is over.
            if let Some((path, verdict, why)) = logins.worse((host, &state), paths, needs) {
                return witness(path, verdict, why);
            }
            continue;
        }
        let ways = paths.iter().zip(&before).zip(&mut after);
        for ((path, before), after) in ways.filter(|((path, _), _)| !path.has_no_address()) {
            let (now, why) = verdict(&state, path, needs);
            *after = now;
            let worse = match (before, now) {
                (Verdict::Refuse, _) | (_, Verdict::Accept) => false,
                (_, Verdict::Refuse) | (Verdict::Accept, Verdict::Unknown) => true,
                (Verdict::Unknown, Verdict::Unknown) => {
                    let may_close = plan.confirm == Confirm::Required && step.reach() != Reach::Nobody;
                    may_close && step_concerns(step, path) && !doubted_as_before(host, &state, path, needs)
                }
            };
            if worse {
                return witness(path, now, why);
            }
            if let Some(why) = newly_refusing(host, &state, (path, *before), needs) {
                return witness(path, Verdict::Refuse, why);
            }
            // Whoever is remembered as a neighbour would be let in for some minutes more, and then never again.
            let connection = Connection { source: path.source, port: path.port, user: path.user.clone() };
            if (*before, now) == (Verdict::Accept, Verdict::Accept)
                && let Some(why) = netfilter::only_remembered(&state, &connection, needs)
                && netfilter::only_remembered(host, &connection, needs).is_none()
            {
                return witness(path, Verdict::Unknown, why.into());
            }
        }
    }
    let protected = paths.to_vec();
    let paths = paths.iter().zip(before).zip(after).enumerate().map(|(index, ((path, before), after))| {
        let (was, is, sshd, risks) = logins.said(index);
        let (source, user) = (path.from(), path.user.clone());
        PathDocument { source, user, before: before.and(was), after: after.and(is), origin: Some(path.origin), sshd, risks }
    });
    let paths = paths.collect();
    Ok(SafePlan { plan, protected, paths })
}

/// The live sessions of which nobody may be locked out. Where they are not known as a whole, a plan that may close something is refused:
/// all others go without them.
pub fn sessions(plan: &Plan, host: &HostState) -> Result<Vec<AccessPath>, Lockout> {
    match listener::sessions(host) {
        Ok(sessions) => Ok(sessions),
        Err(why) if may_close(plan) => Err(Lockout::Unread(why)),
        Err(_) => Ok(Vec::new()),
    }
}

/// What must be confirmed may close something ([`crate::plan`]); so may the end of a lease, which goes without.
fn may_close(plan: &Plan) -> bool {
    let ends = plan.goal.ended_lease().is_some() && plan.steps.iter().any(|step| step.reach() != Reach::Nobody);
    plan.confirm == Confirm::Required || ends
}

/// Whether each stage that is not known to let a path in looks at just what it looked at before: the same undecided rule, met by the same
/// packet.
fn doubted_as_before(read: &HostState, now: &HostState, path: &AccessPath, needs: &mut Needs) -> bool {
    let connection = Connection { source: path.source, port: path.port, user: path.user.clone() };
    let same_route = read.route == now.route;
    let same_filters = (&read.nf_tables, &read.xtables, &read.ipset) == (&now.nf_tables, &now.xtables, &now.ipset);
    let is_so = |stage: &StageReport| match stage.stage {
        _ if stage.verdict == Verdict::Accept => true,
        Stage::Route => same_route,
        // Where the answers leave decides by what the packets come in.
        Stage::Netfilter => same_filters && same_route,
        Stage::HostsAccess => read.hosts_access == now.hosts_access,
        Stage::Listener | Stage::SshdAdmission | Stage::SshdAccess | Stage::Account => false,
    };
    admission_stages(netfilter::evaluate, now, &connection, needs).iter().all(is_so)
}

/// A stage that begins to refuse a path by which somebody is in, or a keep entry, though another stage says that it is closed already: that
/// may be a fault of ours, or pass, as a ban does.
fn newly_refusing(read: &HostState, now: &HostState, (path, before): (&AccessPath, Verdict), needs: &mut Needs) -> Option<Text> {
    if before != Verdict::Refuse || path.origin != PathOrigin::Keep && !sshd::is_in(read, path, needs) {
        return None;
    }
    let connection = Connection { source: path.source, port: path.port, user: path.user.clone() };
    let before = admission_stages(netfilter::evaluate, read, &connection, needs);
    let after = admission_stages(netfilter::evaluate, now, &connection, needs);
    let refuses = |report: &StageReport| report.verdict == Verdict::Refuse;
    before.iter().zip(&after).find(|(was, is)| !refuses(was) && refuses(is)).map(|(_, is)| is.why())
}

/// What sshd makes of every path, before the plan and after the steps so far. Nothing is asked of it where no step is about it.
#[derive(Default)]
struct Logins {
    /// By which sshd each path is judged.
    servers: Vec<u16>,
    before: Vec<WayIn>,
    after: Vec<WayIn>,
}

impl Logins {
    fn of(plan: &Plan, host: &HostState, paths: &[AccessPath], needs: &mut Needs) -> Self {
        let port = plan.steps.iter().find_map(|step| match step {
            Step::Sshd(step) => Some(step.port),
            _ => None,
        });
        let Some(port) = port else { return Self::default() };
        let steps = plan.steps.iter().filter_map(|step| if let Step::Sshd(step) = step { Some(step) } else { None });
        let files: BTreeSet<&str> = steps.flat_map(|step| &step.files).map(|file| file.path.as_str()).collect();
        let servers: Vec<u16> = paths.iter().map(|path| sshd::server_for(host, port, &files, path, needs)).collect();
        let of_path = |(path, server): (&AccessPath, &u16)| sshd::way_in_now(host, *server, path, needs);
        let before: Vec<WayIn> = paths.iter().zip(&servers).map(of_path).collect();
        Self { servers, after: before.clone(), before }
    }

    /// The first path that is worse off than before the plan.
    fn worse<'a>(
        &mut self,
        (read, now): (&HostState, &HostState),
        paths: &'a [AccessPath],
        needs: &mut Needs,
    ) -> Option<(&'a AccessPath, Verdict, Text)> {
        let mut found = None;
        for (((path, server), before), after) in paths.iter().zip(&self.servers).zip(&self.before).zip(&mut self.after) {
            *after = sshd::way_in(read, now, *server, path, needs);
            if found.is_none() {
                found = before.worse(after).map(|(verdict, why)| (path, verdict, why));
            }
        }
        found
    }

    /// For the plan: before, after, what becomes different, and which limits get worse.
    fn said(&self, index: usize) -> (Verdict, Verdict, Vec<Text>, Vec<Text>) {
        match (self.before.get(index), self.after.get(index)) {
            (Some(before), Some(after)) => {
                let (was, is) = before.shown(after);
                (was, is, before.changes(after), before.new_risks(after))
            }
            _ => (Verdict::Accept, Verdict::Accept, Vec::new(), Vec::new()),
        }
    }
}

/// The stages of sshd that say that a way in is closed, or do not know, by which a live session came in: to be logged as a fault of ours.
/// Nothing is asked where no step is about sshd.
pub fn faults(plan: &Plan, host: &HostState, paths: &[AccessPath], needs: &mut Needs) -> Vec<Fault> {
    let logins = Logins::of(plan, host, paths, needs);
    paths.iter().zip(&logins.before).flat_map(|(path, before)| before.faults(path)).collect()
}

fn step_concerns(step: &Step, path: &AccessPath) -> bool {
    step.touches().is_none_or(|sources| sources.iter().any(|source| source.overlaps(path.source)))
}

fn origin(origin: PathOrigin) -> &'static str {
    match origin {
        PathOrigin::Requester => "your own way in, as claimed",
        PathOrigin::Session => "a live session",
        PathOrigin::Keep => "a `keep` entry of agent.toml",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::plan::goal::Goal;
    use crate::request::Intent;
    use crate::subsystem::hosts_access;
    use crate::subsystem::ipset::SetNames;
    use crate::subsystem::nf_tables::Family;
    use crate::subsystem::nf_tables::build::{Ruleset, Statement, accept, dport, drop, limit};
    use crate::subsystem::nf_tables::lift::delete_rule;

    /// What of a proof is decided, and not only said.
    pub(super) fn decided(found: &Result<SafePlan, Lockout>) -> impl fmt::Debug + PartialEq + use<> {
        let proven = found.as_ref().map_err(std::mem::discriminant);
        proven.map(|safe| safe.paths.iter().map(|path| (path.before, path.after)).collect::<Vec<_>>())
    }

    fn plan(confirm: Confirm) -> Plan {
        Plan {
            intent: Intent::SshdReload,
            goal: Goal::Configure,
            steps: Vec::new(),
            opens: Vec::new(),
            closes: Vec::new(),
            confirm,
            lease: None,
            alternatives: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn where_the_sessions_could_not_be_read_nothing_that_may_keep_somebody_out_is_safe() {
        let mut host = HostState::empty();
        assert!(prove(plan(Confirm::Required), &host, &[], &mut Needs::new()).is_ok());
        host.listener = Part::Unreadable("too many open files".to_owned());
        let refused = prove(plan(Confirm::Required), &host, &[], &mut Needs::new());
        assert_eq!(refused, Err(Lockout::Unread("too many open files".to_owned())));
        assert!(prove(plan(Confirm::NotNeeded), &host, &[], &mut Needs::new()).is_ok(), "what only opens keeps nobody out");
        assert_eq!(sessions(&plan(Confirm::NotNeeded), &host), Ok(Vec::new()));
        for unread in [Part::Unreadable("no list".to_owned()), Part::Absent("no list".to_owned())] {
            host.listener = unread;
            assert_eq!(sessions(&plan(Confirm::Required), &host), Err(Lockout::Unread("no list".to_owned())));
        }
    }

    /// hosts.allow and hosts.deny of a server whose rules drop some of those who come, whoever they are.
    fn with_a_limit(more: &[Statement]) -> HostState {
        let rules = Ruleset::new().input(Family::Inet, true).rule(&[dport(22), limit(10), drop()]);
        let state = if more.is_empty() { rules } else { rules.rule(more) }.build();
        let file = |name: &str| hosts_access::File {
            path: format!("/etc/{name}"),
            content: hosts_access::Content::Missing,
            read_only: None,
        };
        let files = hosts_access::State {
            allow: file("hosts.allow"),
            deny: file("hosts.deny"),
            libwrap: hosts_access::Libwrap::Linked("it is".to_owned()),
            facts: hosts_access::Facts::default(),
        };
        HostState { nf_tables: Part::Present(state), hosts_access: Part::Present(files), ..HostState::empty() }
    }

    #[test]
    fn an_undecided_rule_that_was_there_before_is_no_reason_against_what_does_not_touch_it() {
        let source = "203.0.113.7".parse().unwrap();
        let path = AccessPath { source, port: 22, user: None, origin: PathOrigin::Keep };
        let proven = |host: &HostState, steps: Vec<Step>| {
            let plan = Plan { steps, ..plan(Confirm::Required) };
            prove(plan, host, std::slice::from_ref(&path), &mut Needs::new())
        };
        let host = with_a_limit(&[]);
        let range = "203.0.113.0/24".parse().unwrap();
        let safe = proven(&host, hosts_access::plan_allow(&host, range, None).unwrap()).unwrap();
        assert_eq!((safe.paths[0].before, safe.paths[0].after), (Verdict::Unknown, Verdict::Unknown));
        let refused = proven(&host, hosts_access::plan_deny(&host, range, None).unwrap()).unwrap_err();
        assert!(refused.to_string().contains("would be refused by /etc/hosts.deny"), "{refused}");
        // A rule goes that may have accepted who passed the undecided one.
        let host = with_a_limit(&[limit(20), accept()]);
        let state = host.nf_tables.present().unwrap();
        let gone = delete_rule(state, &state.chains[0], 1, None, &SetNames::new()).unwrap();
        let refused = proven(&host, vec![Step::NfTables(gone)]).unwrap_err();
        assert!(refused.to_string().contains("might be refused by"), "{refused}");
    }
}
