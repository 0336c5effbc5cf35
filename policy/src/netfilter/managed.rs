//! What refuses, in the words of the program that made it, and that program's own command to take it back: the ufw rule behind a
//! rule of the kernel, the firewalld zone by its chains. Only words: runs nothing, changes nothing.

use super::ipset;
use super::outcome::{Culprit, Pass, Refusal};
use crate::address::Source;
use crate::host::{HostState, Need, Needs, Part};
use crate::subsystem::nf_tables;
use crate::subsystem::nf_tables::condition::{Field, Item, Test, items};
use crate::subsystem::nf_tables::evaluate::Frame;
use crate::subsystem::nf_tables::expression::{CmpOp, Expression, Verdict};
use crate::subsystem::nf_tables::lift::{Side, found_sources, rule_source};
use crate::subsystem::ufw;
use crate::verdict::Connection;
use crate::verdict::owner::{FirewalldPart, Owner, UfwPart};

/// A rule on the way to the refusal, of either stack.
struct At<'h> {
    v6: bool,
    table: &'h str,
    chain: &'h str,
    /// `None` is the policy.
    index: Option<usize>,
    /// Rules in the chain.
    count: usize,
    /// The one source it names.
    source: Option<Source>,
    /// Whether it is the rule that decides.
    decides: bool,
    frame: Option<(&'h nf_tables::State, &'h nf_tables::Chain, &'h Frame)>,
}

/// The rules from the one that decides up to the base chain; of iptables-legacy only the first is known.
fn places<'h>(host: &'h HostState, connection: &Connection, refusal: &'h Refusal) -> Vec<At<'h>> {
    let v6 = !connection.source.is_ipv4();
    let side = if refusal.pass == Pass::Answer { Side::Destination } else { Side::Source };
    match &refusal.culprit {
        Culprit::NfTables(event) => {
            let Some(state) = host.nf_tables.present() else { return Vec::new() };
            let at = |(depth, frame): (usize, &'h Frame)| {
                let chain = state.chains.get(frame.chain)?;
                let rule = frame.rule.and_then(|index| chain.rules.get(index));
                Some(At {
                    v6,
                    table: &chain.table,
                    chain: &chain.name,
                    index: frame.rule,
                    count: chain.rules.len(),
                    source: rule.and_then(|rule| rule_source(state, chain, rule, v6, side)),
                    decides: depth == 0,
                    frame: Some((state, chain, frame)),
                })
            };
            event.frames.iter().rev().enumerate().filter_map(at).collect()
        }
        Culprit::Legacy(outcome) => {
            let place = &outcome.place;
            let table = host.xtables.present().and_then(|state| state.table(place.v6, &place.table));
            let Some(chain) = table.and_then(|table| table.chain(&place.chain)) else { return Vec::new() };
            let index = place.position.checked_sub(1).filter(|index| *index < chain.rules.len());
            vec![At {
                v6,
                table: &place.table,
                chain: &chain.name,
                index,
                count: chain.rules.len(),
                source: index.and_then(|index| chain.rules.get(index)).and_then(|rule| rule.source(place.v6)),
                decides: true,
                frame: None,
            }]
        }
        Culprit::Unread(_) | Culprit::Full(_) => Vec::new(),
    }
}

/// Who made it, as precisely as can be told: `ufw rule: deny from 203.0.113.7`, `firewalld zone drop`.
pub fn maker(host: &HostState, connection: &Connection, refusal: &Refusal, owner: Owner, needs: &mut Needs) -> Owner {
    let places = places(host, connection, refusal);
    match owner {
        Owner::Ufw(_) => Owner::Ufw(match places.iter().find_map(|at| ufw_rule(host, at, needs)) {
            Some(rule) => Some(UfwPart::Rule(rule.to_owned())),
            None => places.first().is_some_and(ufw_default).then_some(UfwPart::DefaultPolicy),
        }),
        Owner::Firewalld(_) => Owner::Firewalld(zone(&places)),
        Owner::Nobody
        | Owner::Fail2ban(_)
        | Owner::Docker
        | Owner::Crowdsec
        | Owner::Sshguard
        | Owner::Libvirt
        | Owner::DenyHosts
        | Owner::Systemd
        | Owner::Sshd
        | Owner::Named(_) => owner,
    }
}

/// The maker's command that takes back this rule, or these elements of its sets: `depth` counts from the rule that decides.
pub fn take_back(
    host: &HostState,
    connection: &Connection,
    refusal: &Refusal,
    owner: &Owner,
    depth: usize,
    needs: &mut Needs,
) -> Option<String> {
    let places = places(host, connection, refusal);
    let at = places.get(depth)?;
    let command = match owner {
        Owner::Ufw(_) => ufw_rule(host, at, needs).map(|rule| format!("ufw delete {rule}")),
        Owner::Firewalld(_) => firewalld_entry(at).or_else(|| firewalld_rule(at, zone(&places).as_ref())),
        Owner::Crowdsec => crowdsec_decision(host, connection, refusal, at),
        Owner::Nobody
        | Owner::Fail2ban(_)
        | Owner::Docker
        | Owner::Sshguard
        | Owner::Libvirt
        | Owner::DenyHosts
        | Owner::Systemd
        | Owner::Sshd
        | Owner::Named(_) => None,
    };
    command.or_else(|| let_in(host, connection, refusal, owner))
}

