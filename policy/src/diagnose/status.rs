//! What `status` says of each subsystem: whether it is there, its version, and one line. Judges no connection, and quotes nothing that
//! only some may know.

use crate::host::{HostState, Need, Needs, Part};
use crate::netfilter;
use crate::reply::SubsystemStatus;
use crate::subsystem::hosts_access::{self, Content, Libwrap};
use crate::subsystem::{fail2ban, ipset, listener, route, sshd, xtables};

/// What is asked for at once, beside what is always read.
pub fn first_needs(port: u16) -> Needs {
    [Need::Links, server(port)].into()
}

/// Every subsystem. Facts that are missing are added to `needs`.
pub fn subsystems(host: &HostState, port: u16, needs: &mut Needs) -> Vec<SubsystemStatus> {
    // A new part of the host does not compile before it is said what becomes of it here.
    let HostState {
        at: _,
        fail2ban,
        hosts_access,
        nf_tables,
        xtables,
        ipset,
        listener,
        route,
        // Who owns some rules of the packet filters, and nothing that refuses by itself.
        ufw: _,
        sshd,
    } = host;
    needs.extend(first_needs(port));
    vec![
        status("fail2ban", fail2ban, fail2ban::State::describe),
        status("nf_tables", nf_tables, |state| {
            let detail = format!("{} tables, {} chains, generation {}", state.tables.len(), state.chains.len(), state.generation);
            (None, detail)
        }),
        status("xtables", xtables, legacy_tables),
        status("ipset", &sets(host, ipset, needs), |names| (None, format!("rules ask {}", names.join(", ")))),
        status("route", route, interfaces),
        status("listener", listener, listener::State::describe),
        status("hosts_access", hosts_access, enforced),
        match sshd.servers.get(&port) {
            Some(server) => status("sshd", server, configured),
            None => status("sshd", &unread::<sshd::Server>("it was not asked"), configured),
        },
    ]
}

/// The sshd on this port: how it was started, its files, what it says of them.
fn server(port: u16) -> Need {
    Need::Sshd(sshd::Need::Server(port))
}

fn unread<T>(why: &str) -> Part<T> {
    Part::Unreadable(why.to_owned())
}

fn status<T>(name: &str, part: &Part<T>, describe: impl Fn(&T) -> (Option<String>, String)) -> SubsystemStatus {
    let (state, version, detail) = match part {
        Part::Present(found) => {
            let (version, detail) = describe(found);
            ("present", version, detail)
        }
        Part::Absent(why) => ("absent", None, why.clone()),
        Part::Unreadable(why) => ("unreadable", None, why.clone()),
    };
    SubsystemStatus { name: name.to_owned(), state: state.to_owned(), version, detail }
}

fn legacy_tables(state: &xtables::State) -> (Option<String>, String) {
    let names = |v6: bool| state.tables(v6).iter().map(|table| format!("{} {}", table.family(), table.name)).collect::<Vec<_>>();
    let tables = [names(false), names(true)].concat();
    (None, if tables.is_empty() { "no legacy tables".to_owned() } else { format!("legacy tables: {}", tables.join(", ")) })
}

/// The sets that rules ask, each with its type; those that no rule asks are not looked at.
fn sets(host: &HostState, known: &ipset::State, needs: &mut Needs) -> Part<Vec<String>> {
    if host.nf_tables.unreadable().is_some() || host.xtables.unreadable().is_some() {
        return unread("unknown which sets the rules ask, because not all rules could be read");
    }
    let asked = netfilter::sets_asked(host);
    needs.extend(asked.iter().map(|index| Need::Ipset(*index)));
    let mut names = Vec::new();
    for index in asked {
        match known.sets.get(&index) {
            Some(Ok(set)) => names.push(format!("{} ({})", set.name, set.kind)),
            Some(Err(why)) => return unread(why),
            None => return unread("a set was not asked"),
        }
    }
    if names.is_empty() { Part::Absent("no rule asks an ipset".to_owned()) } else { Part::Present(names) }
}

fn interfaces(state: &route::State) -> (Option<String>, String) {
    let Some(links) = &state.links else { return (None, "the interfaces were not asked for".to_owned()) };
    let up = links.all.iter().filter(|link| link.up).count();
    (None, format!("{up} of {} interfaces are up, with {} addresses", links.all.len(), links.addresses().count()))
}

fn enforced(state: &hosts_access::State) -> (Option<String>, String) {
    let how = match &state.libwrap {
        Libwrap::Linked(how) => format!("obeyed: {how}"),
        Libwrap::NotLinked(how) => format!("not obeyed by this sshd: {how}"),
        Libwrap::Unknown(why) => format!("unknown whether this sshd obeys them: {why}"),
    };
    let files = [&state.allow, &state.deny].into_iter().filter_map(|file| match &file.content {
        Content::Bytes(_) => None,
        Content::Missing => Some(format!("; there is no {}", file.path)),
        Content::Unreadable(why) => Some(format!("; {} cannot be read: {why}", file.path)),
    });
    (None, std::iter::once(how).chain(files).collect())
}

/// What it complains about is for `sshd check`: it may quote the files.
fn configured(server: &sshd::Server) -> (Option<String>, String) {
    let version = server.version.map(|(major, minor)| format!("OpenSSH {major}.{minor}"));
    let program = &server.invocation.program;
    let files = match &server.tree {
        Ok(tree) if tree.files.len() == 1 => tree.main.clone(),
        Ok(tree) => format!("{} and {} more", tree.main, tree.files.len().saturating_sub(1)),
        Err(_) => "files that could not all be read (`sshfix ctl sshd check` says why)".to_owned(),
    };
    let test = match &server.test {
        Ok(()) => "`sshd -t` accepts them",
        Err(_) => "`sshd -t` does not accept them (`sshfix ctl sshd check` says why)",
    };
    let stale = if server.stale.is_empty() { "" } else { "; some changed after it last read them" };
    (version, format!("{program} with {files}; {test}{stale}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subsystem_is_named_and_what_was_not_read_is_not_called_absent() {
        let mut needs = Needs::new();
        let found = subsystems(&HostState::empty(), 22, &mut needs);
        let states: Vec<(&str, &str)> = found.iter().map(|one| (one.name.as_str(), one.state.as_str())).collect();
        let absent =
            ["fail2ban", "nf_tables", "xtables", "ipset", "route", "listener", "hosts_access"].map(|name| (name, "absent"));
        assert_eq!(states, [&absent[..], &[("sshd", "unreadable")]].concat());
        assert_eq!(needs, first_needs(22));
        let host = HostState { nf_tables: Part::Unreadable("busy".to_owned()), ..HostState::empty() };
        let found = subsystems(&host, 22, &mut needs);
        let ipset = found.iter().find(|one| one.name == "ipset").map(|one| one.state.as_str());
        assert_eq!(ipset, Some("unreadable"), "rules that were not read may ask any set");
    }
}
