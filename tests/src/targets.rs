//! What every fuzz target does with one input: parse it, and hold the parser to its promises. `tests/fuzz` feeds these functions
//! with what libFuzzer finds, `tests/tests/corpus.rs` with the seeds and changes of them. Must need no host and no root.

mod strangers;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sshfix_agent::config::{Config, ConfigError};
use sshfix_policy::access_proof::{self, AccessProof, KexInit};
use sshfix_policy::address::{AddressError, Source, canonical};
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{HostState, Needs, Part};
use sshfix_policy::netfilter;
use sshfix_policy::packet::{Packet, Tracking, View};
use sshfix_policy::reply;
use sshfix_policy::request::allowed_signers::AllowedSigners;
use sshfix_policy::request::authenticate::{AuthenticatedRequest, Context, authenticate};
use sshfix_policy::request::authorize::{Grants, authorize};
use sshfix_policy::request::wire::{Challenge, Hello, PREFIX, REQUEST_LIMIT, SignedReply, SignedRequest, body_length};
use sshfix_policy::request::{REQUEST_NAMESPACE, Request};
use sshfix_policy::ssh::certificate::Certificate;
use sshfix_policy::ssh::public_key::{Proof, PublicKey};
use sshfix_policy::ssh::sshsig::{SshSig, from_armor, wrap};
use sshfix_policy::subsystem::fail2ban::{pickle, protocol};
use sshfix_policy::subsystem::hosts_access::{self, Content, Document, Facts, File, Libwrap};
use sshfix_policy::subsystem::ipset;
use sshfix_policy::subsystem::ipset::SetNames;
use sshfix_policy::subsystem::nf_tables::expression::Expression;
use sshfix_policy::subsystem::nf_tables::{self, BaseChain, Chain, Family, Rule};
use sshfix_policy::subsystem::sshd::config as sshd;
use sshfix_policy::subsystem::xtables::extension::{decode, holds, render, render_target, targets};
use sshfix_policy::subsystem::xtables::{self, Table, blob, save};
use sshfix_policy::verdict::Connection;

pub use strangers::{authorized_keys, journal, kernel_reply, kex, ssh_agent, title, told, write_order};

/// A target's name, which is also that of its corpus, and what it does with one input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 27] = [
    ("access_proof", access_proof),
    ("sshd_config", sshd_config),
    ("wire", wire),
    ("hello", hello),
    ("request", request),
    ("reply", reply),
    ("sshsig", sshsig),
    ("certificate", certificate),
    ("public_key", public_key),
    ("allowed_signers", allowed_signers),
    ("grants", grants),
    ("fail2ban", fail2ban),
    ("hosts_access", hosts_access),
    ("xtables_table", xtables_table),
    ("xtables_element", xtables_element),
    ("xtables_save", xtables_save),
    ("nf_tables", nf_tables),
    ("config", config),
    ("address", address),
    ("title", title),
    ("journal", journal),
    ("authorized_keys", authorized_keys),
    ("told", told),
    ("kex", kex),
    ("ssh_agent", ssh_agent),
    ("write_order", write_order),
    ("kernel_reply", kernel_reply),
];

/// Finds a target by its name.
pub fn target(name: &str) -> fn(&[u8]) {
    TARGETS.iter().find(|(one, _)| *one == name).unwrap_or_else(|| panic!("no target {name}")).1
}

/// Who signed the seeds of `wire`. The private keys are gone: what authenticates is a seed.
const SIGNERS: &str = include_str!("../fuzz/signers");
const SIGNED: [&[u8]; 3] = [
    include_bytes!("../fuzz/corpus/wire/ed25519"),
    include_bytes!("../fuzz/corpus/wire/rsa"),
    include_bytes!("../fuzz/corpus/wire/certificate"),
];
/// Exchanges with sshds of the lab, one for each type of host key.
const PROVEN: [&[u8]; 6] = [
    include_bytes!("../fuzz/corpus/access_proof/ed25519"),
    include_bytes!("../fuzz/corpus/access_proof/nistp256"),
    include_bytes!("../fuzz/corpus/access_proof/nistp384"),
    include_bytes!("../fuzz/corpus/access_proof/nistp521"),
    include_bytes!("../fuzz/corpus/access_proof/rsa-sha2-256"),
    include_bytes!("../fuzz/corpus/access_proof/rsa-sha2-512"),
];
const HOST: &str = "SHA256:host";
/// What the sources in the seeds are about.
const SOURCES: [&str; 5] = ["10.0.0.1", "203.0.113.7", "203.0.113.0/24", "2001:db8::7", "0.0.0.0/0"];

