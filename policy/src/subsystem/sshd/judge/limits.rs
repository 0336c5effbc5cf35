//! Limits that end a login or a session: `MaxAuthTries`, `LoginGraceTime`, `MaxSessions`, and `ClientAlive*`. What happened is told by the
//! journal, whether it happens again depends on the client; so the verdict is unknown, never open, until somebody got in since.

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::{Setting, Settings};
use crate::subsystem::sshd::facts::journal::{Ended, Said, Told};
use crate::subsystem::sshd::judge::judgement::{Judgement, Remedy, found};
use crate::subsystem::sshd::judge::origin::quote;
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
use crate::verdict::{Evidence, Verdict};

/// People need longer than this to type a password or touch a key; seconds.
const SHORT_GRACE: u32 = 20;
/// An ordinary agent holds more keys than this.
const FEW_TRIES: u32 = 3;

/// What is judged, and by what.
pub struct About<'a> {
    /// For this login, or for everybody.
    pub effective: &'a Effective,
    /// The journal's lines about the client, and those that name nobody, oldest first.
    pub told: &'a [&'a Told],
    /// As whom, where asked.
    pub user: Option<&'a str>,
    /// The lines that count.
    pub settings: &'a Settings,
}

impl About<'_> {
    fn number(&self, keyword: &str) -> Option<u32> {
        self.effective.one(keyword)?.parse().ok()
    }

    fn setting(&self, keyword: &str) -> Option<&Setting> {
        self.settings.get(keyword)?.first()
    }

    fn line(&self, keyword: &str) -> Option<Evidence> {
        self.setting(keyword).map(quote)
    }

    /// Sets a keyword where the line stands that counts now.
    fn set(&self, keyword: &str, value: u32) -> Option<Remedy> {
        Remedy::set(keyword, self.setting(&keyword.to_ascii_lowercase()), vec![value.to_string()])
    }

    fn evidence(&self, told: &Told, keywords: &[&str]) -> Vec<Evidence> {
        let mut evidence = vec![told.evidence()];
        evidence.extend(keywords.iter().filter_map(|keyword| self.line(keyword)));
        evidence
    }

    /// The same, of those that only sshd, systemd or the kernel can write.
    fn last_vouched(&self, is: impl Fn(&Said) -> bool) -> Option<(&Told, bool)> {
        let told: Vec<&Told> = self.told.iter().copied().filter(|told| told.vouched).collect();
        let at = told.iter().rposition(|told| is(&told.what))?;
        told.get(at).map(|told| (*told, false))
    }

    /// The last line of this kind, and whether the client got in after it.
    fn last(&self, is: impl Fn(&Said) -> bool) -> Option<(&Told, bool)> {
        let at = self.told.iter().rposition(|told| is(&told.what))?;
        let got_in = |told: &&Told| told.came_in().is_some_and(|user| self.user.is_none_or(|asked| asked == user));
        Some((self.told.get(at)?, self.told.iter().skip(at).any(got_in)))
    }
}

/// All of them.
pub fn judge(about: &About<'_>) -> Judgement {
    let mut judgement = Judgement::accept("");
    for part in [tries(about), grace(about), sessions(about), keepalive(about)].into_iter().flatten() {
        judgement.add(part);
    }
    judgement
}

/// auth2.c: `failures >= max_authtries` ends the connection; each key that is not listed is a failure.
fn tries(about: &About<'_>) -> Option<Judgement> {
    let limit = about.number("maxauthtries")?;
    let same = |user: &String| about.user.is_none_or(|asked| asked == user);
    let happened = about.last(|said| matches!(said, Said::Ended(Ended::TooMany(user)) if same(user)));
    let fix = |more: u32| {
        format!(
            "at the client: offer the right key first, `ssh -o IdentitiesOnly=yes -i KEY ...`; or at the server: `sshfix ctl sshd set \
             MaxAuthTries {more}`"
        )
    };
    let Some((told, got_in)) = happened else {
        // Nothing happened: said where somebody chose so few that it will.
        let line = about.line("maxauthtries").filter(|_| limit < FEW_TRIES && about.user.is_some())?;
        let mut judgement = found(Cause::SshdLimits, false, Owner::Sshd, vec![line], fix(6));
        judgement.detail =
            format!("MaxAuthTries {limit}: a client with more keys than that is cut off before the right one").into();
        return Some(judgement.with(about.set("MaxAuthTries", 6)));
    };
    let evidence = about.evidence(told, &["maxauthtries"]);
    let mut judgement = found(Cause::SshdLimits, !got_in, Owner::Sshd, evidence, fix(limit.saturating_mul(2).max(6)));
    judgement.detail = format!(
        "the client offered {limit} keys or passwords that were not taken, and sshd allows no more (MaxAuthTries {limit})"
    )
    .into();
    judgement.verdict = if got_in { Verdict::Accept } else { Verdict::Unknown };
    Some(judgement.with(about.set("MaxAuthTries", limit.saturating_mul(2).max(6))))
}

