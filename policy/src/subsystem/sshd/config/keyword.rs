//! The keywords of `sshd_config(5)` as servconf.c knows them (OpenSSH 9.2 to 10.0 with Debian's): how each is written, where it may
//! stand, how several lines of it count, and what kind of value it takes. Judges no value that only sshd can judge.

use thiserror::Error;

/// How several lines of a keyword count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// The first one does.
    First,
    /// All of them do, and each may name several values.
    Add,
    /// All of them do, and each names one value.
    AddEach,
    /// All of them do, one line a name: `Subsystem NAME COMMAND`.
    AddNamed,
}

/// What a value looks like, as far as that can be told without sshd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of these words, whatever their case.
    OneOf(&'static [&'static str]),
    /// A whole number.
    Number,
    /// A time of `sshd_config(5)`, TIME FORMATS: `90`, `2m`, `1h30m`, or `none` where sshd takes that.
    Time,
    /// Anything else.
    Text,
}

/// A release of OpenSSH: `(9, 8)`.
pub type Release = (u16, u16);

/// The release in what sshd says of itself: `OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.15`.
pub fn release(said: &str) -> Option<Release> {
    let (_, rest) = said.split_once("OpenSSH_")?;
    let (major, rest) = rest.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Which sshd has a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// OpenSSH 9.2 has it.
    Old,
    /// From this release on (its release notes).
    Release(Release),
    /// Only where it was built so: on OpenBSD, with AFS, with patches of Fedora.
    SomeBuilds,
}

/// A keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyword {
    /// As the manual writes it.
    pub name: &'static str,
    /// Whether it may stand in a Match block (servconf.c, `SSHCFG_ALL`).
    pub in_match: bool,
    /// How several lines count.
    pub lines: Lines,
    /// What it takes.
    pub kind: Kind,
    /// Which sshd has it.
    pub since: Since,
}

/// Why a value is not one of a keyword's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{value}` is no value of {keyword}, which takes {takes}")]
pub struct WrongValue {
    /// Of which keyword.
    pub keyword: String,
    /// What was given.
    pub value: String,
    /// What it could be.
    pub takes: String,
}

const YES_NO: Kind = Kind::OneOf(&["yes", "no"]);
const FORWARDING: Kind = Kind::OneOf(&["yes", "no", "all", "local", "remote"]);
const LEVELS: Kind = Kind::OneOf(&["QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"]);
const FACILITIES: Kind = Kind::OneOf(&[
    "DAEMON", "USER", "AUTH", "AUTHPRIV", "LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7",
]);

/// From this release on, `Subsystem` may stand in Match blocks (its release notes).
const SUBSYSTEM_IN_MATCH: Release = (9, 5);

/// Global only.
const fn global(name: &'static str, kind: Kind) -> Keyword {
    Keyword { name, in_match: false, lines: Lines::First, kind, since: Since::Old }
}

/// Also in Match blocks.
const fn anywhere(name: &'static str, kind: Kind) -> Keyword {
    Keyword { name, in_match: true, lines: Lines::First, kind, since: Since::Old }
}

impl Keyword {
    const fn adding(self, lines: Lines) -> Self {
        Self { lines, ..self }
    }

    const fn from(self, major: u16, minor: u16) -> Self {
        Self { since: Since::Release((major, minor)), ..self }
    }

    const fn in_some_builds(self) -> Self {
        Self { since: Since::SomeBuilds, ..self }
    }

    /// Whether it may stand in a Match block of a release; where that is not known, of a new one.
    pub fn fits_match(&self, release: Option<Release>) -> bool {
        let too_old = self.lines == Lines::AddNamed && release.is_some_and(|release| release < SUBSYSTEM_IN_MATCH);
        self.in_match && !too_old
    }

    /// Whether the sshd of a release has it for sure; where the release is not known, every one counts as having it.
    pub fn is_in(&self, release: Option<Release>) -> bool {
        match self.since {
            Since::Old => true,
            Since::Release(first) => release.is_none_or(|release| release >= first),
            Since::SomeBuilds => false,
        }
    }
}

