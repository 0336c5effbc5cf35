//! `policy.toml`: which principal may ask for which actions, about which networks, users and ports; and, from the same grants, what a
//! signer may see of others. What no grant permits is refused. Must not look at the host.

use std::net::IpAddr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use toml::Spanned;

use crate::address::Source;
use crate::request::{Action, Request};
use crate::ssh::pattern::PatternList;

/// All grants, in the file's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

/// One `[[grant]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    principals: PatternList,
    actions: Actions,
    /// `None` is everybody.
    networks: Option<Vec<Source>>,
    /// `None` is every user.
    users: Option<PatternList>,
    /// `None` is the configured SSH port, and any port where nothing else is restricted.
    ports: Option<Vec<u16>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Actions {
    All,
    These(Vec<Action>),
}

/// Why `policy.toml` is not understood: the message shows line, column and the line itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct GrantsError(String);

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    grant: Vec<Spanned<GrantTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantTable {
    principal: OneOrMany,
    actions: Vec<ActionName>,
    #[serde(default)]
    networks: Option<Vec<Source>>,
    #[serde(default)]
    users: Option<Users>,
    #[serde(default)]
    ports: Option<Ports>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a principal such as \"root\", or a list of them")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// An action, or `*` for all of them.
enum ActionName {
    All,
    One(Action),
}

/// `users`: names, or patterns of names as `AllowUsers` of sshd has them, without `@`.
struct Users(PatternList);

/// `ports`: the very ports.
struct Ports(Vec<u16>);

impl<'de> Deserialize<'de> for ActionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name == "*" {
            return Ok(ActionName::All);
        }
        let plain = serde::de::value::StrDeserializer::<D::Error>::new(&name);
        Action::deserialize(plain).map(ActionName::One)
    }
}

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        if names.is_empty() {
            return Err(D::Error::custom("`users` is empty, which permits no user; leave it out to mean every user"));
        }
        if let Some(wrong) = names.iter().find(|name| name.is_empty() || name.contains([',', '@', ' '])) {
            return Err(D::Error::custom(format!("`{wrong}` is not one user name or pattern; several make a list")));
        }
        if names.iter().all(|name| name.starts_with('!')) {
            return Err(D::Error::custom("only exclusions (`!...`) name no user; add who is meant, such as \"*\""));
        }
        Ok(Self(PatternList::from_items(names.iter().map(String::as_str))))
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ports = Vec::<u16>::deserialize(deserializer)?;
        if ports.is_empty() {
            return Err(D::Error::custom(
                "`ports` is empty, which permits no port; leave it out to mean the SSH port of agent.toml",
            ));
        }
        if ports.contains(&0) {
            return Err(D::Error::custom("a port is 1 to 65535"));
        }
        Ok(Self(ports))
    }
}

impl Grants {
    /// Reads a whole file. An empty one permits nothing.
    pub fn parse(text: &str) -> Result<Self, GrantsError> {
        let file: File = toml::from_str(text).map_err(|error| GrantsError(error.to_string()))?;
        let grants = file.grant.into_iter().map(|table| {
            let start = table.span().start;
            table.into_inner().check().map_err(|what| {
                let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
                GrantsError(format!("policy error at line {line}, in this [[grant]]: {what}"))
            })
        });
        grants.collect::<Result<_, _>>().map(Self)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is permitted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that name a principal, each with its number from 0.
    pub(crate) fn naming(&self, principal: &str) -> Vec<(usize, &Grant)> {
        self.0.iter().enumerate().filter(|(_, grant)| grant.principals.matches(principal)).collect()
    }

    /// Whether a principal may ask for this about this source. Nobody may who has no grant (any more).
    pub fn permit(&self, principal: &str, action: Action, source: Source) -> bool {
        self.naming(principal).iter().any(|(_, grant)| grant.permits_action(action) && grant.covers(Some(source)))
    }
}

impl GrantTable {
    /// What the types cannot say. The error is what is wrong.
    fn check(self) -> Result<Grant, &'static str> {
        let principals = match self.principal {
            OneOrMany::One(name) => vec![name],
            OneOrMany::Many(names) => names,
        };
        if principals.iter().any(|name| name.is_empty() || name.contains(',')) || principals.is_empty() {
            return Err("each principal is one name or pattern; several make a list: principal = [\"alice\", \"ops-*\"]");
        }
        if principals.iter().all(|name| name.starts_with('!')) {
            return Err("only exclusions (`!...`) name nobody; add who is meant, such as \"*\"");
        }
        if self.networks.as_ref().is_some_and(Vec::is_empty) {
            return Err("`networks` is empty, which permits nothing; leave it out to mean everybody");
        }
        let mut actions = Vec::new();
        let mut all = false;
        for action in self.actions {
            match action {
                ActionName::All => all = true,
                ActionName::One(action) => actions.push(action),
            }
        }
        Ok(Grant {
            principals: PatternList::from_items(principals.iter().map(String::as_str)),
            actions: if all { Actions::All } else { Actions::These(actions) },
            networks: self.networks,
            users: self.users.map(|Users(users)| users),
            ports: self.ports.map(|Ports(ports)| ports),
        })
    }
}

