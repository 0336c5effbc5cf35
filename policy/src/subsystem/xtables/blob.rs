//! Reads a table out of the bytes of `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` (`linux/netfilter_ipv4/ip_tables.h`,
//! `netfilter_ipv6/ip6_tables.h`). Believes no offset; a table that does not hold together is an error, never half a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use crate::subsystem::xtables::extension::bytes::Bytes;
use crate::subsystem::xtables::extension::decode;
use crate::subsystem::xtables::extension::matches::{InterfaceName, Match};
use crate::subsystem::xtables::extension::targets::{self, StandardVerdict, Target};
use crate::subsystem::xtables::{Action, Chain, Entry, Hook, Rule, Table};

/// What `IPT_SO_GET_INFO` tells of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bit n: hook n has a built-in chain.
    pub valid_hooks: u32,
    /// Offset of each built-in chain's first entry.
    pub hook_entry: [u32; 5],
    /// Offset of each built-in chain's policy.
    pub underflow: [u32; 5],
    /// Number of entries.
    pub entries: u32,
    /// Bytes of all entries.
    pub size: u32,
}

/// The bytes of `struct ipt_getinfo` and `struct ip6t_getinfo`.
pub const INFO_SIZE: usize = 84;

/// The kernel's bytes do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the kernel's table {table} cannot be understood: {what}")]
pub struct Malformed {
    /// The table.
    pub table: String,
    /// What is wrong.
    pub what: String,
}

impl Info {
    /// From the kernel's struct; the name in its first 32 bytes is not looked at.
    pub fn parse(table: &str, bytes: &[u8]) -> Result<Self, Malformed> {
        let read = || {
            let bytes = Bytes(bytes);
            let five = |at: usize| {
                Some([bytes.u32(at)?, bytes.u32(at + 4)?, bytes.u32(at + 8)?, bytes.u32(at + 12)?, bytes.u32(at + 16)?])
            };
            Some(Self {
                valid_hooks: bytes.u32(32)?,
                hook_entry: five(36)?,
                underflow: five(56)?,
                entries: bytes.u32(76)?,
                size: bytes.u32(80)?,
            })
        };
        read()
            .ok_or_else(|| Malformed { table: table.to_owned(), what: format!("its description is {} bytes long", bytes.len()) })
    }
}

/// One entry as it lies in the blob.
struct Raw<'a> {
    entry: Entry,
    goto: bool,
    counters: (u64, u64),
    matches: Vec<Match>,
    target: (String, u32, Bytes<'a>),
    next: usize,
}

