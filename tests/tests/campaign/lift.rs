//! Lifts what refuses a client, by the real steps: it gets in, and nobody does who did not before.

use std::time::Duration;

use sshfix_policy::host::Host as _;
use sshfix_policy::host::block::Lift;
use sshfix_policy::netfilter::{blocks, judge};
use sshfix_policy::verdict::Verdict;
use sshfix_tests::lab::{WIRE_CLIENTS, Wire};
use sshfix_tests::rulesets::Ruleset;

use super::report::Report;
use super::{Said, asked, connection, fates, live, observe, said};

/// Lifts every block of the client with this number, and looks at everybody again.
pub fn lift(wire: &Wire, ruleset: &Ruleset, name: &str, which: usize, before: &[Said], report: &mut Report) {
    let client = WIRE_CLIENTS[which];
    let applied: Result<(Vec<String>, Said), Option<String>> = wire.server.enter(|| {
        let (mut live, mut host) = (live(), observe());
        let blocks = asked(&mut live, &mut host, |host, needs| {
            let (_, walked) = judge(host, &connection(client), needs);
            blocks(host, &connection(client), walked, needs)
        });
        let mut summaries = Vec::new();
        for block in blocks {
            let Lift::Steps(steps) = block.lift else { return Err(None) };
            for step in steps {
                summaries.push(step.summary());
                live.apply(&step).map_err(|error| Some(format!("{}: {error}", step.summary())))?;
            }
        }
        let (mut live, mut host) = (super::live(), observe());
        let now = said(&mut live, &mut host, client);
        Ok((summaries, now))
    });
    let (summaries, now) = match applied {
        Ok(applied) => applied,
        Err(None) => {
            report.by_hand += 1;
            return;
        }
        Err(Some(error)) => {
            report.disagree(&format!("{name}, {}: a lift failed: {error}", client.0), name, ruleset);
            return;
        }
    };
    let mut after = fates(wire, Duration::ZERO);
    let shut = |after: &[Vec<sshfix_tests::lab::Fate>]| !after[which].iter().all(|fate| fate.open());
    if now.verdict == Verdict::Accept && shut(&after) {
        after = fates(wire, Duration::from_millis(1200));
    }
    if now.verdict == Verdict::Refuse || now.verdict == Verdict::Accept && shut(&after) {
        let what = format!("{name}: {} is not let in by {summaries:?}: {now:?}, the kernel says {:?}", client.0, after[which]);
        report.disagree(&what, name, ruleset);
        return;
    }
    for (other, (said, fates)) in before.iter().zip(&after).enumerate() {
        if other != which && said.verdict == Verdict::Refuse && fates.iter().any(|fate| fate.open()) {
            let what = format!("{name}: {summaries:?} for {} let {} in too", client.0, WIRE_CLIENTS[other].0);
            report.disagree(&what, name, ruleset);
            return;
        }
    }
    report.lifted += 1;
}
