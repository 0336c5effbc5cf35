//! From what is asked of sshd to the one step that does it: which lines of which files, what sshd itself says of them, and what makes
//! the service follow. What sshd would not take is refused here; who would be kept out is the proof's.

use crate::host::{HostState, Needs, Part};
use crate::subsystem::listener;
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::change::no_plan::{Attempt, NoPlan, tree};
use crate::subsystem::sshd::change::runs;
use crate::subsystem::sshd::change::step::{Activation, FileEdit, Step, Through};
use crate::subsystem::sshd::config::{self, Changed, Edit, EditError, Tree};
use crate::subsystem::sshd::facts::ask::{Candidate, answer, resolved};
use crate::subsystem::sshd::facts::state::{Manager, Server};
use crate::subsystem::sshd::judge::admission;
use crate::subsystem::sshd::judge::sockets;
use crate::subsystem::sshd::judge::startups::too_many_startups;
use crate::subsystem::sshd::quoting::{of_keyword, of_values, said};
use crate::text::quoted::Text;

/// One keyword, for everybody or inside one Match block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyword<'a> {
    /// As it is written.
    pub name: &'a str,
    /// The criteria of the Match block (`Address 10.0.0.0/8`); none is the global section.
    pub criteria: Option<&'a str>,
}

/// Steps, and what a person should know besides. Without steps there is nothing to do, or facts are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// At most one.
    pub steps: Vec<Step>,
    /// For the plan.
    pub notes: Vec<Text>,
}

impl Planned {
    fn note(note: impl Into<Text>) -> Self {
        Self { steps: Vec::new(), notes: vec![note.into()] }
    }
}

/// Keywords about the sockets: where systemd listens, they are its socket unit's.
const SOCKETS: [&str; 3] = ["port", "listenaddress", "addressfamily"];

/// Sets a keyword where it wins. Nothing is to be done where it counts already.
pub fn plan_set(
    host: &HostState,
    port: u16,
    keyword: Keyword<'_>,
    values: &[String],
    needs: &mut Needs,
) -> Result<Planned, NoPlan> {
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    sockets_are_its_own(&server, keyword)?;
    let edits = edits(&server, keyword, Some(values))??;
    let besides: Vec<Text> = edits.iter().flat_map(|edit| edit.besides.clone()).collect();
    let mut planned = plan_edits(host, port, edits, needs).map_err(|why| match why {
        NoPlan::Rejected { what, complaint, value: None } => {
            NoPlan::Rejected { what, complaint, value: config::keyword::check(keyword.name, values).err().map(Box::new) }
        }
        other => other,
    })?;
    // sshd prints what counts: where that stays as it is, the value counts already, wherever it comes from.
    let name = config::keyword::canonical(keyword.name);
    let printed = server.effective.as_ref().is_ok_and(|effective| !effective.all(&name).is_empty());
    let same = planned.steps.iter().all(|step| step.effect.is_empty());
    if keyword.criteria.is_none() && printed && same && server.test.is_ok() && !planned.steps.is_empty() {
        let counts = || format!("{} {} counts already", keyword.name, values.join(" "));
        return Ok(Planned::note(not_read(&server).unwrap_or_else(counts)));
    }
    planned.notes.extend(besides);
    Ok(planned)
}

