//! `allowed_signers` in OpenSSH's format (ssh-keygen(1), ALLOWED SIGNERS): which key may sign as whom, and when. Must not say
//! what a signer may do: that is `policy.toml`.
//!
//! A line that is not understood allows nobody, and the other lines stand: lines only ever allow, so leaving one out can let
//! nobody in, and one typing error does not lock every admin out. `sshfix-agent check` reports such lines as errors.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::ssh::certificate::{Certificate, CertificateError};
use crate::ssh::pattern::PatternList;
use crate::ssh::public_key::{Proof, PublicKey};

/// One line that allows somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// From 1.
    pub line: usize,
    principals: PatternList,
    key: PublicKey,
    authority: bool,
    namespaces: Option<PatternList>,
    valid_after: Option<Timestamp>,
    valid_before: Option<Timestamp>,
}

/// What is wrong with a line, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}; this line allows nobody", self.line, self.column, self.what)
    }
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSigners {
    signers: Vec<Signer>,
    errors: Vec<LineError>,
}

/// With what a request was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A key by itself.
    Key(PublicKey),
    /// A key that a CA vouches for.
    Certificate(Box<Certificate>),
}

impl Credential {
    /// The key that made the signature.
    pub fn key(&self) -> &PublicKey {
        match self {
            Credential::Key(key) => key,
            Credential::Certificate(certificate) => certificate.key(),
        }
    }
}

/// Why a line that names the key does not allow this signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// The line is for others.
    #[error("line {line} is not for `{principal}`")]
    Principal {
        /// Of the file.
        line: usize,
        /// As claimed.
        principal: String,
    },
    /// The line stands for several, and the request does not say for whom.
    #[error("line {line} stands for more than one principal and the request names none")]
    Unnamed {
        /// Of the file.
        line: usize,
    },
    /// The line is for other namespaces.
    #[error("line {line} is not for namespace {namespace}")]
    Namespace {
        /// Of the file.
        line: usize,
        /// Of the signature.
        namespace: String,
    },
    /// Before `valid-after` or after `valid-before`.
    #[error("line {line} is not valid at this time (valid-after, valid-before)")]
    Time {
        /// Of the file.
        line: usize,
    },
    /// The CA is trusted, the certificate does not hold.
    #[error("line {line} trusts the CA, but of the certificate: {why}")]
    Certificate {
        /// Of the file.
        line: usize,
        /// What is wrong.
        why: CertificateError,
    },
}

impl AllowedSigners {
    /// Reads a whole file. `zone` is the host's: times without `Z` are local, as in OpenSSH.
    pub fn parse(text: &str, zone: &TimeZone) -> Self {
        let mut file = Self::default();
        for (index, line) in text.split('\n').enumerate() {
            match parse_line(line, index + 1, zone) {
                Ok(Some(signer)) => file.signers.push(signer),
                Ok(None) => {}
                Err((rest, what)) => {
                    let column = line.chars().count().saturating_sub(rest) + 1;
                    file.errors.push(LineError { line: index + 1, column, what });
                }
            }
        }
        file
    }

    /// The lines that are not understood. They allow nobody.
    pub fn errors(&self) -> &[LineError] {
        &self.errors
    }

    /// How many lines allow somebody.
    pub fn len(&self) -> usize {
        self.signers.len()
    }

    /// Whether nobody is allowed.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }

    /// The lines that name this very key, or the CA of this certificate.
    pub fn lines_of<'a>(&'a self, credential: &'a Credential) -> impl Iterator<Item = &'a Signer> {
        self.signers.iter().filter(move |signer| match credential {
            Credential::Key(key) => !signer.authority && signer.key == *key,
            Credential::Certificate(certificate) => signer.authority && signer.key == *certificate.authority(),
        })
    }
}