/// The maker's command that lets exactly this source in.
pub fn let_in(host: &HostState, connection: &Connection, refusal: &Refusal, owner: &Owner) -> Option<String> {
    let (source, port) = (connection.source, connection.port);
    if matches!(owner, Owner::Firewalld(_))
        && let Some(zone) = zone(&places(host, connection, refusal))
    {
        return Some(zone.let_in(source, port));
    }
    owner.by_hand(source, port)
}

/// The ufw rule that a rule in ufw's chain of incoming user rules was made for. Its files are asked for.
fn ufw_rule<'h>(host: &'h HostState, at: &At<'_>, needs: &mut Needs) -> Option<&'h str> {
    let index = at.index.filter(|_| at.chain == ufw::chain(at.v6))?;
    let Some(files) = &host.ufw else {
        needs.insert(Need::Ufw);
        return None;
    };
    let Part::Present(files) = files else { return None };
    let source = at.source.map(|source| source.to_string());
    files.behind(at.v6, at.count, index, source.as_deref(), at.decides)
}

/// The policy of the chain, or what stands for it: `ufw default reject`, and what ufw drops without logging it.
fn ufw_default(at: &At<'_>) -> bool {
    let chains = ["reject-input", "skip-to-policy-input"].map(|part| format!("{}-{part}", if at.v6 { "ufw6" } else { "ufw" }));
    at.index.is_none() || chains.iter().any(|chain| chain == at.chain)
}

impl FirewalldPart {
    fn option(&self) -> Option<String> {
        match self {
            FirewalldPart::Panic => None,
            FirewalldPart::Zone(name) => Some(format!("--zone={name}")),
            FirewalldPart::Policy(name) => Some(format!("--policy={name}")),
        }
    }

    /// A rich rule before all others of the zone: firewalld.richlanguage(5), priority.
    fn let_in(&self, source: Source, port: u16) -> String {
        let Some(option) = self.option() else { return "firewall-cmd --panic-off".to_owned() };
        let (who, family) = (source.short(), if source.is_ipv4() { "ipv4" } else { "ipv6" });
        let rule = format!(
            "rule family=\"{family}\" priority=\"-32768\" source address=\"{who}\" port port=\"{port}\" protocol=\"tcp\" accept"
        );
        now_and_permanent(&format!("{option} --add-rich-rule='{rule}'"))
    }
}

fn now_and_permanent(arguments: &str) -> String {
    format!("firewall-cmd {arguments} && firewall-cmd --permanent {arguments}")
}

/// A chain's zone or policy: `filter_IN_public_deny`, with the iptables backend `IN_public_deny` (firewalld's nftables.py and
/// ipXtables.py, `build_zone_*`). Names of zones have no underscore at the end that could be one of these parts.
fn of_chain(chain: &str) -> Option<FirewalldPart> {
    let of = ["filter_IN_", "IN_", "filter_OUT_", "OUT_"].into_iter().find_map(|prefix| chain.strip_prefix(prefix))?;
    let of = ["_pre", "_log", "_deny", "_allow", "_post"].into_iter().find_map(|part| of.strip_suffix(part)).unwrap_or(of);
    let plain = !of.is_empty() && of.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let zone = |of: &str| {
        of.strip_prefix("policy_")
            .map_or_else(|| FirewalldPart::Zone(of.to_owned()), |name| FirewalldPart::Policy(name.to_owned()))
    };
    plain.then(|| zone(of))
}

/// The zone that refuses. Where a dispatching chain does it in the zone's stead, the zone is the one it jumped to just before.
fn zone(places: &[At<'_>]) -> Option<FirewalldPart> {
    let first = places.first()?;
    if first.table == "firewalld_policy_drop" {
        return Some(FirewalldPart::Panic);
    }
    places.iter().find_map(|at| of_chain(at.chain).or_else(|| dispatched(at)))
}

fn dispatched(at: &At<'_>) -> Option<FirewalldPart> {
    let ((_, chain, _), index) = (at.frame?, at.index?);
    let before = chain.rules.get(..=index)?.iter().rev();
    let jumps = before.flat_map(|rule| &rule.expressions).filter_map(|expression| match expression {
        Expression::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => of_chain(to),
        _ => None,
    });
    jumps.into_iter().find(|zone| matches!(zone, FirewalldPart::Zone(_)))
}

/// An element of one of firewalld's ipsets, which are sets of its table.
fn firewalld_entry(at: &At<'_>) -> Option<String> {
    let (state, chain, frame) = at.frame?;
    let rule = chain.rules.get(at.index?)?;
    let found = frame.found.iter().find(|found| !found.set.set.starts_with("__"))?;
    let source = one(&found_sources(state, chain, rule, &found.set, &found.element, at.v6, Side::Source))?;
    Some(now_and_permanent(&format!("--ipset={} --remove-entry={}", found.set.set, source.short())))
}

/// `NFT_REJECT_ICMPX_PORT_UNREACH`.
const ICMPX_PORT_UNREACHABLE: u8 = 1;
/// `ICMP_PORT_UNREACH`.
const ICMP_PORT_UNREACHABLE: u8 = 3;
/// `ICMPV6_PORT_UNREACH`.
const ICMPV6_PORT_UNREACHABLE: u8 = 4;
/// `NFT_META_NFPROTO`.
const NFPROTO: u32 = 15;

/// What a rule does that asks for one thing only, as an address, and for the family that goes with it.
fn does_by_source_alone<'r>(
    state: &nf_tables::State,
    chain: &nf_tables::Chain,
    rule: &'r nf_tables::Rule,
) -> Option<&'r Expression> {
    let parts = items(state, chain, rule);
    let mut parts = parts.into_iter().filter(|part| !matches!(part, Item::Condition(Field::Meta(NFPROTO), _)));
    match (parts.next(), parts.next(), parts.next()) {
        (
            Some(Item::Condition(Field::Payload { .. }, Test::Compare(CmpOp::Eq, _) | Test::Masked { op: CmpOp::Eq, .. })),
            Some(Item::Statement(does)),
            None,
        ) if rule.comment.is_none() => Some(does),
        _ => None,
    }
}

