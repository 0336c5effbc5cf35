//! What each keyword of sshd does to a login: judged by a stage, harmless, harmless for some values or changes, a file, or not known
//! here. A table of keywords; reads nothing, and judges no host.

use std::collections::BTreeSet;

/// What a keyword does to a login.
pub enum Effect {
    /// A stage of sshfix judges it, or the proof compares it.
    Judged,
    /// None of its values keeps anybody out.
    Harmless,
    /// These values do not.
    Where(fn(&str) -> bool),
    /// These changes do not: what it was, and what it is.
    Change(fn(&[String], &[String]) -> bool),
    /// It counts only while that other keyword has another value than this.
    Without(&'static str, &'static str),
    /// A file.
    File(Use),
}

/// What sshd does with a file that a value names.
#[derive(Clone, Copy)]
pub enum Use {
    /// Shows it to everybody before the login.
    Show,
    /// Writes its pid into it, and removes it at a reload.
    Pid,
    /// Reads it as root while somebody logs in.
    Read,
    /// Runs it for each connection.
    Run,
}

/// Where distributions keep the two halves of sshd.
pub const PROGRAMS: [&str; 5] =
    ["/usr/lib/openssh/", "/usr/libexec/openssh/", "/usr/lib/ssh/", "/usr/libexec/", "/usr/libexec/ssh/"];
const XAUTH: [&str; 4] = ["none", "/usr/bin/xauth", "/usr/X11R6/bin/xauth", "/usr/local/bin/xauth"];
/// Variables that no program opens a file by, runs anything by, or ends by, when a session begins (locale(7), environ(7)); all others may:
/// `BASH_ENV`, `HISTFILE`, `INPUTRC`, `LD_*`, `TMOUT`, ... What ends with `*` is a prefix.
const PLAIN: [&str; 9] = ["LANG", "LANGUAGE", "LC_*", "TZ", "EDITOR", "VISUAL", "PAGER", "NO_COLOR", "COLORTERM"];
/// A session that ends after fewer seconds of silence is hardly one.
const SHORT: u64 = 60;

