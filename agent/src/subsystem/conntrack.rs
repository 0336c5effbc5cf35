//! How full connection tracking is: two numbers of /proc/sys. Only where the table is full are entries looked at (ctnetlink), up to the
//! first one that the kernel could evict. Changes nothing.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;
use sshfix_policy::subsystem::conntrack::Fill;

use super::nf_tables::message::{Attrs, DUMP, Datagram, Kind, Messages};
use crate::sys::netlink;

/// `NFNL_SUBSYS_CTNETLINK`, `IPCTNL_MSG_CT_GET`
const GET: u16 = 1 << 8 | 1;
/// `CTA_STATUS`
const STATUS: u16 = 3;
/// `IPS_ASSURED`
const ASSURED: u32 = 1 << 2;
/// The longest a full table is looked through.
const LIMIT: Duration = Duration::from_secs(3);

/// Reads it for the network namespace of this thread. Without the kernel's module nothing is tracked and nothing is full.
pub fn read() -> io::Result<Fill> {
    let (Some(count), Some(max)) = (number("count")?, number("max")?) else {
        return Ok(Fill { count: 0, max: 0, evictable: None });
    };
    let mut fill = Fill { count, max, evictable: None };
    if fill.full() {
        // Where that cannot be told, the connection may get in or not.
        fill.evictable = evictable().ok();
    }
    Ok(fill)
}

fn number(name: &str) -> io::Result<Option<u64>> {
    match fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| io::Error::other(format!("nf_conntrack_{name} is not a number"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether any entry is not assured.
fn evictable() -> io::Result<bool> {
    let socket = netlink::open(NETLINK_NETFILTER)?;
    let request = Messages::new().add(Kind::Other(GET), 0, DUMP, 1, &Attrs::new()).finish();
    socket.send(&request.ok_or_else(|| io::Error::other("a request that is too long"))?, 0)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let datagram = netlink::receive(&socket, deadline, "the kernel did not list its connections in time")?;
        for message in Datagram(&datagram) {
            match (message.kind, message.errno()) {
                (Kind::Error | Kind::Done, 0) => return Ok(false),
                (Kind::Error | Kind::Done, code) => return Err(io::Error::from_raw_os_error(code)),
                _ if message.attributes().be32(STATUS).is_none_or(|status| status & ASSURED == 0) => return Ok(true),
                _ => {}
            }
        }
    }
}