/// Reads a table. `entries` are the bytes after the header of `struct ipt_get_entries`.
pub fn parse(v6: bool, name: &str, info: &Info, entries: &[u8]) -> Result<Table, Malformed> {
    let malformed = |what: String| Malformed { table: name.to_owned(), what };
    if u32::try_from(entries.len()) != Ok(info.size) {
        return Err(malformed(format!("{} bytes were announced, {} came", info.size, entries.len())));
    }

    let mut raws: Vec<(usize, Raw<'_>)> = Vec::new();
    let mut offset = 0;
    while offset < entries.len() {
        let raw = raw(v6, entries, offset).ok_or_else(|| malformed(format!("the entry at byte {offset} is cut or overlong")))?;
        let next = raw.next;
        raws.push((offset, raw));
        offset = next;
    }
    if u32::try_from(raws.len()) != Ok(info.entries) {
        return Err(malformed(format!("{} entries were announced, {} came", info.entries, raws.len())));
    }

    let layout = Layout::find(info, &raws).map_err(malformed)?;
    let mut chains = layout.heads.clone();
    for (index, (offset, raw)) in raws.iter().enumerate() {
        match layout.roles.get(index) {
            Some(Role::Head) | None => {}
            Some(Role::Policy(chain)) => {
                let Some(chain) = chains.get_mut(*chain) else { continue };
                chain.counters = raw.counters;
                chain.policy_accept = policy(raw, chain.hook.is_some())
                    .ok_or_else(|| malformed(format!("chain {} ends with something that is no policy", chain.name)))?;
            }
            Some(Role::Rule(chain)) => {
                let action = action(v6, raw, &layout, &chains)
                    .ok_or_else(|| malformed(format!("the entry at byte {offset} jumps to no chain")))?;
                let Some(chain) = chains.get_mut(*chain) else { continue };
                chain.rules.push(Arc::new(Rule {
                    entry: raw.entry.clone(),
                    matches: raw.matches.clone(),
                    action,
                    counters: raw.counters,
                    save: None,
                }));
            }
        }
    }
    Ok(Table { v6, name: name.to_owned(), chains: chains.into_iter().map(Arc::new).collect(), readonly: None })
}

/// The entries with all their counters zero: what tells whether a table is still the same.
pub fn without_counters(v6: bool, mut entries: Vec<u8>) -> Vec<u8> {
    let mut start = 0;
    while let Some(body) = entries.get(start..) {
        let (next_at, counters_at) = if v6 { (142, 152) } else { (90, 96) };
        let Some(next) = Bytes(body).u16(next_at).filter(|next| *next > 0) else { break };
        if let Some(counters) = entries.get_mut(start + counters_at..start + counters_at + 16) {
            counters.fill(0);
        }
        start += usize::from(next);
    }
    entries
}

/// What an entry is for, by its index; numbers are indices of chains.
enum Role {
    Rule(usize),
    Policy(usize),
    Head,
}

struct Layout {
    roles: Vec<Role>,
    heads: Vec<Chain>,
    /// Offset of a user chain's first entry, to its index.
    starts: BTreeMap<usize, usize>,
}

impl Layout {
    /// Built-in chains run from their hook's entry to their underflow; user chains begin with an `ERROR` entry that names them
    /// and end where the next begins; the last entry is an `ERROR` that ends the table (`libiptc.c`, `parse_table`).
    fn find(info: &Info, raws: &[(usize, Raw<'_>)]) -> Result<Self, String> {
        let mut starts_of_hooks = BTreeMap::new();
        for (hook, (entry, underflow)) in Hook::ALL.into_iter().zip(info.hook_entry.into_iter().zip(info.underflow)) {
            let bit = Hook::ALL.iter().position(|one| *one == hook).unwrap_or(0);
            if info.valid_hooks >> bit & 1 != 0 {
                let bounds = (usize::try_from(entry), usize::try_from(underflow));
                let (Ok(entry), Ok(underflow)) = bounds else { return Err("an offset is too large".to_owned()) };
                if starts_of_hooks.insert(entry, (hook, underflow)).is_some() {
                    return Err("two hooks begin at the same entry".to_owned());
                }
            }
        }
        let mut layout = Layout { roles: Vec::with_capacity(raws.len()), heads: Vec::new(), starts: BTreeMap::new() };
        // The chain that is open, and where a built-in one ends.
        let mut open: Option<(usize, Option<usize>)> = None;
        for (index, (offset, raw)) in raws.iter().enumerate() {
            if let Some((hook, underflow)) = starts_of_hooks.remove(offset) {
                if open.is_some() {
                    return Err(format!("chain {} begins inside another", hook.chain()));
                }
                open = Some((layout.heads.len(), Some(underflow)));
                layout.heads.push(chain(hook.chain().to_owned(), Some(hook)));
            }
            if raw.target.0 == "ERROR" {
                if open.is_some_and(|(_, underflow)| underflow.is_some()) {
                    return Err(format!("the entry at byte {offset} is out of place"));
                }
                layout.roles.push(Role::Head);
                let last = index + 1 == raws.len();
                if !last {
                    let name = raw.target.2.text(0, 30).ok_or("a chain has no name")?;
                    open = Some((layout.heads.len(), None));
                    layout.starts.insert(raw.next, layout.heads.len());
                    layout.heads.push(chain(name, None));
                }
                continue;
            }
            let Some((number, underflow)) = open else {
                return Err(format!("the entry at byte {offset} belongs to no chain"));
            };
            // A user chain's policy is the entry before the next ERROR.
            let ends = match underflow {
                Some(underflow) => underflow == *offset,
                None => raws.get(index + 1).is_none_or(|(_, next)| next.target.0 == "ERROR"),
            };
            if ends {
                layout.roles.push(Role::Policy(number));
                open = None;
            } else {
                layout.roles.push(Role::Rule(number));
            }
        }
        if !starts_of_hooks.is_empty() {
            return Err("a hook begins at no entry".to_owned());
        }
        if open.is_some() || !matches!(layout.roles.last(), Some(Role::Head)) {
            return Err("it does not end where it should".to_owned());
        }
        Ok(layout)
    }
}

fn chain(name: String, hook: Option<Hook>) -> Chain {
    Chain { name, hook, policy_accept: true, counters: (0, 0), rules: Vec::new() }
}

/// The policy of a built-in chain is ACCEPT or DROP, that of a user chain RETURN, both without any condition.
fn policy(raw: &Raw<'_>, built_in: bool) -> Option<bool> {
    if !raw.matches.is_empty() {
        return None;
    }
    match (targets::decode(false, &raw.target.0, raw.target.1, raw.target.2.0), built_in) {
        (Target::Verdict(StandardVerdict::Accept), true) | (Target::Verdict(StandardVerdict::Return), false) => Some(true),
        (Target::Verdict(StandardVerdict::Drop), true) => Some(false),
        _ => None,
    }
}

/// `None` is a jump that ends nowhere.
fn action(v6: bool, raw: &Raw<'_>, layout: &Layout, chains: &[Chain]) -> Option<Action> {
    match targets::decode(v6, &raw.target.0, raw.target.1, raw.target.2.0) {
        Target::Verdict(StandardVerdict::Jump(to)) => {
            let to = usize::try_from(to).ok()?;
            // A standard target that goes to the very next entry is a rule without a target.
            if to == raw.next && !raw.goto && !layout.starts.contains_key(&to) {
                return Some(Action::Count);
            }
            let name = chains.get(*layout.starts.get(&to)?)?.name.clone();
            Some(if raw.goto { Action::Goto(name) } else { Action::Jump(name) })
        }
        target => Some(Action::Target(target)),
    }
}

fn raw(v6: bool, entries: &[u8], start: usize) -> Option<Raw<'_>> {
    // sizeof(struct ipt_entry) 112, of ip6t_entry 168
    let size = if v6 { 168 } else { 112 };
    let bytes = Bytes(entries.get(start..)?);
    let (target_offset, next_offset, counters_at) = if v6 { (140, 142, 152) } else { (88, 90, 96) };
    let target_offset = usize::from(bytes.u16(target_offset)?);
    let next_offset = usize::from(bytes.u16(next_offset)?);
    if target_offset < size || next_offset < target_offset.checked_add(32)? {
        return None;
    }
    let body = Bytes(bytes.slice(0, next_offset)?);
    let (mut entry, goto, odd_interface) = if v6 { entry6(body)? } else { entry4(body)? };
    let mut matches = Vec::new();
    if odd_interface {
        // A mask with holes, which iptables does not make.
        matches.push(Match::Undecoded { name: "interface".to_owned(), revision: 0 });
        entry.invert &= !3;
    }
    let mut at = size;
    while at < target_offset {
        let (name, revision, info, len) = element(body, at, target_offset)?;
        matches.push(decode::decode(v6, &name, revision, info.0));
        at += len;
    }
    let (name, revision, info, _) = element(body, target_offset, next_offset)?;
    let counters = (body.u64(counters_at)?, body.u64(counters_at + 8)?);
    Some(Raw { entry, goto, counters, matches, target: (name, revision, info), next: start.checked_add(next_offset)? })
}

/// `struct xt_entry_match` and `xt_entry_target`: size, name[29], revision, then its own struct.
fn element(body: Bytes<'_>, at: usize, end: usize) -> Option<(String, u32, Bytes<'_>, usize)> {
    let len = usize::from(body.u16(at)?);
    if len < 32 || at.checked_add(len)? > end {
        return None;
    }
    let one = Bytes(body.slice(at, len)?);
    Some((one.text(2, 29)?, u32::from(one.u8(31)?), Bytes(one.slice(32, len - 32)?), len))
}

/// `struct ipt_ip`; whether it is a goto; whether an interface mask was not understood.
fn entry4(bytes: Bytes<'_>) -> Option<(Entry, bool, bool)> {
    let (input, output) = interfaces(bytes, 16)?;
    let flags = bytes.u8(82)?;
    let odd = input.is_none() || output.is_none();
    let entry = Entry {
        source: (bytes.be32(0)?.into(), bytes.be32(8)?.into()),
        destination: (bytes.be32(4)?.into(), bytes.be32(12)?.into()),
        input: input.unwrap_or(InterfaceName::ANY),
        output: output.unwrap_or(InterfaceName::ANY),
        protocol: bytes.u16(80)?,
        fragment: flags & 1 != 0,
        invert: bytes.u8(83)?,
    };
    Some((entry, flags & 2 != 0, odd))
}

/// `struct ip6t_ip6`. The kernel looks at the protocol only where `IP6T_F_PROTO` is set.
fn entry6(bytes: Bytes<'_>) -> Option<(Entry, bool, bool)> {
    let (input, output) = interfaces(bytes, 64)?;
    let flags = bytes.u8(131)?;
    let odd = input.is_none() || output.is_none();
    let entry = Entry {
        source: (bytes.be128(0)?, bytes.be128(32)?),
        destination: (bytes.be128(16)?, bytes.be128(48)?),
        input: input.unwrap_or(InterfaceName::ANY),
        output: output.unwrap_or(InterfaceName::ANY),
        protocol: if flags & 1 != 0 { bytes.u16(128)? } else { 0 },
        fragment: false,
        invert: bytes.u8(132)?,
    };
    Some((entry, flags & 4 != 0, odd))
}

/// Input and output: name, name, mask, mask, of 16 bytes each.
fn interfaces(bytes: Bytes<'_>, at: usize) -> Option<(Option<InterfaceName>, Option<InterfaceName>)> {
    Some((
        InterfaceName::decode(bytes.slice(at, 16)?, bytes.slice(at + 32, 16)?),
        InterfaceName::decode(bytes.slice(at + 16, 16)?, bytes.slice(at + 48, 16)?),
    ))
}
