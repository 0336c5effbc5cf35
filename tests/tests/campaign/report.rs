//! What a campaign found, counted and printed. Tells an unknown that had to be from one that had not.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use sshfix_policy::verdict::Verdict;
use sshfix_tests::lab::{Client, Fate};
use sshfix_tests::rulesets::{Ruleset, Stack};

use super::Said;

/// A verdict beside the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judged {
    /// Said to get through, and it did.
    Accept,
    /// Said not to, and it did not.
    Refuse,
    /// Unknown, as it hangs on history, chance, the clock, a program, or to which address it comes.
    Inherent,
    /// Unknown, though it always goes the same way.
    Needless,
    /// The kernel did otherwise.
    Wrong,
}

/// What only counting, chance, the clock, a program, the client's own system or the owner of the listener (not read here) can tell.
const INHERENT: &[&str] = &[
    "limit rate",
    "quota",
    "ct count",
    "the meter",
    "`numgen`",
    "meta random",
    "meta cpu",
    "`hash`",
    "limit slow",
    "meta hour",
    "meta day",
    "meta time",
    "-m limit",
    "-m hashlimit",
    "-m recent",
    "-m connlimit",
    "-m statistic",
    "-m quota",
    "-m string",
    "-m time",
    "a program",
    "in set seen",
    "room in set",
    "-m u32",
    "-m bpf",
    "-m mac",
    "-m tcpmss",
    "--uid-owner",
    "same priority",
    // The client's own system, and the way from there.
    "a field of the IP",
    "a field of the TCP",
    "a TCP option",
    "meta length",
    "meta ipsec",
    "-m length",
    "-m dscp",
    "-m tos",
    "-m ttl",
    "-m hl",
    "-m tcp --tcp-option",
    "-m tcp ! --tcp-option",
    "-m ecn",
    "-m policy",
    "only a few hops",
    "a rule changes its TCP flags",
    // How this host looks connections up (`tcp_early_demux`).
    "not known to this host",
    "ct expectation",
    // Whether connection tracking takes a connection up in the middle (`nf_conntrack_tcp_loose`).
    "a zone of one direction",
    "than the SYN, which was exempt",
    // Chance.
    "to which port it is translated",
    // The owner and the options of the listener.
    "--gid-owner",
    "-m cgroup",
    "-m socket",
    "`socket`",
    "meta skuid",
    "the program that tproxy",
    "TPROXY",
    "synproxy",
    // The link layer, routing and accounting.
    "the link layer header",
    "`rt`",
    "the other device",
    "-m connbytes",
    "-m cpu",
    "a ct key",
];
/// What a rule that counts can have changed before.
const CHANGED: &[&str] = &[
    "state",
    "earlier nat chain",
    "where it comes in",
    "mark",
    "DNAT",
    "dnat",
    "new destination",
    "match-set",
    "port",
    "ct status",
    "rewrites",
];
/// Rules that count, or hang on chance or the clock.
const COUNTING: &[&str] = &[
    "--uid-owner",
    "NFQUEUE",
    "TPROXY",
    "SYNPROXY",
    "limit",
    "quota",
    "numgen",
    "random",
    "ct count",
    "recent",
    "connlimit",
    "statistic",
    "string",
    "-m time",
    "@seen",
    "--add-set",
    "cpu",
    "-m mac",
    "tcpmss",
];

fn counts(ruleset: &Ruleset) -> bool {
    let rules = ruleset.parts.iter().flat_map(|(_, text)| text.lines());
    rules.filter(|line| !line.contains('{')).any(|line| COUNTING.iter().any(|word| line.contains(word)))
}

