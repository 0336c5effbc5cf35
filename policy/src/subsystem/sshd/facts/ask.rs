//! What sshd itself says of files that are not in place yet: the values of a predicted configuration always come from that very
//! sshd, which is run on a copy of the whole tree with the edits in it. This file only says which copy it needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::{self, HostState, Needs, Part};
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::facts::state::{Login, Need, Server};

/// The files that differ from what was read, with their content; none is the configuration as it is.
pub type Changes = BTreeMap<String, Vec<u8>>;

/// A configuration of the sshd on a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// The port of the sshd.
    pub port: u16,
    /// How it differs from the one that was read.
    pub changes: Changes,
}

/// What sshd says of a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// `sshd -t`, with the names of the real files.
    pub test: Result<(), String>,
    /// `sshd -T`.
    pub effective: Result<Effective, String>,
    /// The types of the host keys it would use: `ssh-ed25519`, ...
    pub host_keys: Vec<String>,
}

impl Server {
    /// The configuration of a server on which steps were predicted.
    pub fn candidate(&self, port: u16) -> Candidate {
        let changes = self.edited.iter().map(|(path, (_, now))| (path.clone(), now.clone())).collect();
        Candidate { port, changes }
    }
}

/// The server as it was read. `None` while that is asked for, or where there is none.
pub fn server<'a>(host: &'a HostState, port: u16, needs: &mut Needs) -> Option<&'a Server> {
    match host.sshd.servers.get(&port) {
        Some(Part::Present(server)) => Some(server),
        Some(Part::Absent(_) | Part::Unreadable(_)) => None,
        None => {
            needs.insert(host::Need::Sshd(Need::Server(port)));
            None
        }
    }
}

/// The host with another server in the place of the one that was read.
pub fn with_server(host: &HostState, port: u16, server: Server) -> HostState {
    let mut state = host.clone();
    state.sshd.servers.insert(port, Part::Present(server));
    state
}

/// The server with what sshd says of the files that were predicted for it. `None` while that is asked for, or where there is none.
pub fn resolved(host: &HostState, port: u16, needs: &mut Needs) -> Option<Server> {
    let server = server(host, port, needs)?;
    if server.edited.is_empty() {
        return Some(server.clone());
    }
    let answer = answer(host, &server.candidate(port), needs)?;
    Some(Server {
        test: answer.test.clone(),
        effective: answer.effective.clone(),
        host_keys: answer.host_keys.clone(),
        ..server.clone()
    })
}

/// What sshd says of a candidate, once it was asked.
pub fn answer<'a>(host: &'a HostState, candidate: &Candidate, needs: &mut Needs) -> Option<&'a Answer> {
    let answer = host.sshd.candidates.get(candidate);
    if answer.is_none() {
        needs.insert(host::Need::Sshd(Need::Candidate(candidate.clone())));
    }
    answer
}

/// The effective configuration of a login with the files as they are predicted.
pub fn login_as<'a>(
    host: &'a HostState,
    server: &Server,
    login: &Login,
    needs: &mut Needs,
) -> Option<&'a Result<Effective, String>> {
    if server.edited.is_empty() {
        let known = host.sshd.logins.get(login);
        if known.is_none() {
            needs.insert(host::Need::Sshd(Need::Login(login.clone())));
        }
        return known;
    }
    let key = (server.candidate(login.server), login.clone());
    let known = host.sshd.candidate_logins.get(&key);
    if known.is_none() {
        needs.insert(host::Need::Sshd(Need::CandidateLogin(key.0, key.1)));
    }
    known
}
