//! Reads the ruleset: tables, chains with their rules, sets without elements. One generation or nothing; never changes anything.

use std::collections::HashMap;
use std::sync::Arc;

use nftnl::nftnl_sys as sys;
use sshfix_policy::subsystem::nf_tables::{BaseChain, Chain, Family, Rule, Set, SetKey, State, Table};

use super::decode;
use super::libnftnl::{self, Attributes};
use super::message::{self, Attrs, Kind, Received, nft};
use super::socket::{Netlink, NetlinkError};

/// How many rules that were read before are looked through for the one that comes.
const MOST_DELETED: usize = 100;
/// How often a ruleset that keeps changing is read again.
const TRIES: usize = 5;
/// `NFTA_RULE_TABLE`.
const RULE_TABLE: u16 = 1;
/// `NFTA_RULE_CHAIN`.
const RULE_CHAIN: u16 = 2;
/// `NFTA_RULE_HANDLE`.
const RULE_HANDLE: u16 = 3;
/// `NFTA_RULE_EXPRESSIONS`.
const RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_RULE_COMPAT`, which a dump does not carry (`nf_tables_fill_rule_info`).
const RULE_COMPAT: u16 = 5;
/// `NFTA_RULE_USERDATA`.
const RULE_USERDATA: u16 = 7;
/// `NFT_TABLE_F_DORMANT`.
const TABLE_DORMANT: u32 = 1;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFTNL_UDATA_RULE_COMMENT` and `NFTNL_UDATA_SET_ELEM_COMMENT`.
const COMMENT: u8 = 0;

/// Where a rule stands.
type Place = (Family, String, String);

/// Reads until nothing changed in between.
pub fn ruleset(netlink: &mut Netlink, cached: Option<&State>) -> Result<State, NetlinkError> {
    for _ in 0..TRIES {
        let before = netlink.generation()?;
        if let Some(cached) = cached
            && cached.generation == before
        {
            return Ok(cached.clone());
        }
        match read(netlink, before, cached) {
            Ok(state) if netlink.generation()? == before => return Ok(state),
            Ok(_) | Err(NetlinkError::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NetlinkError::Interrupted)
}

fn read(netlink: &mut Netlink, generation: u32, cached: Option<&State>) -> Result<State, NetlinkError> {
    let none = Attrs::new();
    let mut state = State { generation, ..State::default() };
    netlink.dump(nft::GET_TABLE, 0, &none, "the list of tables", |message| {
        if message.kind == Kind::Nft(nft::NEW_TABLE) {
            state.tables.extend(table(&message)?);
        }
        Ok(())
    })?;
    if state.tables.is_empty() {
        return Ok(state); // nothing else can be there
    }
    let mut known = Known::of(cached);
    let mut rules: HashMap<Place, Vec<Arc<Rule>>> = HashMap::new();
    let mut run: Vec<Arc<Rule>> = Vec::new();
    // Rules of a chain that stand one after the other as they did before: most of a large ruleset.
    let mut put = |known: &Known<'_>, run: &mut Vec<Arc<Rule>>| {
        if let (Some(place), false) = (known.place(), run.is_empty()) {
            rules.entry(place).or_default().append(run);
        }
    };
    netlink.dump(nft::GET_RULE, 0, &none, "the rules", |message| {
        let Some(read) = Bytes::of(&message)? else { return Ok(()) };
        if !known.stands_at(&read) {
            put(&known, &mut run);
            known.go_to(&read);
        }
        let read = match known.unchanged(&read) {
            Some(rule) => Some(rule),
            None => rule(&message)?.map(|(_, rule)| Arc::new(rule)),
        };
        run.extend(read);
        Ok(())
    })?;
    put(&known, &mut run);
    netlink.dump(nft::GET_CHAIN, 0, &none, "the chains", |message| {
        if message.kind == Kind::Nft(nft::NEW_CHAIN)
            && let Some(mut chain) = chain(&message)?
        {
            let place = (chain.family, chain.table.clone(), chain.name.clone());
            chain.rules = rules.remove(&place).unwrap_or_default();
            state.chains.push(Arc::new(chain));
        }
        Ok(())
    })?;
    netlink.dump(nft::GET_SET, 0, &none, "the sets", |message| {
        if message.kind == Kind::Nft(nft::NEW_SET) {
            state.sets.extend(set(&message)?.map(Arc::new));
        }
        Ok(())
    })?;
    Ok(state)
}

/// The parts of a rule's message, as they came.
struct Bytes<'m> {
    family: Family,
    table: &'m [u8],
    chain: &'m [u8],
    handle: u64,
    expressions: &'m [u8],
    userdata: &'m [u8],
    compat: bool,
}