/// Compares a verdict with what became of the client's connections, one to each address.
pub fn judge(said: &Said, fates: &[Fate], ruleset: &Ruleset) -> Judged {
    let (all, none) = (fates.iter().all(|fate| fate.open()), fates.iter().all(|fate| !fate.open()));
    match said.verdict {
        Verdict::Accept if all => {
            let port = said.detail.split("delivered to port ").nth(1).and_then(|rest| rest.split(' ').next());
            let port: Option<u16> = port.and_then(|port| port.parse().ok());
            let delivered = |fate: &Fate| port.is_none_or(|port| *fate == Fate::Open(port));
            if fates.iter().all(delivered) { Judged::Accept } else { Judged::Wrong }
        }
        Verdict::Refuse if none => Judged::Refuse,
        Verdict::Accept | Verdict::Refuse => Judged::Wrong,
        Verdict::Unknown if !all && !none => Judged::Inherent,
        Verdict::Unknown if INHERENT.iter().any(|word| said.detail.contains(word)) => Judged::Inherent,
        Verdict::Unknown if CHANGED.iter().any(|word| said.detail.contains(word)) && counts(ruleset) => Judged::Inherent,
        Verdict::Unknown => Judged::Needless,
    }
}

/// Keeps a ruleset in target/disagreements, with the reason above it. Gives the place, or the ruleset where it cannot be kept.
fn keep(name: &str, why: &str, ruleset: &Ruleset) -> String {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/disagreements"));
    let file = directory.join(name.rsplit('/').next().unwrap_or(name).replace(' ', "-"));
    let text: String = why.lines().flat_map(|line| ["# ", line, "\n"]).collect();
    let kept = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&file, format!("{text}{ruleset}")));
    if kept.is_ok() { file.display().to_string() } else { ruleset.to_string() }
}

/// Counts of one campaign.
#[derive(Clone, Debug, Default)]
pub struct Report {
    counts: BTreeMap<Judged, u64>,
    by_stack: BTreeMap<String, BTreeMap<Judged, u64>>,
    rulesets: u64,
    /// Rulesets that nft or iptables did not take.
    pub refused_by_loader: u64,
    refusals: BTreeMap<String, u64>,
    reasons: BTreeMap<String, (u64, String)>,
    wrong: Vec<String>,
    /// Rules that both decoders read.
    pub compared: usize,
    /// Addresses let in by real steps.
    pub lifted: u64,
    /// Those that a person would have to let in.
    pub by_hand: u64,
    /// From start to end.
    pub took: Duration,
}

impl Report {
    /// A ruleset that could not be loaded.
    pub fn not_loaded(&mut self, error: &str) {
        self.refused_by_loader += 1;
        let line = error.lines().find(|line| line.contains("rror")).unwrap_or(error);
        *self.refusals.entry(line.to_owned()).or_default() += 1;
    }

    /// A ruleset that could.
    pub fn loaded(&mut self, _ruleset: &Ruleset) {
        self.rulesets += 1;
    }

    /// One verdict beside the truth.
    pub fn count(&mut self, judged: Judged, client: Client, said: &Said, fates: &[Fate], name: &str, ruleset: &Ruleset) {
        *self.counts.entry(judged).or_default() += 1;
        let v6 = client.0.contains(':');
        let of_family = |stack: &Stack| match stack {
            Stack::Ipset | Stack::Nft => true,
            Stack::Compat4 | Stack::Legacy4 => !v6,
            Stack::Compat6 | Stack::Legacy6 => v6,
        };
        let stacks: Vec<&str> = ruleset.parts.iter().map(|(stack, _)| *stack).filter(of_family).map(Stack::name).collect();
        *self.by_stack.entry(stacks.join(" + ")).or_default().entry(judged).or_default() += 1;
        match judged {
            Judged::Needless => {
                let reason = said.detail.split("depends on ").nth(1).unwrap_or(&said.detail).to_owned();
                let example = format!("{name}, {}: {} [{}]", client.0, said.detail, said.evidence);
                if !self.reasons.contains_key(&reason) {
                    keep(&format!("needless {name}"), &example, ruleset);
                }
                self.reasons.entry(reason).or_insert((0, example)).0 += 1;
            }
            Judged::Wrong => self.disagree(
                &format!(
                    "{name}, {} by {}: the kernel says {fates:?}, the verdict is {}: {} [{}]",
                    client.0, client.1, said.verdict, said.detail, said.evidence
                ),
                name,
                ruleset,
            ),
            Judged::Accept | Judged::Refuse | Judged::Inherent => {}
        }
    }