/// All but the synonyms. Of `MaxStartups` OpenSSH 9.2 takes the last line and 10.0 the first, so all are kept here; the words of
/// several `PerSourcePenalties` add up, of each the first counts.
const KEYWORDS: [Keyword; 109] = [
    anywhere("AcceptEnv", Kind::Text).adding(Lines::Add),
    global("AddressFamily", Kind::OneOf(&["any", "inet", "inet6"])),
    anywhere("AllowAgentForwarding", YES_NO),
    anywhere("AllowGroups", Kind::Text).adding(Lines::Add),
    anywhere("AllowStreamLocalForwarding", FORWARDING),
    anywhere("AllowTcpForwarding", FORWARDING),
    anywhere("AllowUsers", Kind::Text).adding(Lines::Add),
    anywhere("AuthenticationMethods", Kind::Text),
    anywhere("AuthorizedKeysCommand", Kind::Text),
    anywhere("AuthorizedKeysCommandUser", Kind::Text),
    anywhere("AuthorizedKeysFile", Kind::Text),
    anywhere("AuthorizedPrincipalsCommand", Kind::Text),
    anywhere("AuthorizedPrincipalsCommandUser", Kind::Text),
    anywhere("AuthorizedPrincipalsFile", Kind::Text),
    anywhere("Banner", Kind::Text),
    anywhere("CASignatureAlgorithms", Kind::Text),
    anywhere("ChannelTimeout", Kind::Text),
    anywhere("ChrootDirectory", Kind::Text),
    global("Ciphers", Kind::Text),
    anywhere("ClientAliveCountMax", Kind::Number),
    anywhere("ClientAliveInterval", Kind::Time),
    global("Compression", Kind::OneOf(&["yes", "no", "delayed"])),
    global("DebianBanner", YES_NO),
    anywhere("DenyGroups", Kind::Text).adding(Lines::Add),
    anywhere("DenyUsers", Kind::Text).adding(Lines::Add),
    anywhere("DisableForwarding", YES_NO),
    anywhere("ExposeAuthInfo", YES_NO),
    global("FingerprintHash", Kind::OneOf(&["sha256", "md5"])),
    anywhere("ForceCommand", Kind::Text),
    anywhere("GatewayPorts", Kind::OneOf(&["yes", "no", "clientspecified"])),
    anywhere("GSSAPIAuthentication", YES_NO),
    global("GSSAPICleanupCredentials", YES_NO),
    global("GSSAPIEnablek5users", YES_NO).in_some_builds(),
    global("GSSAPIKexAlgorithms", Kind::Text),
    global("GSSAPIKeyExchange", YES_NO),
    global("GSSAPIStoreCredentialsOnRekey", YES_NO),
    global("GSSAPIStrictAcceptorCheck", YES_NO),
    anywhere("HostbasedAcceptedAlgorithms", Kind::Text),
    anywhere("HostbasedAuthentication", YES_NO),
    anywhere("HostbasedUsesNameFromPacketOnly", YES_NO),
    global("HostCertificate", Kind::Text).adding(Lines::AddEach),
    global("HostKey", Kind::Text).adding(Lines::AddEach),
    global("HostKeyAgent", Kind::Text),
    global("HostKeyAlgorithms", Kind::Text),
    anywhere("IgnoreRhosts", Kind::OneOf(&["yes", "no", "shosts-only"])),
    global("IgnoreUserKnownHosts", YES_NO),
    anywhere("Include", Kind::Text).adding(Lines::Add),
    anywhere("IPQoS", Kind::Text),
    anywhere("KbdInteractiveAuthentication", YES_NO),
    anywhere("KerberosAuthentication", YES_NO),
    global("KerberosGetAFSToken", YES_NO).in_some_builds(),
    global("KerberosOrLocalPasswd", YES_NO),
    global("KerberosTicketCleanup", YES_NO),
    global("KexAlgorithms", Kind::Text),
    global("ListenAddress", Kind::Text).adding(Lines::AddEach),
    global("LoginGraceTime", Kind::Time),
    anywhere("LogLevel", LEVELS),
    anywhere("LogVerbose", Kind::Text),
    global("MACs", Kind::Text),
    anywhere("Match", Kind::Text),
    anywhere("MaxAuthTries", Kind::Number),
    anywhere("MaxSessions", Kind::Number),
    global("MaxStartups", Kind::Text).adding(Lines::Add),
    global("ModuliFile", Kind::Text),
    anywhere("PAMServiceName", Kind::Text).from(9, 8),
    anywhere("PasswordAuthentication", YES_NO),
    anywhere("PermitEmptyPasswords", YES_NO),
    anywhere("PermitListen", Kind::Text),
    anywhere("PermitOpen", Kind::Text),
    anywhere("PermitRootLogin", Kind::OneOf(&["yes", "no", "prohibit-password", "without-password", "forced-commands-only"])),
    anywhere("PermitTTY", YES_NO),
    anywhere("PermitTunnel", Kind::OneOf(&["yes", "no", "point-to-point", "ethernet"])),
    global("PermitUserEnvironment", Kind::Text),
    anywhere("PermitUserRC", YES_NO),
    global("PerSourceMaxStartups", Kind::Text),
    global("PerSourceNetBlockSize", Kind::Text),
    global("PerSourcePenalties", Kind::Text).adding(Lines::Add).from(9, 8),
    global("PerSourcePenaltyExemptList", Kind::Text).from(9, 8),
    global("PidFile", Kind::Text),
    global("Port", Kind::Text).adding(Lines::AddEach),
    global("PrintLastLog", YES_NO),
    global("PrintMotd", YES_NO),
    anywhere("PubkeyAcceptedAlgorithms", Kind::Text),
    anywhere("PubkeyAuthentication", YES_NO),
    anywhere("PubkeyAuthOptions", Kind::Text),
    anywhere("RDomain", Kind::Text).in_some_builds(),
    anywhere("RefuseConnection", YES_NO).from(9, 9),
    anywhere("RekeyLimit", Kind::Text),
    anywhere("RequiredRSASize", Kind::Number),
    anywhere("RevokedKeys", Kind::Text),
    global("SecurityKeyProvider", Kind::Text),
    anywhere("SetEnv", Kind::Text),
    global("SshdAuthPath", Kind::Text).from(10, 0),
    global("SshdSessionPath", Kind::Text).from(9, 8),
    anywhere("StreamLocalBindMask", Kind::Text),
    anywhere("StreamLocalBindUnlink", YES_NO),
    global("StrictModes", YES_NO),
    anywhere("Subsystem", Kind::Text).adding(Lines::AddNamed),
    global("SyslogFacility", FACILITIES),
    global("TCPKeepAlive", YES_NO),
    anywhere("TrustedUserCAKeys", Kind::Text),
    anywhere("UnusedConnectionTimeout", Kind::Time),
    global("UseDNS", YES_NO),
    global("UsePAM", YES_NO),
    global("VersionAddendum", Kind::Text),
    anywhere("X11DisplayOffset", Kind::Number),
    anywhere("X11Forwarding", YES_NO),
    anywhere("X11UseLocalhost", YES_NO),
    global("XAuthLocation", Kind::Text),
];