impl Signer {
    /// For whom this line lets the credential sign: the claimed principal, or the only one it can stand for.
    pub fn allows(
        &self,
        credential: &Credential,
        proof: Proof,
        claimed: Option<&str>,
        namespace: &str,
        now: Timestamp,
    ) -> Result<String, NotAllowed> {
        let line = self.line;
        let only = match credential {
            Credential::Key(_) => self.principals.literal(),
            Credential::Certificate(certificate) => certificate.single_principal(),
        };
        let principal = claimed.or(only).ok_or(NotAllowed::Unnamed { line })?;
        if !self.principals.matches(principal) {
            return Err(NotAllowed::Principal { line, principal: crate::ssh::public_key::printable(principal) });
        }
        if let Credential::Certificate(certificate) = credential {
            certificate.check(principal, now, proof).map_err(|why| NotAllowed::Certificate { line, why })?;
        }
        if self.namespaces.as_ref().is_some_and(|namespaces| !namespaces.matches(namespace)) {
            return Err(NotAllowed::Namespace { line, namespace: namespace.to_owned() });
        }
        // sshsig.c, check_allowed_keys_line: both ends count, in whole seconds.
        let second = now.as_second();
        let early = self.valid_after.is_some_and(|after| second < after.as_second());
        let late = self.valid_before.is_some_and(|before| second > before.as_second());
        if early || late {
            return Err(NotAllowed::Time { line });
        }
        Ok(principal.to_owned())
    }
}

/// How many characters are left, which gives the column; and what is wrong there.
type Problem = (usize, String);

fn parse_line(line: &str, number: usize, zone: &TimeZone) -> Result<Option<Signer>, Problem> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r');
    let line = line.trim_start_matches(is_space);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let problem = |rest: &str, what: &str| (rest.chars().count(), what.to_owned());

    let (principals, rest) = principals_field(line)?;
    if principals.is_empty() {
        return Err(problem(line, "no principal"));
    }
    if rest.trim_matches(is_space).is_empty() {
        return Err(problem(rest, "no key after the principals"));
    }
    let (first, after) = rest.split_once(is_space).unwrap_or((rest, ""));
    let (options, key_at) = if looks_like_a_key(first, after) {
        (Options::default(), rest)
    } else {
        let end = end_of_options(rest)?;
        let (options, key_at) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let after = key_at.chars().count();
        (parse_options(options, after, zone)?, key_at.trim_start_matches(is_space))
    };
    let mut words = key_at.split(is_space).filter(|word| !word.is_empty());
    let (Some(kind), Some(base64)) = (words.next(), words.next()) else {
        return Err(problem(key_at, "no key (`TYPE BASE64`) after the options"));
    };
    let key = PublicKey::from_text(kind, base64).map_err(|error| problem(key_at, &error.to_string()))?;
    Ok(Some(Signer {
        line: number,
        principals: PatternList::new(&principals),
        key,
        authority: options.authority,
        namespaces: options.namespaces,
        valid_after: options.valid_after,
        valid_before: options.valid_before,
    }))
}

/// misc.c, `strdelimw`: up to white space; from a quote on, up to the next quote, which ends the field.
fn principals_field(line: &str) -> Result<(String, &str), Problem> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r');
    let end = line.find(|c| is_space(c) || c == '"').unwrap_or(line.len());
    let (head, rest) = line.split_at_checked(end).unwrap_or((line, ""));
    let Some(quoted) = rest.strip_prefix('"') else {
        return Ok((head.to_owned(), rest.trim_start_matches(is_space)));
    };
    let Some((inside, rest)) = quoted.split_once('"') else {
        return Err((rest.chars().count(), "no matching quote".to_owned()));
    };
    Ok((format!("{head}{inside}"), rest.trim_start_matches(is_space)))
}

/// Options never look like a key type followed by the base64 of that very type.
fn looks_like_a_key(first: &str, after: &str) -> bool {
    let base64 = after.split_ascii_whitespace().next().unwrap_or_default();
    let plain = first.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '@' | '.'));
    plain && !first.eq_ignore_ascii_case("cert-authority") && base64.starts_with("AAAA")
}

