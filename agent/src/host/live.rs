//! The real host behind `policy::host::Host`: observes every subsystem side by side, each with its own deadline, and applies
//! steps through the subsystem they belong to. Decides nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{Done, Host, HostState, Need, Needs, Part, Question, Restored, StepError};
use sshfix_policy::proof::unread;
use sshfix_policy::reply::PathDocument;
use sshfix_policy::subsystem::sshd::way_in::gone;
use sshfix_policy::subsystem::{
    fail2ban as fail2ban_model, ipset as ipset_model, listener as listener_model, nf_tables as nf_tables_model,
    route as route_model, sshd as sshd_model,
};
use sshfix_policy::verdict::AccessPath;

use crate::config::Config;
use crate::host::observe::complete;
use crate::patience::{self, Patience};
use crate::subsystem::{conntrack, fail2ban, hosts_access, ipset, listener, nf_tables, recent, route, sshd, ufw, xtables};
use crate::sys::descriptors;
use crate::sys::files::Old;
use crate::turns::Pulse;

/// The host this agent runs on. One per agent, behind a lock: one writer applies changes.
pub struct LiveHost {
    config: Arc<Config>,
    fail2ban: fail2ban::Fail2ban,
    ruleset: nf_tables::Ruleset,
    texts: xtables::Texts,
    sshd_versions: sshd::Versions,
    users: sshd::Users,
    pulse: Pulse,
    /// The ways in of the plan that is being taken back.
    proven: Vec<PathDocument>,
}

/// How long a rollback looks for what its old files name and is gone: it waits for nothing that others can put off.
const LOOK: Duration = Duration::from_secs(5);

impl LiveHost {
    /// Opens nothing yet: what is missing shows when it is first read.
    pub fn new(config: Arc<Config>) -> Self {
        let fail2ban = fail2ban::Fail2ban::new(&config.paths.fail2ban_socket);
        let (ruleset, texts, sshd_versions) = (nf_tables::Ruleset::new(), xtables::Texts::default(), sshd::Versions::default());
        let (users, pulse) = (sshd::Users::default(), Pulse::default());
        Self { config, fail2ban, ruleset, texts, sshd_versions, users, pulse, proven: Vec::new() }
    }

    /// Beats with each thing that is read or done: a long change lives, one that hangs does not.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Reads the host for one answer, where some of the facts that will be asked for are known: each round saved is one evaluation of the
    /// ruleset less. The loop is [`crate::host::observe::observed`]'s.
    pub(crate) fn answered<T>(
        &mut self,
        question: &Question,
        first: Needs,
        answer: impl Fn(&HostState, &mut Needs) -> T,
    ) -> (HostState, T) {
        let state = self.observe_with(question, &first);
        complete(self, state, first, answer)
    }

    /// Observes, with facts that will be asked for: what takes programs is read beside the ruleset, whose dump takes as long.
    pub fn observe_with(&mut self, question: &Question, first: &Needs) -> HostState {
        self.users.begin();
        let Self { config, fail2ban, ruleset, texts, sshd_versions, users: _, pulse, proven: _ } = self;
        pulse.beat();
        let patience = patience::current();
        let patiently = || patience.clone();
        let mut state = thread::scope(|scope| {
            let fail2ban = scope.spawn(|| patience::with(patiently(), || fail2ban.observe(question)));
            let hosts_access = scope.spawn(|| patience::with(patiently(), || hosts_access::observe(config, question)));
            let xtables = scope.spawn(|| patience::with(patiently(), || texts.observe()));
            let read_listener = || {
                let listener = listener::observe(question);
                let servers = first.iter().filter_map(|need| match need {
                    Need::Sshd(sshd_model::Need::Server(port)) => Some((*port, sshd::server(&listener, *port, sshd_versions))),
                    _ => None,
                });
                let sshd = sshd_model::State { servers: servers.collect(), ..sshd_model::State::default() };
                (listener, sshd)
            };
            let listener = scope.spawn(|| patience::with(patiently(), read_listener));
            let nf_tables = ruleset.observe();
            let (listener, sshd) = listener.join().unwrap_or_else(|_| (panicked("the listener"), sshd_model::State::default()));
            HostState {
                at: Timestamp::now(),
                fail2ban: joined("fail2ban", fail2ban),
                hosts_access: joined("hosts.allow and hosts.deny", hosts_access),
                nf_tables,
                xtables: joined("iptables-legacy", xtables),
                ipset: ipset_model::State::new(),
                listener,
                // Asked for one by one: `Need::Route`.
                route: Part::Present(route_model::State { port: Some(question.port), ..route_model::State::default() }),
                ufw: None,
                // The rest is asked for one by one: `Need::Sshd`.
                sshd,
            }
        });
        let is_read =
            |need: &&Need| matches!(need, Need::Sshd(sshd_model::Need::Server(port)) if state.sshd.servers.contains_key(port));
        let rest = first.iter().filter(|need| !is_read(need)).cloned().collect();
        self.lookup(&mut state, &rest);
        state
    }

