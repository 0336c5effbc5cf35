//! What systemd would start as the SSH server: `ExecStart` of the unit, with its drop-ins, variables and environment files.

use std::collections::BTreeMap;
use std::path::Path;

use sshfix_policy::subsystem::listener::State;
use sshfix_policy::subsystem::sshd::{Invocation, environment_file};

use crate::sys::dbus;
use crate::sys::roots::{self, RootsError};

/// The longest environment file.
const FILE_MAX: u64 = 64 * 1024;

/// By the first SSH service that is there; `None` where there is none, or no systemd. The error says why it is not known.
pub(super) fn invocation(state: &State) -> Result<Option<Invocation>, String> {
    if state.units.is_none() && dbus::booted() {
        return Err(state.notes.join("; "));
    }
    for unit in state.units.iter().flatten().filter(|unit| unit.name.ends_with(".service") && unit.load == "loaded") {
        if let Some(invocation) = of_service(&unit.name)? {
            return Ok(Some(invocation));
        }
    }
    Ok(None)
}

/// By its name.
pub(super) fn of_service(name: &str) -> Result<Option<Invocation>, String> {
    let service = dbus::service_if_booted(name).map_err(|error| error.to_string())?;
    let Some(service) = service else { return Ok(None) };
    let Some((program, words)) = service.exec_start else { return Ok(None) };
    // systemd.exec(5): the files win over Environment.
    let assignments = service.environment.iter().filter_map(|assignment| assignment.split_once('='));
    let mut environment: BTreeMap<String, String> =
        assignments.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for file in &service.environment_files {
        match roots::read(Path::new(file), FILE_MAX) {
            Ok(bytes) => environment.extend(environment_file(&String::from_utf8_lossy(&bytes))),
            // systemd goes on without it where the unit says so, and else starts nothing.
            Err(RootsError::Missing(_)) => {}
            Err(error) => return Err(format!("the options of {name} are not known: {error}")),
        }
    }
    Ok(Some(Invocation::from_unit(&program, &words, &environment)))
}
