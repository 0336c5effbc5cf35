//! Whether sshd's files are good, whether the running sshd runs what they say, and whether it would start again: what `sshd -t`
//! says, and what it does not. Judges who gets in nowhere: that is `diagnose`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::host::{self, HostState, Needs, Part};
use crate::reply::sshd::{Problem, ProblemPlace, RunningDocument, RunningState, Severity, SshdCheck, SshdCheckSchema};
use crate::subsystem::listener::{Listener, speaks_ssh};
use crate::subsystem::sshd::config::keyword::{self, Lines};
use crate::subsystem::sshd::config::{Place, Setting, Tree, blocks, global_lines};
use crate::subsystem::sshd::facts::ask::resolved;
use crate::subsystem::sshd::facts::state::{Manager, Need, Server};
use crate::subsystem::sshd::judge::admission::{
    is_about_directory, only_misses_its_directory, place, quoted, waits_for_a_connection,
};
use crate::subsystem::sshd::judge::login::unit;
use crate::subsystem::sshd::judge::sockets;
use crate::subsystem::sshd::named_files;
use crate::subsystem::sshd::quoting::{self, said};
use crate::subsystem::sshd::way_in::boot;
use crate::text::quoted::Text;

/// What is known of the running sshd and its files besides their text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// All that `sshd -t` says, also where it takes the files.
    pub said: Vec<String>,
    /// When the process that listens read its files.
    pub read: ReadAt,
    /// The files, and the folders that Include patterns list.
    pub files: BTreeMap<String, FileFacts>,
    /// Files in such folders that no pattern names.
    pub unread: Vec<String>,
    /// Who listens on the ports that the files name.
    pub listeners: Vec<Listener>,
    /// Why that could not be read, where it could not.
    pub unseen: Option<String>,
}

/// When an sshd read its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadAt {
    /// Then.
    At(Timestamp),
    /// It was started then; whether it was told to read them again is not known.
    NotBefore(Timestamp),
    /// Not known.
    #[default]
    Unknown,
}

/// A file or folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its owner.
    pub uid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Of its content or its place; of a folder, of what is in it.
    pub changed: Timestamp,
}

/// The answer, once everything it needs is known; `None` while facts are missing. The text says why there is none.
pub fn check(host: &HostState, port: u16, needs: &mut Needs) -> Result<Option<SshdCheck>, String> {
    if let Some(Part::Absent(why) | Part::Unreadable(why)) = host.sshd.servers.get(&port) {
        return Err(why.clone());
    }
    let Some(server) = resolved(host, port, needs) else { return Ok(None) };
    let Some(facts) = host.sshd.running.get(&port) else {
        needs.insert(host::Need::Sshd(Need::Running(port)));
        return Ok(None);
    };
    let mut problems = broken(&server);
    let valid = problems.is_empty();
    problems.extend(not_startable(host, &server, facts));
    let would_start = problems.is_empty();
    problems.extend(some_not_here(host, &server));
    let absent = boot::all_absent(&server).into_iter();
    problems.extend(absent.map(|it| Problem { severity: Severity::Warning, text: it.text.into(), at: None, advice: it.advice }));
    let running = running(host, &server, facts);
    if running.state == RunningState::Changed {
        let advice = "`sshfix ctl sshd reload`".to_owned();
        problems.push(Problem { severity: Severity::Warning, text: (&running.detail).into(), at: None, advice });
    }
    match &server.tree {
        Ok(tree) => {
            if valid {
                problems.extend(warnings_of_sshd(&server, tree, facts));
            }
            problems.extend(shadowed(tree).unwrap_or_default());
            problems.extend(includes(tree, facts));
            problems.extend(owners(tree, facts));
            problems.extend(named_files::problems(host, tree, needs));
        }
        Err(why) => {
            problems.push(Problem { severity: Severity::Warning, text: said(why), at: None, advice: String::new() });
        }
    }
    problems.sort_by_key(|problem| problem.severity);
    let file = server.invocation.file().to_owned();
    Ok(Some(SshdCheck { schema: SshdCheckSchema::V1, port, file, valid, running, would_start, problems }))
}

