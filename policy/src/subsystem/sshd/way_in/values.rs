//! What the values of sshd's keywords do to a login, for those that no stage judges: harmless, harmless for some values alone, files that sshd
//! opens or writes by them, or not known. An edit is let through only where its values are judged or proven harmless. Reads nothing: what
//! stands at a path is a fact of the agent's.

use std::collections::BTreeSet;

use crate::host::{self, HostState, Needs};
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::keyword;
use crate::subsystem::sshd::facts::state::{Need, Pid, ValueFile};
use crate::subsystem::sshd::judge::effect::{Effect, PROGRAMS, Use, before, effect, subsystems_stay};
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::quoting::of_values;
use crate::text::quoted::Text;
use crate::verdict::Stage;

/// A message of this length reaches every client (RFC 4253, section 6.1), with room for what stands around it.
const BANNER_MAX: u64 = 30_000;
/// Where sshd writes its pid by default.
const PID_FILES: [&str; 2] = ["/run/sshd.pid", "/var/run/sshd.pid"];

/// The objections to the values of a login, or of everybody: each was there before where the same value was. Facts that are missing are
/// added to `needs`.
pub fn objections(host: &HostState, effective: &Effective, needs: &mut Needs) -> Vec<Objection> {
    let mut found = Vec::new();
    for (keyword, values) in effective.iter() {
        for value in values {
            let why = match problem(host, keyword, value, needs) {
                Problem::None => continue,
                Problem::NotRead(why) => {
                    found.push(Objection::unknown(Stage::SshdAccess, Reason::NotRead(why.clone()), why));
                    continue;
                }
                Problem::Is(why) => why,
            };
            found.push(objection(keyword, value, &why));
        }
    }
    found
}

/// Those of the keywords about keys that say where keys are: that is compared by itself, place for place.
pub(crate) const PLACES_OF_KEYS: [&str; 3] = ["authorizedkeysfile", "authorizedkeyscommand", "trustedusercakeys"];

/// The first of these keywords whose value changes and may take fewer keys.
pub(crate) fn takes_fewer(
    keywords: impl IntoIterator<Item = &'static str>,
    was: &Effective,
    is: &Effective,
) -> Option<&'static str> {
    let fewer = |keyword: &&str| {
        let (old, new) = (was.all(keyword), is.all(keyword));
        old != new && !only_more(keyword, old, new)
    };
    keywords.into_iter().find(fewer)
}

/// Whether a value takes every key that the other one took.
fn only_more(keyword: &str, old: &[String], new: &[String]) -> bool {
    let list =
        |values: &[String]| -> Vec<String> { values.iter().flat_map(|value| value.split(',')).map(str::to_owned).collect() };
    match keyword {
        "pubkeyacceptedalgorithms" | "casignaturealgorithms" => {
            let new = list(new);
            list(old).iter().all(|one| new.contains(one))
        }
        "authorizedkeysfile" => {
            let words =
                |values: &[String]| values.iter().flat_map(|value| value.split(' ')).map(str::to_owned).collect::<Vec<_>>();
            // In the same order, which counts.
            let new = words(new);
            let mut new = new.iter();
            words(old).iter().all(|file| new.any(|other| other == file))
        }
        "authorizedkeyscommand" | "trustedusercakeys" => old.first().is_none_or(|value| value == "none"),
        "requiredrsasize" => {
            let number = |values: &[String]| values.first().and_then(|value| value.parse::<u32>().ok());
            number(old).zip(number(new)).is_some_and(|(old, new)| new <= old)
        }
        "strictmodes" => new.first().is_some_and(|value| value == "no"),
        // Whether root may come at all is another question.
        "permitrootlogin" => new.first().is_some_and(|value| value != "forced-commands-only"),
        "revokedkeys" => new.first().is_none_or(|value| value == "none"),
        _ => false,
    }
}

/// Whether a keyword is called judged.
#[cfg(test)]
pub(crate) fn judged(keyword: &str) -> bool {
    matches!(effect(keyword), Some(Effect::Judged))
}

/// A keyword that no table of sshfix has, one of a method that is in use, or one that not every change leaves harmless, with another value
/// than before. Of some it is known that they change nothing here.
pub fn not_known(was: &Effective, is: &Effective, left_alone: impl Fn(&str) -> bool) -> Option<Objection> {
    was.iter().next()?;
    let keywords: BTreeSet<&str> = was.iter().chain(is.iter()).map(|(keyword, _)| keyword).collect();
    let counts = |keyword: &str| match effect(keyword) {
        None => true,
        Some(Effect::Without(other, without)) => was.one(other).is_some_and(|value| value != without),
        Some(Effect::Change(harmless)) => !harmless(was.all(keyword), is.all(keyword)),
        Some(Effect::Judged | Effect::Harmless | Effect::Where(_) | Effect::File(_)) => false,
    };
    let mut unknown =
        keywords.into_iter().filter(|keyword| counts(keyword) && was.all(keyword) != is.all(keyword) && !left_alone(keyword));
    unknown.next().map(|keyword| objection(keyword, &is.all(keyword).join(" "), &does_not_know(keyword)))
}

