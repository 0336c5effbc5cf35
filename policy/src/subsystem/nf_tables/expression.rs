//! `nf_tables` expressions as the kernel has them (`linux/netfilter/nf_tables.h`), decoded by the agent, run by the evaluator.
//! Registers are the kernel's numbers: 0 verdict, 1-4 (16 bytes each), 8-23 (4 bytes each). Holds no logic.

use serde::{Deserialize, Serialize};

/// A verdict of `immediate` or of a verdict map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// `NF_ACCEPT`: ends this base chain only.
    Accept,
    /// `NF_DROP`: ends the packet.
    Drop,
    /// `NF_QUEUE` by verdict: user space decides.
    Queue,
    /// `NFT_CONTINUE`.
    Continue,
    /// `NFT_BREAK`: ends this rule.
    Break,
    /// `NFT_JUMP`.
    Jump(String),
    /// `NFT_GOTO`.
    Goto(String),
    /// `NFT_RETURN`.
    Return,
}

/// Comparison of `cmp` (`NFT_CMP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CmpOp {
    /// ==
    Eq,
    /// !=
    Neq,
    /// < (big-endian bytes)
    Lt,
    /// <=
    Lte,
    /// >
    Gt,
    /// >=
    Gte,
}

/// Operation of `bitwise` (`NFT_BITWISE_*`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BitwiseOp {
    /// `(sreg & mask) ^ xor`
    MaskXor {
        /// Ones are kept.
        mask: Vec<u8>,
        /// Flipped afterwards.
        xor: Vec<u8>,
    },
    /// `sreg << bits`
    LeftShift(u32),
    /// `sreg >> bits`
    RightShift(u32),
}

/// Base of `payload` (`NFT_PAYLOAD_*_HEADER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayloadBase {
    /// 0
    LinkLayer,
    /// 1
    Network,
    /// 2
    Transport,
    /// 3
    Inner,
    /// 4
    Tunnel,
}

