//! Rulesets by hand, for tests: the expressions that nft makes of the common statements. Stands in for nothing real.

// A test that gives no address is meant to panic.
#![allow(clippy::missing_panics_doc)]

use std::sync::Arc;

use super::expression::{BitwiseOp, CmpOp, Expression, PayloadBase, Verdict};
use super::{BaseChain, Chain, Element, ElementData, ElementKey, Family, Rule, Set, SetKey, State, Table};
use crate::address::Source;

/// The expressions of one statement.
pub type Statement = Vec<Expression>;

fn equal(data: &[u8]) -> Expression {
    Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: data.to_vec() }
}

fn bytes(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(source: Source) -> (u32, u32) {
    if source.is_ipv4() { (12, 4) } else { (8, 16) }
}

/// Loads the source address: 4 or 16 bytes.
pub fn load_saddr(v6: bool) -> Expression {
    let (offset, len) = if v6 { (8, 16) } else { (12, 4) };
    Expression::Payload { dreg: 1, base: PayloadBase::Network, offset, len }
}

/// `meta nfproto ipv4` or `ipv6`, as nft puts it before addresses in inet tables.
pub fn nfproto(v6: bool) -> Statement {
    vec![Expression::Meta { key: 15, dreg: 1 }, equal(&[if v6 { 10 } else { 2 }])]
}

/// `ip saddr SOURCE` or `ip6 saddr SOURCE`
pub fn saddr(source: &str) -> Statement {
    saddr_op(source, CmpOp::Eq)
}

/// The same with `!=` and others.
pub fn saddr_op(source: &str, op: CmpOp) -> Statement {
    let source: Source = source.parse().unwrap_or_else(|e| panic!("{e}"));
    let (offset, len) = address(source);
    let net = source.net();
    let mut statement = vec![Expression::Payload { dreg: 1, base: PayloadBase::Network, offset, len }];
    if net.prefix_len() < net.max_prefix_len() {
        let mask = bytes(net.netmask());
        let xor = vec![0; mask.len()];
        statement.push(Expression::Bitwise { sreg: 1, dreg: 1, len, op: BitwiseOp::MaskXor { mask, xor } });
    }
    statement.push(Expression::Cmp { sreg: 1, op, data: bytes(net.network()) });
    statement
}

/// `tcp dport PORT`
pub fn dport(port: u16) -> Statement {
    vec![
        Expression::Meta { key: 16, dreg: 1 },
        equal(&[6]),
        Expression::Payload { dreg: 1, base: PayloadBase::Transport, offset: 2, len: 2 },
        equal(&port.to_be_bytes()),
    ]
}

/// `udp dport PORT`
pub fn udp_dport(port: u16) -> Statement {
    vec![
        Expression::Meta { key: 16, dreg: 1 },
        equal(&[17]),
        Expression::Payload { dreg: 1, base: PayloadBase::Transport, offset: 2, len: 2 },
        equal(&port.to_be_bytes()),
    ]
}

/// `iifname NAME`
pub fn iifname(name: &str) -> Statement {
    let mut data = name.as_bytes().to_vec();
    data.resize(16, 0);
    vec![Expression::Meta { key: 6, dreg: 1 }, equal(&data)]
}

/// `ct state STATES`, by nft's bits.
pub fn ct_state(states: u32) -> Statement {
    vec![
        Expression::Ct { key: 0, dreg: 1, direction: None },
        Expression::Bitwise {
            sreg: 1,
            dreg: 1,
            len: 4,
            op: BitwiseOp::MaskXor { mask: states.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        },
        Expression::Cmp { sreg: 1, op: CmpOp::Neq, data: vec![0; 4] },
    ]
}

/// `ip saddr @SET`, or `vmap @SET`
pub fn saddr_set(set: &str, v6: bool, verdict: bool) -> Statement {
    let dreg = verdict.then_some(0);
    vec![load_saddr(v6), Expression::Lookup { set: set.to_owned(), sreg: 1, dreg, invert: false }]
}

/// `limit rate RATE/minute`
pub fn limit(rate: u64) -> Statement {
    vec![Expression::Limit { rate, unit: 60, burst: 5, kind: 0, over: false }]
}

/// A verdict.
pub fn verdict(verdict: Verdict) -> Statement {
    vec![Expression::Verdict(verdict)]
}

/// `drop`
pub fn drop() -> Statement {
    verdict(Verdict::Drop)
}

/// `accept`
pub fn accept() -> Statement {
    verdict(Verdict::Accept)
}

/// `jump CHAIN`
pub fn jump(chain: &str) -> Statement {
    verdict(Verdict::Jump(chain.to_owned()))
}

/// `reject`
pub fn reject() -> Statement {
    vec![Expression::Reject { kind: 2, code: 1 }]
}

/// A ruleset under construction.
#[derive(Default)]
pub struct Ruleset {
    state: State,
    handle: u64,
}

impl Ruleset {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A base chain of type filter.
    #[must_use]
    pub fn base(self, family: Family, table: &str, name: &str, hook: u32, priority: i32, policy_accept: bool) -> Self {
        let kind = "filter".to_owned();
        self.chain_with(family, table, name, Some(BaseChain { kind, hook, priority, policy_accept, devices: Vec::new() }))
    }

    /// An input chain at priority 0.
    #[must_use]
    pub fn input(self, family: Family, policy_accept: bool) -> Self {
        self.base(family, "filter", "input", 1, 0, policy_accept)
    }

    /// A chain that rules jump to, in the table of the last chain.
    #[must_use]
    pub fn chain(self, name: &str) -> Self {
        let (family, table) = self.last();
        self.chain_with(family, &table, name, None)
    }

    /// A chain, and its table if there is none.
    #[must_use]
    pub fn chain_with(mut self, family: Family, table: &str, name: &str, base: Option<BaseChain>) -> Self {
        if !self.state.tables.iter().any(|one| one.family == family && one.name == table) {
            self.state.tables.push(Table { family, name: table.to_owned(), dormant: false });
        }
        self.handle += 1;
        let (table, name) = (table.to_owned(), name.to_owned());
        self.state.chains.push(Arc::new(Chain { family, table, name, handle: self.handle, base, rules: Vec::new() }));
        self
    }

    fn last(&self) -> (Family, String) {
        self.state.chains.last().map_or((Family::Inet, "filter".to_owned()), |chain| (chain.family, chain.table.clone()))
    }

    /// A rule at the end of the last chain.
    #[must_use]
    pub fn rule(mut self, statements: &[Statement]) -> Self {
        self.handle += 1;
        let rule = Rule {
            handle: self.handle,
            expressions: statements.concat(),
            comment: None,
            raw_expressions: Vec::new(),
            userdata: Vec::new(),
            compat: None,
        };
        if let Some(chain) = self.state.chains.last_mut() {
            Arc::make_mut(chain).rules.push(Arc::new(rule));
        }
        self
    }

    /// A set of addresses in the table of the last chain, read whole.
    #[must_use]
    pub fn set(mut self, name: &str, v6: bool, flags: u32, elements: Vec<Element>) -> Self {
        let (family, table) = self.last();
        let key = SetKey { family, table, set: name.to_owned() };
        let map = elements.iter().any(|element| element.data.is_some());
        self.handle += 1;
        self.state.sets.push(Arc::new(Set {
            key: key.clone(),
            handle: self.handle,
            flags: flags | if map { 0x8 } else { 0 },
            key_type: if v6 { 8 } else { 7 },
            key_len: if v6 { 16 } else { 4 },
            fields: Vec::new(),
            data_type: map.then_some(0xffff_ff00),
            data_len: map.then_some(16),
            object: None,
        }));
        self.state.dumps.insert(key, elements);
        self
    }

    /// The ruleset.
    pub fn build(self) -> State {
        self.state
    }
}

/// The element of an address or range.
pub fn element(source: &str) -> Element {
    let source: Source = source.parse().unwrap_or_else(|e| panic!("{e}"));
    let (from, to) = (bytes(source.first()), bytes(source.last()));
    Element { key_end: (from != to).then_some(to), key: from, ..Element::default() }
}

/// The element of a verdict map.
pub fn maps(source: &str, verdict: Verdict) -> Element {
    Element { data: Some(ElementData::Verdict(verdict)), ..element(source) }
}

/// Answers lookups as the agent does, from the sets read whole in `kernel`; `state` itself holds only what was asked.
pub fn answer(kernel: &State, state: &mut State, needs: &crate::host::Needs) {
    for need in needs {
        match need {
            crate::host::Need::Element(wanted) => {
                let held = kernel.dumps.get(&wanted.set).and_then(|all| {
                    let holds = |one: &&Element| {
                        let end = one.key_end.as_ref().unwrap_or(&one.key);
                        one.catchall || one.key <= wanted.key && wanted.key <= *end
                    };
                    all.iter().find(holds).cloned()
                });
                state.elements.insert(ElementKey::clone(wanted), held);
            }
            crate::host::Need::SetElements(set) => {
                state.dumps.insert(set.clone(), kernel.dumps.get(set).cloned().unwrap_or_default());
            }
            crate::host::Need::HostName(_)
            | crate::host::Need::PatternFile(_)
            | crate::host::Need::Ipset(_)
            | crate::host::Need::IpsetEntry(_)
            | crate::host::Need::IpsetProperties(_)
            | crate::host::Need::IpsetElements(_)
            | crate::host::Need::RouteTables(_)
            | crate::host::Need::PolicyRules(_)
            | crate::host::Need::Recent(_)
            | crate::host::Need::Conntrack
            | crate::host::Need::Route(_)
            | crate::host::Need::Links
            | crate::host::Need::Neighbour(..)
            | crate::host::Need::Ufw
            | crate::host::Need::Sshd(_) => {}
        }
    }
}