fn at(tree: &Tree, place: &Place) -> ProblemPlace {
    let text = quoted(tree, &place.file, place.line).unwrap_or_default();
    ProblemPlace { file: place.file.clone(), line: place.line, text }
}

/// What `sshd -t` refuses, line by line. While sshd is down its directory is away, and systemd makes it at the start.
fn broken(server: &Server) -> Vec<Problem> {
    let Err(complaint) = &server.test else { return Vec::new() };
    if (!server.running || waits_for_a_connection(server)) && only_misses_its_directory(complaint, server) {
        return Vec::new();
    }
    let lines = complaint.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains(": terminating, "));
    let tree = server.tree.as_ref().ok();
    let problem = |line: &str| {
        let found = place(line).zip(tree).map(|((file, line), tree)| at(tree, &Place { file, line }));
        let near = line.rsplit_once("Bad configuration option: ").map(|(_, word)| keyword::near(word)).unwrap_or_default();
        let advice = if near.is_empty() { String::new() } else { format!("did you mean {}?", near.join(" or ")) };
        Problem { severity: Severity::Broken, text: said(line), at: found, advice }
    };
    let found: Vec<Problem> = lines.map(problem).collect();
    if found.is_empty() {
        let text = "sshd -t fails and says nothing".into();
        return vec![Problem { severity: Severity::Broken, text, at: None, advice: String::new() }];
    }
    found
}

/// What else would keep sshd from starting: another program on its port, a masked unit.
fn not_startable(host: &HostState, server: &Server, facts: &Running) -> Vec<Problem> {
    let mut found = Vec::new();
    // systemd's own socket is no obstacle: sshd is given it.
    let foreign = |listener: &Listener| {
        !listener.holders.is_empty() && !listener.holders.iter().any(|holder| speaks_ssh(holder) || holder.pid == 1)
    };
    if let Some((why, _)) = sockets::has_no_address(host, server, server.effective.as_ref().ok()) {
        let at = |line: Option<Setting>| server.tree.as_ref().ok().zip(line).map(|(tree, line)| at(tree, &line.at));
        let (gone, _) = sockets::not_of_this_host(host, server);
        let problem = |(_, line)| Problem {
            severity: Severity::Broken,
            text: why.as_str().into(),
            at: at(line),
            advice: sockets::ADVICE.to_owned(),
        };
        found.extend(gone.into_iter().map(problem));
        found.dedup();
    }
    let mut broken =
        |text: String, advice: String| found.push(Problem { severity: Severity::Broken, text: text.into(), at: None, advice });
    let wanted = server.effective.as_ref().map_or(&[][..], |effective| effective.all("listenaddress"));
    if let Some(why) = &facts.unseen {
        broken(format!("whether sshd could listen is not known: {why}"), "try again".to_owned());
    }
    let wanted: Vec<SocketAddr> = wanted.iter().filter_map(|line| sockets::listen_address(line)).collect();
    for listener in facts.listeners.iter().filter(|listener| foreign(listener)) {
        let Some(address) = wanted.iter().find(|address| collide(address, listener)) else { continue };
        let who = listener.holders.first().map_or_else(String::new, |holder| format!("{} (pid {})", holder.name, holder.pid));
        let advice = format!("stop {who}, or give sshd another Port or ListenAddress");
        broken(format!("sshd could not listen on {address}: {who} listens on {}", listener.local), advice);
    }
    if let Manager::Service { name, .. } = &server.manager {
        let units = host.listener.present().into_iter().flat_map(|state| state.units.iter().flatten());
        if units.into_iter().any(|unit| unit.name == *name && unit.load == "masked") {
            broken(format!("{name} is masked, so systemd would not start it"), format!("`systemctl unmask {name}`"));
        }
    }
    found
}