    /// Reads the nftables ruleset if it changed, so that the next question finds it read.
    pub fn read_ahead(&mut self) {
        self.ruleset.read_ahead();
    }

    /// What fail2ban holds, and nothing else of the host.
    pub fn bans(&mut self, question: &Question) -> Part<fail2ban_model::State> {
        self.fail2ban.observe(question)
    }

    /// Lets the next observation read the counters of the rules as they are then.
    pub fn forget_counters(&mut self) {
        self.ruleset.forget_counters();
    }
}

/// A reader that panicked has read nothing.
fn joined<T>(name: &str, thread: thread::ScopedJoinHandle<'_, Part<T>>) -> Part<T> {
    thread.join().unwrap_or_else(|_| panicked(name))
}

fn panicked<T>(name: &str) -> Part<T> {
    Part::Unreadable(format!("reading {name} failed inside sshfix; its log has the details"))
}

impl Host for LiveHost {
    fn observe(&mut self, question: &Question) -> HostState {
        self.observe_with(question, &Needs::new())
    }

    fn lookup(&mut self, state: &mut HostState, needs: &Needs) {
        let (mut keys, mut sets, mut hosts) = (BTreeSet::new(), BTreeSet::new(), Needs::new());
        let (mut ipsets, mut entries, mut recent_lists) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut routes, mut links, mut policy_rules) = (BTreeSet::new(), false, BTreeSet::new());
        let (mut tables, mut listings, mut properties) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut neighbours, mut key_files) = (BTreeSet::new(), BTreeSet::new());
        for need in needs {
            self.pulse.beat();
            if patience::is_over() {
                return;
            }
            match need {
                Need::Element(key) => _ = keys.insert(key.clone()),
                Need::SetElements(set) => _ = sets.insert(set.clone()),
                Need::Ipset(index) => _ = ipsets.insert(*index),
                Need::IpsetEntry(query) => _ = entries.insert(query.clone()),
                Need::Conntrack => state.ipset.conntrack = Some(conntrack::read().map_err(|error| error.to_string())),
                Need::Recent(name) => _ = recent_lists.insert(name.clone()),
                Need::HostName(_) | Need::PatternFile(_) => _ = hosts.insert(need.clone()),
                Need::IpsetProperties(name) => _ = properties.insert(name.clone()),
                Need::IpsetElements(name) => _ = listings.insert(name.clone()),
                Need::Route(source) => _ = routes.insert(*source),
                Need::Links => links = true,
                Need::Neighbour(device, address) => _ = neighbours.insert((*device, *address)),
                Need::Ufw => state.ufw = Some(ufw::read()),
                Need::RouteTables(v6) => _ = tables.insert(*v6),
                Need::PolicyRules(v6) => _ = policy_rules.insert(*v6),
                Need::Sshd(sshd_model::Need::KeyFile { user, path }) => _ = key_files.insert((user.clone(), path.clone())),
                Need::Sshd(need) => sshd::lookup(state, need, &mut self.sshd_versions, &mut self.users),
            }
        }
        if !key_files.is_empty() {
            sshd::key_files(state, &key_files, &mut self.sshd_versions, &mut self.users);
        }
        if !(keys.is_empty() && sets.is_empty())
            && let Part::Present(ruleset) = &mut state.nf_tables
            && let Err(error) = self.ruleset.lookup_elements(ruleset, &keys, &sets)
        {
            state.nf_tables = Part::Unreadable(error.to_string());
        }
        if !(ipsets.is_empty() && entries.is_empty()) {
            ipset::lookup(&mut state.ipset, &ipsets, &entries);
        }
        ipset::properties(&mut state.ipset, &properties);
        ipset::list(&mut state.ipset, &listings);
        if let Part::Present(read) = &mut state.route {
            route::list_tables(read, &tables);
            route::list_rules(read, &policy_rules);
            route::look_up_neighbours(read, &neighbours);
        }
        recent::lookup(&mut state.ipset.recent, &recent_lists);
        if !hosts.is_empty()
            && let Part::Present(files) = &mut state.hosts_access
        {
            hosts_access::lookup(files, &hosts);
        }
        if (links || !routes.is_empty())
            && let Part::Present(read) = &mut state.route
            && let Err(error) = route::lookup(read, &routes)
        {
            state.route = Part::Unreadable(format!("the kernel did not answer a route lookup: {error}"));
        }
    }

    fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        self.pulse.beat();
        #[cfg(debug_assertions)]
        lab::at(step)?;
        self.apply_step(step)
    }

    /// nftables by its generation, which every commit of anybody's raises; the hosts files and all of sshd's by their content; the
    /// legacy tables by their rules. What fail2ban and ipsets hold is looked at by the step that touches it.
    fn unchanged(&mut self, read: &HostState) -> Result<(), StepError> {
        #[cfg(debug_assertions)]
        lab::pause_before_the_first();
        // A new part of the host does not compile before it is said what becomes of it here.
        let HostState {
            at: _,
            nf_tables,
            xtables,
            hosts_access,
            sshd,
            // Looked at by the step that touches them.
            fail2ban: _,
            ipset: _,
            route: _,
            // Whose rule it is: the rules are looked at.
            ufw: _,
            // Sessions come and go; the proof kept those that were there.
            listener: _,
        } = read;
        let drifted = |what: &str| Err(StepError::Drifted(format!("{what} changed since the plan was made")));
        if let Part::Present(planned) = nf_tables
            && !matches!(self.ruleset.observe(), Part::Present(now) if now.generation == planned.generation)
        {
            return drifted("the nftables ruleset");
        }
        if let Part::Present(planned) = hosts_access
            && hosts_access::files(&self.config) != (planned.allow.clone(), planned.deny.clone())
        {
            return drifted("hosts.allow or hosts.deny");
        }
        if let Part::Present(planned) = xtables
            && !matches!(xtables::observe(), Part::Present(now) if xtables::same_rules(planned, &now))
        {
            return drifted("an iptables-legacy table");
        }
        if let Some(port) = sshd::drifted(sshd) {
            return drifted(&format!("the configuration of the sshd on port {port}"));
        }
        Ok(())
    }

    fn stands(&mut self, step: &Step) -> Result<bool, StepError> {
        let sources = step.touches().into_iter().flatten().collect();
        let question = Question { sources, port: self.config.ssh_port, everybody: false };
        let unread: fn(&HostState) -> Option<&str> = match step {
            Step::Ipset(step) => return ipset::stands(step),
            Step::Recent(step) => return recent::stands(step),
            Step::NfTables(step) => return self.stands_in_nf_tables(step),
            Step::Xtables(_) => |state| state.xtables.unreadable(),
            Step::Route(_) => |state| state.route.unreadable(),
            Step::Fail2ban(_) | Step::HostsAccess(_) | Step::Sshd(_) | Step::Repair(_) => |_| None,
        };
        let mut state = self.observe(&question);
        self.lookup(&mut state, &step.needs());
        match unread(&state) {
            Some(why) => Err(not_looked_at(step, why)),
            None => Ok(step.holds(&state).is_ok()),
        }
    }

    fn taking_back(&mut self, proven: &[PathDocument]) {
        self.proven = proven.to_vec();
    }

    fn restore(&mut self, step: &Step) -> Result<Restored, StepError> {
        self.pulse.beat();
        // Whoever uses up all others cannot keep a change from being taken back.
        let _spare = descriptors::spare();
        #[cfg(debug_assertions)]
        if lab::forgets_to_undo() {
            return Ok(Restored { done: Done::Changed, note: None, besides: false });
        }
        match step {
            // Files hold edits of others, which stay.
            Step::Sshd(edit) => {
                #[cfg(debug_assertions)]
                lab::at(step)?;
                let would_refuse = self.would_refuse(edit);
                return sshd::restore(edit, would_refuse.as_deref());
            }
            Step::HostsAccess(edit) => {
                #[cfg(debug_assertions)]
                lab::at(step)?;
                return hosts_access::restore(&self.config, edit);
            }
            Step::Fail2ban(_)
            | Step::NfTables(_)
            | Step::Xtables(_)
            | Step::Ipset(_)
            | Step::Route(_)
            | Step::Recent(_)
            | Step::Repair(_) => {}
        }
        match (self.apply(&step.inverse()), step) {
            // The file is the user's own: who writes to it, or holds a lease on it, must not be able to keep a change stuck.
            (Err(StepError::Drifted(why) | StepError::Failed(why)), Step::Repair(repair)) if repair.is_of_a_tally() => {
                Ok(Restored { done: Done::Already, note: Some(format!("not done: {}: {why}", step.undo())), besides: false })
            }
            (answer, _) => answer.map(|done| Restored { done, note: None, besides: false }),
        }
    }
}

