//! Prints rules, elements and policies as their own tool does: `nft -s` for native rules, iptables-save for those of iptables-nft.
//! What is not understood is named in brackets; such text must never be fed back to a tool. Counters are left out.

mod iptables;
mod value;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::condition::{self, Field, Item, Test, items};
use super::expression::{CmpOp, Expression, ExtensionKind, NatKind, PayloadBase};
use super::{Chain, Element, ElementData, Family, Rule, SetKey, State};
use crate::host::{Need, Needs};
use crate::subsystem::ipset::SetNames;
use crate::subsystem::xtables::extension::render::render_match;
use crate::subsystem::xtables::extension::render_target::render_target;
use iptables::iptables;
use value::{address, duration, hex, key, mark, name, port, protocol, string, types, verdict};
pub use value::{mask_len, prefix_of};

/// A rule as its own tool prints it.
pub fn rule(state: &State, chain: &Chain, rule: &Rule, ipsets: &SetNames) -> String {
    if compat(state, chain) { iptables(state, chain, rule, ipsets) } else { nft(state, chain, rule, ipsets) }
}

/// What must be read to print a rule in full: the lists that belong to it alone (`{ 22, 2222 }`).
pub fn needs(state: &State, chain: &Chain, rule: &Rule) -> Needs {
    let lists = rule.expressions.iter().filter_map(|expression| match expression {
        Expression::Lookup { set, .. } if set.starts_with("__") => Some(set.clone()),
        _ => None,
    });
    let keys = lists.map(|set| SetKey { family: chain.family, table: chain.table.clone(), set });
    keys.filter(|key| !state.dumps.contains_key(key)).map(Need::SetElements).collect()
}

/// Whether a table is one that iptables-nft made: its name, and a base chain named as iptables names them.
pub fn compat(state: &State, chain: &Chain) -> bool {
    const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    matches!(chain.family, Family::Ip | Family::Ip6)
        && matches!(chain.table.as_str(), "filter" | "nat" | "mangle" | "raw" | "security")
        && state.chains.iter().any(|other| {
            other.family == chain.family
                && other.table == chain.table
                && other.base.is_some()
                && CHAINS.contains(&other.name.as_str())
        })
}

/// The policy of a base chain as nft prints it.
pub fn policy(chain: &Chain) -> String {
    let Some(base) = &chain.base else { return String::new() };
    let hook = match (chain.family, base.hook) {
        (Family::Netdev, 0) | (_, 5) => "ingress",
        (Family::Netdev, 1) => "egress",
        (_, 0) => "prerouting",
        (_, 1) => "input",
        (_, 2) => "forward",
        (_, 3) => "output",
        (_, 4) => "postrouting",
        _ => "[unknown]",
    };
    let policy = if base.policy_accept { "accept" } else { "drop" };
    format!("type {} hook {hook} priority {}; policy {policy};", base.kind, base.priority)
}

/// An element as nft prints it, without counters and time left: `203.0.113.7`, `203.0.113.0/24`, `203.0.113.7 . 22`,
/// `203.0.113.7 : drop`.
pub fn element(state: &State, set: &SetKey, element: &Element) -> String {
    let set = state.sets.iter().find(|one| one.key == *set);
    let mut text = if element.catchall {
        "*".to_owned()
    } else {
        let types = set.map_or_else(Vec::new, |set| types(set.key_type));
        key(&types, &element.key, element.key_end.as_deref())
    };
    match &element.data {
        Some(ElementData::Verdict(data)) => {
            let _ = write!(text, " : {}", verdict(data));
        }
        Some(ElementData::Value(value)) => {
            let types = set.and_then(|set| set.data_type).map_or_else(Vec::new, types);
            let _ = write!(text, " : {}", key(&types, value, None));
        }
        None => {}
    }
    if let Some(object) = &element.object {
        let _ = write!(text, " : {}", string(object));
    }
    text
}

/// The same with the time it was given, the time it has left and its comment: `203.0.113.7 timeout 10m expires 9m12s`.
pub fn whole_element(state: &State, set: &SetKey, element: &Element) -> String {
    let whole = self::element(state, set, element);
    // What a map gives stands behind the options.
    let mut text = self::element(state, set, &Element { data: None, object: None, ..element.clone() });
    let given = whole.get(text.len()..).unwrap_or_default();
    for (name, time) in [("timeout", element.timeout_ms), ("expires", element.expires_ms)] {
        if let Some(time) = time {
            let _ = write!(text, " {name} {}", duration(time));
        }
    }
    if let Some(comment) = &element.comment {
        let _ = write!(text, " comment {}", string(comment));
    }
    text + given
}

