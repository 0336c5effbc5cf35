//! A host that is going down, that is about to, or that is still coming up: then nothing is wrong with sshd.

use crate::host::{HostState, Needs};
use crate::subsystem::sshd::facts::power::SCHEDULED;
use crate::subsystem::sshd::judge::judgement::{Judgement, found};
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
use crate::verdict::{Evidence, Verdict};

/// Whether the host is going down or coming up. `refused`: something keeps connections out, which this may explain.
pub fn judge(host: &HostState, refused: bool, needs: &mut Needs) -> Judgement {
    let Some(power) = &host.sshd.power else {
        needs.insert(crate::host::Need::Sshd(crate::subsystem::sshd::Need::Power));
        return Judgement::accept("");
    };
    let state = || Evidence::new("systemd", format!("SystemState {}", power.state()));
    let (detail, evidence, fix, verdict) = if power.going() {
        let fix = "wait until it is up again; at its console, `systemctl list-jobs` shows what it waits for".to_owned();
        ("the host is shutting down".to_owned(), vec![state()], fix, if refused { Verdict::Refuse } else { Verdict::Unknown })
    } else if power.coming() && refused {
        let fix = "wait until it is up; `systemctl list-jobs` shows what it waits for".to_owned();
        ("the host is still starting, and sshd with it".to_owned(), vec![state()], fix, Verdict::Refuse)
    } else if let Err(why) = power.state.as_ref().and(power.scheduled.as_ref()) {
        return Judgement::unknown(format!("whether the host is shutting down is not known: {why}"));
    } else if let Ok(Some((mode, at))) = &power.scheduled {
        let detail = format!("the host is to {} at {at}", if mode == "reboot" { "reboot" } else { "shut down" });
        let evidence = vec![Evidence::new(SCHEDULED, format!("MODE={mode} USEC={}", at.as_microsecond()))];
        (detail, evidence, "`shutdown -c` calls it off".to_owned(), Verdict::Accept)
    } else {
        return Judgement::accept("");
    };
    let mut judgement = found(Cause::HostShutdown, verdict != Verdict::Accept, Owner::Systemd, evidence, fix);
    judgement.verdict = verdict;
    judgement.detail = detail.into();
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subsystem::sshd::Power;

    #[test]
    fn a_planned_shutdown_is_read_and_a_rehearsal_is_none() {
        let text = "USEC=1795265155129059\nWARN_WALL=1\nMODE=reboot\nUID=0\n";
        let (mode, at) = Power::scheduled(text).unwrap_or_default();
        assert_eq!((mode.as_str(), at.as_microsecond()), ("reboot", 1_795_265_155_129_059));
        assert_eq!(Power::scheduled(&text.replace("reboot", "dry-reboot")), None);
        assert_eq!(Power::scheduled(""), None);
    }

    #[test]
    fn a_state_that_could_not_be_read_is_unknown_never_running() {
        let judged = |power: Power| {
            let mut host = HostState::empty();
            host.sshd.power = Some(power);
            judge(&host, false, &mut Needs::new()).verdict
        };
        let running = Power { state: Ok(Some("running".to_owned())), scheduled: Ok(None) };
        assert_eq!(judged(running.clone()), Verdict::Accept);
        assert_eq!(judged(Power { state: Err("no bus".to_owned()), ..running.clone() }), Verdict::Unknown);
        assert_eq!(judged(Power { scheduled: Err("too many open files".to_owned()), ..running }), Verdict::Unknown);
    }
}
