//! What systemd is asked to do over D-Bus, and waiting until it is done: one connection for each, the signal subscribed to before
//! the job begins. Decides nothing; which unit may be touched is the caller's.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Builder;
use zbus::export::futures_core::Stream;

use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Variant};

use super::dbus;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PATH: &str = "/org/freedesktop/systemd1";

/// What is done to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// `systemctl start`
    Start,
    /// `systemctl reload`
    Reload,
    /// `systemctl restart`
    Restart,
    /// `systemctl stop`
    Stop,
}

/// Why it was not done.
#[derive(Debug, Error)]
pub enum JobError {
    /// No bus, no systemd on it, or systemd refused.
    #[error("systemd cannot be asked over D-Bus: {0}")]
    Bus(#[from] zbus::Error),
    /// No runtime to talk on.
    #[error("cannot prepare to talk to D-Bus: {0}")]
    Runtime(std::io::Error),
    /// It ended otherwise than it should (`failed`, `canceled`, `timeout`, `dependency`, ...).
    #[error("systemd says `{result}` of {unit}")]
    Ended {
        /// Which.
        unit: String,
        /// In systemd's word.
        result: String,
    },
    /// It did not end in time.
    #[error("systemd was not done with {unit} within {} s", .after.as_secs())]
    TimedOut {
        /// Which.
        unit: String,
        /// The time it was given.
        after: Duration,
    },
}

/// A program that systemd runs as a service that has no file.
#[derive(Clone, Debug)]
pub struct Transient<'a> {
    /// `NAME.service`
    pub name: &'a str,
    /// For people.
    pub description: &'a str,
    /// The program and its words, its own name first.
    pub program: &'a str,
    /// See there.
    pub words: &'a [String],
    /// `RuntimeDirectory`
    pub runtime_directory: &'a str,
}

/// Has systemd do this, and waits for its end. Must not be called on an async task: it blocks.
pub fn run(job: Job, unit: &str, limit: Duration) -> Result<(), JobError> {
    let method = match job {
        Job::Start => "StartUnit",
        Job::Reload => "ReloadUnit",
        Job::Restart => "RestartUnit",
        Job::Stop => "StopUnit",
    };
    waited_for(unit, limit, &async |bus: &Connection| {
        // What failed too often is not started again before it is forgotten. A unit that is not loaded has nothing to forget.
        if matches!(job, Job::Start | Job::Restart) {
            let _ = bus.call_method(Some(SYSTEMD), PATH, Some(MANAGER), "ResetFailedUnit", &(unit,)).await;
        }
        let reply = bus.call_method(Some(SYSTEMD), PATH, Some(MANAGER), method, &(unit, "replace")).await?;
        reply.body().deserialize()
    })
}

/// Runs a program as a service of its own; only its main process is ever killed.
pub fn run_transient(transient: &Transient<'_>, limit: Duration) -> Result<(), JobError> {
    let Transient { name, description, program, words, runtime_directory } = transient;
    waited_for(name, limit, &async |bus: &Connection| {
        let exec = vec![(*program, words.to_vec(), false)];
        let properties: Vec<(&str, Variant<'_>)> = vec![
            ("Description", Variant::from(*description)),
            ("Type", Variant::from("notify")),
            ("KillMode", Variant::from("process")),
            ("Restart", Variant::from("on-failure")),
            ("CollectMode", Variant::from("inactive-or-failed")),
            ("RuntimeDirectory", Variant::from(vec![*runtime_directory])),
            ("RuntimeDirectoryPreserve", Variant::from("yes")),
            ("ExecStart", Variant::from(exec)),
        ];
        let others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let body = (*name, "replace", properties, others);
        let reply = bus.call_method(Some(SYSTEMD), PATH, Some(MANAGER), "StartTransientUnit", &body).await?;
        reply.body().deserialize()
    })
}

fn waited_for(
    unit: &str,
    limit: Duration,
    begin: &impl AsyncFn(&Connection) -> zbus::Result<OwnedObjectPath>,
) -> Result<(), JobError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(JobError::Runtime)?;
    let work = async {
        let bus = dbus::connect().await?;
        let mut rule = MatchRule::builder().msg_type(zbus::message::Type::Signal).interface(MANAGER).member("JobRemoved");
        // On a bus anybody may send such a signal; without one systemd alone is at the other end, and has no name.
        if bus.is_bus() {
            rule = rule.sender(SYSTEMD);
        }
        let mut removed = MessageStream::for_match_rule(rule.build()?, &bus, None).await?;
        bus.call_method(Some(SYSTEMD), PATH, Some(MANAGER), "Subscribe", &()).await?;
        let job = begin(&bus).await?;
        // A job may be over before its path was told: the signal waits in the stream.
        while let Some(message) = poll_fn(|context| Pin::new(&mut removed).poll_next(context)).await {
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) = message?.body().deserialize()?;
            if path == job {
                return Ok(result);
            }
        }
        Err(zbus::Error::Failure("the bus closed the connection".to_owned()))
    };
    let timed_out = |_| JobError::TimedOut { unit: unit.to_owned(), after: limit };
    let result = runtime.block_on(async { tokio::time::timeout(limit, work).await }).map_err(timed_out)??;
    if result == "done" { Ok(()) } else { Err(JobError::Ended { unit: unit.to_owned(), result }) }
}