impl Grant {
    pub(crate) fn permits_action(&self, action: Action) -> bool {
        match &self.actions {
            Actions::All => true,
            Actions::These(actions) => actions.contains(&action),
        }
    }

    /// A question about everybody needs a grant about everybody: no `networks`, or all of IPv4 and all of IPv6 in them.
    pub(crate) fn covers(&self, source: Option<Source>) -> bool {
        let Some(networks) = &self.networks else { return true };
        match source {
            Some(source) => networks.iter().any(|network| network.contains(source)),
            None => [true, false]
                .into_iter()
                .all(|ipv4| networks.iter().any(|network| network.is_ipv4() == ipv4 && network.net().prefix_len() == 0)),
        }
    }

    /// Who is named must be in `users`; what is about every user at once needs a grant without them.
    pub(crate) fn covers_user(&self, request: &Request) -> bool {
        match (&self.users, request.user()) {
            (None, _) => true,
            (Some(users), Some(user)) => users.matches(&user),
            (Some(_), None) => !request.operation.is_about_every_user(),
        }
    }

    /// Another port than the configured one must be named in `ports`, unless the grant restricts nothing at all, as root's does.
    pub(crate) fn covers_port(&self, request: &Request, ssh_port: u16) -> bool {
        let port = request.operation.port().unwrap_or(ssh_port);
        match &self.ports {
            Some(ports) => !request.operation.is_about_a_port() || ports.contains(&port),
            None => port == ssh_port || self.is_unrestricted(),
        }
    }

    fn is_unrestricted(&self) -> bool {
        self.actions == Actions::All && self.covers(None) && self.users.is_none()
    }
}

/// What a signer may see in replies: the grants that name the principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    principal: String,
    asked: Action,
    grants: Vec<Grant>,
    /// The host's own addresses are no secret to who may ask it.
    host: Vec<IpAddr>,
}

impl Scope {
    pub(crate) fn new(principal: &str, asked: Action, grants: Vec<Grant>) -> Self {
        Self { principal: principal.to_owned(), asked, grants, host: Vec::new() }
    }

    /// The same on the host with these addresses.
    #[must_use]
    pub fn on(self, host: Vec<IpAddr>) -> Self {
        Self { host, ..self }
    }

    /// Who signed.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// What was asked for.
    pub fn asked(&self) -> Action {
        self.asked
    }

    /// Whether a grant for the action is about everybody: every address and every user.
    pub fn sees_all(&self, action: Action) -> bool {
        self.grants.iter().any(|grant| grant.permits_action(action) && grant.covers(None) && grant.users.is_none())
    }

    /// Whether a login from this source is within a grant for the action. One whose user is not known is within where the source is.
    pub fn sees_login(&self, action: Action, source: Source, user: Option<&str>) -> bool {
        self.grants.iter().any(|grant| {
            let user_is_within = match (&grant.users, user) {
                (None, _) | (_, None) => true,
                (Some(users), Some(user)) => users.matches(user),
            };
            grant.permits_action(action) && grant.covers(Some(source)) && user_is_within
        })
    }

    /// Whether a text may name this user to the signer: a grant for the action is about every user, or about this one.
    pub fn may_read_user(&self, action: Action, user: &str) -> bool {
        let is_within = |grant: &Grant| grant.users.as_ref().is_none_or(|users| users.matches(user));
        self.grants.iter().any(|grant| grant.permits_action(action) && is_within(grant))
    }

    /// Whether a text may name this source to the signer: it has an address of a grant for the action, is the host's own, or is of no
    /// client.
    pub fn may_read_of(&self, action: Action, source: Source) -> bool {
        let of_nobody = source.single().is_some_and(|address| address.is_loopback() || address.is_unspecified());
        let of_the_host = source.single().is_some_and(|address| self.host.contains(&address));
        of_nobody || of_the_host || self.grants.iter().any(|grant| grant.permits_action(action) && grant.touches(source))
    }
}

impl Grant {
    fn touches(&self, source: Source) -> bool {
        self.networks.as_ref().is_none_or(|networks| networks.iter().any(|network| network.overlaps(source)))
    }
}