/// auth-options.c, `sshkey_advance_past_options`: white space outside quotes ends them; `\"` is no quote.
fn end_of_options(text: &str) -> Result<usize, Problem> {
    let mut quoted = None;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            '"' if !escaped => quoted = if quoted.is_none() { Some(index) } else { None },
            ' ' | '\t' if quoted.is_none() => return Ok(index),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    match quoted {
        Some(index) => Err((text.get(index..).unwrap_or_default().chars().count(), "no matching quote".to_owned())),
        None => Ok(text.len()),
    }
}

#[derive(Default)]
struct Options {
    authority: bool,
    namespaces: Option<PatternList>,
    valid_after: Option<Timestamp>,
    valid_before: Option<Timestamp>,
}

/// sshsig.c, `sshsigopt_parse`. Names in any letter case, each clause once, an unknown name refuses the line.
fn parse_options(text: &str, after: usize, zone: &TimeZone) -> Result<Options, Problem> {
    let mut options = Options::default();
    let mut chars = text.chars().peekable();
    loop {
        let left = after + chars.clone().count();
        let problem = |what: String| (left, what);
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| !matches!(c, ',' | '=')) {
            name.push(c.to_ascii_lowercase());
        }
        let value = if chars.next_if_eq(&'=').is_some() { Some(quoted(&mut chars).map_err(problem)?) } else { None };
        let twice = || Err((left, format!("more than one `{name}` clause")));
        match (name.as_str(), value) {
            ("cert-authority", None) => options.authority = true,
            // Nothing between two commas is nothing at all.
            ("", None) if chars.peek() == Some(&',') => {}
            ("namespaces", Some(_)) if options.namespaces.is_some() => return twice(),
            ("namespaces", Some(list)) => options.namespaces = Some(PatternList::new(&list)),
            ("valid-after", Some(_)) if options.valid_after.is_some() => return twice(),
            ("valid-after", Some(time)) => options.valid_after = Some(parse_time(&time, zone).map_err(problem)?),
            ("valid-before", Some(_)) if options.valid_before.is_some() => return twice(),
            ("valid-before", Some(time)) => options.valid_before = Some(parse_time(&time, zone).map_err(problem)?),
            ("namespaces" | "valid-after" | "valid-before", None) => return Err((left, format!("`{name}` needs =\"...\""))),
            _ => {
                let name = crate::ssh::public_key::printable(&name);
                return Err((
                    left,
                    format!("unknown option `{name}` (cert-authority, namespaces, valid-after, valid-before are known)"),
                ));
            }
        }
        match chars.next() {
            None => break,
            Some(',') if chars.peek().is_none() => return Err((after, "an option is missing after the comma".to_owned())),
            Some(',') => {}
            Some(_) => return Err((after + chars.count() + 1, "a comma is missing between options".to_owned())),
        }
    }
    match (options.valid_after, options.valid_before) {
        (Some(start), Some(end)) if end <= start => {
            Err((after + text.chars().count(), "valid-before is not later than valid-after".to_owned()))
        }
        _ => Ok(options),
    }
}

/// auth-options.c, `opt_dequote`: `"..."` with `\"` inside.
fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    if chars.next_if_eq(&'"').is_none() {
        return Err("no quote before the value".to_owned());
    }
    let mut out = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(out),
            '\\' if chars.peek() == Some(&'"') => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    Err("no quote after the value".to_owned())
}