/// Takes a keyword out, so that the default counts. Nothing is to be done where no file sets it.
pub fn plan_unset(host: &HostState, port: u16, keyword: Keyword<'_>, needs: &mut Needs) -> Result<Planned, NoPlan> {
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    sockets_are_its_own(&server, keyword)?;
    match edits(&server, keyword, None)? {
        Ok(edits) => {
            let besides: Vec<Text> = edits.iter().flat_map(|edit| edit.besides.clone()).collect();
            let mut planned = plan_edits(host, port, edits, needs)?;
            planned.notes.extend(besides);
            Ok(planned)
        }
        Err(error @ EditError::NotSet(..)) => Ok(Planned::note(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// The edits of one keyword of a server's files, which must have been read.
fn edits(server: &Server, keyword: Keyword<'_>, values: Option<&[String]>) -> Result<Result<Vec<Edit>, EditError>, NoPlan> {
    let tree = tree(server)?;
    let printed = server.effective.as_ref().map(|effective| effective.iter().map(|(keyword, _)| keyword).collect());
    let known: Vec<&str> = printed.unwrap_or_default();
    Ok(config::edit(tree, &server.invocation.options, &known, keyword.criteria, keyword.name, values))
}

/// Gives single lines of a keyword other values.
pub fn plan_lines(host: &HostState, port: u16, keyword: &str, lines: &[Changed], needs: &mut Needs) -> Result<Planned, NoPlan> {
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    let edits = config::edit_lines(tree(&server)?, keyword, lines)?;
    plan_edits(host, port, edits, needs)
}

/// The step that makes these edits and has sshd follow them.
pub fn plan_edits(host: &HostState, port: u16, edits: Vec<Edit>, needs: &mut Needs) -> Result<Planned, NoPlan> {
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    let edits: Vec<Edit> = edits.into_iter().filter(|edit| edit.before != edit.after).collect();
    if edits.is_empty() {
        return Ok(Planned::note(not_read(&server).unwrap_or_else(|| "the files say so already".to_owned())));
    }
    let why_not = |edit: &Edit| server.tree.as_ref().ok()?.not_replaceable.get(&edit.path);
    if let Some(why) = edits.iter().find_map(why_not) {
        return Err(NoPlan::NotWritten(why.clone()));
    }
    let Candidate { port, mut changes } = server.candidate(port);
    changes.extend(edits.iter().map(|edit| (edit.path.clone(), edit.after.clone())));
    let Some(answer) = answer(host, &Candidate { port, changes }, needs) else { return Ok(Planned::default()) };
    accepted(&server, &answer.test, Attempt::Edit)?;
    bound(host, port, &server, &answer.effective)?;
    let effect = match (&server.effective, &answer.effective) {
        (Ok(before), Ok(after)) => difference(before, after),
        (Ok(_), Err(why)) => vec![Text::from("not known: ") + said(why)],
        (Err(_), after) => {
            let tree = config::edited(tree(&server)?, &edits);
            let Some(effect) = comes_to(host, &server, (&tree, after.as_ref().ok()), port, needs) else {
                return Ok(Planned::default());
            };
            effect
        }
    };
    let files = edits.iter().map(|edit| {
        let Edit { path, before, after, .. } = edit.clone();
        FileEdit { path, before, after }
    });
    let mut notes = stale(&server);
    notes.extend(stays_down(&server));
    let step = Step {
        port,
        files: files.collect(),
        activation: following(host, &server)?,
        why: edits.iter().map(|edit| edit.why.clone()).collect(),
        effect,
        listened: sockets::listens_now(host, port).unwrap_or_default(),
        undoing: false,
    };
    Ok(Planned { steps: vec![step], notes })
}

/// Has the running sshd read its files again.
pub fn plan_reload(host: &HostState, port: u16, needs: &mut Needs) -> Result<Planned, NoPlan> {
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    if let Some(nothing) = nothing_runs(&server) {
        return Ok(nothing);
    }
    accepted(&server, &server.test, Attempt::Reload)?;
    bound(host, port, &server, &server.effective)?;
    match following(host, &server)? {
        Activation::Nothing => match &server.manager {
            Manager::Connections(socket) => Ok(Planned::note(format!(
                "systemd listens ({socket}) and starts an sshd for each connection, which reads the files then"
            ))),
            _ => Err(NoPlan::NoneRuns(port)),
        },
        activation => Ok(Planned { notes: stale(&server), ..alone(host, port, activation) }),
    }
}

/// Whether it goes on with these values: it can open its sockets as they say, still has the port by which it is looked after, and has the
/// memory. Of one that could not be asked, `sshd -t` said why.
fn bound(host: &HostState, port: u16, server: &Server, after: &Result<Effective, String>) -> Result<(), NoPlan> {
    let Ok(after) = after else { return Ok(()) };
    // Whoever is in by that port loses it: that is the proof's to say.
    let sessions = host.listener.present().into_iter().flat_map(|state| &state.sessions);
    let is_in = || sessions.into_iter().any(|session| session.port == port);
    let known = server.effective.as_ref().ok().filter(|_| server.stale.is_empty());
    let too_many = || too_many_startups(after).filter(|_| known.is_none_or(|known| too_many_startups(known).is_none()));
    let starts = |effective: &Effective| sockets::has_no_address(host, server, Some(effective)).map(|(why, _)| why);
    let ended = || starts(after).filter(|_| !server.running && server.effective.as_ref().is_ok_and(|was| starts(was).is_none()));
    let why = sockets::not_bound(host, port, server, after)
        .or_else(ended)
        .or_else(|| sockets::leaves_port(port, server, after).filter(|_| !is_in()))
        .or_else(too_many);
    why.map_or(Ok(()), |why| Err(NoPlan::WouldEnd(why)))
}

/// What a person has to do who edits the files of an sshd that is down.
fn stays_down(server: &Server) -> Option<Text> {
    let Manager::Service { name, socket: None, .. } = &server.manager else { return None };
    (!server.running).then(|| {
        Text::from(format!(
            "sshd is down, and this edit does not start it: `systemctl reset-failed {name}; systemctl start {name}`, log in, then confirm; \
             without a confirm the old files come back at the deadline"
        ))
    })
}

/// What files come to that sshd did not take before: every value that is not the default, beside that. Where sshd cannot be asked for both,
/// what the files set: of one that is down, systemd takes its directory away and makes it again with each attempt, and the same plan must not
/// be shown in two ways. `None` while sshd is asked.
fn comes_to(
    host: &HostState,
    server: &Server,
    (tree, printed): (&Tree, Option<&Effective>),
    port: u16,
    needs: &mut Needs,
) -> Option<Vec<Text>> {
    let first = match server.running {
        true if server.stale.is_empty() => {
            "what the running sshd goes by is not known: it read other files than these".to_owned()
        }
        true => format!(
            "what the running sshd goes by is not known: it read other files than these; changed since: {}",
            server.stale.join(", ")
        ),
        false => "no sshd runs".to_owned(),
    };
    let mut lines = vec![Text::from(first)];
    if let Some(after) = printed.filter(|_| server.running) {
        let empty = Candidate { port, changes: [(tree.main.clone(), Vec::new())].into() };
        if let Ok(defaults) = &answer(host, &empty, needs)?.effective {
            let differing = differing(defaults, after);
            lines.extend(
                differing
                    .map(|(keyword, default, value)| of_keyword(keyword) + " becomes " + value + "; the default is " + default),
            );
            return Some(lines);
        }
    }
    match config::evaluate(tree, &server.invocation.options, None) {
        Ok(settings) => {
            for (keyword, set) in &settings {
                lines.extend(
                    set.iter().map(|one| {
                        of_keyword(keyword) + " becomes " + values(keyword, &one.arguments) + format!(" ({})", one.at)
                    }),
                );
            }
            lines.push("everything else becomes the default".into());
        }
        Err(why) => lines.push(Text::from("what the files set is not known: ") + said(&why.to_string())),
    }
    Some(lines)
}

/// What comes into effect besides.
fn stale(server: &Server) -> Vec<Text> {
    let text =
        |files: &[String]| format!("changed since sshd last read its files, and comes into effect too: {}", files.join(", "));
    if server.running && !server.stale.is_empty() { vec![text(&server.stale).into()] } else { Vec::new() }
}

/// What the files say and the running sshd does not go by yet.
fn not_read(server: &Server) -> Option<String> {
    let stale = server.running && !server.stale.is_empty();
    stale.then(|| {
        format!("the files say so already; sshd has not read them since ({}): `sshfix ctl sshd reload`", server.stale.join(", "))
    })
}

/// A new sshd in the place of the running one; where none runs, it is started.
pub fn plan_restart(host: &HostState, port: u16, needs: &mut Needs) -> Result<Planned, NoPlan> {
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    if !server.running {
        return plan_start(host, port, needs);
    }
    if let Some(nothing) = nothing_runs(&server) {
        return Ok(nothing);
    }
    accepted(&server, &server.test, Attempt::Restart)?;
    bound(host, port, &server, &server.effective)?;
    match &server.manager {
        Manager::Service { .. } => Ok(Planned { notes: stale(&server), ..alone(host, port, restart(host, &server)?) }),
        Manager::Connections(socket) => Ok(Planned::note(format!(
            "systemd listens ({socket}) and starts an sshd for each connection: there is none to restart"
        ))),
        Manager::Nobody => Ok(Planned {
            notes: vec!["no unit of systemd runs this sshd: SIGHUP makes it execute itself anew".into()],
            ..alone(host, port, Activation::Reload(Through::Signal))
        }),
    }
}

/// Starts the service that is down.
pub fn plan_start(host: &HostState, port: u16, needs: &mut Needs) -> Result<Planned, NoPlan> {
    let Some(server) = server(host, port, needs)? else { return Ok(Planned::default()) };
    if server.running {
        return Ok(Planned::note("sshd runs"));
    }
    accepted(&server, &server.test, Attempt::Start)?;
    if let Some((why, line)) = sockets::has_no_address(host, &server, server.effective.as_ref().ok()) {
        return Err(NoPlan::NoAddress { why, line: line.map(Box::new) });
    }
    if let Some(unit) = listener::masked_unit(host) {
        return Err(NoPlan::Masked(unit.to_owned()));
    }
    match &server.manager {
        Manager::Service { socket: Some(socket), .. } | Manager::Connections(socket) => {
            Ok(alone(host, port, Activation::Start(Through::Unit(socket.clone()))))
        }
        Manager::Service { name, .. } => Ok(alone(host, port, Activation::Start(Through::Unit(name.clone())))),
        Manager::Nobody => Err(NoPlan::NoUnit),
    }
}

fn alone(host: &HostState, port: u16, activation: Activation) -> Planned {
    let listened = sockets::listens_now(host, port).unwrap_or_default();
    let step = Step { port, files: Vec::new(), activation, why: Vec::new(), effect: Vec::new(), listened, undoing: false };
    Planned { steps: vec![step], notes: Vec::new() }
}

/// The server with what sshd says of its files as they are predicted. `None` while that is asked for.
pub(crate) fn server(host: &HostState, port: u16, needs: &mut Needs) -> Result<Option<Server>, NoPlan> {
    if let Some(Part::Absent(why) | Part::Unreadable(why)) = host.sshd.servers.get(&port) {
        return Err(NoPlan::Unread(why.clone()));
    }
    Ok(resolved(host, port, needs))
}

/// Whether sshd takes its files. While it is down, systemd has taken /run/sshd away with it, and brings it back at the start.
fn accepted(server: &Server, test: &Result<(), String>, what: Attempt) -> Result<(), NoPlan> {
    let Err(complaint) = test else { return Ok(()) };
    let refused = || NoPlan::Rejected { what, complaint: complaint.clone(), value: None };
    if !admission::only_misses_its_directory(complaint, server) {
        return Err(refused());
    }
    if !server.running {
        return Ok(());
    }
    // Without it neither `sshd -t` nor `sshd -T` says anything of the files, so that nothing could be proven.
    match &server.manager {
        Manager::Service { name, .. } if admission::waits_for_a_connection(server) => {
            Err(NoPlan::NotAskedYet { unit: name.clone() })
        }
        _ => Err(refused()),
    }
}

/// systemd listens for a service that does not run yet: there is nothing to be told to read its files.
fn nothing_runs(server: &Server) -> Option<Planned> {
    let Manager::Service { name, socket: Some(socket), .. } = &server.manager else { return None };
    admission::waits_for_a_connection(server).then(|| {
        Planned::note(format!(
            "systemd listens ({socket}) and starts {name} with the next connection, which reads the files then"
        ))
    })
}

/// What makes a server follow its files. SIGHUP, which is what a reload is, has sshd execute itself anew with the same options: it
/// closes its sockets and opens those that the files name, so that no keyword needs a restart (sshd(8), SIGHUP). One that got its
/// socket from systemd finds the port in use then and dies (measured on 9.2 and 10.0): that one is restarted.
fn following(host: &HostState, server: &Server) -> Result<Activation, NoPlan> {
    Ok(match &server.manager {
        Manager::Connections(_) => Activation::Nothing,
        _ if !server.running => Activation::Nothing,
        Manager::Service { socket: Some(_), .. } | Manager::Service { can_reload: false, .. } => restart(host, server)?,
        Manager::Service { name, can_reload: true, runs, .. } => {
            runs::writes_nothing(name, "ExecReload=", "reload", &runs.at_reload)?;
            Activation::Reload(Through::Unit(name.clone()))
        }
        Manager::Nobody => Activation::Reload(Through::Signal),
    })
}

/// A restart of the service, where that ends no session.
fn restart(host: &HostState, server: &Server) -> Result<Activation, NoPlan> {
    let Manager::Service { name, kill_mode, runs, .. } = &server.manager else { return Ok(Activation::Nothing) };
    runs::writes_nothing(name, "ExecStartPre=, ExecStop= and so on", "restart", &runs.at_restart)?;
    // systemd.kill(5): only the main process is ended by these; all others end the sessions that are still in its cgroup.
    let sessions = host.listener.present().is_some_and(|state| !state.sessions.is_empty() || state.sessions_unknown.is_some());
    if sessions && !matches!(kill_mode.as_str(), "process" | "none") {
        return Err(NoPlan::EndsSessions { unit: name.clone(), kill_mode: kill_mode.clone() });
    }
    Ok(Activation::Restart(Through::Unit(name.clone())))
}

/// sshd takes its sockets from systemd where that listens, and passes over what its files say.
fn sockets_are_its_own(server: &Server, keyword: Keyword<'_>) -> Result<(), NoPlan> {
    let name = keyword.name.to_ascii_lowercase();
    let (Manager::Service { socket: Some(socket), .. } | Manager::Connections(socket)) = &server.manager else { return Ok(()) };
    if !SOCKETS.contains(&name.as_str()) {
        return Ok(());
    }
    Err(NoPlan::HeldBySystemd { socket: socket.clone(), keyword: keyword.name.to_owned() })
}

/// `permitrootlogin was prohibit-password, becomes no`: every keyword that sshd prints differently.
pub fn difference(before: &Effective, after: &Effective) -> Vec<Text> {
    let differing = differing(before, after);
    differing.map(|(keyword, was, becomes)| of_keyword(keyword) + " was " + was + ", becomes " + becomes).collect()
}

/// Every keyword that sshd prints differently, with both values.
fn differing<'a>(before: &'a Effective, after: &'a Effective) -> impl Iterator<Item = (&'a str, Text, Text)> {
    let keywords: std::collections::BTreeSet<&str> = before.iter().chain(after.iter()).map(|(keyword, _)| keyword).collect();
    let changed = keywords.into_iter().filter(|keyword| before.all(keyword) != after.all(keyword));
    changed.map(|keyword| (keyword, values(keyword, before.all(keyword)), values(keyword, after.all(keyword))))
}

/// The values of a keyword; `not set` where there are none.
fn values(keyword: &str, values: &[String]) -> Text {
    if values.is_empty() { "not set".into() } else { of_values(keyword, values.join(" ")) }
}
