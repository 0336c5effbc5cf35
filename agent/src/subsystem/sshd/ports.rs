//! Keeps the ports of an sshd for root while it opens its sockets anew. Anybody may bind a port from `ip_unprivileged_port_start` on (ip(7)),
//! and sshd closes its sockets for some milliseconds when it reads its files again: whoever is faster has the port, and sshd ends. So the
//! setting is raised above those ports meanwhile and put back afterwards, by the next agent where this one dies. Changes nothing else.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sshfix_policy::host::StepError;
use sshfix_policy::subsystem::sshd::Invocation;

use super::serves;
use crate::subsystem::listener::{self, Other};

/// The first port that anybody may bind. Of IPv4 and IPv6, of this network namespace.
const START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// What it was and what it was raised to. It is gone with a reboot, as the setting.
const RAISED: &str = "/run/sshfix/port-start";
/// One at a time, so that what is put back is what was there before.
static ONE: Mutex<()> = Mutex::new(());

/// While this lives only root can bind the ports that it was asked for.
#[must_use]
pub(super) struct Kept {
    raised: Option<Raised>,
    /// Why it is not known who else has them.
    unseen: Option<String>,
    _one: MutexGuard<'static, ()>,
}

/// Why they are not kept. Each says what to do.
pub(super) enum NotKept {
    /// Which they are is not known: sshd does not take its files.
    Unread(String),
    /// Whoever is fast enough gets them.
    Open(String),
    /// Somebody has them, or would have them as soon as sshd closes them.
    Taken(String),
    /// Whether somebody has them could not be read.
    Unseen(String),
}

impl NotKept {
    /// The reason and what to do.
    pub(super) fn text(self) -> String {
        let (Self::Unread(why) | Self::Open(why) | Self::Taken(why) | Self::Unseen(why)) = self;
        why
    }

    /// For a change that is not made then.
    pub(super) fn refusal(self) -> StepError {
        StepError::Failed(self.text())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raised {
    before: u16,
    to: u16,
}

impl Raised {
    fn parse(text: &str) -> Option<Self> {
        let (before, to) = text.trim_end().split_once(' ')?;
        Some(Self { before: before.parse().ok()?, to: to.parse().ok()? })
    }
}

impl Kept {
    /// For an edit, which nobody needs at once: it is not made where it is not known who else has the ports.
    pub(super) fn seen(self) -> Result<Self, NotKept> {
        match &self.unseen {
            Some(why) => Err(NotKept::Unseen(why.clone())),
            None => Ok(self),
        }
    }

    /// For a rollback, which goes on: what is not known.
    pub(super) fn unseen(&self) -> Option<&str> {
        self.unseen.as_deref()
    }
}

/// Keeps the ports of an sshd's files, from before it is told to read them until it has opened its sockets.
pub(super) fn keep(invocation: &Invocation) -> Result<Kept, NotKept> {
    let wanted = serves::addresses(invocation).map_err(NotKept::Unread)?;
    let highest = wanted.iter().map(SocketAddr::port).max().unwrap_or_default();
    let kept = keep_up_to(highest, Path::new(START), Path::new(RAISED)).map_err(NotKept::Open)?;
    free(kept, wanted, others)
}

/// Whether nobody else has one of the ports that anybody could bind until they were kept.
fn free(mut kept: Kept, wanted: Vec<SocketAddr>, others: impl FnOnce(&[SocketAddr]) -> Others) -> Result<Kept, NotKept> {
    let Some(Raised { before: first, .. }) = kept.raised else { return Ok(kept) };
    let open: Vec<SocketAddr> = wanted.into_iter().filter(|address| address.port() >= first).collect();
    match others(&open).map(|others| in_the_way(&open, &others)) {
        Ok(Some(why)) => Err(NotKept::Taken(why)),
        Ok(None) => Ok(kept),
        Err(error) => {
            kept.unseen = Some(unseen(&open, &error));
            Ok(kept)
        }
    }
}

type Others = io::Result<Vec<Other>>;

/// The sockets on these ports that others than root made.
fn others(wanted: &[SocketAddr]) -> Others {
    listener::of_others(&wanted.iter().map(SocketAddr::port).collect())
}

fn unseen(wanted: &[SocketAddr], error: &io::Error) -> String {
    let mut ports: Vec<String> = wanted.iter().map(|address| address.port().to_string()).collect();
    ports.dedup();
    let ports = ports.join(" and ");
    format!("who else has port {ports} is not known ({error}): `ss -tlnp` shows the sockets of other users; end their processes")
}

fn keep_up_to(port: u16, start: &Path, noted: &Path) -> Result<Kept, String> {
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let open = |error: io::Error| {
        format!(
            "any user may bind port {port} while sshd closes its sockets to read its files again, and would keep sshd from it for good; \
             sshfix could not forbid it meanwhile ({error}). Forbid it: `sysctl -w net.ipv4.ip_unprivileged_port_start={}`",
            port.saturating_add(1)
        )
    };
    let before = read(start).map_err(open)?;
    if before > port {
        return Ok(Kept { raised: None, unseen: None, _one: one });
    }
    let to = port.checked_add(1).ok_or_else(|| open(io::Error::other("no setting is above this port")))?;
    // Half of it on the disk is none: nothing was raised then.
    fs::write(noted, format!("{before} {to}\n")).map_err(open)?;
    write(start, to).map_err(open)?;
    Ok(Kept { raised: Some(Raised { before, to }), unseen: None, _one: one })
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(raised) = self.raised {
            lower(raised, Path::new(START), Path::new(RAISED));
        }
    }
}

/// Puts back what an agent had raised that died meanwhile.
pub fn put_back() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(text) = fs::read_to_string(RAISED) else { return };
    match Raised::parse(&text) {
        Some(raised) => lower(raised, Path::new(START), Path::new(RAISED)),
        None => _ = fs::remove_file(RAISED),
    }
}

