//! Rules that write into packets: what becomes of the connection, where neither translation nor connection tracking knows of it.
#![allow(clippy::unwrap_used)]

use super::evaluate;
use super::tests::{asked, from};
use crate::subsystem::nf_tables::build::*;
use crate::subsystem::nf_tables::expression::{Expression, PayloadBase};
use crate::subsystem::nf_tables::{Family, State};
use crate::verdict::{StageReport, Verdict};

const ME: &str = "203.0.113.7";

fn report(state: &State) -> StageReport {
    asked(state, |host, needs| evaluate(host, &from(ME), needs)).0
}

/// `payload ... set`
fn set(base: PayloadBase, offset: u32, data: &[u8]) -> Statement {
    let len = u32::try_from(data.len()).unwrap();
    vec![Expression::Immediate { dreg: 1, data: data.to_vec() }, Expression::PayloadSet { sreg: 1, base, offset, len }]
}

fn port(offset: u32, port: u16) -> Statement {
    set(PayloadBase::Transport, offset, &port.to_be_bytes())
}

fn hop_limit(hops: u8) -> Statement {
    // With the protocol, 6, beside it, as nft writes it.
    set(PayloadBase::Network, 8, &[hops, 6])
}

/// Statements on the way in, ahead of every filter, and on the way out, behind them.
fn both_ways(priority: i32, inward: Statement, outward: Statement) -> State {
    Ruleset::new()
        .base(Family::Ip, "t", "in", 0, priority, true)
        .rule(&[inward])
        .base(Family::Ip, "t", "out", 4, 300, true)
        .rule(&[outward])
        .build()
}

#[test]
fn a_port_rewritten_there_and_back_is_an_open_way_and_without_the_way_back_none() {
    for priority in [-400, -150] {
        let there_and_back = report(&both_ways(priority, port(2, 2222), port(0, 22)));
        assert_eq!(
            (there_and_back.verdict, there_and_back.detail.as_str()),
            (Verdict::Accept, "accepted, and delivered to port 2222")
        );
        for other in [Vec::new(), port(0, 2222), port(0, 23)] {
            let report = report(&both_ways(priority, port(2, 2222), other));
            assert_eq!(report.verdict, Verdict::Refuse, "{report:?}");
            assert!(report.detail.contains("a rule rewrites its addresses or ports"), "{}", report.detail);
        }
    }
    assert_eq!(report(&both_ways(-400, port(2, 22), port(0, 22))).verdict, Verdict::Accept, "nothing is rewritten");
}

#[test]
fn an_answer_that_goes_only_a_few_hops_is_no_open_way_and_a_long_way_is() {
    let near = report(&both_ways(-400, hop_limit(1), hop_limit(1)));
    assert_eq!(near.verdict, Verdict::Unknown);
    assert!(near.detail.contains("only a few hops"), "{}", near.detail);
    assert_eq!(report(&both_ways(-400, hop_limit(1), hop_limit(64))).verdict, Verdict::Accept);
}

#[test]
fn what_is_sent_out_by_another_device_is_lost_on_the_way_in_and_unknown_on_the_way_out() {
    let forward = || vec![Expression::Fwd];
    assert_eq!(report(&both_ways(-400, forward(), Vec::new())).verdict, Verdict::Refuse);
    let out = report(&both_ways(-400, Vec::new(), forward()));
    assert_eq!(out.verdict, Verdict::Unknown);
    assert!(out.detail.contains("another device") || out.detail.contains("other device"), "{}", out.detail);
}

#[test]
fn a_packet_marked_as_a_broadcast_is_not_taken_by_tcp() {
    // NFT_META_PKTTYPE
    let kind = |kind: u8| vec![Expression::Immediate { dreg: 1, data: vec![kind] }, Expression::MetaSet { key: 19, sreg: 1 }];
    let marked = report(&both_ways(-150, kind(1), Vec::new()));
    assert_eq!(marked.verdict, Verdict::Refuse);
    assert!(marked.detail.contains("meta pkttype"), "{}", marked.detail);
    assert_eq!(report(&both_ways(-150, [kind(1), kind(0)].concat(), Vec::new())).verdict, Verdict::Accept);
}

#[test]
fn a_syn_with_other_flags_is_refused_and_an_answer_with_others_unknown() {
    // Data offset 5.
    let flags = |flags: u8| set(PayloadBase::Transport, 12, &[0x50, flags]);
    assert_eq!(report(&both_ways(-150, flags(0x10), Vec::new())).verdict, Verdict::Refuse);
    assert_eq!(report(&both_ways(-150, Vec::new(), flags(0x10))).verdict, Verdict::Unknown);
}
