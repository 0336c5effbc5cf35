//! What systemd would start as the SSH server: `ExecStart` of the unit, with its drop-ins, variables and environment files.

use std::collections::BTreeMap;
use std::path::Path;

use sshfix_policy::subsystem::listener::State;
use sshfix_policy::subsystem::sshd::{Invocation, environment_file};

use crate::sys::{dbus, roots};

/// The longest environment file.
const FILE_MAX: u64 = 64 * 1024;

/// By the first SSH service that is there; `None` where there is none, or no systemd.
pub(super) fn invocation(state: &State) -> Option<Invocation> {
    let mut names = state.units.iter().flatten().filter(|unit| unit.name.ends_with(".service") && unit.load == "loaded");
    names.find_map(|unit| of_service(&unit.name))
}

/// By its name.
pub(super) fn of_service(name: &str) -> Option<Invocation> {
    let service = dbus::service(name).ok()??;
    let (program, words) = service.exec_start?;
    // systemd.exec(5): the files win over Environment.
    let assignments = service.environment.iter().filter_map(|assignment| assignment.split_once('='));
    let mut environment: BTreeMap<String, String> =
        assignments.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for file in &service.environment_files {
        // What is not root's is left out; then the options are not those of the process, and nothing is known.
        if let Ok(bytes) = roots::read(Path::new(file), FILE_MAX) {
            environment.extend(environment_file(&String::from_utf8_lossy(&bytes)));
        }
    }
    Some(Invocation::from_unit(&program, &words, &environment))
}