impl<'m> Bytes<'m> {
    /// `None` for other messages and unknown families.
    fn of(message: &Received<'m>) -> Result<Option<Self>, NetlinkError> {
        let family = Family::from_number(message.family()).filter(|_| message.kind == Kind::Nft(nft::NEW_RULE));
        let Some(family) = family else { return Ok(None) };
        let (mut table, mut chain, mut handle) = (None, None, None);
        let mut rest = (&[][..], &[][..], false);
        for (kind, payload) in message.attributes() {
            match kind {
                RULE_TABLE => table = payload.strip_suffix(&[0]),
                RULE_CHAIN => chain = payload.strip_suffix(&[0]),
                RULE_HANDLE => handle = payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
                RULE_EXPRESSIONS => rest.0 = payload,
                RULE_USERDATA => rest.1 = payload,
                RULE_COMPAT => rest.2 = true,
                _ => {}
            }
        }
        let (expressions, userdata, compat) = rest;
        match (table, chain, handle) {
            (Some(table), Some(chain), Some(handle)) => {
                Ok(Some(Self { family, table, chain, handle, expressions, userdata, compat }))
            }
            _ => Err(malformed("a rule without its table, chain or handle")),
        }
    }
}

/// The rules of an earlier reading. Taking a rule apart costs far more than its dump, and most rules outlive a change.
struct Known<'a> {
    chains: HashMap<Place, &'a [Arc<Rule>]>,
    /// The chain whose rules are being read.
    at: Option<Place>,
    /// Its rules that were not met again yet.
    expected: &'a [Arc<Rule>],
}

impl<'a> Known<'a> {
    fn of(cached: Option<&'a State>) -> Self {
        let chains = cached.into_iter().flat_map(|state| &state.chains);
        let chains = chains.map(|chain| ((chain.family, chain.table.clone(), chain.name.clone()), chain.rules.as_slice()));
        Self { chains: chains.collect(), at: None, expected: &[] }
    }

    /// The chain whose rules are being read.
    fn place(&self) -> Option<Place> {
        self.at.clone()
    }

    fn stands_at(&self, read: &Bytes<'_>) -> bool {
        self.at.as_ref().is_some_and(|(family, table, chain)| {
            (*family, table.as_bytes(), chain.as_bytes()) == (read.family, read.table, read.chain)
        })
    }

    fn go_to(&mut self, read: &Bytes<'_>) {
        let place = (read.family, message::text(read.table), message::text(read.chain));
        self.expected = self.chains.get(&place).copied().unwrap_or_default();
        self.at = Some(place);
    }

    /// The rule of this message, if it was read before and every byte that it was made of is the same: handles are given out
    /// again when a table is made anew, and counters count.
    fn unchanged(&mut self, read: &Bytes<'_>) -> Option<Arc<Rule>> {
        // The next one, or one of those after it where some were deleted. Of rules that were put in, no more are looked through.
        let index = self.expected.iter().take(MOST_DELETED).position(|rule| rule.handle == read.handle)?;
        let rule = self.expected.get(index)?;
        self.expected = self.expected.get(index + 1..).unwrap_or_default();
        let same =
            rule.raw_expressions == read.expressions && rule.userdata == read.userdata && rule.compat.is_none() && !read.compat;
        same.then(|| Arc::clone(rule))
    }
}