/// By the name in lower case; `None` for what sshfix does not know.
pub fn effect(keyword: &str) -> Option<Effect> {
    use Effect::{Change, File, Harmless, Judged, Where, Without};
    Some(match keyword {
        "addressfamily"
        | "allowgroups"
        | "allowusers"
        | "authenticationmethods"
        | "authorizedkeysfile"
        | "casignaturealgorithms"
        | "chrootdirectory"
        | "ciphers"
        | "denygroups"
        | "denyusers"
        | "forcecommand"
        | "gssapiauthentication"
        | "hostbasedauthentication"
        | "hostcertificate"
        | "hostkey"
        | "hostkeyalgorithms"
        | "kbdinteractiveauthentication"
        | "kerberosauthentication"
        | "kexalgorithms"
        | "listenaddress"
        | "logingracetime"
        | "macs"
        | "maxauthtries"
        | "maxsessions"
        | "maxstartups"
        | "passwordauthentication"
        | "permitemptypasswords"
        | "permitrootlogin"
        | "persourcemaxstartups"
        | "persourcepenalties"
        | "port"
        | "pubkeyacceptedalgorithms"
        | "pubkeyauthentication"
        | "pubkeyauthoptions"
        | "refuseconnection"
        | "requiredrsasize"
        | "revokedkeys"
        | "strictmodes"
        | "usedns"
        | "usepam" => Judged,
        "acceptenv"
        | "allowagentforwarding"
        | "allowstreamlocalforwarding"
        | "allowtcpforwarding"
        | "clientalivecountmax"
        | "clientaliveinterval"
        | "compression"
        | "debianbanner"
        | "disableforwarding"
        | "exposeauthinfo"
        | "fingerprinthash"
        | "gatewayports"
        | "gssapicleanupcredentials"
        | "gssapikeyexchange"
        | "gssapistorecredentialsonrekey"
        | "ipqos"
        | "kerberosgetafstoken"
        | "kerberosticketcleanup"
        | "loglevel"
        | "logverbose"
        | "permitlisten"
        | "permitopen"
        | "permittty"
        | "permittunnel"
        | "printlastlog"
        | "printmotd"
        | "streamlocalbindmask"
        | "streamlocalbindunlink"
        | "syslogfacility"
        | "tcpkeepalive"
        | "x11displayoffset"
        | "x11forwarding"
        | "x11uselocalhost" => Harmless,
        "authorizedkeyscommand" | "hostkeyagent" => Where(|value| value == "none"),
        "authorizedkeyscommanduser" => Without("authorizedkeyscommand", "none"),
        "authorizedprincipalsfile" | "authorizedprincipalscommand" | "authorizedprincipalscommanduser" => {
            Without("trustedusercakeys", "none")
        }
        "gssapienablek5users" | "gssapistrictacceptorcheck" => Without("gssapiauthentication", "no"),
        "gssapikexalgorithms" => Without("gssapikeyexchange", "no"),
        "hostbasedacceptedalgorithms" | "hostbasedusesnamefrompacketonly" | "ignorerhosts" | "ignoreuserknownhosts" => {
            Without("hostbasedauthentication", "no")
        }
        "kerberosorlocalpasswd" => Without("kerberosauthentication", "no"),
        "channeltimeout" => Where(|value| value == "none" || value.split(' ').all(|one| lasts(after(one, '=')))),
        "pamservicename" => Where(|value| value == "sshd"),
        "persourcenetblocksize" => Where(narrow),
        // Whoever is exempt no more pays for the failures of others at the same address.
        "persourcepenaltyexemptlist" => Change(list_grows),
        "rekeylimit" => Where(rekeys_seldom),
        "securitykeyprovider" => Where(|value| value == "internal"),
        // What users left in ~/.ssh/environment and ~/.ssh/rc would count for the first time.
        "permituserenvironment" | "permituserrc" => Change(|_, is| is.iter().all(|value| value == "no")),
        "setenv" => Where(|value| value.split(' ').all(|one| !one.contains('=') || is_plain(one))),
        "subsystem" => Change(subsystems_stay),
        "unusedconnectiontimeout" => Where(|value| value == "none" || lasts(value)),
        "versionaddendum" => Where(|value| value.len() <= 100 && value.chars().all(|c| c.is_ascii_graphic() || c == ' ')),
        "xauthlocation" => Where(|value| XAUTH.contains(&value)),
        "banner" => File(Use::Show),
        "modulifile" | "trustedusercakeys" => File(Use::Read),
        "pidfile" => File(Use::Pid),
        "sshdauthpath" | "sshdsessionpath" => File(Use::Run),
        _ => return None,
    })
}

/// The part of a word before the first separator, or all of it.
pub fn before(word: &str, separator: char) -> &str {
    word.split_once(separator).map_or(word, |(before, _)| before)
}

fn after(word: &str, separator: char) -> &str {
    word.split_once(separator).map_or("", |(_, after)| after)
}

/// Whether `NAME=value` only says how a program speaks. The C library reads a file where one of these begins with `/`, or `TZ` with `:`.
fn is_plain(variable: &str) -> bool {
    let (name, value) = (before(variable, '=').trim_start_matches('"'), after(variable, '=').trim_start_matches('"'));
    let known = PLAIN.iter().any(|known| known.strip_suffix('*').map_or(*known == name, |prefix| name.starts_with(prefix)));
    let programs = ["EDITOR", "VISUAL", "PAGER"].contains(&name);
    known && (programs || !value.starts_with(['/', ':', '.']) && !value.contains("..") && (name == "TZ" || !value.contains('/')))
}

/// A list of patterns that holds all of the old ones.
fn list_grows(was: &[String], is: &[String]) -> bool {
    let patterns = |values: &[String]| -> BTreeSet<String> {
        let all = values.iter().flat_map(|value| value.split(',')).filter(|value| *value != "none");
        all.map(str::to_owned).collect()
    };
    let (was, is) = (patterns(was), patterns(is));
    was.is_subset(&is) && is.difference(&was).all(|new| !new.starts_with('!'))
}