fn not_looked_at(step: &Step, why: &str) -> StepError {
    StepError::Failed(format!("cannot read whether this is still in place: {}: {why}", step.summary()))
}

impl LiveHost {
    /// Why sshd is not to be told of this rollback: it would refuse somebody by edits of others that it has not read, by old files that it
    /// never read because it was down, or because of what they name and is gone. The host is read for it only where that may be so, and only
    /// root can make it so.
    fn would_refuse(&mut self, step: &sshd_model::Step) -> Option<String> {
        let others = sshd::edited_since(step);
        let by_others = if others.is_empty() && !step.was_down() {
            None
        } else {
            self.at_rollback(step, |state, paths, needs| unread::refused(state, step, &others, paths, needs))
        };
        if let Some(whom) = by_others.as_ref().filter(|_| step.was_down()) {
            return Some(format!(
                "it was down when the change was made and never read the old files, and they would refuse {whom}. Put those right, or have sshd \
                 read them (`systemctl reload ssh`)"
            ));
        }
        if let Some(whom) = by_others {
            return Some(format!(
                "its files hold edits of others that it has not read and that would refuse {whom}. Correct those edits, or have sshd read them \
                 (`systemctl reload ssh`)"
            ));
        }
        let proven = self.proven.clone();
        if proven.is_empty() || !gone::may_name(step) {
            return None;
        }
        let patience = Patience::new(LOOK);
        let whom = patience::with(Some(patience), || {
            self.at_rollback(step, |state, paths, needs| gone::refused(state, step, paths, &proven, needs))
        })?;
        Some(format!(
            "by these files it would refuse {whom}. Put that there again, or edit the files and have sshd read them (`systemctl reload ssh`)"
        ))
    }

