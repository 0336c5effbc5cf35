//! The kernel's `IPsec` policies, by netlink (`linux/xfrm.h`). Read only; asks only where the kernel has that protocol already, which asking
//! would load.

use std::fs;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use netlink_sys::protocols::NETLINK_XFRM;
use nix::libc;
use sshfix_policy::address::Source;
use sshfix_policy::subsystem::route::{IpsecDoes, IpsecPolicy};

use crate::sys::{netlink, rtnetlink};

/// `XFRM_MSG_GETPOLICY`; what is got is told as `XFRM_MSG_NEWPOLICY`, two below it.
const GET_POLICY: u16 = 0x15;
/// The length of `struct xfrm_userpolicy_id`.
const ID: usize = 64;
/// The length of `struct xfrm_userpolicy_info`.
const INFO: usize = 168;
/// `XFRMA_TMPL`, `XFRMA_MARK`, `XFRMA_IF_ID`
const TEMPLATES: u16 = 5;
const MARK: u16 = 21;
const INTERFACE_ID: u16 = 31;
/// The length of `struct xfrm_user_tmpl`, and where it says that protection is optional.
const TEMPLATE: usize = 64;
const OPTIONAL: usize = 50;
/// More are not read.
const MOST: usize = 100_000;

/// All policies about packets that come in or go out. None where nobody can have made any.
pub(super) fn policies() -> io::Result<Vec<IpsecPolicy>> {
    if !has_xfrm()? {
        return Ok(Vec::new());
    }
    let socket = netlink::open(NETLINK_XFRM)?;
    let (mut found, mut count) = (Vec::new(), 0_usize);
    rtnetlink::ask(&socket, GET_POLICY, NLM_F_DUMP, &[0; ID], |bytes| {
        count += 1;
        if count > MOST {
            return Err(io::Error::other(format!("there are more than {MOST} IPsec policies")));
        }
        found.extend(policy(bytes)?);
        Ok(())
    })?;
    Ok(found)
}

/// Whether the kernel has its own socket of that protocol in this network namespace: the lines of the file are address, protocol, port, and
/// the kernel's own have port 0.
fn has_xfrm() -> io::Result<bool> {
    let text = fs::read_to_string("/proc/thread-self/net/netlink")?;
    let wanted = NETLINK_XFRM.to_string();
    Ok(text.lines().skip(1).any(|line| line.split_ascii_whitespace().nth(1) == Some(wanted.as_str())))
}

/// `struct xfrm_userpolicy_info`: the selector (destination, source, ports with masks, family, prefix lengths, protocol, interface, user),
/// limits and counts, priority, index, direction, action.
fn policy(bytes: &[u8]) -> io::Result<Option<IpsecPolicy>> {
    let short = || io::Error::other("an IPsec policy that is cut short");
    let (info, rest) = bytes.split_first_chunk::<INFO>().ok_or_else(short)?;
    let two = |at: usize| info.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short);
    let four = |at: usize| info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes).ok_or_else(short);
    let byte = |at: usize| info.get(at).copied().ok_or_else(short);
    let (direction, action) = (byte(160)?, byte(161)?);
    // XFRM_POLICY_IN 0, OUT 1; those that are forwarded and those of one socket are about others.
    let comes_in = match direction {
        0 => true,
        1 => false,
        _ => return Ok(None),
    };
    let v4 = i32::from(u16::from_ne_bytes(two(40)?)) == libc::AF_INET;
    let net = |at: usize, length: u8| {
        let bytes: [u8; 16] = info.get(at..at + 16).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
        let [a, b, c, d, ..] = bytes;
        let address = if v4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(bytes) };
        IpNet::new(address, length).map(Source::new).map_err(io::Error::other)
    };
    let port = |at: usize| Ok::<_, io::Error>((u16::from_be_bytes(two(at)?), u16::from_be_bytes(two(at + 2)?)));
    let (mut asks_more, mut protects) = (four(48)? != 0 || four(52)? != 0, false);
    for attribute in NlasIterator::new(rest) {
        let attribute = attribute.map_err(io::Error::other)?;
        match attribute.kind() {
            TEMPLATES => protects |= attribute.value().chunks(TEMPLATE).any(|one| one.get(OPTIONAL).is_none_or(|one| *one == 0)),
            MARK | INTERFACE_ID => asks_more |= attribute.value().iter().any(|byte| *byte != 0),
            _ => {}
        }
    }
    Ok(Some(IpsecPolicy {
        comes_in,
        destination: net(0, byte(42)?)?,
        source: net(16, byte(43)?)?,
        destination_port: port(32)?,
        source_port: port(36)?,
        protocol: byte(44)?,
        asks_more,
        priority: four(152)?,
        // XFRM_POLICY_ALLOW 0, BLOCK 1
        does: match (action, protects) {
            (0, false) => IpsecDoes::Allow,
            (0, true) => IpsecDoes::Protect,
            _ => IpsecDoes::Block,
        },
    }))
}
