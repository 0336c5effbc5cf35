//! systemd over D-Bus: the state of units. One connection that is kept, made anew when it is lost, two seconds for every question. It is
//! systemd's own socket, which serves root alone: on the system bus any user can ask so much that others wait. The bus is asked where that
//! socket does not answer. Where there is no systemd the caller gets an error that says so.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::systemd_socket::SystemdSocket;
use jiff::Timestamp;
use sshfix_policy::subsystem::listener::Unit;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use zbus::{Connection, Message, OwnedObjectPath, OwnedVariant, Variant, connection};

/// For one question, connecting included.
const LIMIT: Duration = Duration::from_secs(2);
/// The socket of the system bus (D-Bus specification, "Well-known Message Bus Instances"), as Debian has it.
const BUS: &str = "/run/dbus/system_bus_socket";
/// org.freedesktop.systemd1(5)
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Why systemd did not answer.
#[derive(Debug, Error)]
pub enum DbusError {
    /// No runtime to talk on.
    #[error("cannot prepare to talk to D-Bus: {0}")]
    Runtime(std::io::Error),
    /// No bus, no systemd on it, or an answer that is not understood.
    #[error("systemd cannot be asked over D-Bus: {0}")]
    Bus(#[from] zbus::Error),
    /// No answer in time.
    #[error("systemd did not answer over D-Bus within {} s", LIMIT.as_secs())]
    TimedOut,
}

/// The one connection of this process, with the runtime it lives on.
static SYSTEM: Mutex<Option<(Runtime, Connection)>> = Mutex::new(None);

/// A row of `ListUnitsByNames`: id, description, `LoadState`, `ActiveState`, `SubState`, followed unit, path, job id, type and path.
type Row = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// The units of these names that exist, each once whatever alias it was asked by. Must not be called on an async task: it blocks.
pub fn units(names: &[&str]) -> Result<Vec<Unit>, DbusError> {
    ask(&async |bus: &Connection| ask_units(bus, names).await)
}

/// What a service starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `ExecStart`: the program's path and its words, the first of which is its own name. Variables stand in them as in the unit.
    pub exec_start: Option<(String, Vec<String>)>,
    /// `Environment`: `NAME=value`.
    pub environment: Vec<String>,
    /// `EnvironmentFiles`, without the mark that one may be missing.
    pub environment_files: Vec<String>,
    /// `KillMode` (systemd.kill(5)).
    pub kill_mode: String,
    /// Whether it has an `ExecReload`.
    pub can_reload: bool,
    /// `MainPID`; 0 where none runs.
    pub main_pid: u32,
    /// When systemd started that one, by the wall clock of then.
    pub main_started: Option<Timestamp>,
    /// Whether it is started after the network is online, and has that begun.
    pub waits_for_network: bool,
    /// When systemd starts it again by itself.
    pub restart: Restart,
    /// `ExecReload`: programs and their arguments.
    pub at_reload: Vec<Vec<String>>,
    /// The same of what it runs at a stop or a start, beside the first of `ExecStart`.
    pub at_restart: Vec<Vec<String>>,
}

/// When systemd starts a service again that has ended by itself (systemd.service(5), systemd.unit(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// `Restart`: `no`, `on-failure`, `always`, ...
    pub when: String,
    /// `RestartPreventExitStatus`.
    pub never_after: Vec<i32>,
    /// `RestartUSec`: how long it waits before.
    pub after: u64,
    /// `StartLimitIntervalUSec` and `StartLimitBurst`: how often within which time; 0 is without end.
    pub limit: (u64, u32),
}

impl Restart {
    /// Whether it goes on for as long as the service ends with this status right after each start.
    pub fn goes_on_after(&self, status: i32) -> bool {
        let (interval, burst) = self.limit;
        let on = matches!(self.when.as_str(), "always" | "on-failure") && !self.never_after.contains(&status);
        on && (interval == 0 || burst == 0 || self.after.saturating_mul(burst.into()) >= interval)
    }
}

/// What a service unit starts; `None` where there is no such unit. It blocks as [`units`] does.
pub fn service(name: &str) -> Result<Option<Service>, DbusError> {
    ask(&async |bus: &Connection| ask_service(bus, name).await)
}

