//! The process that a drill kills: makes one harmless change in the copy, as pending, and takes it back, through the change machine that
//! the agent uses. Before and after each write of its journal it waits for the word to go on.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sshfix_policy::address::Source;
use sshfix_policy::host::lease::mark;
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{HostState, Needs, Question};
use sshfix_policy::plan::{self, Plan};
use sshfix_policy::proof::lockout;
use sshfix_policy::proof::verify::Deviation;
use sshfix_policy::request::Intent;
use sshfix_policy::subsystem::nf_tables::lift::{Onto, Side, accept};
use sshfix_policy::subsystem::{hosts_access, xtables};
use sshfix_policy::verdict::Admits;

use super::{DrillError, ensure_private, inside, setup};
use crate::change;
use crate::change::make::{self, Order};
use crate::config::Config;
use crate::host::live::LiveHost;
use crate::host::observe::observed;
use crate::store::Store;
use crate::sys::clock::Moment;

/// How long the change waits for its confirm: longer than any drill.
const WAITS: Duration = Duration::from_hours(1);

/// Tells the drill that a point is reached, and waits. Without a drill there is nothing to go on for.
fn point() {
    let told = std::io::stdout().write_all(&[0]).and_then(|()| std::io::stdout().flush());
    if told.is_err() || !matches!(std::io::stdin().read(&mut [0]), Ok(1)) {
        std::process::exit(1);
    }
}

/// Makes the change and takes it back.
pub fn work(agent_toml: &Path, dir: &Path, number: usize) -> Result<(), DrillError> {
    let failed = setup("make its change");
    ensure_private()?;
    let config = Arc::new(inside(&Config::load(agent_toml)?, dir));
    let mut store = Store::open(&config.state)?;
    store.watch(point);
    let mut host = LiveHost::new(Arc::clone(&config));
    let source: Source = "192.0.2.77".parse().map_err(|e| failed(&e))?;
    let question = Question { sources: [source].into(), port: config.ssh_port, everybody: false };
    let operation = Intent::Allow { source, seconds: WAITS.as_secs() };
    let (read, plan) = observed(&mut host, &question, |state, needs| planned(&operation, source, state, question.port, needs));
    let plan = plan.map_err(|why| failed(&why))?;
    let safe = lockout::prove(plan, &read, &[], &mut Needs::new()).map_err(|why| failed(&why))?;
    let id = format!("drill-{number}");
    let order = Order {
        id: id.clone(),
        principal: "drill",
        question: &question,
        read: &read,
        plan: &safe,
        waits: Some(WAITS),
        lease: None,
    };
    let begun = make::begin(&mut host, &store, order, Moment::now).map_err(|why| failed(&why))?;
    // The source may still be kept out by a copied rule that was not meant; the steps must hold.
    let meant = |deviation: &Deviation| !matches!(deviation, Deviation::NotLetIn(_));
    begun.finish(meant).map_err(|why| failed(&why.failure.message.as_str()))?;
    let taken = change::take_back(&mut host, &store, store.change(&id)?, "drilled", &Moment::now());
    if taken.stuck.is_empty() { Ok(()) } else { Err(failed(&taken.stuck.join("; "))) }
}

/// A rule in the drill's own table, one in the first legacy chain where there is one, and a line of hosts.allow: for an address that
/// nobody has (RFC 5737).
fn planned(operation: &Intent, source: Source, state: &HostState, port: u16, needs: &mut Needs) -> Result<Plan, String> {
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        nf_tables,
        xtables,
        hosts_access: _,
        // Not in the copy: fail2ban and sshd are programs of the host; sets and routes are not copied.
        fail2ban: _,
        sshd: _,
        listener: _,
        ipset: _,
        route: _,
        ufw: _,
    } = state;
    let mark = mark("drill");
    let mut steps = Vec::new();
    if let Some(rules) = nf_tables.present() {
        let own = rules.chains.iter().find(|chain| chain.table == "sshfix_drill");
        let ends = (Side::Source, Onto::All);
        let step = own.and_then(|chain| accept(rules, chain, Some(1), source, Admits::Tcp(port), ends, Some(&mark)));
        steps.extend(step.map(Step::NfTables));
    }
    if let Some(tables) = xtables.present() {
        let place = xtables::Place { v6: false, table: "filter".to_owned(), chain: "INPUT".to_owned(), position: 1 };
        steps.extend(xtables::Step::accept(tables, &place, source, Admits::Tcp(port), Some(&mark)).map(Step::Xtables));
    }
    steps.extend(hosts_access::plan_lease(state, source, &mark).map_err(|error| error.to_string())?);
    plan::of_steps(operation, steps, state, port, needs).map_err(|error| error.to_string())
}