/// A rich rule without priority that names just the source, or a source bound to a zone.
fn firewalld_rule(at: &At<'_>, zone: Option<&FirewalldPart>) -> Option<String> {
    let (option, source) = (zone?.option()?, at.source?);
    let (state, chain, _) = at.frame?;
    let rule = chain.rules.get(at.index?)?;
    if matches!(chain.name.as_str(), "filter_INPUT_ZONES" | "filter_INPUT_POLICIES") {
        return Some(now_and_permanent(&format!("{option} --remove-source={}", source.short())));
    }
    let verdict = match does_by_source_alone(state, chain, rule)? {
        Expression::Verdict(Verdict::Drop) => "drop",
        // `reject`: what each family sends where no other answer is named.
        Expression::Reject { kind: 2, code: ICMPX_PORT_UNREACHABLE } => "reject",
        Expression::Reject { kind: 0, code: ICMP_PORT_UNREACHABLE } if !at.v6 => "reject",
        Expression::Reject { kind: 0, code: ICMPV6_PORT_UNREACHABLE } if at.v6 => "reject",
        _ => return None,
    };
    let family = if at.v6 { "ipv6" } else { "ipv4" };
    let denies = chain.name.ends_with("_deny");
    let rule = format!("rule family=\"{family}\" source address=\"{}\" {verdict}", source.short());
    denies.then(|| now_and_permanent(&format!("{option} --remove-rich-rule='{rule}'")))
}

/// The decision behind an element of the bouncer's sets: of one address, or of a range (`cscli decisions delete`).
fn crowdsec_decision(host: &HostState, connection: &Connection, refusal: &Refusal, at: &At<'_>) -> Option<String> {
    let decision = |source: Source| {
        let scope = if source.single().is_some() { "--ip" } else { "--range" };
        format!("cscli decisions delete {scope} {}", source.short())
    };
    if let Some((state, chain, frame)) = at.frame
        && let Some(rule) = at.index.and_then(|index| chain.rules.get(index))
        && let Some(found) = frame.found.first()
    {
        return one(&found_sources(state, chain, rule, &found.set, &found.element, at.v6, Side::Source)).map(decision);
    }
    let held = ipset::decides(host, connection, refusal);
    held.first().and_then(|held| held.key.address).map(|address| decision(address.into()))
}

fn one(sources: &[Source]) -> Option<Source> {
    if let [source] = sources { Some(*source) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_both_backends_tell_their_zone() {
        let zone = |name: &str| Some(FirewalldPart::Zone(name.to_owned()));
        for chain in ["filter_IN_public", "filter_IN_public_deny", "filter_IN_public_pre", "IN_public_allow"] {
            assert_eq!(of_chain(chain), zone("public"), "{chain}");
        }
        assert_eq!(of_chain("filter_IN_my_zone_post"), zone("my_zone"));
        assert_eq!(of_chain("filter_IN_policy_allow-host-ipv6_deny"), Some(FirewalldPart::Policy("allow-host-ipv6".to_owned())));
        assert_eq!(of_chain("filter_INPUT_ZONES"), None);
        assert_eq!(of_chain("filter_IN_x;reboot"), None);
    }

    #[test]
    fn a_rich_rule_before_all_others_lets_one_source_in() {
        let source: Source = "203.0.113.7".parse().unwrap_or_else(|e| panic!("{e}"));
        let rule =
            "rule family=\"ipv4\" priority=\"-32768\" source address=\"203.0.113.7\" port port=\"22\" protocol=\"tcp\" accept";
        let text = format!(
            "firewall-cmd --zone=drop --add-rich-rule='{rule}' && firewall-cmd --permanent --zone=drop --add-rich-rule='{rule}'"
        );
        assert_eq!(FirewalldPart::Zone("drop".to_owned()).let_in(source, 22), text);
        assert_eq!(FirewalldPart::Panic.let_in(source, 22), "firewall-cmd --panic-off");
    }
}
