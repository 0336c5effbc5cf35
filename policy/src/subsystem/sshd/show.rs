//! The effective configuration with the origin of each value. Values are sshd's own (`sshd -T`, for a login `-C`); the lines that we
//! say set them are put to the test: sshd must print the same for these lines alone. Where it does not, the origin is unknown.

use std::collections::BTreeSet;
use std::net::IpAddr;

use thiserror::Error;

use crate::host::{self, HostState, Needs, Part};
use crate::reply::sshd::{Origin, ShownLine, ShownLogin, ShownMatch, ShownSetting, SshdShow, SshdShowSchema};
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::{Client, Place, Setting, Settings, evaluate, keyword};
use crate::subsystem::sshd::facts::ask::{Candidate, answer, login_as, resolved};
use crate::subsystem::sshd::facts::state::{Login, Need, Server};
use crate::subsystem::sshd::judge::login;
use crate::subsystem::sshd::quoting::said;
use crate::text::quoted::Text;

/// Why there is nothing to show.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShowError {
    /// No keyword of that name.
    #[error("sshd has no keyword `{word}`")]
    Keyword {
        /// What was given.
        word: String,
        /// The nearest ones.
        near: Vec<String>,
    },
    /// sshd could not say.
    #[error("{}", .0.as_str())]
    Sshd(Text),
}

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowQuestion<'a> {
    /// The sshd on this port.
    pub port: u16,
    /// Only these; all when there are none.
    pub keywords: &'a [String],
    /// As whom and from where; for everybody when not given.
    pub login: Option<(&'a str, IpAddr)>,
}

/// The answer, once everything it needs is known; `None` while facts are missing.
pub fn show(host: &HostState, question: &ShowQuestion<'_>, needs: &mut Needs) -> Result<Option<SshdShow>, ShowError> {
    let fail = |why: &str| ShowError::Sshd(said(why));
    if let Some(Part::Absent(why) | Part::Unreadable(why)) = host.sshd.servers.get(&question.port) {
        return Err(fail(why));
    }
    let Some(server) = resolved(host, question.port, needs) else { return Ok(None) };
    let everybody = server.effective.as_ref().map_err(|why| fail(why))?;
    known(question.keywords, everybody)?;
    let (effective, client) = match question.login {
        None => (everybody, None),
        Some((user, address)) => match for_login(host, &server, user, address, question.port, needs)? {
            Some((effective, client)) => (effective, Some(client)),
            None => return Ok(None),
        },
    };
    let mut notes = Vec::new();
    let settings = match server.tree.as_ref().map_err(Clone::clone) {
        Ok(tree) => evaluate(tree, &server.invocation.options, client.as_ref()).map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    let settings = settings.inspect_err(|why| notes.push(Text::from("no line can be named: ") + said(why))).ok();
    let alone = settings.as_ref().map(lines_alone);
    let of = |text: &str, needs: &mut Needs| {
        let changes = [(server.invocation.file().to_owned(), text.as_bytes().to_vec())].into();
        answer(host, &Candidate { port: question.port, changes }, needs)
    };
    let proof = alone.as_deref().map(|text| of(text, needs));
    let (Some(default), proof) = (of("", needs), proof) else { return Ok(None) };
    let proof = match proof {
        Some(None) => return Ok(None),
        Some(Some(answer)) => answer.effective.as_ref().ok(),
        None => None,
    };
    let default = default.effective.as_ref().ok();
    if settings.is_some() && proof.is_none() {
        notes.push("no line is named: sshd does not take the lines that sshfix thinks count".into());
    }
    let known = Known { effective, settings: settings.as_ref(), proof, default };
    let names = names(question.keywords, effective, settings.as_ref());
    let settings = names.iter().map(|name| known.setting(name)).collect();
    let login = client.map(|Client { user, address, local_address, .. }| ShownLogin {
        user,
        address,
        local_address: local_address.unwrap_or(address),
    });
    let mut command = Text::from(&server.invocation.program);
    for option in &server.invocation.options {
        command.push(Text::from(" ") + said(option));
    }
    let file = server.invocation.file().to_owned();
    Ok(Some(SshdShow {
        schema: SshdShowSchema::V1,
        port: question.port,
        running: server.running,
        login,
        command,
        file,
        settings,
        notes,
    }))
}

/// Every word must be a keyword, of the manual or of this very sshd.
fn known(words: &[String], effective: &Effective) -> Result<(), ShowError> {
    for word in words {
        if keyword::find(word).is_none() && effective.all(&word.to_ascii_lowercase()).is_empty() {
            let near = keyword::near(word).into_iter().map(str::to_owned).collect();
            return Err(ShowError::Keyword { word: word.clone(), near });
        }
    }
    Ok(())
}

/// What sshd makes of its files for a login, and the client as our own evaluation takes it.
fn for_login<'a>(
    host: &'a HostState,
    server: &Server,
    user: &str,
    address: IpAddr,
    port: u16,
    needs: &mut Needs,
) -> Result<Option<(&'a Effective, Client)>, ShowError> {
    let local = login::local_address(host, address);
    let Some(login) = Login::new(user, address, local.unwrap_or(address), port) else {
        return Err(ShowError::Sshd(format!("`{user}` is no name sshfix asks about").into()));
    };
    let account = host.sshd.accounts.get(user);
    if account.is_none() {
        needs.insert(host::Need::Sshd(Need::Account(user.to_owned())));
    }
    let (Some(effective), Some(account)) = (login_as(host, server, &login, needs), account) else { return Ok(None) };
    if let Part::Unreadable(why) = account {
        return Err(ShowError::Sshd(why.into()));
    }
    let Some(client) = login::client(&login, account) else { return Ok(None) };
    effective.as_ref().map(|effective| Some((effective, client))).map_err(|why| ShowError::Sshd(said(why)))
}

