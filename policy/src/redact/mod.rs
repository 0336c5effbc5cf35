//! What of a reply its signer sees: paths, sessions, bans, rules and records within the networks and users of the grants for that action;
//! of the rest, how many. Every field of every document is named here, so that a new one must be decided on. Called by the pipeline in
//! one place, for every reply. Decides nothing about what is done.

mod mask;
mod patterns;

use self::mask::masked;
use self::patterns::{Reader, WORDS};
use crate::address::Source;
use crate::reply::audit::{Audit, Record};
use crate::reply::sshd::{Problem, ProblemPlace, ShownLine, ShownMatch, ShownSetting, SshdCheck, SshdShow};
use crate::reply::{
    Ban, Bans, Body, Change, ChangeBrief, ChangeDocument, ChangeStep, Changes, Decided, Diagnosis, ErrorDocument, Failure,
    Firewall, FirewallEntry, Guarded, Hosts, HostsRule, Jail, Jails, LeaseDocument, Leases, Names, NotTaken, PathDocument,
    PlanDocument, SourceRange, Status, StepDocument, SubsystemStatus, Unsettled, Who,
};
use crate::request::grants::Scope;
use crate::request::{Action, Operation};
use crate::subsystem::sshd::config::keyword;
use crate::text::quoted::{Part, Quote, Text};
use crate::verdict::cause::Finding;
use crate::verdict::owner::Owner;
use crate::verdict::subsystem::Subsystem;
use crate::verdict::trace::TraceLine;
use crate::verdict::{Evidence, StageReport};

/// The reply as its signer sees it.
#[must_use]
pub fn redacted(mut body: Body, scope: &Scope) -> Body {
    let asked = scope.asked();
    match &mut body {
        Body::Diagnosis(found) => View::of(scope, &[asked]).diagnosis(found),
        Body::Plan(plan) => View::of(scope, &[asked]).plan(plan),
        Body::Change(change) => View::of(scope, &about_a_change(asked, &change.plan.operation)).change(change),
        Body::Bans(bans) => View::of(scope, &[asked]).bans(bans),
        Body::Hosts(hosts) => View::of(scope, &[asked]).hosts(hosts),
        Body::Firewall(firewall) => View::of(scope, &[asked]).firewall(firewall),
        Body::Who(who) => View::of(scope, &[asked]).who(who),
        Body::Jails(jails) => View::of(scope, &[asked]).jails(jails),
        Body::SshdShow(show) => View::of(scope, &[asked]).sshd_show(show),
        Body::SshdCheck(check) => View::of(scope, &[asked]).sshd_check(check),
        Body::Changes(Changes { schema: _, changes }) => {
            for change in changes.iter_mut() {
                View::of(scope, &[asked]).change_document(change);
            }
        }
        Body::Status(status) => View::of(scope, &[asked]).status(status),
        Body::Leases(leases) => View::of(scope, &[asked]).leases(leases),
        Body::Audit(audit) => View::of(scope, &[asked]).audit(audit),
        // How many records there are and which are altered; whose they are is not in it.
        Body::Verification(_) | Body::Checkpoint(_) => {}
        Body::Error(error) => View::of(scope, &about_an_error(asked)).error(error),
    }
    body
}

/// By which actions' grants a decision about a change shows it: those for what was changed, and those to decide about the changes of
/// others.
fn about_a_change(asked: Action, operation: &Operation) -> Vec<Action> {
    match asked {
        Action::Confirm => vec![operation.action(), Action::ConfirmAny],
        Action::Rollback => vec![operation.action(), Action::RollbackAny],
        _ => vec![asked],
    }
}

fn about_an_error(asked: Action) -> Vec<Action> {
    match asked {
        Action::Confirm => vec![asked, Action::ConfirmAny],
        Action::Rollback => vec![asked, Action::RollbackAny],
        _ => vec![asked],
    }
}

/// What grants for these actions let a signer see.
struct View<'a> {
    scope: &'a Scope,
    actions: Vec<Action>,
}

impl<'a> View<'a> {
    fn of(scope: &'a Scope, actions: &[Action]) -> Self {
        Self { scope, actions: actions.to_vec() }
    }

    fn all(&self) -> bool {
        self.actions.iter().any(|action| self.scope.sees_all(*action))
    }

    fn login(&self, source: Source, user: Option<&str>) -> bool {
        self.actions.iter().any(|action| self.scope.sees_login(*action, source, user))
    }

    fn may_read_of(&self, source: Source) -> bool {
        self.actions.iter().any(|action| self.scope.may_read_of(*action, source))
    }

    fn own(&self, principal: &str) -> bool {
        self.scope.principal() == principal
    }

    /// Whether a text names no address that the signer may not know of.
    fn whole(&self, text: &str) -> bool {
        masked(text, &|source| self.may_read_of(source)).is_none()
    }

