//! Whether the host is going down or coming up: systemd's own state, and the shutdown that logind has planned. Reads only.

use std::fs;

use sshfix_policy::subsystem::sshd::{Power, SCHEDULED};

use crate::sys::dbus;

pub(super) fn read() -> Power {
    let text = fs::read_to_string(SCHEDULED).unwrap_or_default();
    Power { state: dbus::system_state().ok(), scheduled: Power::scheduled(&text) }
}