/// How a field is called, and how its values are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Address,
    Port,
    Protocol,
    Nfproto,
    Name,
    Index,
    Mark,
    CtState,
    CtStatus,
    TcpFlags,
    Icmpv6Type,
    Type,
    Number,
}

fn field(field: &Field, family: Family, transport: &str) -> (String, Kind) {
    let known = |text: &str, kind| (text.to_owned(), kind);
    let v6 = family == Family::Ip6;
    match field {
        Field::Payload { base: PayloadBase::Network, offset: 12, len: 1..=4 } if !v6 => known("ip saddr", Kind::Address),
        Field::Payload { base: PayloadBase::Network, offset: 16, len: 1..=4 } if !v6 => known("ip daddr", Kind::Address),
        Field::Payload { base: PayloadBase::Network, offset: 9, len: 1 } if !v6 => known("ip protocol", Kind::Protocol),
        Field::Payload { base: PayloadBase::Network, offset: 8, len: 5..=16 } => known("ip6 saddr", Kind::Address),
        Field::Payload { base: PayloadBase::Network, offset: 8, len: 1..=4 } if v6 => known("ip6 saddr", Kind::Address),
        Field::Payload { base: PayloadBase::Network, offset: 24, len: 1..=16 } => known("ip6 daddr", Kind::Address),
        Field::Payload { base: PayloadBase::Network, offset: 6, len: 1 } if v6 => known("ip6 nexthdr", Kind::Protocol),
        Field::Payload { base: PayloadBase::Transport, offset: 0, len: 2 } => (format!("{transport} sport"), Kind::Port),
        Field::Payload { base: PayloadBase::Transport, offset: 2, len: 2 } => (format!("{transport} dport"), Kind::Port),
        Field::Payload { base: PayloadBase::Transport, offset: 0, len: 1 } if transport == "icmpv6" => {
            known("icmpv6 type", Kind::Icmpv6Type)
        }
        Field::Payload { base: PayloadBase::Transport, offset: 13, len: 1 } if transport == "tcp" => {
            known("tcp flags", Kind::TcpFlags)
        }
        Field::Payload { base, offset, len } => {
            let base = match base {
                PayloadBase::LinkLayer => "ll",
                PayloadBase::Network => "nh",
                PayloadBase::Transport => "th",
                PayloadBase::Inner => "ih",
                PayloadBase::Tunnel => "tunnel",
            };
            (format!("@{base},{},{}", u64::from(*offset) * 8, u64::from(*len) * 8), Kind::Number)
        }
        Field::Meta(key) => match key {
            1 => known("meta protocol", Kind::Number),
            3 => known("meta mark", Kind::Mark),
            4 => known("iif", Kind::Index),
            5 => known("oif", Kind::Index),
            6 => known("iifname", Kind::Name),
            7 => known("oifname", Kind::Name),
            15 => known("meta nfproto", Kind::Nfproto),
            16 => known("meta l4proto", Kind::Protocol),
            other => (format!("[meta key {other}]"), Kind::Number),
        },
        Field::Ct(key, direction) => match (key, direction) {
            (0, _) => known("ct state", Kind::CtState),
            (2, _) => known("ct status", Kind::CtStatus),
            (3, _) => known("ct mark", Kind::Mark),
            (12, Some(0)) => known("ct original proto-dst", Kind::Port),
            (other, _) => (format!("[ct key {other}]"), Kind::Number),
        },
        Field::Fib(3, flags) => {
            let words = [(1, "saddr"), (2, "daddr"), (4, "mark"), (8, "iif"), (16, "oif")];
            let words: Vec<&str> = words.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| *word).collect();
            (format!("fib {} type", words.join(" . ")), Kind::Type)
        }
        Field::Fib(result, flags) => (format!("[fib result {result} flags {flags}]"), Kind::Number),
        Field::Concatenation(fields) => {
            let names: Vec<String> = fields.iter().map(|one| self::field(one, family, transport).0).collect();
            (names.join(" . "), Kind::Number)
        }
        Field::Unknown => known("[a computed value]", Kind::Number),
    }
}

