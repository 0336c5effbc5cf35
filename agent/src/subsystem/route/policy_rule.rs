//! The policy rules of the real host, by rtnetlink (`linux/fib_rules.h`). Changes none.

use std::fmt::Write;
use std::io;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use nix::libc;
use sshfix_policy::address::Source;
use sshfix_policy::subsystem::route::{Does, Kind, PolicyRule};

use crate::subsystem::route::{HEADER, address, family, message};
use crate::sys::rtnetlink::{ask, open};

/// `FIB_RULE_INVERT`
const INVERT: u8 = 2;

/// What a rule asks of a packet that a plain lookup does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asks {
    /// The mark.
    pub(super) mark: Option<u32>,
    /// The type of service.
    pub(super) tos: u8,
    /// The lowest port of the client.
    pub(super) port: Option<u16>,
    /// What a lookup cannot say at all.
    pub(super) more: bool,
}

/// All of a family, in their order.
pub(super) fn policy_rules(v4: bool) -> io::Result<Vec<PolicyRule>> {
    Ok(with_asks(v4)?.into_iter().map(|(rule, _)| rule).collect())
}

/// The same, with what they ask. `struct fib_rule_hdr` is as long as `struct rtmsg` and begins alike.
pub(super) fn with_asks(v4: bool) -> io::Result<Vec<(PolicyRule, Asks)>> {
    let socket = open(false)?;
    let mut found = Vec::new();
    let request = message([family(v4), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    ask(&socket, libc::RTM_GETRULE, NLM_F_DUMP, &request, |bytes| {
        found.push(policy_rule(bytes)?);
        Ok(())
    })?;
    Ok(found)
}

fn policy_rule(bytes: &[u8]) -> io::Result<(PolicyRule, Asks)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or_else(|| io::Error::other("a rule that is cut short"))?;
    let [_, to_length, from_length, tos, table, _, _, action, flags, ..] = *header;
    // The flags are a number of 4 bytes in the machine's order.
    let flags = if cfg!(target_endian = "big") { header.last().copied().unwrap_or(0) } else { flags };
    let (mut table, mut goto, mut mark, mut bits) = (u32::from(table), 0, None, u32::MAX);
    let (mut more, mut asks) = (String::new(), Asks { tos, ..Asks::default() });
    let mut rule = PolicyRule {
        priority: 0,
        inverted: flags & INVERT != 0,
        from: None,
        to: None,
        iif: None,
        protocol: None,
        others: Vec::new(),
        does: Does::Nop,
    };
    let net = |value: &[u8], length: u8| address(value).and_then(|address| IpNet::new(address, length).ok()).map(Source::new);
    if tos != 0 {
        rule.others.push(format!("tos {tos:#04x}"));
    }
    for attribute in NlasIterator::new(rest) {
        let attribute = attribute.map_err(io::Error::other)?;
        let value = attribute.value();
        let number = || value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        let text = || String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
        let byte = || value.first().copied().unwrap_or(0);
        // `FRA_*`
        match attribute.kind() {
            1 => rule.to = net(value, to_length),
            2 => rule.from = net(value, from_length),
            3 => rule.iif = Some(text()),
            4 => goto = number(),
            6 => rule.priority = number(),
            10 => mark = Some(number()),
            // -1 is none.
            13 if number() != u32::MAX => _ = write!(more, " suppress_ifgroup {}", number()),
            14 if number() != u32::MAX => _ = write!(more, " suppress_prefixlength {}", number()),
            15 => table = number(),
            16 => bits = number(),
            17 => rule.others.push(format!("oif {}", text())),
            19 if byte() != 0 => rule.others.push("l3mdev".to_owned()),
            20 => rule.others.push(format!("uidrange {}", ends(value, 4))),
            22 => rule.protocol = Some(byte()),
            23 => rule.others.push(format!("sport {}", ends(value, 2))),
            24 => {
                asks.port = value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
                rule.others.push(format!("dport {}", ends(value, 2)));
            }
            25 => {
                asks.tos = byte() << 2;
                rule.others.push(format!("dscp {}", byte()));
            }
            // Masks of ports and of a DSCP, which newer kernels tell with each: all bits.
            28 | 29 if value == [0xff; 2] => {}
            30 if byte() == 0x3f => {}
            // FRA_FLOW, TUN_ID, PROTOCOL and FRA_PAD do not decide which packets it is about, but for a tunnel's number.
            0 | 5 | 7..=9 | 11 | 13 | 14 | 18 | 19 | 21 => {}
            other => {
                asks.more = true;
                rule.others.push(format!("attribute {other}"));
            }
        }
    }
    asks.mark = mark;
    rule.others.extend(
        mark.map(|mark| if bits == u32::MAX { format!("fwmark {mark:#x}") } else { format!("fwmark {mark:#x}/{bits:#x}") }),
    );
    // `FR_ACT_*`
    rule.does = match action {
        1 => Does::Look(table, more),
        2 => Does::Goto(goto),
        3 => Does::Nop,
        6 => Does::Refuse(Kind::Blackhole),
        7 => Does::Refuse(Kind::Unreachable),
        8 => Does::Refuse(Kind::Prohibit),
        other => Does::Other(other),
    };
    Ok((rule, asks))
}

/// `struct fib_rule_uid_range`, `struct fib_rule_port_range`: two numbers of so many bytes in the machine's order.
fn ends(value: &[u8], size: usize) -> String {
    let number = |bytes: &[u8]| match bytes {
        [a, b] => u32::from(u16::from_ne_bytes([*a, *b])),
        [a, b, c, d] => u32::from_ne_bytes([*a, *b, *c, *d]),
        _ => 0,
    };
    let numbers: Vec<u32> = value.chunks(size).take(2).map(number).collect();
    match numbers.as_slice() {
        [low, high] if low == high => low.to_string(),
        [low, high] => format!("{low}-{high}"),
        _ => "?".to_owned(),
    }
}
