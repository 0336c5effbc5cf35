//! `policy.toml`: which principal may ask for which actions about which networks. What no grant permits is refused. Must not
//! look at the host.

mod effects;

use serde::{Deserialize, Deserializer};
use thiserror::Error;
use toml::Spanned;

use crate::address::Source;
use crate::authenticate::AuthenticatedRequest;
use crate::pattern::PatternList;
use crate::request::{Action, Request};

pub use effects::TooWide;

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
    grant: Vec<Spanned<GrantTable>>,
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
            None => [true, false]
                .into_iter()
                .all(|ipv4| networks.iter().any(|network| network.is_ipv4() == ipv4 && network.net().prefix_len() == 0)),
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
    others: bool,
    /// Whether a grant about everybody permits the action, too.
    everybody: bool,
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

    /// Whether a `confirm` or `rollback` may be about a change of somebody else's (`confirm-any`, `rollback-any`).
    pub fn others(&self) -> bool {
        self.others
    }
}

/// The one way to an [`AuthorizedRequest`]: the first grant that names the principal, the action and the source permits.
///
/// To confirm and to take back one's own changes needs no action: whoever has a grant may. Whose a change is, is looked at with
/// the change itself; [`AuthorizedRequest::others`] tells whether it may be another's.
pub fn authorize(authenticated: AuthenticatedRequest, grants: &Grants) -> Result<AuthorizedRequest, AuthorizeError> {
    let operation = &authenticated.request().operation;
    let (action, source) = (operation.action(), operation.widest());
    let principal = authenticated.principal();

    let named: Vec<(usize, &Grant)> =
        grants.0.iter().enumerate().filter(|(_, grant)| grant.principals.matches(principal)).collect();
    if named.is_empty() {
        return Err(AuthorizeError::Principal(principal.to_owned()));
    }
    let any = match action {
        Action::Confirm => Some(Action::ConfirmAny),
        Action::Rollback => Some(Action::RollbackAny),
        _ => None,
    };
    if let (Some(any), Some((first, _))) = (any, named.first()) {
        let permitting = named.iter().find(|(_, grant)| grant.permits_action(any) && grant.covers(None)).map(|(index, _)| *index);
        let (grant, others) = (permitting.unwrap_or(*first) + 1, permitting.is_some());
        return Ok(AuthorizedRequest { authenticated, grant, others, everybody: false });
    }
    let able: Vec<(usize, &Grant)> = named.into_iter().filter(|(_, grant)| grant.permits_action(action)).collect();
    if able.is_empty() {
        return Err(AuthorizeError::Action { principal: principal.to_owned(), action });
    }
    let Some(index) = able.iter().find(|(_, grant)| grant.covers(source)).map(|(index, _)| *index) else {
        let about = source.map_or_else(|| "everybody".to_owned(), Source::short);
        return Err(AuthorizeError::Network { principal: principal.to_owned(), action, about });
    };
    let everybody = able.iter().any(|(_, grant)| grant.covers(None));
    Ok(AuthorizedRequest { authenticated, grant: index + 1, others: false, everybody })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use jiff::tz::TimeZone;
    use ssh_key::PrivateKey;
    use ssh_key::private::Ed25519Keypair;

    use super::*;
    use crate::allowed_signers::AllowedSigners;
    use crate::authenticate::{Context, authenticate};
    use crate::request::{Mode, Operation, PROTOCOL, REQUEST_NAMESPACE};
    use crate::sshsig;
    use crate::wire::{Challenge, SignedRequest};

    /// There is no other way to one than to sign it.
    fn signed_by(principal: &str, operation: Operation) -> AuthenticatedRequest {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]));
        let challenge = Challenge::new([2; 32]);
        let request = Request {
            protocol: PROTOCOL,
            host: "SHA256:host".to_owned(),
            id: "0".repeat(32),
            challenge: challenge.to_string(),
            valid_for: 60,
            principal: Some(principal.to_owned()),
            operation,
            mode: Mode::DryRun,
            reason: None,
            from: None,
            from_user: None,
        };
        let payload = serde_json::to_vec(&request).unwrap();
        let signature = sshsig::sign(&key, REQUEST_NAMESPACE, &payload).unwrap();
        let line = format!("* {}", key.public_key().to_openssh().unwrap());
        let signers = AllowedSigners::parse(&line, &TimeZone::UTC);
        let context =
            Context { host: "SHA256:host", challenge: &challenge, age: Duration::ZERO, now: jiff::Timestamp::UNIX_EPOCH };
        authenticate(&SignedRequest::new(payload, signature), &signers, &context).unwrap()
    }

    fn unban(source: &str) -> Operation {
        Operation::Unban { source: source.parse().unwrap(), jail: None, ignore_for: None, range: false }
    }

    fn permitted(grants: &str, principal: &str, operation: Operation) -> Result<usize, AuthorizeError> {
        authorize(signed_by(principal, operation), &Grants::parse(grants).unwrap()).map(|request| request.grant())
    }

    #[test]
    fn without_a_grant_nothing_is_permitted() {
        assert_eq!(permitted("", "root", Operation::Status), Err(AuthorizeError::Principal("root".into())));
        let other = "[[grant]]\nprincipal = \"alice\"\nactions = [\"*\"]";
        assert_eq!(permitted(other, "root", Operation::Status), Err(AuthorizeError::Principal("root".into())));
    }

    #[test]
    fn a_grant_permits_its_actions_in_its_networks_and_says_which_it_was() {
        let grants = r#"
            [[grant]]
            principal = "root"
            actions = ["*"]

            [[grant]]
            principal = ["alice", "ops-*", "!ops-intern"]
            actions = ["diagnose", "unban"]
            networks = ["203.0.113.0/24", "2001:db8::/32"]

            [[grant]]
            principal = "*"
            actions = ["status", "fail2ban-jails"]
        "#;
        assert_eq!(permitted(grants, "root", unban("0.0.0.0/0")), Ok(1));
        assert_eq!(permitted(grants, "alice", unban("203.0.113.7")), Ok(2));
        assert_eq!(permitted(grants, "ops-1", unban("203.0.113.0/25")), Ok(2));
        assert_eq!(permitted(grants, "alice", unban("::ffff:203.0.113.7")), Ok(2));
        assert_eq!(permitted(grants, "alice", unban("2001:db8::7")), Ok(2));
        assert_eq!(permitted(grants, "bob", Operation::Status), Ok(3));
        assert_eq!(permitted(grants, "alice", Operation::Fail2banJails), Ok(3));
        // The range asked about must lie inside the network, not only touch it.
        for source in ["203.0.112.0/23", "203.0.114.7", "0.0.0.0/0"] {
            let got = permitted(grants, "alice", unban(source));
            assert!(matches!(got, Err(AuthorizeError::Network { .. })), "{source}: {got:?}");
        }
        assert!(matches!(permitted(grants, "ops-intern", unban("203.0.113.7")), Err(AuthorizeError::Action { .. })));
        let ban = Operation::Ban { source: "203.0.113.7".parse().unwrap(), jail: "sshd".to_owned() };
        assert!(matches!(permitted(grants, "alice", ban), Err(AuthorizeError::Action { .. })));
    }

    #[test]
    fn a_question_about_everybody_needs_a_grant_about_everybody() {
        let grant = |networks: &str| format!("[[grant]]\nprincipal = \"a\"\nactions = [\"banned\"]\n{networks}");
        let everybody = Operation::Banned { source: None };
        assert_eq!(permitted(&grant(""), "a", everybody.clone()), Ok(1));
        assert_eq!(permitted(&grant("networks = [\"0.0.0.0/0\", \"::/0\"]"), "a", everybody.clone()), Ok(1));
        for networks in ["[\"0.0.0.0/0\"]", "[\"::/0\"]", "[\"203.0.113.0/24\"]"] {
            let got = permitted(&grant(&format!("networks = {networks}")), "a", everybody.clone());
            assert!(matches!(got, Err(AuthorizeError::Network { .. })), "{networks}: {got:?}");
        }
        // All of IPv6 is not all of IPv4, mapped or not.
        let one = Operation::Banned { source: Some("203.0.113.7".parse().unwrap()) };
        assert!(permitted(&grant("networks = [\"::/0\"]"), "a", one).is_err());
    }

    #[test]
    fn a_bad_policy_is_refused_with_line_and_column() {
        for (text, want) in [
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"unbann\"]", &["line 3", "unknown variant `unbann`", "^"][..]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nnetwork = [\"::/0\"]", &["line 4", "unknown field `network`"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nnetworks = [\"10.0.0.1/8\"]", &["line 4", "host bits set"]),
            ("[[grant]]\nactions = [\"*\"]", &["line 1", "missing field `principal`"]),
            ("[[grant]]\nprincipal = 5\nactions = [\"*\"]", &["line 2", "expected a principal"]),
            ("[[grants]]", &["line 1", "unknown field `grants`"]),
            ("[[grant]\n", &["line 1"]),
            ("[[grant]]\nprincipal = \"a,b\"\nactions = [\"*\"]", &["line 1", "one name or pattern"]),
            ("[[grant]]\nprincipal = []\nactions = [\"*\"]", &["line 1", "one name or pattern"]),
            ("\n[[grant]]\nprincipal = \"!a\"\nactions = [\"*\"]", &["line 2", "name nobody"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nnetworks = []", &["line 1", "permits nothing"]),
        ] {
            let got = Grants::parse(text).unwrap_err().to_string();
            for want in want {
                assert!(got.contains(want), "{text}\n{got}\nwithout {want}");
            }
        }
    }
}