fn value(kind: Kind, bytes: &[u8]) -> String {
    let number = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(u32::from_ne_bytes).ok();
    match kind {
        Kind::Address => address(bytes),
        Kind::Port => port(bytes),
        Kind::Protocol => protocol(bytes),
        Kind::Icmpv6Type => value::icmpv6_type(bytes),
        Kind::Nfproto => match bytes.first() {
            Some(2) => "ipv4".to_owned(),
            Some(10) => "ipv6".to_owned(),
            _ => hex(bytes),
        },
        Kind::Name if bytes.len() == 16 => string(&name(bytes)),
        // A shorter comparison is a prefix of names.
        Kind::Name => string(&format!("{}*", name(bytes))),
        // lo is 1 in every namespace; the names of others are not known here.
        Kind::Index if number(bytes) == Some(1) => "\"lo\"".to_owned(),
        Kind::Index => number(bytes).map_or_else(|| hex(bytes), |index| index.to_string()),
        Kind::Mark => mark(bytes),
        Kind::CtState => number(bytes).map_or_else(|| hex(bytes), |bits| flags(bits, &CT_STATES, ",")),
        Kind::CtStatus => number(bytes).map_or_else(|| hex(bytes), |bits| flags(bits, &CT_STATUS, ",")),
        Kind::TcpFlags => bytes.first().map_or_else(String::new, |bits| flags(u32::from(*bits), &TCP_FLAGS, " | ")),
        Kind::Type => number(bytes).map_or_else(
            || hex(bytes),
            |kind| match kind {
                1 => "unicast".to_owned(),
                2 => "local".to_owned(),
                3 => "broadcast".to_owned(),
                4 => "anycast".to_owned(),
                5 => "multicast".to_owned(),
                6 => "blackhole".to_owned(),
                7 => "unreachable".to_owned(),
                8 => "prohibit".to_owned(),
                other => other.to_string(),
            },
        ),
        Kind::Number => hex(bytes),
    }
}

const CT_STATES: [(u32, &str); 5] = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
const CT_STATUS: [(u32, &str); 7] =
    [(1, "expected"), (2, "seen-reply"), (4, "assured"), (8, "confirmed"), (16, "snat"), (32, "dnat"), (512, "dying")];
