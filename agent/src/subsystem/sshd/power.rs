//! Whether the host is going down or coming up: systemd's own state, and the shutdown that logind has planned. Reads only.

use std::fs;

use sshfix_policy::subsystem::sshd::{Power, SCHEDULED};

use crate::sys::dbus;

pub(super) fn read() -> Power {
    let scheduled = match fs::read_to_string(SCHEDULED) {
        Ok(text) => Ok(Power::scheduled(&text)),
        // Nothing is planned, or there is no logind.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{SCHEDULED}: {error}")),
    };
    let state = dbus::booted().then(dbus::system_state).transpose().map_err(|error| error.to_string());
    Power { state, scheduled }
}