/// What somebody else has set since stays.
fn lower(raised: Raised, start: &Path, noted: &Path) {
    let done = match read(start) {
        Ok(now) if now == raised.to => write(start, raised.before),
        other => other.map(drop),
    };
    match done {
        Ok(()) => _ = fs::remove_file(noted),
        Err(error) => tracing::error!(
            "net.ipv4.ip_unprivileged_port_start is {} and was {}: {error}; the next start of the agent puts it back, or you: \
             `sysctl -w net.ipv4.ip_unprivileged_port_start={}`",
            raised.to,
            raised.before,
            raised.before
        ),
    }
}

fn read(start: &Path) -> io::Result<u16> {
    fs::read_to_string(start)?.trim().parse().map_err(|_| io::Error::other("it holds no port"))
}

fn write(start: &Path, value: u16) -> io::Result<()> {
    fs::write(start, value.to_string())
}

/// Which sockets of others keep sshd from these addresses. One that listens has its address already: it is in the way where sshd would get
/// none and end. One that is bound and does not listen begins to as soon as sshd closes its own.
fn in_the_way(wanted: &[SocketAddr], others: &[Other]) -> Option<String> {
    let has = |address: &SocketAddr, listens| others.iter().find(|it| it.listens == listens && conflicts(*address, it));
    let waiting: Vec<&Other> = wanted.iter().filter_map(|address| has(address, false)).collect();
    let mut all =
        if waiting.is_empty() { wanted.iter().map(|address| has(address, true)).collect::<Option<_>>()? } else { waiting };
    all.sort_by_key(|other| (other.uid, other.local));
    all.dedup();
    let named: Vec<String> = all.iter().map(|other| other.describe()).collect();
    (!named.is_empty()).then(|| format!("{}; sshd could not listen there any more: end that process", named.join(" and ")))
}

/// Who has the addresses of an sshd that did not start.
pub(super) fn taken(invocation: &Invocation) -> Option<String> {
    let wanted = serves::addresses(invocation).ok()?;
    match others(&wanted) {
        Ok(others) => in_the_way(&wanted, &others),
        Err(error) => Some(unseen(&wanted, &error)),
    }
}