/// sshd(8), `-g`; 0 is without end.
fn grace(about: &About<'_>) -> Option<Judgement> {
    let seconds = about.number("logingracetime").filter(|seconds| *seconds > 0)?;
    let short = seconds < SHORT_GRACE;
    let fix = format!("log in within {seconds} s; or `sshfix ctl sshd set LoginGraceTime 120`");
    let happened = about.last(|said| matches!(said, Said::Ended(Ended::Grace)));
    let (evidence, blocking, what) = match happened {
        Some((told, got_in)) => (about.evidence(told, &["logingracetime"]), short && !got_in, "did not log in within"),
        // OpenSSH 9.2 of Debian writes nothing when the time is over.
        None => (about.line("logingracetime").filter(|_| short).into_iter().collect(), false, "has only"),
    };
    if evidence.is_empty() {
        return None;
    }
    let mut judgement = found(Cause::SshdLimits, blocking, Owner::Sshd, evidence, fix);
    judgement.detail = format!("the client {what} {seconds} s to log in (LoginGraceTime)").into();
    judgement.verdict = if blocking { Verdict::Unknown } else { Verdict::Accept };
    Some(judgement.with(about.set("LoginGraceTime", 120).filter(|_| short)))
}

/// session.c, `session_new`: one more session on the same connection is refused. New connections are not.
fn sessions(about: &About<'_>) -> Option<Judgement> {
    let limit = about.number("maxsessions")?;
    let (told, _) = about.last(|said| *said == Said::NoMoreSessions)?;
    let evidence = about.evidence(told, &["maxsessions"]);
    let fix = format!(
        "open another connection, `ssh -o ControlPath=none ...`; or `sshfix ctl sshd set MaxSessions {}`",
        limit.saturating_mul(2).max(10)
    );
    let mut judgement = found(Cause::SshdLimits, false, Owner::Sshd, evidence, fix);
    judgement.detail =
        format!("more than MaxSessions {limit} sessions were asked for on one connection; the line does not say whose").into();
    Some(judgement)
}

/// serverloop.c, `client_alive_check`: without an answer to `ClientAliveCountMax` questions the session ends.
fn keepalive(about: &About<'_>) -> Option<Judgement> {
    let ends = |said: &Said| match said {
        Said::NoAnswer(user) => user.is_none() || about.user.is_none() || user.as_deref() == about.user,
        _ => false,
    };
    let (told, _) = about.last_vouched(ends).or_else(|| about.last(ends))?;
    let (interval, count) = (about.number("clientaliveinterval")?, about.number("clientalivecountmax")?);
    let evidence = about.evidence(told, &["clientaliveinterval", "clientalivecountmax"]);
    let detail = if interval == 0 {
        "a session ended although its client did not end it; sshd asks for no sign of life (ClientAliveInterval 0)".to_owned()
    } else {
        format!("a session ended after {} s without a sign of life of its client", u64::from(interval) * u64::from(count.max(1)))
    };
    let fix = "`sshfix ctl sshd set ClientAliveInterval 60` and `sshfix ctl sshd set ClientAliveCountMax 3`; at the client \
               `ServerAliveInterval 60` under `Host *` in ~/.ssh/config, so that no middlebox forgets an idle connection"
        .to_owned();
    let mut judgement = found(Cause::SshdKeepalive, false, Owner::Sshd, evidence, fix);
    judgement.detail = detail.into();
    // Where the session ran as its user, so did what wrote the line: any user can write it, and the setting is everybody's.
    let remedies = [about.set("ClientAliveInterval", 60), about.set("ClientAliveCountMax", 3)].into_iter().flatten();
    Some(judgement.with(remedies.filter(|_| told.vouched)))
}

/// The lines that concern these sources, and those that name nobody.
pub fn concerning<'a>(told: &'a [Told], net: &ipnet::IpNet) -> Vec<&'a Told> {
    told.iter().filter(|told| told.from.is_none_or(|from| net.contains(&from))).collect()
}