/// Older names, and the keywords they mean (servconf.c, `keywords[]`).
const SYNONYMS: [(&str, &str); 7] = [
    ("ChallengeResponseAuthentication", "kbdinteractiveauthentication"),
    ("SkeyAuthentication", "kbdinteractiveauthentication"),
    ("DSAAuthentication", "pubkeyauthentication"),
    ("HostDSAKey", "hostkey"),
    ("KeepAlive", "tcpkeepalive"),
    ("PubkeyAcceptedKeyTypes", "pubkeyacceptedalgorithms"),
    ("HostbasedAcceptedKeyTypes", "hostbasedacceptedalgorithms"),
];

/// The keyword itself in lower case, whatever name it was given by.
pub fn canonical(name: &str) -> String {
    let synonym = SYNONYMS.iter().find(|(old, _)| old.eq_ignore_ascii_case(name));
    synonym.map_or_else(|| name.to_ascii_lowercase(), |(_, keyword)| (*keyword).to_owned())
}

/// What is known of a keyword, by any of its names.
pub fn find(name: &str) -> Option<&'static Keyword> {
    let canonical = canonical(name);
    KEYWORDS.iter().find(|keyword| keyword.name.eq_ignore_ascii_case(&canonical))
}

/// All of them, sorted.
pub fn all() -> &'static [Keyword] {
    &KEYWORDS
}

/// How several lines of a keyword count; of one that is not known, the first.
pub fn lines(name: &str) -> Lines {
    find(name).map_or(Lines::First, |keyword| keyword.lines)
}

/// Whether a keyword may stand in a Match block, as far as is known.
pub fn in_match(name: &str) -> bool {
    find(name).is_some_and(|keyword| keyword.in_match)
}

/// The name as the manual writes it, an older name as that; as it was given where it is not known.
pub fn spelling(name: &str) -> String {
    let names = KEYWORDS.iter().map(|keyword| keyword.name).chain(SYNONYMS.iter().map(|(old, _)| *old));
    names.into_iter().find(|known| known.eq_ignore_ascii_case(name)).unwrap_or(name).to_owned()
}

/// The names most like this one, best first: for `did you mean`.
pub fn near(name: &str) -> Vec<&'static str> {
    all_near(name).into_iter().take(3).collect()
}

/// Every name that this one could be a misspelling of, best first.
pub fn all_near(name: &str) -> Vec<&'static str> {
    let name = name.to_ascii_lowercase();
    let most = (name.len() / 3).max(1);
    let rate = |known: &'static str| {
        let lower = known.to_ascii_lowercase();
        let part = name.len() >= 4 && lower.contains(&name);
        (if part { 1 } else { distance(&name, &lower) }, known)
    };
    let mut rated: Vec<_> = KEYWORDS.iter().map(|keyword| rate(keyword.name)).filter(|(away, _)| *away <= most).collect();
    rated.sort_unstable();
    rated.into_iter().map(|(_, known)| known).collect()
}

