//! Who starts the sshd on a port and makes it read its files again: a service of systemd, its socket unit, or nobody.

use std::fs;

use sshfix_policy::subsystem::listener::{State, Unit, is_sshd};
use sshfix_policy::subsystem::sshd::{Absent, Boot, Manager, Runs};

use crate::sys::dbus;

/// With this status sshd ends where it can listen nowhere (sshd.c, `fatal`).
const NOWHERE: i32 = 255;

/// By the process that listens; where none does, what would be started. The error says why that is not known: it is never "nobody" then.
pub(super) fn manager(state: &State, port: u16) -> Result<Manager, String> {
    if !dbus::booted() {
        return Ok(Manager::Nobody);
    }
    if state.units.is_none() {
        return Err(format!("systemd did not say what it runs: {}", state.notes.join("; ")));
    }
    let units = || state.units.iter().flatten().filter(|unit| unit.load == "loaded");
    let holders = || state.listeners.iter().filter(|socket| socket.local.port() == port).flat_map(|socket| &socket.holders);
    let by_systemd = holders().any(|holder| holder.pid == 1);
    let socket =
        units().find(|unit| unit.name.ends_with(".socket") && unit.active == "active" && (by_systemd || listens(unit, port)));
    let sshd = holders().find(|holder| is_sshd(holder));
    // Down, and it is a socket unit that would be started at boot.
    let enabled = |kind: &str| units().find(|unit| unit.enabled() && unit.name.ends_with(kind));
    let down = || enabled(".socket").filter(|_| holders().next().is_none() && enabled(".service").is_none());
    let socket = socket.or_else(down);
    if let Some(socket) = socket
        && dbus::accepts(&socket.name).map_err(|error| error.to_string())?
    {
        return Ok(Manager::Connections(socket.name.clone()));
    }
    let name = match sshd {
        Some(holder) => holder.unit.clone().filter(|unit| unit.ends_with(".service")),
        None => units().find(|unit| unit.name.ends_with(".service")).map(|unit| unit.name.clone()),
    };
    let Some(name) = name else { return Ok(Manager::Nobody) };
    Ok(match dbus::service(&name).map_err(|error| error.to_string())? {
        Some(service) => Manager::Service {
            name,
            can_reload: service.can_reload,
            kill_mode: service.kill_mode,
            socket: socket.map(|socket| socket.name.clone()),
            runs: Runs { at_reload: service.at_reload, at_restart: service.at_restart },
            boot: Boot {
                waits: service.waits_for_network,
                tries_again: service.restart.goes_on_after(NOWHERE),
                absent: Absent { v4: binds_any("ipv4"), v6: binds_any("ipv6") },
            },
        },
        None => Manager::Nobody,
    })
}

/// Whether an address that is not there can be listened on (ip(7)); no where that cannot be read.
fn binds_any(family: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind")).is_ok_and(|value| value.trim() == "1")
}

fn listens(unit: &Unit, port: u16) -> bool {
    let end = format!(":{port}");
    unit.listens.iter().any(|address| address.ends_with(&end) || *address == port.to_string())
}