/// The lines that count and nothing else, as one file. Options of the program are given to sshd anyway.
fn lines_alone(settings: &Settings) -> String {
    let lines = settings.values().flatten().filter(|setting| setting.at.line > 0);
    lines.flat_map(|setting| [setting.text.as_str(), "\n"]).collect()
}

/// In lower case: those asked for, else all that sshd prints and all that a line sets.
fn names(words: &[String], effective: &Effective, settings: Option<&Settings>) -> BTreeSet<String> {
    if !words.is_empty() {
        return words.iter().map(|word| keyword::canonical(word)).collect();
    }
    let set = settings.into_iter().flat_map(|settings| settings.keys().cloned());
    effective.iter().map(|(keyword, _)| keyword.to_owned()).chain(set).collect()
}

/// All that is known of all keywords.
struct Known<'a> {
    effective: &'a Effective,
    settings: Option<&'a Settings>,
    /// What sshd prints for the lines alone that we say count.
    proof: Option<&'a Effective>,
    default: Option<&'a Effective>,
}

impl Known<'_> {
    fn setting(&self, name: &str) -> ShownSetting {
        let values = self.effective.all(name).to_vec();
        let set = self.settings.and_then(|settings| settings.get(name)).map_or(&[][..], Vec::as_slice);
        let proven = self.proof.is_some_and(|proof| proof.all(name) == values.as_slice());
        let by_default = self.default.map(|default| default.all(name));
        let origin = if !proven {
            Origin::Unknown
        } else if set.iter().any(|setting| setting.at.line == 0) {
            Origin::CommandLine
        } else if !set.is_empty() {
            Origin::File
        } else if by_default == Some(values.as_slice()) {
            Origin::Default
        } else {
            Origin::Derived
        };
        let lines = match origin {
            Origin::File | Origin::CommandLine => counting(set, &values).into_iter().map(shown).collect(),
            Origin::Default | Origin::Derived | Origin::Unknown => Vec::new(),
        };
        let default = by_default.map(<[String]>::to_vec);
        ShownSetting { keyword: keyword::spelling(name), values, origin, lines, default }
    }
}

/// Of several `MaxStartups` OpenSSH 9.2 takes the last and 10.0 the first: the one with the value that sshd prints.
fn counting<'a>(set: &'a [Setting], values: &[String]) -> Vec<&'a Setting> {
    let same = |setting: &&Setting| values.iter().any(|value| *value == setting.arguments.join(" "));
    match set {
        [_, _, ..] if values.len() == 1 && set.iter().filter(same).count() == 1 => set.iter().filter(same).collect(),
        _ => set.iter().collect(),
    }
}

fn shown(setting: &Setting) -> ShownLine {
    let Setting { at: Place { file, line }, text, under, .. } = setting;
    let under = under.iter().map(|(at, text)| ShownMatch { file: at.file.clone(), line: at.line, text: text.clone() });
    ShownLine { file: file.clone(), line: *line, text: text.clone(), under: under.collect() }
}