/// misc.c, `parse_absolute_time`: YYYYMMDD[HHMM[SS]], local time unless `Z` (or `UTC`) follows. OpenSSH (9.2 and 10.0) calls
/// mktime with `tm_isdst = 0`, so local times are winter time all year round; the same file must mean the same here.
fn parse_time(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let wrong =
        || format!("`{}` is not a time (YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z for UTC)", text.escape_default());
    let upper = text.to_ascii_uppercase();
    let digits = upper.strip_suffix("UTC").or_else(|| upper.strip_suffix('Z'));
    let (digits, zone) = digits.map_or((upper.as_str(), zone.clone()), |digits| (digits, TimeZone::UTC));
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), str::parse::<i8>).map_err(|_| wrong());
    let year = digits.get(..4).unwrap_or_default().parse::<i16>().map_err(|_| wrong())?;
    let time = DateTime::new(year, number(4, 6)?, number(6, 8)?, number(8, 10)?, number(10, 12)?, number(12, 14)?, 0)
        .map_err(|_| wrong())?;
    let timestamp = zone.to_timestamp(time).map_err(|_| wrong())?;
    if !zone.to_offset_info(timestamp).dst().is_dst() {
        return Ok(timestamp);
    }
    match zone.preceding(timestamp).find(|transition| !transition.dst().is_dst()) {
        Some(winter) => winter.offset().to_timestamp(time).map_err(|_| wrong()),
        None => Ok(timestamp),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIICRqtTZZyv9qyLJqUKeyP+FQqlK4mYJ1Xyb4RKwMYve";

    fn only_error(line: &str) -> String {
        let file = AllowedSigners::parse(line, &TimeZone::UTC);
        assert_eq!((file.len(), file.errors().len()), (0, 1), "{line}: {:?}", file.errors());
        file.errors()[0].to_string()
    }

    #[test]
    fn errors_name_line_and_column_and_what_is_wrong() {
        for (line, want) in [
            ("alice", "line 1, column 6: no key after the principals"),
            ("\"alice ssh-ed25519", "line 1, column 1: no matching quote"),
            ("alice frobnicate ssh-ed25519 AAAA", "line 1, column 7: unknown option `frobnicate`"),
            ("alice namespaces=\"a\",namespaces=\"b\" x", "line 1, column 22: more than one `namespaces` clause"),
            ("alice namespaces=\"a", "line 1, column 18: no matching quote"),
            ("alice valid-after=\"2026\" x", "line 1, column 7: `2026` is not a time"),
            ("alice valid-before=\"20260230\" x", "line 1, column 7: `20260230` is not a time"),
            ("alice valid-after=\"2027\u{e9}0101\" x", "line 1, column 7: `2027\\u{e9}0101` is not a time"),
            ("alice valid-after=\"20270101\",valid-before=\"20260101\" x", "line 1, column 7: valid-before is not later"),
            ("alice cert-authority", "line 1, column 21: no key"),
            ("alice cert-authority,", "line 1, column 22: an option is missing after the comma"),
            ("alice ssh-ed25519 AAAA", "line 1, column 7: malformed public key"),
            ("alice ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIICRqtTZZyv9qyLJqUKeyP+FQqlK4mYJ1Xyb4RKwMYve", "line 1, column 7: malformed"),
            ("alice ssh-dss AAAAB3NzaC1kc3MAAAAA", "line 1, column 7: "),
        ] {
            let got = only_error(line);
            assert!(got.starts_with(want), "{line}\n  got  {got}\n  want {want}");
            assert!(got.ends_with("; this line allows nobody"), "{got}");
        }
    }

    #[test]
    fn comments_and_empty_lines_are_nothing_and_line_numbers_count_them() {
        let text = format!("# who may\r\n\n  \t\nalice {KEY} a comment\r\n\tbob {KEY}\nbad\n");
        let file = AllowedSigners::parse(&text, &TimeZone::UTC);
        assert_eq!(file.signers.iter().map(|signer| signer.line).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(file.errors().iter().map(|error| error.line).collect::<Vec<_>>(), [6]);
        assert!(AllowedSigners::parse("", &TimeZone::UTC).is_empty());
    }

    #[test]
    fn local_times_are_winter_time_as_in_openssh_and_z_is_utc() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for (text, want) in [
            ("20260101", "2025-12-31T23:00:00Z"),
            ("202601011200", "2026-01-01T11:00:00Z"),
            ("20260601140000", "2026-06-01T13:00:00Z"),
            ("20260601140000Z", "2026-06-01T14:00:00Z"),
            ("20260601z", "2026-06-01T00:00:00Z"),
            ("20260601UTC", "2026-06-01T00:00:00Z"),
        ] {
            assert_eq!(parse_time(text, &zone).map(|time| time.to_string()), Ok(want.to_owned()), "{text}");
        }
    }
}