/// Each that was there still is, with the same command or with the one of OpenSSH: sftp, scp and Ansible go that way.
pub fn subsystems_stay(was: &[String], is: &[String]) -> bool {
    let name = |value: &str| before(value, ' ').to_owned();
    let usual = |value: &String| {
        let mut words = value.split(' ');
        let of_openssh = |program: &str| {
            program == "internal-sftp" || PROGRAMS.iter().any(|folder| program.strip_prefix(folder) == Some("sftp-server"))
        };
        words.next() == Some("sftp") && words.next().is_some_and(of_openssh) && only_logs(words)
    };
    was.iter().all(|old| is.contains(old) || is.iter().any(|new| name(new) == name(old) && usual(new)))
        && is.iter().all(|new| usual(new) || was.contains(new) || was.iter().all(|old| name(old) != name(new)))
}

/// sftp-server(8): what it logs, and with which mode it makes files. Another word ends it.
fn only_logs<'a>(mut words: impl Iterator<Item = &'a str>) -> bool {
    const LEVELS: [&str; 9] = ["QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"];
    const FACILITIES: [&str; 4] = ["DAEMON", "USER", "AUTH", "AUTHPRIV"];
    let local =
        |name: &str| name.strip_prefix("LOCAL").is_some_and(|n| matches!(n, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7"));
    while let Some(option) = words.next() {
        let good = match option {
            "-l" => words.next().is_some_and(|level| LEVELS.contains(&level)),
            "-f" => words.next().is_some_and(|facility| FACILITIES.contains(&facility) || local(facility)),
            "-u" => words
                .next()
                .is_some_and(|mask| mask.len() <= 4 && !mask.is_empty() && mask.bytes().all(|b| (b'0'..=b'7').contains(&b))),
            "-e" => true,
            _ => false,
        };
        if !good {
            return false;
        }
    }
    true
}

/// A time that ends nobody's session at work; 0 is without end.
pub fn lasts(value: &str) -> bool {
    seconds(value).is_some_and(|seconds| seconds == 0 || seconds >= SHORT)
}

/// misc.c, `convtime`.
pub fn seconds(value: &str) -> Option<u64> {
    let (mut all, mut number) = (0_u64, None::<u64>);
    for c in value.chars() {
        if let Some(digit) = c.to_digit(10) {
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit.into())?);
            continue;
        }
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        all = all.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    (!value.is_empty()).then_some(())?;
    all.checked_add(number.unwrap_or(0))
}

/// `bytes seconds` as `sshd -T` prints them, or the words of a line: neither so often that nothing else is done.
pub fn rekeys_seldom(value: &str) -> bool {
    let mut words = value.split(' ');
    let number = |word: &str| -> Option<u64> {
        let (digits, unit) = match word.char_indices().next_back()? {
            (at, 'K' | 'k') => (word.get(..at)?, 1 << 10),
            (at, 'M' | 'm') => (word.get(..at)?, 1 << 20),
            (at, 'G' | 'g') => (word.get(..at)?, 1 << 30),
            _ => (word, 1),
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    };
    let bytes = words.next().is_some_and(|word| word == "default" || number(word).is_some_and(|it| it == 0 || it >= 1 << 20));
    bytes && words.next().is_none_or(|word| word == "none" || lasts(word)) && words.next().is_none()
}

/// Blocks of sources that are no wider than sshd's own, so that nobody is counted with more others than usual.
pub fn narrow(value: &str) -> bool {
    let (v4, v6) = value.split_once(':').unwrap_or((value, "128"));
    let at_least = |text: &str, least: u32| text.parse::<u32>().is_ok_and(|bits| bits >= least);
    at_least(v4, 32) && at_least(v6, 128)
}

/// Whether no value of a keyword keeps anybody out.
pub fn never_keeps_out(keyword: &str) -> bool {
    matches!(effect(keyword), Some(Effect::Harmless))
}