const TCP_FLAGS: [(u32, &str); 8] =
    [(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg"), (64, "ecn"), (128, "cwr")];

fn flags(bits: u32, names: &[(u32, &str)], separator: &str) -> String {
    let known = names.iter().fold(0, |all, (bit, _)| all | bit);
    if bits == 0 || bits & !known != 0 {
        return format!("0x{bits:x}");
    }
    names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join(separator)
}

fn operator(op: CmpOp) -> &'static str {
    match op {
        CmpOp::Eq => "",
        CmpOp::Neq => "!= ",
        CmpOp::Lt => "< ",
        CmpOp::Lte => "<= ",
        CmpOp::Gt => "> ",
        CmpOp::Gte => ">= ",
    }
}

/// The bytes of a shortened address filled up with zeros.
fn widen(bytes: &[u8], v6: bool) -> Vec<u8> {
    let mut wide = bytes.to_vec();
    wide.resize(if v6 { 16 } else { 4 }, 0);
    wide
}

/// Whether the field is an IPv6 address, by its place in the header.
fn v6_field(field: &Field) -> bool {
    matches!(field, Field::Payload { base: PayloadBase::Network, offset: 8 | 24, .. })
}

fn condition(state: &State, family: Family, transport: &str, tested: &Field, test: &Test) -> String {
    let (name, kind) = field(tested, family, transport);
    match test {
        Test::Compare(op, bytes) => {
            let address_len = if v6_field(tested) { 16 } else { 4 };
            if kind == Kind::Address && bytes.len() < address_len {
                // A prefix of whole bytes is compared without a mask.
                let wide = address(&widen(bytes, v6_field(tested)));
                return format!("{name} {}{wide}/{}", operator(*op), bytes.len() * 8);
            }
            // A bit mask is compared with `==`, which nft prints.
            let equal = if *op == CmpOp::Eq && kind == Kind::TcpFlags { "== " } else { operator(*op) };
            format!("{name} {equal}{}", value(kind, bytes))
        }
        Test::Masked { mask, xor, op, value: compared } if xor.iter().all(|byte| *byte == 0) => {
            let zero = compared.iter().all(|byte| *byte == 0);
            match (kind, op) {
                (Kind::Address, CmpOp::Eq | CmpOp::Neq) if mask_len(mask).is_some() => {
                    let len = mask_len(mask).unwrap_or(0);
                    format!("{name} {}{}/{len}", operator(*op), address(&widen(compared, v6_field(tested))))
                }
                (Kind::CtState | Kind::CtStatus | Kind::TcpFlags, CmpOp::Neq) if zero => format!("{name} {}", value(kind, mask)),
                (Kind::CtState | Kind::CtStatus, CmpOp::Eq) if zero => format!("{name} ! {}", value(kind, mask)),
                (Kind::TcpFlags, CmpOp::Eq | CmpOp::Neq) => {
                    let op = if *op == CmpOp::Eq { "==" } else { "!=" };
                    format!("{name} & ({}) {op} {}", value(kind, mask), value(kind, compared))
                }
                _ => {
                    let op = if *op == CmpOp::Eq { "== " } else { operator(*op) };
                    format!("{name} & {} {op}{}", value(kind, mask), value(kind, compared))
                }
            }
        }
        Test::Masked { op, value: compared, .. } => format!("[{name}, computed] {}{}", operator(*op), hex(compared)),
        Test::Range { negated, from, to } => {
            let range = match kind {
                Kind::Address => prefix_of(from, to)
                    .map_or_else(|| format!("{}-{}", address(from), address(to)), |len| format!("{}/{len}", address(from))),
                _ => format!("{}-{}", value(kind, from), value(kind, to)),
            };
            format!("{name} {}{range}", if *negated { "!= " } else { "" })
        }
        Test::Set { set, invert, verdict } => {
            let list = if set.set.starts_with("__") {
                state.dumps.get(set).map_or_else(|| "{ [not read] }".to_owned(), |all| anonymous(state, set, all, kind))
            } else {
                format!("@{}", set.set)
            };
            let map = if *verdict { "vmap " } else { "" };
            format!("{name} {}{map}{list}", if *invert { "!= " } else { "" })
        }
    }
}

fn anonymous(state: &State, set: &SetKey, elements: &[Element], kind: Kind) -> String {
    let mut elements: Vec<&Element> = elements.iter().collect();
    elements.sort_by(|a, b| (a.catchall, &a.key).cmp(&(b.catchall, &b.key)));
    let texts: Vec<String> = elements
        .into_iter()
        .map(|one| match (kind, &one.data) {
            (Kind::CtState, data) if one.key_end.is_none() => {
                let data = match data {
                    Some(ElementData::Verdict(data)) => format!(" : {}", verdict(data)),
                    _ => String::new(),
                };
                format!("{}{data}", value(kind, &one.key))
            }
            _ => element(state, set, one),
        })
        .collect();
    format!("{{ {} }}", texts.join(", "))
}

/// A rule as `nft -s list chain` prints it.
fn nft(state: &State, chain: &Chain, rule: &Rule, ipsets: &SetNames) -> String {
    let items = items(state, chain, rule);
    let (family, transport) = (condition::family(chain, &items), condition::transport(&items));
    let mut words = Vec::new();
    let mut values: BTreeMap<u32, &[u8]> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        match item {
            // The value stands in the statement that uses it.
            Item::Statement(Expression::Immediate { dreg, data }) => _ = values.insert(*dreg, data),
            Item::Statement(Expression::Nat { kind, address_register, port_register, .. }) => {
                let registers = [*address_register, *port_register];
                words.push(translation(
                    chain,
                    family,
                    *kind,
                    registers.map(|register| Some(values.get(&register?).map_or(Loaded::Computed, |bytes| Loaded::Known(bytes)))),
                ));
            }
            Item::Statement(Expression::MetaSet { key: MARK_KEY, sreg }) => words.push(marked("meta mark", values.get(sreg))),
            Item::Statement(Expression::CtSet { key: MARK_KEY, sreg, .. }) => words.push(marked("ct mark", values.get(sreg))),
            Item::Condition(tested, test) if implied(tested, test, items.get(index + 1..).unwrap_or_default()) => {}
            Item::Condition(tested, test) => words.push(condition(state, family, transport, tested, test)),
            Item::Statement(expression) => words.extend(statement(chain, family, expression, ipsets)),
        }
    }
    if let Some(comment) = &rule.comment {
        words.push(format!("comment {}", string(comment)));
    }
    words.join(" ")
}