fn zone() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn sources() -> impl Iterator<Item = Source> {
    SOURCES.iter().map(|source| source.parse().unwrap())
}

fn connections() -> impl Iterator<Item = Connection> {
    sources().map(|source| Connection { source, port: 22, user: None })
}

fn host() -> HostState {
    HostState { at: now(), ..HostState::empty() }
}

static ALLOWED: LazyLock<AllowedSigners> = LazyLock::new(|| AllowedSigners::parse(SIGNERS, &zone()));
/// The seeds, authenticated.
static AUTHENTICATED: LazyLock<[AuthenticatedRequest; 3]> =
    LazyLock::new(|| SIGNED.map(|body| authenticated(body).expect("a seed authenticates")));

fn authenticated(body: &[u8]) -> Option<AuthenticatedRequest> {
    let signed = SignedRequest::decode(body).ok()?;
    let challenge = Challenge::new([9; 32]);
    let context = Context { host: HOST, challenge: &challenge, age: Duration::from_secs(1), now: now() };
    authenticate(&signed, &ALLOWED, &context).ok()
}

/// A file of sshd's configuration. It comes back as it was, and an edit changes one line of it.
pub fn sshd_config(bytes: &[u8]) {
    const MAIN: &str = "/etc/ssh/sshd_config";
    let document = sshd::Document::parse(bytes);
    assert_eq!(document.bytes(), bytes);
    let mut tree = sshd::Tree::new(MAIN);
    tree.files.insert(MAIN.to_owned(), document);
    // It includes itself, and nothing else is there.
    for pattern in tree.missing().1 {
        let named = if pattern == MAIN { vec![pattern.clone()] } else { Vec::new() };
        tree.includes.insert(pattern, named);
    }
    let client = sshd::Client {
        user: "alice".to_owned(),
        groups: Some(vec!["wheel".to_owned()]),
        host: "seven.example.net".to_owned(),
        address: "203.0.113.7".parse().unwrap(),
        local_address: None,
        local_port: 22,
        is_root: false,
        interface: None,
    };
    let _ = sshd::evaluate(&tree, &[], Some(&client));
    let banner = ["/etc/my banner".to_owned()];
    for block in [None, Some("User alice"), Some("Address 203.0.113.0/24")] {
        for edit in sshd::edit(&tree, &[], &[], block, "Banner", Some(&banner)).unwrap_or_default() {
            let (before, after) = (sshd::Document::parse(&edit.before), sshd::Document::parse(&edit.after));
            let known: BTreeSet<&[u8]> = before.lines().map(|(_, line)| line.bytes()).collect();
            // The new line, the Match line of a new block, and the last line where it had no end.
            assert!(after.lines().filter(|(_, line)| !known.contains(line.bytes())).count() <= 3);
        }
        let _ = sshd::edit(&tree, &[], &[], block, "AllowUsers", None);
    }
}

/// A proof of access as JSON, and the same bytes as a KEXINIT. Only what a real sshd signed is proven.
pub fn access_proof(bytes: &[u8]) {
    if let Ok(kexinit) = KexInit::parse(bytes) {
        let _ = KexInit::negotiate(&kexinit, &kexinit);
    }
    let Ok(proof) = serde_json::from_slice::<AccessProof>(bytes) else { return };
    let json = serde_json::to_vec(&proof).unwrap();
    assert_eq!(serde_json::from_slice::<AccessProof>(&json).unwrap(), proof);
    let cookie = access_proof::cookie("4f2a", &[1; 32]);
    if access_proof::check(&proof, &cookie).is_ok() {
        // ECDSA and padded RSA have more than one signature for the same bytes (SEC 1 section 4.1.4; ssh-rsa.c).
        let signed = PROVEN.iter().any(|seed| {
            let seed: AccessProof = serde_json::from_slice(seed).unwrap();
            AccessProof { signature: proof.signature.clone(), ..seed } == proof
        });
        assert!(signed, "an exchange is proven that nobody signed");
    }
}

/// The body of a request frame. What decodes is the same bytes again, and only what was signed authenticates.
pub fn wire(bytes: &[u8]) {
    if let Some(prefix) = bytes.first_chunk::<PREFIX>()
        && let Ok(length) = body_length(*prefix, REQUEST_LIMIT)
    {
        assert!(length <= REQUEST_LIMIT);
    }
    let Ok(signed) = SignedRequest::decode(bytes) else { return };
    assert_eq!(&signed.encode().unwrap()[PREFIX..], bytes);
    if authenticated(bytes).is_some() {
        let known = SIGNED.iter().any(|body| SignedRequest::decode(body).unwrap().payload() == signed.payload());
        assert!(known, "a payload authenticates that nobody signed");
    }
}