/// Whether sshd cannot have an address because of this socket. Its own IPv6 sockets take no IPv4.
fn conflicts(wanted: SocketAddr, other: &Other) -> bool {
    let same = || wanted.ip() == other.local.ip() || wanted.ip().is_unspecified() || other.local.ip().is_unspecified();
    wanted.port() == other.local.port()
        && match (wanted.ip(), other.local.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => same(),
            (IpAddr::V4(_), IpAddr::V6(ip)) => ip.is_unspecified() && !other.v6_only,
            (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_port_of_everybodys_is_kept_and_what_others_set_since_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (start, noted) = (folder.path().join("start"), folder.path().join("noted"));
        fs::write(&start, "1024\n").unwrap();
        let kept = |port: u16| {
            let mut kept = keep_up_to(port, &start, &noted).unwrap();
            kept.raised.take()
        };
        assert_eq!(kept(22), None);
        assert!(!noted.exists());
        let raised = kept(2222).unwrap();
        assert_eq!(raised, Raised { before: 1024, to: 2223 });
        assert_eq!(read(&start).unwrap(), 2223);
        assert_eq!(Raised::parse(&fs::read_to_string(&noted).unwrap()), Some(raised));
        lower(raised, &start, &noted);
        assert_eq!((read(&start).unwrap(), noted.exists()), (1024, false));
        fs::write(&start, "80\n").unwrap();
        lower(raised, &start, &noted);
        assert_eq!(read(&start).unwrap(), 80);
        for port in [65535, 2222] {
            if port == 2222 {
                fs::remove_file(&start).unwrap();
            }
            let Err(why) = keep_up_to(port, &start, &noted).map(drop) else { panic!("{port}") };
            assert!(why.contains(&format!("bind port {port}")) && why.contains("sysctl -w"), "{why}");
        }
        assert_eq!(Raised::parse("1024"), None);
    }

    #[test]
    fn who_has_a_port_and_cannot_be_read_keeps_an_edit_from_being_made_and_no_rollback() {
        let kept = || Kept {
            raised: Some(Raised { before: 1024, to: 2223 }),
            unseen: None,
            _one: ONE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let wanted = || vec!["0.0.0.0:2222".parse().unwrap(), "[::]:2222".parse().unwrap()];
        let fails = |_: &[SocketAddr]| Err(io::Error::other("more than 100000 sockets"));
        let Ok(mut rollback) = free(kept(), wanted(), fails) else { panic!("a rollback goes on") };
        assert!(rollback.unseen().unwrap().contains("port 2222 is not known (more than 100000 sockets)"));
        // Nothing was raised by this test, so nothing is put back.
        assert!(rollback.raised.take().is_some(), "the ports stay kept");
        let Err(NotKept::Unseen(_)) = rollback.seen() else { panic!("an edit is not made") };
        let Ok(mut seen) = free(kept(), wanted(), |_| Ok(Vec::new())) else { panic!("nobody has them") };
        seen.raised = None;
        assert!(seen.unseen().is_none() && seen.seen().is_ok());
        let below = |_: &[SocketAddr]| -> Others { panic!("only root binds it") };
        let root_alone = Kept { raised: None, unseen: None, _one: ONE.lock().unwrap_or_else(PoisonError::into_inner) };
        assert!(free(root_alone, wanted(), below).is_ok_and(|kept| kept.seen().is_ok()));
    }

    #[test]
    fn a_wildcard_keeps_sshd_from_every_address_of_its_family() {
        let other =
            |local: &str, v6_only| Other { local: local.parse().unwrap(), v6_only, listens: true, uid: 1000, holder: None };
        let conflict = |wanted: &str, local: &str, v6_only| conflicts(wanted.parse().unwrap(), &other(local, v6_only));
        assert!(conflict("192.0.2.1:2222", "0.0.0.0:2222", false) && conflict("0.0.0.0:2222", "127.0.0.1:2222", false));
        assert!(conflict("0.0.0.0:2222", "[::]:2222", false) && !conflict("0.0.0.0:2222", "[::]:2222", true));
        assert!(conflict("[::]:2222", "[::1]:2222", true) && !conflict("[::]:2222", "0.0.0.0:2222", false));
        assert!(!conflict("0.0.0.0:2222", "0.0.0.0:2223", false) && !conflict("192.0.2.1:2222", "192.0.2.2:2222", false));
    }
}