/// Whether systemd runs this host (`sd_booted(3)`).
pub fn booted() -> bool {
    std::path::Path::new("/run/systemd/system").exists()
}

/// Whether systemd cannot be asked at all: neither its socket nor the bus is there.
pub fn is_missing() -> bool {
    let no_bus = std::fs::symlink_metadata(BUS).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    no_bus && SystemdSocket::is_missing()
}

/// What a service unit starts, as [`service`]; none where systemd does not run this host.
pub fn service_if_booted(name: &str) -> Result<Option<Service>, DbusError> {
    if booted() { service(name) } else { Ok(None) }
}

/// Whether a socket unit has a service started for each connection (`Accept=yes`). It blocks as [`units`] does.
pub fn accepts(socket: &str) -> Result<bool, DbusError> {
    ask(&async |bus: &Connection| {
        let reply = call(bus, MANAGER_PATH, MANAGER, "GetUnit", &(socket,)).await?;
        let path: OwnedObjectPath = reply.body().deserialize()?;
        let accept = property(bus, &path, "org.freedesktop.systemd1.Socket", "Accept").await?;
        bool::try_from(accept)
    })
}

/// Since when a unit has been active, in microseconds since 1970; `None` where it is not. It blocks as [`units`] does.
pub fn active_since(unit: &str) -> Result<Option<u64>, DbusError> {
    const UNIT: &str = "org.freedesktop.systemd1.Unit";
    ask(&async |bus: &Connection| {
        let reply = call(bus, MANAGER_PATH, MANAGER, "ListUnitsByNames", &(&[unit][..],)).await?;
        let rows: Vec<Row> = reply.body().deserialize()?;
        let Some((.., active, _, _, path, _, _, _)) = rows.into_iter().next() else { return Ok(None) };
        let since = u64::try_from(property(bus, &path, UNIT, "ActiveEnterTimestamp").await?)?;
        Ok((active == "active" && since > 0).then_some(since))
    })
}

/// `SystemState` of the manager: `running`, `degraded`, `starting`, `stopping`, ... It blocks as [`units`] does.
pub fn system_state() -> Result<String, DbusError> {
    ask(&async |bus: &Connection| {
        let reply = call(bus, MANAGER_PATH, PROPERTIES, "Get", &(MANAGER, "SystemState")).await?;
        let value: OwnedVariant = reply.body().deserialize()?;
        text(&value)
    })
}

/// What systemd is about to do with the unit of this process: the type of its job (`start`, `stop`, `restart`, ...); `None` where it
/// has none. A restart is one job until the unit has stopped; only then it becomes a `start` (systemd, src/core/job.c). It blocks as
/// [`units`] does.
pub fn own_job() -> Result<Option<String>, DbusError> {
    ask(&async |bus: &Connection| ask_own_job(bus).await)
}

/// Lets the unit of this process talk to these addresses and no others (`IPAddressAllow=`), until the host goes down; nothing where it may
/// talk to all. It blocks as [`units`] does.
pub fn allow_peers(peers: &[(i32, Vec<u8>, u32)]) -> Result<(), DbusError> {
    ask(&async |bus: &Connection| {
        let reply = call(bus, MANAGER_PATH, MANAGER, "GetUnitByPID", &(std::process::id(),)).await?;
        let unit: OwnedObjectPath = reply.body().deserialize()?;
        let denied = property(bus, &unit, "org.freedesktop.systemd1.Service", "IPAddressDeny").await?;
        if Vec::<(i32, Vec<u8>, u32)>::try_from(denied).is_ok_and(|denied| denied.is_empty()) {
            return Ok(());
        }
        let name = property(bus, &unit, "org.freedesktop.systemd1.Unit", "Id").await?;
        let none: Vec<(i32, Vec<u8>, u32)> = Vec::new();
        // An empty list forgets the old one, another is added to it.
        let properties = vec![("IPAddressAllow", Variant::from(none)), ("IPAddressAllow", Variant::from(peers.to_vec()))];
        let body = (text(&name)?, true, properties);
        call(bus, MANAGER_PATH, MANAGER, "SetUnitProperties", &body).await.map(drop)
    })
}