/// The body of a hello frame, which nobody signs.
pub fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes)
        && let Ok(frame) = hello.encode()
    {
        assert_eq!(Hello::decode(&frame[PREFIX..]), Ok(hello));
    }
}

/// The payload of a request, as JSON.
pub fn request(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(bytes) else { return };
    let json = serde_json::to_vec(&request).unwrap();
    assert_eq!(serde_json::from_slice::<Request>(&json).unwrap(), request);
    let _ = (request.operation.action().to_string(), request.operation.source(), request.operation.port());
}

/// The body of a reply frame, and its payload as JSON: what a client reads of an agent.
pub fn reply(bytes: &[u8]) {
    if let Ok(signed) = SignedReply::decode(bytes) {
        assert_eq!(&signed.encode().unwrap()[PREFIX..], bytes);
    }
    let Ok(reply) = serde_json::from_slice::<reply::Reply>(bytes) else { return };
    let json = serde_json::to_vec(&reply).unwrap();
    assert_eq!(serde_json::from_slice::<reply::Reply>(&json).unwrap(), reply);
}

/// An SSHSIG blob, or the armored text of one. There is one way to write each signature.
pub fn sshsig(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(blob) = from_armor(text)
    {
        sshsig(&blob);
    }
    let Ok(sshsig) = SshSig::parse(bytes) else { return };
    assert_eq!(wrap(sshsig.key, sshsig.namespace, sshsig.hash, sshsig.signature), bytes);
    if let Ok(key) = PublicKey::from_blob(sshsig.key) {
        assert!(sshsig.verify(&key, b"never signed").is_err());
    }
}

/// A certificate's blob or line. Only what a CA signed is one.
pub fn certificate(bytes: &[u8]) {
    let from_text = std::str::from_utf8(bytes).ok().and_then(|line| Certificate::from_line(line).ok());
    let Some(certificate) = from_text.or_else(|| Certificate::from_blob(bytes).ok()) else { return };
    assert!(!certificate.name().chars().any(char::is_control));
    for proof in [false, true].map(|user_verified| Proof { user_verified }) {
        let _ = certificate.check("alice", now(), proof);
        assert!(certificate.check("nobody at all", now(), proof).is_err());
    }
}

/// A public key's blob or line. There is one way to write each key.
pub fn public_key(bytes: &[u8]) {
    if let Ok(line) = std::str::from_utf8(bytes)
        && let Ok(key) = PublicKey::from_line(line)
    {
        public_key(key.blob());
    }
    let Ok(key) = PublicKey::from_blob(bytes) else { return };
    assert_eq!(key.blob(), bytes);
    assert!(key.fingerprint().starts_with("SHA256:"));
    assert!(key.verify(b"data", bytes).is_err());
}

/// `allowed_signers`. Every line is a signer, an error with its place, or nothing.
pub fn allowed_signers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = AllowedSigners::parse(text, &zone());
    let lines: Vec<&str> = text.split('\n').collect();
    for error in file.errors() {
        let line = lines[error.line - 1];
        assert!((1..=line.chars().count() + 1).contains(&error.column), "{error}");
        assert!(!error.what.is_empty() && !error.to_string().chars().any(char::is_control), "{error:?}");
    }
    let said = lines.iter().filter(|line| {
        let line = line.trim_matches([' ', '\t', '\r']);
        !line.is_empty() && !line.starts_with('#')
    });
    assert_eq!(file.len() + file.errors().len(), said.count(), "a line was lost");
    for credential in AUTHENTICATED.iter().map(AuthenticatedRequest::credential) {
        let proof = Proof { user_verified: false };
        for signer in file.lines_of(credential) {
            let _ = signer.allows(credential, proof, Some("alice"), REQUEST_NAMESPACE, now());
            let _ = signer.allows(credential, proof, None, "git", now());
        }
    }
}

/// `policy.toml`. An error names its line.
pub fn grants(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Grants::parse(text) {
        Ok(grants) => {
            for request in AUTHENTICATED.iter() {
                let _ = authorize(request.clone(), &grants, 22);
            }
        }
        Err(error) => assert!(error.to_string().contains("line "), "{error}"),
    }
}

