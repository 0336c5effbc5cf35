//! `policy.toml`: which principal may ask for which actions about which networks. What no grant permits is refused. Must not
//! look at the host.

use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::address::Source;
use crate::authenticate::AuthenticatedRequest;
use crate::pattern::PatternList;
use crate::request::{Action, Request};

/// All grants, in the file's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

/// One `[[grant]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    principals: PatternList,
    actions: Actions,
    /// `None` is everybody.
    networks: Option<Vec<Source>>,
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
    grant: Vec<GrantTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantTable {
    principal: OneOrMany,
    actions: Vec<ActionName>,
    #[serde(default)]
    networks: Option<Vec<Source>>,
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

impl Grants {
    /// Reads a whole file. An empty one permits nothing.
    pub fn parse(text: &str) -> Result<Self, GrantsError> {
        let file: File = toml::from_str(text).map_err(|error| GrantsError(error.to_string()))?;
        let grants = file.grant.into_iter().enumerate().map(|(index, table)| table.check(index + 1));
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
}

impl GrantTable {
    fn check(self, number: usize) -> Result<Grant, GrantsError> {
        let wrong = |what: &str| Err(GrantsError(format!("grant {number}: {what}")));
        let principals = match self.principal {
            OneOrMany::One(name) => vec![name],
            OneOrMany::Many(names) => names,
        };
        if principals.iter().any(|name| name.is_empty() || name.contains(',')) || principals.is_empty() {
            return wrong("each principal is one name or pattern; several make a list: principal = [\"alice\", \"ops-*\"]");
        }
        if principals.iter().all(|name| name.starts_with('!')) {
            return wrong("only exclusions (`!...`) name nobody; add who is meant, such as \"*\"");
        }
        if self.networks.as_ref().is_some_and(Vec::is_empty) {
            return wrong("`networks` is empty, which permits nothing; leave it out to mean everybody");
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
        })
    }
}

impl Grant {
    fn permits_action(&self, action: Action) -> bool {
        match &self.actions {
            Actions::All => true,
            Actions::These(actions) => actions.contains(&action),
        }
    }

    /// A question about everybody needs a grant about everybody: no `networks`, or all of IPv4 and all of IPv6 in them.
    fn covers(&self, source: Option<Source>) -> bool {
        let Some(networks) = &self.networks else { return true };
        match source {
            Some(source) => networks.iter().any(|network| network.contains(source)),
            None => [true, false].into_iter().all(|ipv4| {
                networks.iter().any(|network| network.is_ipv4() == ipv4 && network.net().prefix_len() == 0)
            }),
        }
    }
}

/// Why nothing permits a request. For the audit record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorizeError {
    /// No grant for this principal.
    #[error("no grant in policy.toml names principal `{0}`")]
    Principal(String),
    /// Grants, but not for this.
    #[error("no grant in policy.toml lets `{principal}` do `{action}`")]
    Action {
        /// Who.
        principal: String,
        /// What.
        action: Action,
    },
    /// Grants, but not for this address.
    #[error("no grant in policy.toml lets `{principal}` do `{action}` about {about}")]
    Network {
        /// Who.
        principal: String,
        /// What.
        action: Action,
        /// About whom.
        about: String,
    },
}

/// A request that a grant permits. Made by [`authorize`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedRequest {
    authenticated: AuthenticatedRequest,
    grant: usize,
}

impl AuthorizedRequest {
    /// Who asks, and with which key.
    pub fn signer(&self) -> &AuthenticatedRequest {
        &self.authenticated
    }

    /// What is asked.
    pub fn request(&self) -> &Request {
        self.authenticated.request()
    }

    /// The number of the `[[grant]]` that permits it, from 1.
    pub fn grant(&self) -> usize {
        self.grant
    }
}

/// The one way to an [`AuthorizedRequest`]: the first grant that names the principal, the action and the source permits.
pub fn authorize(authenticated: AuthenticatedRequest, grants: &Grants) -> Result<AuthorizedRequest, AuthorizeError> {
    let operation = &authenticated.request().operation;
    let (action, source) = (operation.action(), operation.source());
    let principal = authenticated.principal();

    let named: Vec<(usize, &Grant)> =
        grants.0.iter().enumerate().filter(|(_, grant)| grant.principals.matches(principal)).collect();
    if named.is_empty() {
        return Err(AuthorizeError::Principal(principal.to_owned()));
    }
    let able: Vec<(usize, &Grant)> = named.into_iter().filter(|(_, grant)| grant.permits_action(action)).collect();
    if able.is_empty() {
        return Err(AuthorizeError::Action { principal: principal.to_owned(), action });
    }
    let Some(index) = able.iter().find(|(_, grant)| grant.covers(source)).map(|(index, _)| *index) else {
        let about = source.map_or_else(|| "everybody".to_owned(), Source::short);
        return Err(AuthorizeError::Network { principal: principal.to_owned(), action, about });
    };
    Ok(AuthorizedRequest { authenticated, grant: index + 1 })
}