/// One question, on the connection that is there or on a new one.
fn ask<T>(question: &impl AsyncFn(&Connection) -> zbus::Result<T>) -> Result<T, DbusError> {
    let mut slot = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((runtime, bus)) = slot.as_ref() {
        match within_limit(runtime, question(bus)) {
            // The bus restarted, or another process took systemd's place on it.
            Err(DbusError::Bus(_)) => *slot = None,
            answer => return answer,
        }
    }
    let runtime = Builder::new_current_thread().enable_all().build().map_err(DbusError::Runtime)?;
    let (bus, answer) = within_limit(&runtime, async {
        let bus = connect().await?;
        let answer = question(&bus).await?;
        Ok((bus, answer))
    })?;
    *slot = Some((runtime, bus));
    Ok(answer)
}

/// A connection to systemd itself; to the bus, where that is not to be had.
pub(super) async fn connect() -> zbus::Result<Connection> {
    if let Ok(socket) = SystemdSocket::connect().await
        && let Ok(systemd) = connection::Builder::socket(socket).p2p().build().await
    {
        return Ok(systemd);
    }
    connection::Builder::system().build().await
}

fn within_limit<T>(runtime: &Runtime, work: impl Future<Output = zbus::Result<T>>) -> Result<T, DbusError> {
    let limited = runtime.block_on(async { tokio::time::timeout(LIMIT, work).await });
    Ok(limited.map_err(|_| DbusError::TimedOut)??)
}

async fn ask_units(bus: &Connection, names: &[&str]) -> zbus::Result<Vec<Unit>> {
    let reply = call(bus, MANAGER_PATH, MANAGER, "ListUnitsByNames", &(names,)).await?;
    let rows: Vec<Row> = reply.body().deserialize()?;
    let mut units: Vec<Unit> = Vec::new();
    for (id, _, load, active, sub, _, path, ..) in rows {
        if load == "not-found" || units.iter().any(|unit| unit.name == id) {
            continue;
        }
        // Single properties, all asked for at once: `GetAll` has systemd measure the memory and traffic of the unit.
        let socket = id.ends_with(".socket");
        let kind = if socket { "org.freedesktop.systemd1.Socket" } else { "org.freedesktop.systemd1.Service" };
        let (result, file, listen) = tokio::try_join!(
            property(bus, &path, kind, "Result"),
            property(bus, &path, "org.freedesktop.systemd1.Unit", "UnitFileState"),
            async { if socket { property(bus, &path, kind, "Listen").await.map(Some) } else { Ok(None) } },
        )?;
        units.push(Unit {
            load,
            active,
            sub,
            result: Some(text(&result)?),
            file: Some(text(&file)?),
            listens: listen.map(listens).transpose()?.unwrap_or_default(),
            name: id,
        });
    }
    Ok(units)
}

/// A command of `ExecStart`: path, words, whether failure is ignored, and when and how it last ran.
type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// The program and its arguments.
fn words((path, words, ..): Command) -> Vec<String> {
    std::iter::once(path).chain(words.into_iter().skip(1)).collect()
}