    /// What the live sessions and the keep entries make of it.
    fn at_rollback(
        &mut self,
        step: &sshd_model::Step,
        answer: impl Fn(&HostState, &[AccessPath], &mut Needs) -> Option<String>,
    ) -> Option<String> {
        let kept = self.config.kept_paths();
        let sources = kept.iter().map(|path| path.source).collect();
        let question = Question { sources, port: self.config.ssh_port, everybody: false };
        let first = [Need::Sshd(sshd_model::Need::Server(step.port))].into();
        self.answered(&question, first, |state, needs| {
            let sessions = listener_model::sessions(state).unwrap_or_default();
            let paths: Vec<AccessPath> = sessions.into_iter().chain(kept.clone()).collect();
            answer(state, &paths, needs)
        })
        .1
    }

    /// [`Host::stands`] for a rule or an element, in the ruleset of now.
    fn stands_in_nf_tables(&mut self, step: &nf_tables_model::Step) -> Result<bool, StepError> {
        let failed = |why: &str| not_looked_at(&Step::NfTables(step.clone()), why);
        let mut ruleset = match self.ruleset.observe() {
            Part::Present(ruleset) => ruleset,
            Part::Absent(_) => return Ok(false),
            Part::Unreadable(why) => return Err(failed(&why)),
        };
        let mut keys = BTreeSet::new();
        for need in step.needs() {
            if let Need::Element(key) = need
                && ruleset.sets.iter().any(|set| set.key == key.set)
            {
                keys.insert(key);
            }
        }
        let looked = self.ruleset.lookup_elements(&mut ruleset, &keys, &BTreeSet::new());
        looked.map_err(|error| failed(&error.to_string()))?;
        Ok(step.stands(&ruleset))
    }