/// Whether two readings hold the same chains, rules and sets. A rule never changes under its handle, but for its counters.
pub fn same_rules(one: &State, other: &State) -> bool {
    let same = |a: &Chain, b: &Chain| {
        (a.family, &a.table, &a.name, a.handle, &a.base) == (b.family, &b.table, &b.name, b.handle, &b.base)
            && a.rules.iter().map(|rule| rule.handle).eq(b.rules.iter().map(|rule| rule.handle))
    };
    one.tables == other.tables
        && one.sets == other.sets
        && one.chains.len() == other.chains.len()
        && one.chains.iter().zip(&other.chains).all(|(a, b)| same(a, b))
}

fn malformed(what: &str) -> NetlinkError {
    NetlinkError::Malformed(what.to_owned())
}

/// `None` for a family this version does not know: no packet of ours passes it.
fn table(message: &Received<'_>) -> Result<Option<Table>, NetlinkError> {
    let parsed = libnftnl::Table::parse(message.bytes).ok_or_else(|| malformed("a table"))?;
    let Some(family) = Family::from_number(message.family()) else { return Ok(None) };
    let name = parsed.text(sys::NFTNL_TABLE_NAME).ok_or_else(|| malformed("a table without its name"))?;
    let flags = parsed.u32(sys::NFTNL_TABLE_FLAGS).ok_or_else(|| malformed("a table without its flags"))?;
    Ok(Some(Table { family, name, dormant: flags & TABLE_DORMANT != 0 }))
}

fn chain(message: &Received<'_>) -> Result<Option<Chain>, NetlinkError> {
    let parsed = libnftnl::Chain::parse(message.bytes).ok_or_else(|| malformed("a chain"))?;
    let Some(family) = Family::from_number(message.family()) else { return Ok(None) };
    let name = parsed.text(sys::NFTNL_CHAIN_NAME).ok_or_else(|| malformed("a chain without its name"))?;
    let base = match parsed.optional_u32(sys::NFTNL_CHAIN_HOOKNUM).ok_or_else(|| malformed("the hook of a chain"))? {
        None => None,
        Some(hook) => Some(BaseChain {
            kind: parsed.text(sys::NFTNL_CHAIN_TYPE).ok_or_else(|| malformed("a base chain without its type"))?,
            hook,
            priority: parsed
                .u32(sys::NFTNL_CHAIN_PRIO)
                .ok_or_else(|| malformed("a base chain without its priority"))?
                .cast_signed(),
            policy_accept: parsed.u32(sys::NFTNL_CHAIN_POLICY).ok_or_else(|| malformed("a base chain without its policy"))?
                == ACCEPT,
            devices: parsed.devices(),
        }),
    };
    Ok(Some(Chain {
        family,
        table: parsed.text(sys::NFTNL_CHAIN_TABLE).ok_or_else(|| malformed("a chain without its table"))?,
        name,
        handle: parsed.u64(sys::NFTNL_CHAIN_HANDLE).ok_or_else(|| malformed("a chain without its handle"))?,
        base,
        rules: Vec::new(),
    }))
}