/// Addresses of the files that this host has not, where it has others of them: sshd goes on without.
fn some_not_here(host: &HostState, server: &Server) -> Vec<Problem> {
    let (gone, goes_on) = sockets::not_of_this_host(host, server);
    if !goes_on {
        return Vec::new();
    }
    let problem = |(address, line): (IpAddr, Option<Setting>)| Problem {
        severity: Severity::Warning,
        text: format!("sshd would not listen on {address}: that is no address of this host; it goes on without").into(),
        at: server.tree.as_ref().ok().zip(line).map(|(tree, line)| at(tree, &line.at)),
        advice: "take that ListenAddress out, or give the host that address back".to_owned(),
    };
    gone.into_iter().map(problem).collect()
}

/// Whether both cannot be bound at once (tcp(7), ipv6(7)); sshd sets `IPV6_V6ONLY` on its own.
fn collide(wanted: &SocketAddr, there: &Listener) -> bool {
    let (a, b) = (wanted.ip(), there.local.ip());
    let family = a.is_ipv4() == b.is_ipv4() || (a.is_ipv4() && b.is_unspecified() && !there.v6_only);
    wanted.port() == there.local.port() && family && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// The running sshd against the files.
fn running(host: &HostState, server: &Server, facts: &Running) -> RunningDocument {
    let of = |state, since, detail: String| RunningDocument { state, since, detail };
    if let Manager::Connections(socket) = &server.manager {
        let detail = format!("systemd starts an sshd for each connection ({socket}), which reads the files anew");
        return of(RunningState::Current, None, detail);
    }
    if !server.running {
        return of(RunningState::Down, None, "sshd does not run".to_owned());
    }
    if let Manager::Service { name, socket: Some(socket), .. } = &server.manager
        && waits_for_a_connection(server)
    {
        let detail = format!("systemd listens ({socket}) and starts {name} with the next connection, which reads the files then");
        return of(RunningState::Current, None, detail);
    }
    let (since, certain) = match facts.read {
        ReadAt::At(time) => (time, true),
        ReadAt::NotBefore(time) => (time, false),
        ReadAt::Unknown => {
            let detail = "when the running sshd read its files is not known: no process of it is seen to listen".to_owned();
            return of(RunningState::Unknown, None, detail);
        }
    };
    let files = server.tree.as_ref().map(|tree| tree.files.keys()).into_iter().flatten();
    if let Some(path) = files.into_iter().find(|path| !facts.files.contains_key(*path)) {
        let detail = format!("when {path} was changed could not be read");
        return of(RunningState::Unknown, Some(since), detail);
    }
    let newest = facts.files.iter().filter(|(_, file)| file.changed > since).max_by_key(|(_, file)| file.changed);
    match (newest, certain) {
        (None, true) if !server.stale.is_empty() => {
            let paths = server.stale.join(", ");
            let detail = format!(
                "{} read its files at {since}, and may have read others than these: changed, moved or mounted since: {paths}",
                unit(host)
            );
            of(RunningState::Unknown, Some(since), detail)
        }
        (None, _) => of(RunningState::Current, Some(since), format!("{} runs what is in its files", unit(host))),
        (Some((path, file)), true) => {
            let detail =
                format!("{path} was changed at {} and sshd has not read it since: it read its files at {since}", file.changed);
            of(RunningState::Changed, Some(since), detail)
        }
        (Some((path, file)), false) => {
            let detail = format!(
                "{path} was changed at {}, after sshd was started ({since}); whether it was told to read it again is not known, \
                 because no PidFile names it",
                file.changed
            );
            of(RunningState::Unknown, Some(since), detail)
        }
    }
}

/// What `sshd -t` says although it takes the files: deprecated keywords, keys it cannot load. Of a directory that systemd makes at the
/// start it complains, too.
fn warnings_of_sshd(server: &Server, tree: &Tree, facts: &Running) -> Vec<Problem> {
    let problem = |line: &String| Problem {
        severity: Severity::Warning,
        text: Text::from("sshd says: ") + said(line),
        at: place(line).map(|(file, line)| at(tree, &Place { file, line })),
        advice: String::new(),
    };
    facts.said.iter().filter(|line| server.test.is_ok() || !is_about_directory(line)).map(problem).collect()
}

/// Lines that never count because an earlier one does: of the global section, and within one Match block.
fn shadowed(tree: &Tree) -> Option<Vec<Problem>> {
    let mut found = Vec::new();
    let mut first = BTreeMap::new();
    for (name, setting) in global_lines(tree).ok()?.into_iter().filter(|(_, setting)| setting.under.is_empty()) {
        if keyword::lines(&name) != Lines::First {
            continue;
        }
        let winner = first.entry(name.clone()).or_insert_with(|| setting.clone());
        if winner.at == setting.at {
            continue;
        }
        let severity = if winner.arguments == setting.arguments { Severity::Note } else { Severity::Warning };
        let text =
            Text::from(format!("this line never counts: {} comes first with `", winner.at)) + quoting::line(&winner.text) + "`";
        let advice = "take out the one that is not meant".to_owned();
        found.push(Problem { severity, text, at: Some(at(tree, &setting.at)), advice });
    }
    for block in blocks(tree).ok()? {
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        for (line, name) in block.directives.iter().filter(|(_, name)| keyword::lines(name) == Lines::First) {
            let winner = *first.entry(name).or_insert(*line);
            if winner != *line {
                let text = format!("this line never counts: line {winner} of the same Match block comes first").into();
                let place = Place { file: block.at.file.clone(), line: *line };
                let advice = "take out the one that is not meant".to_owned();
                found.push(Problem { severity: Severity::Warning, text, at: Some(at(tree, &place)), advice });
            }
        }
    }
    Some(found)
}

/// Includes that name nothing, and files beside the included ones that nothing names.
fn includes(tree: &Tree, facts: &Running) -> Vec<Problem> {
    let mut found = Vec::new();
    for (path, document) in &tree.files {
        for (number, line) in document.lines() {
            let Some(directive) = line.directive().ok().flatten().filter(|it| it.keyword == "include") else { continue };
            for argument in directive.arguments.iter().filter(|it| tree.included(it).is_ok_and(<[String]>::is_empty)) {
                // An empty folder of drop-ins is what a fresh system has.
                let folder = argument.rsplit_once('/').map_or("", |(folder, _)| folder);
                let empty = argument.contains(['*', '?', '[']) && facts.files.contains_key(folder);
                let severity = if empty { Severity::Note } else { Severity::Warning };
                let place = at(tree, &Place { file: path.clone(), line: number });
                let text = said(argument) + " names no file, and sshd says nothing about that";
                found.push(Problem { severity, text, at: Some(place), advice: String::new() });
            }
        }
    }
    for path in &facts.unread {
        let text = format!("{path} lies beside the included files and is not read: no Include names it").into();
        found.push(Problem { severity: Severity::Note, text, at: None, advice: String::new() });
    }
    found
}

/// Whoever can write a file of sshd's configuration is root at its next start.
fn owners(tree: &Tree, facts: &Running) -> Vec<Problem> {
    let mut found = Vec::new();
    for (path, file) in &facts.files {
        let who = match (file.uid, file.mode & 0o022) {
            (0, 0) => continue,
            (0, _) => format!("others than root can write to it (mode {:04o})", file.mode & 0o7777),
            (uid, _) => format!("it belongs to uid {uid}, not to root"),
        };
        let text = format!("{path}: {who}, and so set anything in sshd").into();
        let at = tree.files.contains_key(path).then(|| ProblemPlace { file: path.clone(), line: 0, text: String::new() });
        let advice = format!("`chown root:root {path} && chmod go-w {path}`, and look at what it says");
        found.push(Problem { severity: Severity::Warning, text, at, advice });
    }
    found
}