/// What a keyword takes, where these do not look like it: advice for values that sshd refused, and no judgement. Nothing is said of
/// keywords that take any text.
pub fn check(name: &str, arguments: &[String]) -> Result<(), WrongValue> {
    let Some(keyword) = find(name) else { return Ok(()) };
    let takes = match keyword.kind {
        Kind::OneOf(words) => words.join(", "),
        Kind::Number => "a whole number".to_owned(),
        Kind::Time => "a time such as 90, 2m or 1h30m".to_owned(),
        Kind::Text => return Ok(()),
    };
    let good = |value: &str| match keyword.kind {
        Kind::OneOf(words) => words.iter().any(|word| word.eq_ignore_ascii_case(value)),
        Kind::Number => value.parse::<u32>().is_ok_and(|number| i32::try_from(number).is_ok()),
        Kind::Time => value == "none" || is_time(value),
        Kind::Text => true,
    };
    match arguments {
        [value] if good(value) => Ok(()),
        _ => Err(WrongValue { keyword: keyword.name.to_owned(), value: arguments.join(" "), takes }),
    }
}

/// misc.c, `convtime`: numbers, each with one of `s m h d w` or nothing.
fn is_time(text: &str) -> bool {
    let mut digits = 0;
    for c in text.chars() {
        match c {
            '0'..='9' => digits += 1,
            's' | 'S' | 'm' | 'M' | 'h' | 'H' | 'd' | 'D' | 'w' | 'W' if digits > 0 => digits = 0,
            _ => return false,
        }
    }
    !text.is_empty()
}

/// How many letters must be put in, left out, changed or swapped with their neighbour.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let of = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX - 1);
            let mut best = (of(&last, j) + usize::from(x != y)).min(of(&last, j + 1) + 1).min(of(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(of(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_synonyms_lead_into_it() {
        let names: Vec<String> = KEYWORDS.iter().map(|keyword| keyword.name.to_ascii_lowercase()).collect();
        assert!(names.is_sorted());
        for (old, new) in SYNONYMS {
            assert!(names.iter().any(|name| name == new) && !names.contains(&old.to_ascii_lowercase()), "{old}");
        }
    }

    #[test]
    fn keywords_are_found_by_any_name_and_misses_lead_to_the_nearest() {
        assert_eq!(spelling("permitrootLOGIN"), "PermitRootLogin");
        assert_eq!(spelling("challengeresponseauthentication"), "ChallengeResponseAuthentication");
        assert_eq!(canonical("ChallengeResponseAuthentication"), "kbdinteractiveauthentication");
        assert_eq!(near("PermitRootlogn"), ["PermitRootLogin"]);
        assert_eq!(near("AllowUser").first(), Some(&"AllowUsers"));
        assert_eq!(near("PaswordAuthentication").first(), Some(&"PasswordAuthentication"));
        assert_eq!(near("ListneAddress"), ["ListenAddress"]);
        assert_eq!(near("Prot"), ["Port"]);
        assert_eq!(near("weather"), [""; 0]);
    }

    #[test]
    fn values_that_sshd_would_not_take_are_told_what_it_takes() {
        let wrong = |keyword: &str, value: &str| check(keyword, &[value.to_owned()]).map_err(|error| error.to_string());
        for (keyword, value) in [
            ("permitrootlogin", "Prohibit-Password"),
            ("UsePAM", "YES"),
            ("MaxAuthTries", "3"),
            ("LoginGraceTime", "1h30m"),
            ("LoginGraceTime", "0"),
            ("UnusedConnectionTimeout", "none"),
            ("Ciphers", "anything"),
            ("WhatIsThis", "x"),
        ] {
            assert_eq!(wrong(keyword, value), Ok(()), "{keyword} {value}");
        }
        assert_eq!(wrong("usepam", "true"), Err("`true` is no value of UsePAM, which takes yes, no".to_owned()));
        for (keyword, value) in [
            ("MaxAuthTries", "-1"),
            ("MaxAuthTries", "three"),
            ("LoginGraceTime", "2 m"),
            ("LoginGraceTime", "m"),
            ("LogLevel", "LOUD"),
        ] {
            assert!(wrong(keyword, value).is_err(), "{keyword} {value}");
        }
        assert!(check("UsePAM", &["yes".to_owned(), "no".to_owned()]).is_err());
    }
}