/// Keywords that [`not_known`] looks at, with another value each where theirs may have come since sshd read its files: one that keeps nobody
/// out. sftp that is there no more went with a line that cannot be seen.
pub fn or_before(effective: &Effective, may_be_new: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let is_set = |keyword: &str, off: &str| effective.one(keyword).is_some_and(|value| value != off);
    let other = |(keyword, values): (&str, &[String])| match effect(keyword) {
        None => Some("not known"),
        Some(Effect::Without(other, off)) => is_set(other, off).then(|| off_by_default(keyword)).flatten(),
        Some(Effect::Change(harmless)) if keyword != "subsystem" => {
            let plain = off_by_default(keyword)?;
            (!harmless(&[plain.to_owned()], values)).then_some(plain)
        }
        Some(Effect::Change(_) | Effect::Judged | Effect::Harmless | Effect::Where(_) | Effect::File(_)) => None,
    };
    let new = |(keyword, values): (&str, &[String])| {
        let plain = other((keyword, values)).filter(|plain| values != [*plain] && may_be_new(keyword))?;
        Some((keyword.to_owned(), plain.to_owned()))
    };
    let mut found: Vec<(String, String)> = effective.iter().filter_map(new).collect();
    let subsystems = effective.all("subsystem");
    let has_sftp = subsystems.iter().any(|value| before(value, ' ') == "sftp");
    if !subsystems_stay(&[SFTP.to_owned()], subsystems) && (!has_sftp || may_be_new("subsystem")) {
        found.push(("subsystem".to_owned(), SFTP.to_owned()));
    }
    found
}

/// The sftp that every sshd has in itself.
const SFTP: &str = "sftp internal-sftp";

/// What sshd goes by where no line sets it, for keywords of [`Effect::Without`] and [`Effect::Change`]; none where it is no plain word, or keeps
/// nobody out.
fn off_by_default(keyword: &str) -> Option<&'static str> {
    Some(match keyword {
        "authorizedkeyscommanduser"
        | "authorizedprincipalscommand"
        | "authorizedprincipalscommanduser"
        | "authorizedprincipalsfile"
        | "persourcepenaltyexemptlist" => "none",
        "gssapienablek5users" | "hostbasedusesnamefrompacketonly" | "ignoreuserknownhosts" | "permituserenvironment" => "no",
        "gssapistrictacceptorcheck" | "ignorerhosts" | "kerberosorlocalpasswd" | "permituserrc" => "yes",
        _ => return None,
    })
}

/// Whether a line may take something away from whoever comes, of those that no stage judges.
pub fn takes_away(host: &HostState, keyword: &str, arguments: &[String], needs: &mut Needs) -> bool {
    let value = arguments.join(" ");
    match effect(keyword) {
        None => !is_structure(keyword),
        Some(Effect::Change(_)) if keyword == "subsystem" => !subsystems_stay(&[SFTP.to_owned()], &[SFTP.to_owned(), value]),
        Some(Effect::Change(harmless)) => off_by_default(keyword).is_some_and(|plain| !harmless(&[plain.to_owned()], &[value])),
        Some(Effect::Without(..) | Effect::Judged | Effect::Harmless) => false,
        Some(Effect::Where(_) | Effect::File(_)) => !is_harmless(host, keyword, arguments, needs),
    }
}

/// A keyword of an edited line that no table of sshfix has, and that sshd does not print: whether its value changes is not known either.
pub fn not_printed(edited: &BTreeSet<String>, was: &Effective, is: &Effective) -> Option<Objection> {
    let silent = |keyword: &&String| was.all(keyword).is_empty() && is.all(keyword).is_empty();
    let mut unknown = edited.iter().filter(|keyword| effect(keyword).is_none() && !is_structure(keyword)).filter(silent);
    unknown.next().map(|keyword| objection(keyword, "", &does_not_know(keyword)))
}

/// What lines mean by these is in the values of all others.
fn is_structure(keyword: &str) -> bool {
    matches!(keyword, "include" | "match")
}

fn objection(keyword: &str, value: &str, why: &str) -> Objection {
    let name = keyword::spelling(keyword);
    let shown: String = value.chars().take(100).collect();
    let why = Text::from(format!("sshd: {name} ")) + of_values(keyword, shown) + format!(": {why}");
    Objection::unknown(Stage::SshdAccess, Reason::Value(keyword.to_owned(), value.to_owned()), why)
}

fn does_not_know(keyword: &str) -> String {
    format!("sshfix does not know what {} does to a login; edit the file by hand", keyword::spelling(keyword))
}