/// `NFT_META_MARK`, `NFT_CT_MARK`
const MARK_KEY: u32 = 3;

/// What a register holds where an expression reads it.
#[derive(Clone, Copy)]
enum Loaded<'a> {
    Known(&'a [u8]),
    Computed,
}

fn marked(what: &str, value: Option<&&[u8]>) -> String {
    value.map_or_else(|| format!("{what} set [a computed value]"), |value| format!("{what} set {}", mark(value)))
}

/// `dnat to 192.0.2.1:2022`, `redirect to :2022`. Address and port are `None` where they are not given.
fn translation(chain: &Chain, family: Family, kind: NatKind, [address, port]: [Option<Loaded<'_>>; 2]) -> String {
    // A table of both families says which it is.
    let which = match family {
        Family::Ip6 if chain.family == Family::Inet => " ip6",
        Family::Ip if chain.family == Family::Inet => " ip",
        _ => "",
    };
    let word = match kind {
        NatKind::Masquerade => "masquerade",
        NatKind::Snat => "snat",
        NatKind::Dnat => "dnat",
        NatKind::Redirect => "redirect",
        NatKind::Tproxy => "tproxy",
    };
    let known = |value: Loaded<'_>, print: fn(&[u8]) -> String| match value {
        Loaded::Known(bytes) => print(bytes),
        Loaded::Computed => "[a computed value]".to_owned(),
    };
    let v6 = |value: Loaded<'_>| matches!(value, Loaded::Known(bytes) if bytes.len() == 16);
    let port = port.map(|port| known(port, self::port));
    let to = match (address.map(|address| (known(address, self::address), v6(address))), port) {
        (None, None) => return word.to_owned(),
        (Some((address, _)), None) => address,
        (None, Some(port)) => format!(":{port}"),
        (Some((address, true)), Some(port)) => format!("[{address}]:{port}"),
        (Some((address, false)), Some(port)) => format!("{address}:{port}"),
    };
    let which = if address.is_some() { which } else { "" };
    format!("{word}{which} to {to}")
}