async fn ask_service(bus: &Connection, name: &str) -> zbus::Result<Option<Service>> {
    const SERVICE: &str = "org.freedesktop.systemd1.Service";
    const UNIT: &str = "org.freedesktop.systemd1.Unit";
    let reply = call(bus, MANAGER_PATH, MANAGER, "ListUnitsByNames", &(&[name][..],)).await?;
    let rows: Vec<Row> = reply.body().deserialize()?;
    let Some((_, _, load, _, _, _, path, ..)) = rows.into_iter().next() else { return Ok(None) };
    if load != "loaded" {
        return Ok(None);
    }
    let (after, wants, requires, when, never_after, delay, interval, burst) = tokio::try_join!(
        property(bus, &path, UNIT, "After"),
        property(bus, &path, UNIT, "Wants"),
        property(bus, &path, UNIT, "Requires"),
        property(bus, &path, SERVICE, "Restart"),
        property(bus, &path, SERVICE, "RestartPreventExitStatus"),
        property(bus, &path, SERVICE, "RestartUSec"),
        property(bus, &path, UNIT, "StartLimitIntervalUSec"),
        property(bus, &path, UNIT, "StartLimitBurst"),
    )?;
    let names = |value: OwnedVariant| -> zbus::Result<bool> {
        Ok(Vec::<String>::try_from(value)?.iter().any(|name| name == "network-online.target"))
    };
    let (statuses, _signals) = <(Vec<i32>, Vec<i32>)>::try_from(never_after)?;
    let restart = Restart {
        when: text(&when)?,
        never_after: statuses,
        after: u64::try_from(delay)?,
        limit: (u64::try_from(interval)?, u32::try_from(burst)?),
    };
    let (exec, environment, files, kill_mode, can_reload, main_pid, started, reload, condition, pre, post, stop, stopped) = tokio::try_join!(
        property(bus, &path, SERVICE, "ExecStart"),
        property(bus, &path, SERVICE, "Environment"),
        property(bus, &path, SERVICE, "EnvironmentFiles"),
        property(bus, &path, SERVICE, "KillMode"),
        property(bus, &path, UNIT, "CanReload"),
        property(bus, &path, SERVICE, "MainPID"),
        property(bus, &path, SERVICE, "ExecMainStartTimestamp"),
        property(bus, &path, SERVICE, "ExecReload"),
        property(bus, &path, SERVICE, "ExecCondition"),
        property(bus, &path, SERVICE, "ExecStartPre"),
        property(bus, &path, SERVICE, "ExecStartPost"),
        property(bus, &path, SERVICE, "ExecStop"),
        property(bus, &path, SERVICE, "ExecStopPost"),
    )?;
    let started = i64::try_from(u64::try_from(started)?).ok().filter(|microseconds| *microseconds > 0);
    let exec = Vec::<Command>::try_from(exec)?;
    let mut at_restart: Vec<Vec<String>> = exec.iter().skip(1).cloned().map(words).collect();
    for commands in [condition, pre, post, stop, stopped] {
        at_restart.extend(Vec::<Command>::try_from(commands)?.into_iter().map(words));
    }
    let files = Vec::<(String, bool)>::try_from(files)?;
    Ok(Some(Service {
        exec_start: exec.into_iter().next().map(|(path, words, ..)| (path, words)),
        environment: Vec::<String>::try_from(environment)?,
        environment_files: files.into_iter().map(|(path, _)| path).collect(),
        kill_mode: text(&kill_mode)?,
        can_reload: bool::try_from(can_reload)?,
        main_pid: u32::try_from(main_pid)?,
        waits_for_network: names(after)? && (names(wants)? || names(requires)?),
        restart,
        at_reload: Vec::<Command>::try_from(reload)?.into_iter().map(words).collect(),
        at_restart,
        main_started: started.and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok()),
    }))
}

async fn ask_own_job(bus: &Connection) -> zbus::Result<Option<String>> {
    let reply = call(bus, MANAGER_PATH, MANAGER, "GetUnitByPID", &(std::process::id(),)).await?;
    let unit: OwnedObjectPath = reply.body().deserialize()?;
    let job = property(bus, &unit, "org.freedesktop.systemd1.Unit", "Job").await?;
    let (id, job) = <(u32, OwnedObjectPath)>::try_from(job)?;
    if id == 0 {
        return Ok(None);
    }
    text(&property(bus, &job, "org.freedesktop.systemd1.Job", "JobType").await?).map(Some)
}

async fn property(bus: &Connection, path: &OwnedObjectPath, interface: &str, name: &str) -> zbus::Result<OwnedVariant> {
    call(bus, path.as_str(), PROPERTIES, "Get", &(interface, name)).await?.body().deserialize()
}

async fn call<B: serde::Serialize + zbus::zvariant::DynamicType>(
    bus: &Connection,
    path: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> zbus::Result<Message> {
    bus.call_method(Some(SYSTEMD), path, Some(interface), method, body).await
}

/// A value of another type is an error: it is never taken for an empty text.
fn text(value: &OwnedVariant) -> zbus::Result<String> {
    let text: &str = value.downcast_ref()?;
    Ok(text.to_owned())
}

/// `Listen` of a socket unit, `a(ss)`: the addresses of its stream sockets.
fn listens(value: OwnedVariant) -> zbus::Result<Vec<String>> {
    let pairs = Vec::<(String, String)>::try_from(value)?;
    Ok(pairs.into_iter().filter(|(kind, _)| kind == "Stream").map(|(_, address)| address).collect())
}