/// One expression of a rule. Numbers are the kernel's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expression {
    /// Loads packet bytes.
    Payload {
        /// Destination register.
        dreg: u32,
        /// From which header.
        base: PayloadBase,
        /// Bytes into it.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// Writes packet bytes.
    PayloadSet {
        /// Source register.
        sreg: u32,
        /// Into which header.
        base: PayloadBase,
        /// Bytes into it.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// Loads a `NFT_META_*` key.
    Meta {
        /// Which.
        key: u32,
        /// Destination register.
        dreg: u32,
    },
    /// Sets a `NFT_META_*` key.
    MetaSet {
        /// Which.
        key: u32,
        /// Source register.
        sreg: u32,
    },
    /// Loads a `NFT_CT_*` key.
    Ct {
        /// Which.
        key: u32,
        /// Destination register.
        dreg: u32,
        /// `IP_CT_DIR_*`, where given.
        direction: Option<u8>,
    },
    /// Sets a `NFT_CT_*` key.
    CtSet {
        /// Which.
        key: u32,
        /// Source register.
        sreg: u32,
        /// `IP_CT_DIR_*`, where given.
        direction: Option<u8>,
    },
    /// Ends the rule unless the register compares so.
    Cmp {
        /// Source register.
        sreg: u32,
        /// How.
        op: CmpOp,
        /// With what.
        data: Vec<u8>,
    },
    /// Ends the rule unless the register is in (or, with `Neq`, outside) the range.
    Range {
        /// Source register.
        sreg: u32,
        /// Whether outside.
        negated: bool,
        /// Lower end, inclusive.
        from: Vec<u8>,
        /// Upper end, inclusive.
        to: Vec<u8>,
    },
    /// Computes.
    Bitwise {
        /// Source register.
        sreg: u32,
        /// Destination register.
        dreg: u32,
        /// Bytes.
        len: u32,
        /// What.
        op: BitwiseOp,
    },
    /// Swaps byte order.
    Byteorder {
        /// Source register.
        sreg: u32,
        /// Destination register.
        dreg: u32,
        /// 0 ntoh, 1 hton.
        op: u32,
        /// Bytes in all.
        len: u32,
        /// Bytes of one unit.
        size: u32,
    },
    /// Looks a key up in a set (ends the rule unless found) or a map (loads the data; `dreg` 0 is a verdict map).
    Lookup {
        /// The set's name, in the rule's table.
        set: String,
        /// Source register.
        sreg: u32,
        /// Destination register of maps.
        dreg: Option<u32>,
        /// `NFT_LOOKUP_F_INV`.
        invert: bool,
    },
    /// Loads a constant.
    Immediate {
        /// Destination register.
        dreg: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// `immediate` into register 0.
    Verdict(Verdict),
    /// Counts; always goes on.
    Counter {
        /// So far.
        packets: u64,
        /// So far.
        bytes: u64,
    },
    /// Ends the rule when the rate is exceeded (or, with `over`, when it is not).
    Limit {
        /// Units per `unit`.
        rate: u64,
        /// Seconds.
        unit: u64,
        /// Burst.
        burst: u32,
        /// 0 packets, 1 bytes.
        kind: u32,
        /// `NFT_LIMIT_F_INV`.
        over: bool,
    },
    /// Logs; always goes on.
    Log {
        /// The prefix.
        prefix: Option<String>,
    },
    /// Drops and answers.
    Reject {
        /// 0 icmp unreachable, 1 tcp reset, 2 icmpx.
        kind: u32,
        /// ICMP code.
        code: u8,
    },
    /// Ends the rule by bytes used.
    Quota {
        /// Allowed.
        bytes: u64,
        /// `NFT_QUOTA_F_INV`.
        over: bool,
    },
    /// Ends the rule by the number of connections.
    Connlimit {
        /// Allowed.
        count: u32,
        /// `NFT_CONNLIMIT_F_INV`.
        over: bool,
    },
    /// Adds to or deletes from a set by packet.
    Dynset {
        /// The set's name.
        set: String,
        /// Key register.
        sreg_key: u32,
        /// `NFT_DYNSET_OP_*`: 0 add, 1 update, 2 delete.
        op: u32,
        /// `NFT_DYNSET_F_INV`.
        invert: bool,
        /// Whether it carries expressions of its own (a meter), which can end the rule.
        has_expressions: bool,
    },
    /// Uses a named object (`NFT_OBJECT_*`): counter 1, quota 2, ct helper 3, limit 4, connlimit 5, ...
    Objref {
        /// Which kind.
        kind: u32,
        /// Its name, where it is not looked up in a map.
        name: Option<String>,
    },
    /// Uses the named object that a map gives for a key; without one the rule ends.
    ObjectMap {
        /// The map's name.
        set: String,
        /// Key register.
        sreg: u32,
    },
    /// Routing lookup.
    Fib {
        /// Destination register.
        dreg: u32,
        /// `NFT_FIB_RESULT_*`: 1 oif, 2 oifname, 3 addrtype.
        result: u32,
        /// `NFTA_FIB_F_*`: 1 saddr, 2 daddr, 4 mark, 8 iif, 16 oif, 32 present.
        flags: u32,
    },
    /// Source NAT, destination NAT, masquerade, redirect and tproxy.
    Nat {
        /// Which.
        kind: NatKind,
        /// Lower address register.
        address_register: Option<u32>,
        /// Lower port register.
        port_register: Option<u32>,
        /// The family of its address (`NFPROTO_*`), which in tables of several families says whose packets it translates.
        #[serde(default)]
        family: Option<u8>,
        /// Whether these are only the lowest of several addresses, of several ports.
        #[serde(default)]
        ranges: (bool, bool),
    },
    /// To user space.
    Queue,
    /// Skips connection tracking.
    Notrack,
    /// Answers SYNs itself, steals them.
    Synproxy,
    /// Copies the packet elsewhere; goes on.
    Dup,
    /// Sends the packet to another device; ends it here.
    Fwd,
    /// An xtables match (iptables-nft).
    Match {
        /// Name.
        name: String,
        /// Revision.
        revision: u32,
        /// The match's UAPI struct.
        info: Vec<u8>,
    },
    /// An xtables target (iptables-nft).
    Target {
        /// Name.
        name: String,
        /// Revision.
        revision: u32,
        /// The target's UAPI struct.
        info: Vec<u8>,
    },
    /// Loads a field of an extension header or option, or whether there is one.
    ExtensionHeader {
        /// Destination register.
        dreg: u32,
        /// Of which kind.
        kind: ExtensionKind,
        /// `NFT_EXTHDR_F_PRESENT`: 1 or 0, instead of the field.
        present: bool,
    },
    /// One that loads a register with what cannot be known (rt, socket, numgen, hash, osf, tunnel, xfrm, inner, ...).
    Opaque {
        /// Its name.
        name: String,
        /// The register it writes, if it writes one.
        dreg: Option<u32>,
    },
    /// Not understood: anything may happen from here on in this rule.
    Unknown {
        /// Its name.
        name: String,
        /// As libnftnl prints it.
        text: String,
    },
}

/// Headers and options beside the plain ones (`NFT_EXTHDR_OP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionKind {
    /// An IPv6 extension header.
    Ipv6,
    /// A TCP option.
    TcpOption,
    /// An IPv4 option.
    Ipv4Option,
    /// A chunk of SCTP or an option of DCCP.
    OtherTransport,
}

/// Kinds of address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatKind {
    /// Source.
    Snat,
    /// Destination.
    Dnat,
    /// Source, to the interface's address.
    Masquerade,
    /// Destination, to this host.
    Redirect,
    /// To a local socket.
    Tproxy,
}