/// A reply of fail2ban, as a pickle.
pub fn fail2ban(bytes: &[u8]) {
    let decoded = pickle::decode(bytes);
    let answer = protocol::answer(bytes);
    if decoded.is_err() {
        let error = answer.as_ref().unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
    for value in [decoded.ok(), answer.ok()].into_iter().flatten() {
        let _ = (protocol::counts(&value), protocol::flag(&value), protocol::count(&value), protocol::version(&value));
        if let Ok(jails) = protocol::jails(&value) {
            assert!(jails.is_sorted());
        }
        if let Ok(entries) = protocol::entries(&value) {
            assert!(entries.is_sorted());
        }
        if let (Ok(tickets), pickle::Value::List(list)) = (protocol::tickets(&value), &value) {
            assert_eq!(tickets.printed.len() + tickets.others, list.len(), "a ticket was lost");
        }
    }
}

/// hosts.allow and hosts.deny, the two with a 0xff byte between them, or the same text as both. Every byte is kept, a plan makes
/// what it says true, and its inverse gives the first bytes back.
pub fn hosts_access(bytes: &[u8]) {
    assert_eq!(Document::parse(bytes).to_bytes(), bytes);
    let (allow, deny) = match bytes.iter().position(|byte| *byte == 0xff) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, bytes),
    };
    let file =
        |path: &str, bytes: &[u8]| File { path: path.to_owned(), content: Content::Bytes(bytes.to_vec()), read_only: None };
    let state = hosts_access::State {
        allow: file("/etc/hosts.allow", allow),
        deny: file("/etc/hosts.deny", deny),
        libwrap: Libwrap::Linked("in this test".to_owned()),
        facts: Facts::default(),
    };
    let host = HostState { hosts_access: Part::Present(state), ..host() };
    let _ = (hosts_access::list(&host), hosts_access::bans(&host));
    // One source an input keeps them quick; changes of an input come to all of them.
    let connection = connections().nth(bytes.len() % SOURCES.len()).unwrap();
    let mut needs = Needs::new();
    let _ = hosts_access::evaluate(&host, &connection, &mut needs);
    let _ = hosts_access::blocks(&host, &connection, &mut needs);
    for plan in [hosts_access::plan_allow, hosts_access::plan_deny, hosts_access::plan_remove] {
        if let Ok(steps) = plan(&host, connection.source, None) {
            there_and_back(&host, &steps);
        }
    }
}

/// Law 1: what a step's inverse leaves is the state before the step.
fn there_and_back(first: &HostState, steps: &[Step]) {
    let mut state = first.clone();
    for step in steps {
        assert_eq!(&step.inverse().inverse(), step);
        step.predict(&mut state).unwrap();
        step.holds(&state).unwrap();
        let _ = (step.summary(), step.diff(), step.undo(), step.touches(), step.needs());
    }
    for step in steps.iter().rev() {
        step.inverse().predict(&mut state).unwrap();
    }
    assert_eq!(&state, first);
}

/// A table of iptables-legacy: one byte that is odd for IPv6, what `IPT_SO_GET_INFO` gives, then the entries.
pub fn xtables_table(bytes: &[u8]) {
    let Some((v6, table)) = table(bytes) else { return };
    let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
    assert!(rules < bytes.len() / 100, "more rules than entries");
    let sets = SetNames::from([(1, "banned".to_owned())]);
    for chain in &table.chains {
        for rule in &chain.rules {
            assert!(rule.same(rule) && !rule.draw(v6, &sets).is_empty());
        }
    }
    let mut state = xtables::State { set_names: sets, ..xtables::State::default() };
    if v6 {
        state.v6.push(table);
    } else {
        state.v4.push(table);
    }
    judge(&HostState { xtables: Part::Present(state), ..host() });
}

fn table(bytes: &[u8]) -> Option<(bool, Table)> {
    let (family, rest) = bytes.split_first()?;
    let (info, entries) = rest.split_at_checked(blob::INFO_SIZE)?;
    let info = blob::Info::parse("filter", info).ok()?;
    let v6 = family & 1 == 1;
    Some((v6, blob::parse(v6, "filter", &info, entries).ok()?))
}

/// Everything that is asked of the packet filters.
fn judge(host: &HostState) {
    for connection in connections() {
        let mut needs = Needs::new();
        let _ = netfilter::evaluate(host, &connection, &mut needs);
        let (_, walked) = netfilter::judge(host, &connection, &mut needs);
        for block in netfilter::blocks(host, &connection, walked, &mut needs) {
            assert!(!block.finding.evidence.is_empty());
        }
    }
    let mut needs = Needs::new();
    let _ = netfilter::firewall_list(host, 22, &mut needs);
    let _ = netfilter::bans(host, None, 22, &mut needs);
}

