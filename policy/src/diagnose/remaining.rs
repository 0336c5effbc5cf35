//! What keeps a source out where a plan has nothing more to lift: the stages that refuse it or cannot be judged, each quoted, with
//! what to do. Judges nothing itself: the diagnosis does.

use crate::diagnose::{self, Path};
use crate::host::{HostState, Needs};
use crate::netfilter;
use crate::subsystem::hosts_access;
use crate::text::quoted::Text;
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::{Connection, Stage, StageReport, Verdict};

/// How the path stands for which an unban or a fix was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// What `diagnose` says of it.
    pub verdict: Verdict,
    /// The stages that do not let it in, or of which that cannot be told.
    pub stages: Vec<StageReport>,
    /// The same for people, one note a stage: why, what stands there, and what to do.
    pub notes: Vec<Text>,
}

/// How the path stands on this host. Facts that are missing are added to `needs`.
pub fn left(connection: &Connection, host: &HostState, needs: &mut Needs) -> Left {
    let Path { verdict, mut stages, findings } = diagnose::path(host, connection, false, needs);
    stages.retain(|stage| stage.verdict != Verdict::Accept);
    let notes = stages.iter().map(|stage| note(host, connection, stage, &findings, needs)).collect();
    Left { verdict, stages, notes }
}

fn note(host: &HostState, connection: &Connection, stage: &StageReport, findings: &[Finding], needs: &mut Needs) -> Text {
    let says = if stage.verdict == Verdict::Refuse { "refuses it" } else { "may refuse it" };
    let mut lines = vec![Text::from(format!("{} {says}: ", stage.stage)) + stage.detail.clone()];
    lines.extend(stage.evidence.iter().map(|one| Text::from(format!("{}: ", one.source)) + one.text.clone()));
    lines.extend(to_do(host, connection, stage, findings, needs).into_iter().map(|advice| Text::from("what to do: ") + advice));
    Text::joined(&lines, "\n")
}

/// What the findings of the stage say; where they leave it open, what would let it in past what cannot be judged.
fn to_do(host: &HostState, connection: &Connection, stage: &StageReport, findings: &[Finding], needs: &mut Needs) -> Vec<Text> {
    let who = connection.source.short();
    let here = || findings.iter().filter(|finding| finding.stage == stage.stage);
    let past = |command: &str, planned: Result<bool, String>| match planned {
        Ok(true) => Some(Text::from(format!("`{command}` accepts it before that"))),
        Ok(false) => None,
        Err(why) => Some(why.into()),
    };
    let mut advice = Vec::new();
    match (stage.verdict, stage.stage) {
        (Verdict::Unknown, Stage::Netfilter) => {
            let accept = netfilter::plan_accept(host, connection.source, connection.port, None, needs);
            advice.extend(past(
                &format!("sshfix ctl firewall accept {who}"),
                accept.map(|steps| !steps.is_empty()).map_err(|why| why.to_string()),
            ));
            if here().any(|finding| finding.cause == Cause::IptablesRatelimit) {
                advice.push("or wait, then try once: a limit accepts it again after a time without attempts".into());
            }
        }
        (Verdict::Unknown, Stage::HostsAccess) => {
            let allow = hosts_access::plan_allow(host, connection.source, None);
            advice.extend(past(
                &format!("sshfix ctl hosts allow {who}"),
                allow.map(|steps| !steps.is_empty()).map_err(|why| why.to_string()),
            ));
        }
        _ => {
            for finding in here().filter(|finding| !finding.fix.is_empty()) {
                let told = finding.told();
                if !advice.contains(&told) {
                    advice.push(told);
                }
            }
        }
    }
    if advice.is_empty() {
        advice.push(format!("`sshfix ctl diagnose {who} --explain` shows what decides it").into());
    }
    advice
}