/// Where a rule stands, and the rule; `None` for other messages and unknown families.
pub fn rule(message: &Received<'_>) -> Result<Option<(Place, Rule)>, NetlinkError> {
    if message.kind != Kind::Nft(nft::NEW_RULE) {
        return Ok(None);
    }
    let Some(family) = Family::from_number(message.family()) else { return Ok(None) };
    let attributes = message.attributes();
    // A rule without any has an empty list of them (`nf_tables_fill_rule_info`).
    let raw_expressions = attributes.get(RULE_EXPRESSIONS).ok_or_else(|| malformed("a rule without its expressions"))?;
    // A libnftnl that does not know one of the expressions refuses the whole rule: then everything but the expressions is
    // parsed without them.
    let (parsed, expressions) = match libnftnl::Rule::parse(message.bytes) {
        Some(parsed) => {
            let expressions = decode::rule(&parsed).ok_or_else(|| malformed("the expressions of a rule"))?;
            (parsed, expressions)
        }
        None => (bare(message).ok_or_else(|| malformed("a rule"))?, decode::one_by_one(raw_expressions)),
    };
    let table = parsed.text(sys::NFTNL_RULE_TABLE).ok_or_else(|| malformed("a rule without its table"))?;
    let chain = parsed.text(sys::NFTNL_RULE_CHAIN).ok_or_else(|| malformed("a rule without its chain"))?;
    let userdata = parsed.bytes(sys::NFTNL_RULE_USERDATA).unwrap_or_default();
    let compat = parsed.u32(sys::NFTNL_RULE_COMPAT_PROTO).zip(parsed.u32(sys::NFTNL_RULE_COMPAT_FLAGS));
    let rule = Rule {
        handle: parsed.u64(sys::NFTNL_RULE_HANDLE).ok_or_else(|| malformed("a rule without its handle"))?,
        expressions,
        comment: comment(&userdata),
        raw_expressions: raw_expressions.to_vec(),
        userdata,
        compat,
    };
    Ok(Some(((family, table, chain), rule)))
}

/// The same rule without its expressions.
fn bare(message: &Received<'_>) -> Option<libnftnl::Rule> {
    let others = message.attributes().filter(|(kind, _)| *kind != RULE_EXPRESSIONS);
    let attrs = others.fold(Attrs::new(), |attrs, (kind, payload)| attrs.put(kind, payload));
    let bytes = message::Messages::new().add(message.kind, message.family(), 0, 0, &attrs).finish()?;
    libnftnl::Rule::parse(&bytes)
}

fn set(message: &Received<'_>) -> Result<Option<Set>, NetlinkError> {
    let parsed = libnftnl::Set::parse(message.bytes).ok_or_else(|| malformed("a set"))?;
    let Some(family) = Family::from_number(message.family()) else { return Ok(None) };
    // What is left out is zero (`nf_tables_fill_set`), and has no data or objects.
    let number = |attribute, what| parsed.optional_u32(attribute).ok_or_else(|| malformed(what));
    Ok(Some(Set {
        key: SetKey {
            family,
            table: parsed.text(sys::NFTNL_SET_TABLE).ok_or_else(|| malformed("a set without its table"))?,
            set: parsed.text(sys::NFTNL_SET_NAME).ok_or_else(|| malformed("a set without its name"))?,
        },
        handle: parsed.u64(sys::NFTNL_SET_HANDLE).unwrap_or(0),
        flags: number(sys::NFTNL_SET_FLAGS, "the flags of a set")?.unwrap_or(0),
        key_type: number(sys::NFTNL_SET_KEY_TYPE, "the key type of a set")?.unwrap_or(0),
        key_len: parsed.u32(sys::NFTNL_SET_KEY_LEN).ok_or_else(|| malformed("a set without its key length"))?,
        // `desc.field_len`: one byte per field.
        fields: parsed.bytes(sys::NFTNL_SET_DESC_CONCAT).unwrap_or_default().into_iter().map(u32::from).collect(),
        data_type: number(sys::NFTNL_SET_DATA_TYPE, "the data type of a set")?,
        data_len: number(sys::NFTNL_SET_DATA_LEN, "the data length of a set")?,
        object: number(sys::NFTNL_SET_OBJ_TYPE, "the objects of a set")?.filter(|kind| *kind != 0),
    }))
}

/// The comment among the type-length-value triples of nft's user data (`libnftnl/udata.h`).
pub fn comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(message::text(value));
        }
        userdata = rest.get(usize::from(*length)..).unwrap_or_default();
    }
    None
}