/// nft leaves out `meta l4proto tcp` before a field of TCP and `meta nfproto ipv4` before one of IPv4.
fn implied(tested: &Field, test: &Test, later: &[Item<'_>]) -> bool {
    let Test::Compare(CmpOp::Eq, value) = test else { return false };
    let base = match (tested, value.as_slice()) {
        (Field::Meta(16) | Field::Payload { base: PayloadBase::Network, offset: 6 | 9, len: 1 }, [6 | 17 | 58 | 132]) => {
            PayloadBase::Transport
        }
        (Field::Meta(15), [2 | 10]) | (Field::Meta(1), [0x08, 0] | [0x86, 0xdd]) => PayloadBase::Network,
        _ => return false,
    };
    let uses = |field: &Field| matches!(field, Field::Payload { base: other, .. } if *other == base);
    later.iter().any(|item| match item {
        Item::Condition(Field::Concatenation(fields), _) => fields.iter().any(uses),
        Item::Condition(field, _) => uses(field),
        Item::Statement(_) => false,
    })
}

fn statement(chain: &Chain, family: Family, expression: &Expression, ipsets: &SetNames) -> Option<String> {
    let v6 = family == Family::Ip6;
    Some(match expression {
        Expression::Verdict(what) => verdict(what),
        Expression::Counter { .. } => "counter".to_owned(),
        Expression::Log { prefix: Some(prefix) } => format!("log prefix {}", string(prefix)),
        Expression::Log { prefix: None } => "log".to_owned(),
        Expression::Limit { rate, unit, burst, kind, over } => {
            let over = if *over { "over " } else { "" };
            let unit = match unit {
                1 => "second",
                60 => "minute",
                3600 => "hour",
                86_400 => "day",
                604_800 => "week",
                _ => "[unit]",
            };
            let (what, word) = if *kind == 0 { ("", "packets") } else { (" bytes", "bytes") };
            // 5 packets are the default, which nft leaves out.
            let burst = if *burst == 0 || *kind == 0 && *burst == 5 { String::new() } else { format!(" burst {burst} {word}") };
            format!("limit rate {over}{rate}{what}/{unit}{burst}")
        }
        Expression::Reject { kind: 1, .. } => "reject with tcp reset".to_owned(),
        Expression::Reject { kind: 2, code } => match code {
            0 => "reject with icmpx no-route".to_owned(),
            1 => "reject".to_owned(),
            2 => "reject with icmpx host-unreachable".to_owned(),
            3 => "reject with icmpx admin-prohibited".to_owned(),
            other => format!("reject with icmpx {other}"),
        },
        Expression::Reject { code, .. } if v6 => match code {
            0 => "reject with icmpv6 no-route".to_owned(),
            1 => "reject with icmpv6 admin-prohibited".to_owned(),
            3 => "reject with icmpv6 addr-unreachable".to_owned(),
            // Only in tables of one family is it the default, which nft leaves out.
            4 if chain.family == Family::Ip6 => "reject".to_owned(),
            4 => "reject with icmpv6 port-unreachable".to_owned(),
            5 => "reject with icmpv6 policy-fail".to_owned(),
            6 => "reject with icmpv6 reject-route".to_owned(),
            other => format!("reject with icmpv6 {other}"),
        },
        Expression::Reject { code, .. } if family == Family::Ip => match code {
            0 => "reject with icmp net-unreachable".to_owned(),
            1 => "reject with icmp host-unreachable".to_owned(),
            2 => "reject with icmp prot-unreachable".to_owned(),
            3 if chain.family == Family::Ip => "reject".to_owned(),
            3 => "reject with icmp port-unreachable".to_owned(),
            9 => "reject with icmp net-prohibited".to_owned(),
            10 => "reject with icmp host-prohibited".to_owned(),
            13 => "reject with icmp admin-prohibited".to_owned(),
            other => format!("reject with icmp {other}"),
        },
        Expression::Reject { code, .. } => format!("[reject icmp code {code}]"),
        Expression::Notrack => "notrack".to_owned(),
        Expression::Quota { bytes, over } => format!("quota {}{bytes} bytes", if *over { "over " } else { "" }),
        Expression::Connlimit { count, over } => format!("ct count {}{count}", if *over { "over " } else { "" }),
        Expression::Queue => "queue".to_owned(),
        Expression::Synproxy => "synproxy".to_owned(),
        Expression::Lookup { set, .. } => format!("[map {set}]"),
        Expression::Dynset { set, op, has_expressions, .. } => {
            let op = match op {
                0 => "add",
                1 => "update",
                _ => "delete",
            };
            format!("[{op} @{set}{}]", if *has_expressions { " with a limit of its own" } else { "" })
        }
        Expression::Objref { name: Some(name), .. } => format!("[object {}]", string(name)),
        Expression::ObjectMap { set, .. } => format!("[object from @{set}]"),
        Expression::Objref { name: None, .. } => "[object from a map]".to_owned(),
        Expression::Match { name, revision, info } => format!("xt [{}]", render_match(v6, name, *revision, info, ipsets)),
        Expression::Target { name, revision, info } => format!("xt [{}]", render_target(v6, name, *revision, info, ipsets)),
        Expression::MetaSet { key, .. } => format!("[meta key {key} set]"),
        Expression::CtSet { key, .. } => format!("[ct key {key} set]"),
        Expression::PayloadSet { .. } => "[payload set]".to_owned(),
        Expression::Dup => "[dup]".to_owned(),
        Expression::Fwd => "[fwd]".to_owned(),
        Expression::ExtensionHeader { kind, .. } => match kind {
            ExtensionKind::Ipv6 => "[exthdr]",
            ExtensionKind::TcpOption => "[tcp option]",
            ExtensionKind::Ipv4Option => "[ip option]",
            ExtensionKind::OtherTransport => "[chunk]",
        }
        .to_owned(),
        Expression::Opaque { name, .. } | Expression::Unknown { name, .. } => format!("[{name}]"),
        // These are parts of conditions, or of statements that are printed with their values.
        Expression::Immediate { .. }
        | Expression::Nat { .. }
        | Expression::Payload { .. }
        | Expression::Meta { .. }
        | Expression::Ct { .. }
        | Expression::Cmp { .. }
        | Expression::Range { .. }
        | Expression::Bitwise { .. }
        | Expression::Byteorder { .. }
        | Expression::Fib { .. } => return None,
    })
}