/// Whether the values of a line keep nobody out, whoever comes.
pub fn is_harmless(host: &HostState, keyword: &str, values: &[String], needs: &mut Needs) -> bool {
    match effect(keyword) {
        None | Some(Effect::Judged | Effect::Without(..) | Effect::Change(_)) => false,
        Some(Effect::Harmless) => true,
        Some(Effect::Where(_) | Effect::File(_)) => {
            matches!(problem(host, keyword, &values.join(" "), needs), Problem::None)
        }
    }
}

enum Problem {
    None,
    /// A fact is missing.
    NotRead(String),
    Is(String),
}

fn problem(host: &HostState, keyword: &str, value: &str, needs: &mut Needs) -> Problem {
    match effect(keyword) {
        // What those of `Without` add to, and what those of `Change` are, is judged by how it changes.
        None | Some(Effect::Judged | Effect::Harmless | Effect::Without(..) | Effect::Change(_)) => Problem::None,
        Some(Effect::Where(harmless)) if harmless(value) => Problem::None,
        Some(Effect::Where(_)) => Problem::Is(does_not_know(keyword)),
        Some(Effect::File(_)) if value == "none" => Problem::None,
        Some(Effect::File(of)) => {
            if let Some(why) = wrong_place(of, value) {
                return Problem::Is(why);
            }
            // `sshd -T` puts the folder it runs in before a name.
            let path = value.to_owned();
            let Some(file) = host.sshd.value_files.get(&path) else {
                needs.insert(host::Need::Sshd(Need::ValueFile(path)));
                return Problem::NotRead(format!("{value}, which was not looked at yet"));
            };
            // By its own default name it takes turns with other sshds.
            let is_sshds = matches!(of, Use::Pid) && PID_FILES.contains(&value) && !matches!(file, ValueFile::Other(_));
            wrong_file(of, file).filter(|_| !is_sshds).map_or(Problem::None, Problem::Is)
        }
    }
}

/// Why sshd may not use what is at this path, whatever stands there.
fn wrong_place(of: Use, path: &str) -> Option<String> {
    let plain = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if !path.starts_with('/') || !plain {
        return Some("not the plain absolute path of a file".to_owned());
    }
    let below = |folders: &[&str]| folders.iter().find_map(|folder| path.strip_prefix(folder));
    match of {
        Use::Show | Use::Read => None,
        // Other names mean something to other programs: /run/nologin.
        Use::Pid => {
            let good = below(&["/run/", "/var/run/"]).is_some_and(|name| {
                name.len() > ".pid".len() && std::path::Path::new(name).extension().is_some_and(|end| end == "pid")
            });
            let why = "sshd writes its pid over this file as root and removes it when it reloads: sshfix sets only a name below /run that \
                       ends with .pid, or `none`";
            (!good).then(|| why.to_owned())
        }
        Use::Run => {
            let good = below(&PROGRAMS).is_some_and(|name| matches!(name, "sshd-session" | "sshd-auth"));
            let why = "sshd runs this program for each connection: sshfix sets only the one of the distribution";
            (!good).then(|| why.to_owned())
        }
    }
}

/// Why sshd may not use this file.
fn wrong_file(of: Use, file: &ValueFile) -> Option<String> {
    let (size, for_all, program, pid) = match file {
        ValueFile::Other(why) => return Some(why.clone()),
        ValueFile::Missing => {
            return matches!(of, Use::Run).then(|| "there is no such program, and nobody could log in without it".to_owned());
        }
        ValueFile::OfUnit(unit) => {
            let why =
                format!("{unit} has its own pid there (`PIDFile=`), which sshd would write over and remove when it reloads");
            return matches!(of, Use::Pid).then_some(why);
        }
        ValueFile::Regular { size, for_all, program, pid } => (*size, *for_all, *program, *pid),
    };
    let why = match of {
        Use::Show if !for_all => {
            "not every user may read this file, and sshd shows it to everybody on the network before they log in".to_owned()
        }
        Use::Show if size > BANNER_MAX => {
            format!("{size} bytes long, and clients need not take more than {BANNER_MAX} in one message")
        }
        Use::Pid => match pid {
            Pid::None => "this file holds something else than a pid, which sshd would write over".to_owned(),
            Pid::Others(pid) => {
                format!(
                    "this file holds the pid of another process ({pid}): sshd would write over it, and remove it when it reloads"
                )
            }
            Pid::Own | Pid::Ended => return None,
        },
        Use::Run if !program => "this is no program that can be run, and nobody could log in without it".to_owned(),
        Use::Show | Use::Read | Use::Run => return None,
    };
    Some(why)
}

/// The number of a process that is the whole content of a file: sshd.c writes `%ld\n`.
pub fn pid(bytes: &[u8]) -> Option<u32> {
    let number = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let digits = number.iter().all(u8::is_ascii_digit).then_some(number)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
