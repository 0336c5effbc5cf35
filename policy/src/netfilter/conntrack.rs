//! Whether the packet filters make the kernel track connections at all: it does only while a rule asks for it (`nf_ct_netns_get`).
//! Looks at every table, used or not, as the kernel does. Judges no packet.

use crate::host::HostState;
use crate::subsystem::nf_tables::Family;
use crate::subsystem::nf_tables::expression::{Expression, NatKind};
use crate::subsystem::xtables::Action;
use crate::subsystem::xtables::extension::matches::Match;
use crate::subsystem::xtables::extension::targets::Target;

/// xtables matches and targets that need connection tracking (`nf_ct_netns_get` in `net/netfilter/xt_*.c`).
const XT: [&str; 20] = [
    "conntrack",
    "state",
    "connmark",
    "connlimit",
    "connbytes",
    "connlabel",
    "helper",
    "cluster",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "NOTRACK",
    "SNAT",
    "DNAT",
    "MASQUERADE",
    "REDIRECT",
    "NETMAP",
    "SYNPROXY",
    "ct",
    "nat",
];

/// Whether connections of this family are tracked.
pub fn in_use(host: &HostState, v6: bool) -> bool {
    let nft = host.nf_tables.present().is_some_and(|state| {
        let family = |family: Family| match family {
            Family::Inet | Family::Bridge => true,
            Family::Ip => !v6,
            Family::Ip6 => v6,
            Family::Arp | Family::Netdev => false,
        };
        let chains = state.chains.iter().filter(|chain| family(chain.family));
        chains.flat_map(|chain| &chain.rules).flat_map(|rule| &rule.expressions).any(asks)
    });
    nft || host.xtables.present().is_some_and(|state| {
        let rules = state.tables(v6).iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
        rules.into_iter().any(|rule| {
            let target = matches!(&rule.action, Action::Target(target) if target_asks(target));
            target || rule.matches.iter().any(match_asks)
        })
    })
}

fn asks(expression: &Expression) -> bool {
    match expression {
        // Of what kind the objects of a map are is not looked up.
        Expression::Ct { .. }
        | Expression::CtSet { .. }
        | Expression::Connlimit { .. }
        | Expression::Synproxy
        | Expression::ObjectMap { .. } => true,
        Expression::Nat { kind, .. } => *kind != NatKind::Tproxy,
        // NFT_OBJECT_CT_HELPER 3, CONNLIMIT 5, CT_TIMEOUT 7, CT_EXPECT 9, SYNPROXY 10
        Expression::Objref { kind, .. } => matches!(kind, 3 | 5 | 7 | 9 | 10),
        Expression::Match { name, .. } | Expression::Target { name, .. } => XT.contains(&name.as_str()),
        Expression::Unknown { name, .. } => name == "flow_offload",
        _ => false,
    }
}

fn match_asks(one: &Match) -> bool {
    match one {
        Match::Conntrack(_) | Match::State(_) | Match::Connmark(_) | Match::Connlimit { .. } | Match::Helper { .. } => true,
        Match::Undecoded { name, .. } => XT.contains(&name.as_str()),
        _ => false,
    }
}

fn target_asks(target: &Target) -> bool {
    match target {
        Target::Connmark { .. } | Target::Ct { .. } | Target::Notrack | Target::Nat { .. } => true,
        Target::Passing { name, .. } | Target::Undecoded { name, .. } => XT.contains(&name.as_str()),
        _ => false,
    }
}