    fn text(&self, text: &mut String) {
        if let Some(masked) = masked(text, &|source| self.may_read_of(source)) {
            *text = masked;
        }
    }

    /// An owner whose words name somebody (`ufw rule: deny from 203.0.113.7`) becomes the words that are left of it.
    fn owner(&self, owner: &mut Owner) {
        if let Some(masked) = masked(&owner.to_string(), &|source| self.may_read_of(source)) {
            *owner = Owner::Named(masked);
        }
    }

    /// Does this as a reader of quoted lines.
    fn reading<T>(&self, read: impl FnOnce(&Reader<'_>) -> T) -> T {
        let source = |source: Source| self.may_read_of(source);
        let user = |user: &str| self.actions.iter().any(|action| self.scope.may_read_user(*action, user));
        read(&Reader { source: &source, user: &user })
    }

    /// Each part is masked for itself, and then they are put together.
    fn said(&self, text: &mut Text) {
        let mut out = String::with_capacity(text.as_str().len());
        for part in text.parts() {
            let mut part = match part {
                Part::Ours(words) => words.to_owned(),
                Part::Quoted(what, words) => self.reading(|reader| reader.quote(what, words)),
            };
            self.text(&mut part);
            out.push_str(&part);
        }
        *text = out.into();
    }

    /// A quote that stands by itself in its document.
    fn quoted(&self, text: &mut String, what: Quote) {
        *text = self.reading(|reader| reader.quote(what, text));
        self.text(text);
    }

    fn all_said(&self, texts: &mut [Text]) {
        for text in texts.iter_mut() {
            self.said(text);
        }
    }

    fn texts(&self, texts: &mut [String]) {
        for text in texts.iter_mut() {
            self.text(text);
        }
    }

    fn diagnosis(&self, found: &mut Diagnosis) {
        if self.all() {
            return;
        }
        let Diagnosis { schema: _, subject: _, verdict: _, stages, findings, notes } = found;
        self.stages(stages);
        for finding in findings {
            let Finding { cause: _, blocking: _, stage: _, owner, since: _, until: _, evidence, fix } = finding;
            self.owner(owner);
            self.evidence(evidence);
            self.said(fix);
        }
        self.texts(notes);
    }

    fn stages(&self, stages: &mut [StageReport]) {
        for report in stages {
            let StageReport { stage: _, verdict: _, detail, evidence, trace } = report;
            self.said(detail);
            self.evidence(evidence);
            for line in trace {
                // Where in the kernel it is met, and what was counted there, is nobody's.
                let TraceLine {
                    at: _,
                    depth: _,
                    source,
                    place: _,
                    text,
                    effect,
                    depends,
                    elements,
                    counter: _,
                    owner,
                    decides: _,
                } = line;
                for text in [source, text, effect] {
                    self.said(text);
                }
                self.all_said(depends);
                self.evidence(elements);
                for owner in owner.iter_mut() {
                    self.owner(owner);
                }
            }
        }
    }

    fn evidence(&self, evidence: &mut [Evidence]) {
        for Evidence { source, text } in evidence {
            self.text(source);
            self.said(text);
        }
    }

    fn plan(&self, plan: &mut PlanDocument) {
        if self.all() {
            return;
        }
        let PlanDocument {
            schema: _,
            digest: _,
            // What the signer asked for, or who made the change that the signer decides about.
            operation: _,
            steps,
            opens,
            closes,
            paths,
            other_paths,
            other_sources,
            confirm: _,
            alternatives,
            verdict: _,
            stages,
            notes,
        } = plan;
        for StepDocument { subsystem: _, summary, diff, undo, kept: _ } in steps {
            self.text(summary);
            self.said(diff);
            self.text(undo);
        }
        *other_sources += keep(opens, |source| self.may_read_of(*source));
        *other_sources += keep(closes, |source| self.may_read_of(*source));
        *other_paths += keep(paths, |path| self.path(path));
        for PathDocument { source: _, user: _, before: _, after: _, origin: _, sshd, risks } in paths {
            self.all_said(sshd);
            self.all_said(risks);
        }
        for NotTaken { summary, opens, why_not } in alternatives {
            self.text(summary);
            *other_sources += keep(opens, |source| self.may_read_of(*source));
            self.text(why_not);
        }
        self.stages(stages);
        self.all_said(notes);
    }

    fn path(&self, path: &PathDocument) -> bool {
        path.source.parse().is_ok_and(|source| self.login(source, path.user.as_deref()))
    }

    fn change(&self, change: &mut Change) {
        if self.all() {
            return;
        }
        let Change { schema: _, id: _, state: _, changed: _, deadline: _, plan, failure, besides: _, verdict: _, stages, notes } =
            change;
        self.plan(plan);
        if let Some(Failure { step: _, summary, message, rolled_back, stuck }) = failure {
            self.text(summary);
            self.said(message);
            self.all_said(rolled_back);
            self.all_said(stuck);
        }
        self.stages(stages);
        self.all_said(notes);
    }

    fn bans(&self, bans: &mut Bans) {
        if self.all() {
            return;
        }
        let Bans { schema: _, bans, others, notes } = bans;
        *others += self.ban_list(bans);
        self.texts(notes);
    }

    fn ban_list(&self, bans: &mut Vec<Ban>) -> usize {
        let hidden = keep(bans, |ban| self.may_read_of(ban.source));
        for Ban { source: _, by, since: _, until: _ } in bans {
            self.text(by);
        }
        hidden
    }

    fn hosts(&self, hosts: &mut Hosts) {
        if self.all() {
            return;
        }
        let Hosts { schema: _, enforced: _, rules, others, notes } = hosts;
        *others += keep(rules, |HostsRule { file: _, line: _, text, concerns_sshd: _ }| {
            self.whole(text) && self.reading(|reader| reader.quote(Quote::HostsLines, text)) == *text
        });
        self.texts(notes);
    }

    fn firewall(&self, firewall: &mut Firewall) {
        if self.all() {
            return;
        }
        let Firewall { schema: _, entries, others, notes } = firewall;
        *others += keep(entries, |FirewallEntry { reference, owner, text, set: _ }| {
            self.whole(reference) && self.whole(&owner.to_string()) && self.whole(text)
        });
        self.texts(notes);
    }

    fn who(&self, who: &mut Who) {
        if self.all() {
            return;
        }
        let Who { schema: _, port: _, reach, blocked, unknown, deciders, others, notes } = who;
        let shown = |range: &SourceRange| range.prefix().is_some_and(|source| self.login(source, None));
        *others += keep(reach, shown) + keep(blocked, shown);
        for Unsettled { sources, why } in unknown.iter_mut() {
            *others += keep(sources, shown);
            self.text(why);
        }
        unknown.retain(|unknown| !unknown.sources.is_empty());
        for Decided { by, text, sources } in deciders.iter_mut() {
            // Those were counted as blocked.
            keep(sources, shown);
            self.text(by);
            self.text(text);
        }
        deciders.retain(|decided| !decided.sources.is_empty());
        self.texts(notes);
    }

    fn jails(&self, jails: &mut Jails) {
        if self.all() {
            return;
        }
        let Jails { schema: _, version: _, jails, notes } = jails;
        for Jail { name: _, banned, others, ignore } in jails {
            *others += self.ban_list(banned);
            // Names of hosts, too, are let through by fail2ban.
            *others += keep(ignore, |entry| entry.parse().is_ok_and(|source| self.may_read_of(source)));
        }
        self.texts(notes);
    }

    fn sshd_show(&self, show: &mut SshdShow) {
        if self.all() {
            return;
        }
        let SshdShow { schema: _, port: _, running: _, login: _, command, file: _, settings, notes } = show;
        self.said(command);
        for ShownSetting { keyword, values, origin: _, lines, default } in settings {
            let what = keyword::find(keyword).map_or(Quote::Program, |found| Quote::Values(found.name));
            for value in values.iter_mut().chain(default.iter_mut().flatten()) {
                self.quoted(value, what);
            }
            for ShownLine { file: _, line: _, text, under } in lines {
                self.quoted(text, Quote::SshdLines);
                for ShownMatch { file: _, line: _, text } in under {
                    self.quoted(text, Quote::SshdLines);
                }
            }
        }
        self.all_said(notes);
    }

    fn sshd_check(&self, check: &mut SshdCheck) {
        if self.all() {
            return;
        }
        let SshdCheck { schema: _, port: _, file: _, valid: _, running, would_start: _, problems } = check;
        self.text(&mut running.detail);
        for Problem { severity: _, text, at, advice } in problems {
            self.said(text);
            for ProblemPlace { file: _, line: _, text } in at.iter_mut() {
                self.quoted(text, Quote::SshdLines);
            }
            self.text(advice);
        }
    }

    fn change_document(&self, change: &mut ChangeDocument) {
        if self.all() {
            return;
        }
        let ChangeDocument {
            id: _,
            state: _,
            principal,
            operation,
            digest,
            started: _,
            deadline: _,
            seconds_left: _,
            finished: _,
            detail,
            steps,
            events,
        } = change;
        let is_own = self.own(principal);
        if is_own || operation.as_ref().and_then(Operation::source).is_some_and(|source| self.login(source, None)) {
            // What was said of its own files by sshd is not known from other words any more.
            let of_sshd = steps.iter().any(|step| step.subsystem == Subsystem::Sshd);
            let details = steps.iter_mut().map(|step| &mut step.detail).chain(events.iter_mut().map(|event| &mut event.detail));
            for detail in details.chain([detail]).filter(|detail| !detail.is_empty()) {
                match (of_sshd, is_own) {
                    (true, _) => WORDS.clone_into(detail),
                    (false, true) => {}
                    (false, false) => self.text(detail),
                }
            }
            for ChangeStep { subsystem: _, summary, undo, event: _, detail: _ } in steps.iter_mut().filter(|_| !is_own) {
                self.text(summary);
                self.text(undo);
            }
            return;
        }
        // Whom it is about could be found out by trying digests.
        (*operation, *digest, *detail) = (None, String::new(), String::new());
        steps.clear();
        events.clear();
    }

    fn brief(&self, change: &mut ChangeBrief) {
        let ChangeBrief { id: _, principal, state: _, deadline: _, seconds_left: _, detail } = change;
        if self.own(principal) {
            self.said(detail);
        } else {
            *detail = Text::default();
        }
    }

    fn status(&self, status: &mut Status) {
        if self.all() {
            return;
        }
        let Status {
            schema: _,
            version: _,
            hostname: _,
            host: _,
            port: _,
            subsystems,
            paths,
            sessions_unknown,
            others,
            pending: _,
            waiting,
            leases,
            last_drill: _,
            drill,
            notes,
        } = status;
        for SubsystemStatus { name: _, state: _, version: _, detail } in subsystems {
            self.text(detail);
        }
        if let Some(why) = sessions_unknown {
            self.text(why);
        }
        *others += keep(paths, |path| {
            let (user, source) = path.split_once(" from ").map_or((None, path.as_str()), |(user, source)| (Some(user), source));
            source.parse().is_ok_and(|source| self.login(source, user))
        });
        for change in waiting.iter_mut() {
            self.brief(change);
        }
        *others += self.lease_list(leases);
        for drill in drill.iter_mut() {
            self.text(&mut drill.detail);
        }
        self.texts(notes);
    }

    fn leases(&self, leases: &mut Leases) {
        if self.all() {
            return;
        }
        let Leases { schema: _, leases, others, notes } = leases;
        *others += self.lease_list(leases);
        self.texts(notes);
    }

    fn lease_list(&self, leases: &mut Vec<LeaseDocument>) -> usize {
        keep(leases, |lease| {
            let LeaseDocument { id: _, summary, ends: _, principal, change: _, made: _, parts, ungranted: _ } = lease;
            self.own(principal) || (self.whole(summary) && parts.iter().all(|part| self.whole(part)))
        })
    }

    fn audit(&self, audit: &mut Audit) {
        if self.all() {
            return;
        }
        let Audit { schema: _, records, others, more: _, notes } = audit;
        *others += keep(records, |record| self.record(record));
        self.texts(notes);
    }

    fn record(&self, record: &Record) -> bool {
        let Record {
            record: _,
            opened_at: _,
            closed_at: _,
            principal,
            key: _,
            peer_uid: _,
            peer_pid: _,
            from,
            claimed_from: _,
            request: _,
            action: _,
            operation,
            mode: _,
            reason,
            automatic,
            outcome: _,
            detail,
            plan: _,
            change: _,
        } = record;
        let texts = [reason.as_deref(), automatic.as_deref(), Some(detail.as_str())];
        principal.as_deref().is_some_and(|principal| self.own(principal))
            || (operation.as_ref().and_then(Operation::source).is_some_and(|source| self.login(source, None))
                && from.is_none_or(|from| self.may_read_of(from.into()))
                && texts.into_iter().flatten().all(|text| self.whole(text)))
    }

    fn error(&self, error: &mut ErrorDocument) {
        let ErrorDocument { schema: _, code: _, message, advice, plan, change, locked_out, guarded } = error;
        let guarded = guarded.take();
        if self.all() {
            return;
        }
        if let Some(guarded) = guarded {
            let Guarded { names, message: instead, advice: then } = *guarded;
            let known = match &names {
                Names::Login { source, user } => self.login(*source, user.as_deref()),
                Names::ChangeOf(principal) => self.own(principal),
            };
            if !known {
                (*message, *advice, *locked_out) = (instead.into(), then.into(), None);
            }
        }
        self.said(message);
        self.said(advice);
        for plan in plan.iter_mut() {
            self.plan(plan);
        }
        for change in change.iter_mut() {
            self.brief(change);
        }
    }
}

/// Keeps what is shown; how many are not.
fn keep<T>(all: &mut Vec<T>, shown: impl Fn(&T) -> bool) -> usize {
    let before = all.len();
    all.retain(shown);
    before - all.len()
}

#[cfg(test)]
mod tests;