/// The struct of one match and of one target: a byte that is odd for IPv6, the revision, the name, a NUL, the struct.
pub fn xtables_element(bytes: &[u8]) {
    let [family, revision, rest @ ..] = bytes else { return };
    let Some(end) = rest.iter().position(|byte| *byte == 0) else { return };
    let (Ok(name), info) = (std::str::from_utf8(&rest[..end]), &rest[end + 1..]) else { return };
    let (v6, revision, sets) = (family & 1 == 1, u32::from(*revision), SetNames::from([(1, "banned".to_owned())]));
    let one = decode::decode(v6, name, revision, info);
    let text = render::match_text(&one, v6, &sets);
    assert!(text.starts_with("-m "), "{text}");
    let source = if v6 { "2001:db8::7" } else { "203.0.113.7" };
    let packet = Packet::syn(&Connection { source: source.parse().expect("an address"), port: 22, user: None });
    let view = View { tracking: Tracking::NEW, connmark: None, ..packet.view() };
    let known = ipset::State { names: sets.clone(), ..ipset::State::new() };
    let _ = holds::holds(&one, &view, &known);
    let one = targets::decode(v6, name, revision, info);
    let text = render_target::target_text(&one, v6, &sets);
    assert!(text.starts_with("-j "), "{text}");
    let _ = targets::effect(v6, &one);
}

/// The text of iptables-legacy-save, paired with a table that was read.
pub fn xtables_save(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (v6, mut table) = table(include_bytes!("../fuzz/corpus/xtables_table/v4")).expect("a seed is read");
    let before = table.clone();
    match save::pair(&mut table, text) {
        Ok(()) => {
            let rules = table.chains.iter().flat_map(|chain| &chain.rules);
            assert!(rules.clone().all(|rule| rule.save.is_some()), "a rule has no text");
            assert!(rules.zip(before.chains.iter().flat_map(|chain| &chain.rules)).all(|(one, two)| one.same(two)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
        let _ = rule.draw(v6, &SetNames::new());
    }
}

/// The expressions of one rule as the journal keeps them, JSON, run and shown in a chain at the input hook.
pub fn nf_tables(bytes: &[u8]) {
    let Ok(expressions) = serde_json::from_slice::<Vec<Expression>>(bytes) else { return };
    let json = serde_json::to_vec(&expressions).unwrap();
    assert_eq!(serde_json::from_slice::<Vec<Expression>>(&json).unwrap(), expressions);
    let rule = Rule { handle: 2, expressions, comment: None, raw_expressions: Vec::new(), userdata: Vec::new(), compat: None };
    let base = BaseChain { kind: "filter".to_owned(), hook: 1, priority: 0, policy_accept: true, devices: Vec::new() };
    for family in [Family::Inet, Family::Ip, Family::Ip6] {
        let chain = |name: &str, base: Option<BaseChain>| {
            let rules = vec![Arc::new(rule.clone())];
            Arc::new(Chain { family, table: "filter".to_owned(), name: name.to_owned(), handle: 1, base, rules })
        };
        let state = nf_tables::State {
            generation: 1,
            tables: vec![nf_tables::Table { family, name: "filter".to_owned(), dormant: false }],
            chains: vec![chain("input", Some(base.clone())), chain("jumped", None)],
            ..nf_tables::State::default()
        };
        judge(&HostState { nf_tables: Part::Present(state), ..host() });
    }
}

/// agent.toml. An error names its place, or the value that makes no sense.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("/etc/sshfix/agent.toml");
    match Config::parse(text, path) {
        Ok(config) => {
            assert_eq!(config.kept_paths().len(), config.keep.len());
        }
        Err(ConfigError::Syntax { line, column, message, .. }) => {
            let lines: Vec<&str> = text.split('\n').collect();
            assert!((1..=lines.len()).contains(&line), "line {line} of {}: {message}", lines.len());
            assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "{line}:{column}: {message}");
        }
        Err(error) => assert!(error.to_string().starts_with("/etc/sshfix/agent.toml: "), "{error}"),
    }
}

/// An address or a range. What is one is the same again when it is printed; the rest is an error that says what to write.
pub fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<Source>() {
        Ok(source) => {
            assert_eq!(source.to_string().parse(), Ok(source));
            assert_eq!(source.short().parse(), Ok(source));
            assert_eq!(protocol::lenient(text), Some(source));
            assert!(source.contains(source) && source.overlaps(source));
            // The end of an IPv6 range may look mapped (::/80); a single address never does.
            assert!(source.single().is_none_or(|one| Source::from(one) == source && canonical(one) == one));
        }
        Err(AddressError::HostBits { host, network, .. }) => {
            assert!(network.contains(&host));
            assert_eq!(protocol::lenient(text), Some(Source::new(network)));
        }
        Err(error @ AddressError::NotAnAddress(_)) => assert!(error.to_string().contains("CIDR")),
    }
}