    /// A disagreement; the ruleset is kept in target/disagreements.
    pub fn disagree(&mut self, what: &str, name: &str, ruleset: &Ruleset) {
        let place = keep(name, what, ruleset);
        self.wrong.push(format!("{what}\n  {place}"));
    }

    /// Both together.
    pub fn add(mut self, other: Report) -> Self {
        for (judged, count) in other.counts {
            *self.counts.entry(judged).or_default() += count;
        }
        for (stack, counts) in other.by_stack {
            let ours = self.by_stack.entry(stack).or_default();
            for (judged, count) in counts {
                *ours.entry(judged).or_default() += count;
            }
        }
        for (reason, (count, example)) in other.reasons {
            self.reasons.entry(reason).or_insert((0, example)).0 += count;
        }
        for (error, count) in other.refusals {
            *self.refusals.entry(error).or_default() += count;
        }
        self.rulesets += other.rulesets;
        self.refused_by_loader += other.refused_by_loader;
        self.wrong.extend(other.wrong);
        self.compared += other.compared;
        self.lifted += other.lifted;
        self.by_hand += other.by_hand;
        self
    }

    fn of(counts: &BTreeMap<Judged, u64>, judged: Judged) -> u64 {
        counts.get(&judged).copied().unwrap_or(0)
    }

    /// Unknowns that had not to be.
    pub fn needless(&self) -> u64 {
        Self::of(&self.counts, Judged::Needless)
    }

    /// Panics with the report where the promises do not hold: never wrong, needlessly unknown in less than one case of a hundred,
    /// and, in a long campaign, not by never knowing.
    pub fn expect_good(&self, long: bool) {
        assert!(self.wrong.is_empty(), "wrong {} times", self.wrong.len());
        let all: u64 = self.counts.values().sum();
        assert!(self.needless() * 100 <= all, "needlessly unknown {} times of {all}", self.needless());
        if long {
            let (accept, refuse) = (Self::of(&self.counts, Judged::Accept), Self::of(&self.counts, Judged::Refuse));
            assert!(accept * 5 > all && refuse * 5 > all && self.lifted > 0, "{accept} {refuse} {}", self.lifted);
            assert!(self.refused_by_loader * 20 < self.rulesets, "{} rulesets were not loaded", self.refused_by_loader);
            assert!(self.compared > 1000, "{}", self.compared);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, counts: &BTreeMap<Judged, u64>| {
            let of = |judged| Self::of(counts, judged);
            writeln!(
                f,
                "{name:<52} {:>8} {:>8} {:>9} {:>9} {:>6}",
                of(Judged::Accept),
                of(Judged::Refuse),
                of(Judged::Inherent),
                of(Judged::Needless),
                of(Judged::Wrong)
            )
        };
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "\n{} rulesets in {seconds:.0} s, {} verdicts beside {} real connections each",
            self.rulesets,
            self.counts.values().sum::<u64>(),
            2
        )?;
        writeln!(f, "{:<52} {:>8} {:>8} {:>9} {:>9} {:>6}", "", "accept", "refuse", "inherent", "needless", "wrong")?;
        line(f, "all", &self.counts)?;
        for (stack, counts) in &self.by_stack {
            line(f, &format!("  {}", if stack.is_empty() { "no rules of the family" } else { stack }), counts)?;
        }
        let all: u64 = self.counts.values().sum();
        writeln!(f, "needlessly unknown: {:.2} %", self.needless() as f64 * 100.0 / all.max(1) as f64)?;
        writeln!(f, "lifted for real: {}, by hand: {}", self.lifted, self.by_hand)?;
        writeln!(f, "expressions that a second decoder read alike: {}", self.compared)?;
        writeln!(f, "rulesets that the loader refused: {}", self.refused_by_loader)?;
        let mut refusals: Vec<_> = self.refusals.iter().collect();
        refusals.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (error, count) in refusals.iter().take(8) {
            writeln!(f, "  {count:>5} {error:.140}")?;
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (reason, (count, example)) in reasons.iter().take(25) {
            writeln!(f, "  needless {count:>4}: {reason:.150}\n      {example:.300}")?;
        }
        self.wrong.iter().take(20).try_for_each(|wrong| writeln!(f, "WRONG {wrong}"))
    }
}