    /// Takes away what fail2ban left in the kernel after an unban, which is mostly nothing.
    fn remove_leftovers(&mut self, unban: &fail2ban_model::Step, mut done: Done) -> Result<Done, StepError> {
        for leftover in unban.leftovers() {
            match self.apply_step(leftover) {
                Ok(Done::Changed) => done = Done::Changed,
                Ok(Done::Already) => {}
                Err(error) => {
                    let what = leftover.summary();
                    return Err(StepError::Failed(format!(
                        "fail2ban dropped the ban and left its rule, and could not {what}: {error}"
                    )));
                }
            }
        }
        Ok(done)
    }

    fn apply_step(&mut self, step: &Step) -> Result<Done, StepError> {
        match step {
            Step::Fail2ban(step) => {
                let done = self.fail2ban.apply(step)?;
                self.remove_leftovers(step, done)
            }
            Step::HostsAccess(step) => hosts_access::apply(&self.config, step, Old::Kept),
            Step::NfTables(step) => self.ruleset.apply(step),
            Step::Xtables(step) => xtables::apply(step),
            Step::Ipset(step) => ipset::apply(step),
            Step::Route(step) => route::apply(step),
            Step::Recent(step) => recent::apply(step),
            Step::Sshd(step) => sshd::apply(step),
            Step::Repair(step) => sshd::repair(step),
        }
    }
}

/// Debug builds only: what the lab's tests need to fail, and to change the host, at the very step they mean.
#[cfg(debug_assertions)]
mod lab {
    use std::path::Path;
    use std::time::Duration;

    use sshfix_policy::host::StepError;
    use sshfix_policy::host::step::Step;

    /// Holds the number of the step, from now, that is to fail once.
    const FAIL: &str = "/run/sshfix/fail-step";
    /// Holds the number of the step, from now, before which the agent waits until the file is removed; 0 is before the last look
    /// at the host. It is renamed to `PAUSED` while it waits.
    const PAUSE: &str = "/run/sshfix/pause-step";
    const PAUSED: &str = "/run/sshfix/paused";

    /// Before a step: pauses, then fails, where that was asked for.
    pub(super) fn at(step: &Step) -> Result<(), StepError> {
        pause(step);
        fail(step)
    }

    fn fail(step: &Step) -> Result<(), StepError> {
        if counted_down(FAIL) { Err(StepError::Failed(format!("injected failure: {}", step.summary()))) } else { Ok(()) }
    }

    /// An undo that does nothing and says that it did: what a drill must find.
    pub(super) fn forgets_to_undo() -> bool {
        Path::new("/run/sshfix/forget-to-undo").exists()
    }

    fn pause(step: &Step) {
        if std::fs::read_to_string(PAUSE).is_ok_and(|text| text.trim() != "0") && counted_down(PAUSE) {
            wait(&step.summary());
        }
    }

    pub(super) fn pause_before_the_first() {
        if std::fs::read_to_string(PAUSE).is_ok_and(|text| text.trim() == "0") {
            let _ = std::fs::remove_file(PAUSE);
            wait("the last look");
        }
    }

    /// Whether the number in the file came to its end; it is removed then.
    fn counted_down(file: &str) -> bool {
        let Ok(text) = std::fs::read_to_string(file) else { return false };
        if let Ok(left @ 2..) = text.trim().parse::<usize>() {
            let _ = std::fs::write(file, (left - 1).to_string());
            return false;
        }
        let _ = std::fs::remove_file(file);
        true
    }

    fn wait(what: &str) {
        let _ = std::fs::write(PAUSED, what);
        for _ in 0..4500 {
            if !Path::new(PAUSED).exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
