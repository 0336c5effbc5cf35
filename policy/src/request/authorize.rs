//! Whether a grant of policy.toml permits a request, and by which. What no grant permits is refused. Must not look at the host; how
//! grants are written is `grants`'.

use thiserror::Error;

use crate::address::Source;
use crate::request::authenticate::AuthenticatedRequest;
use crate::request::grants::Grant;
use crate::request::{Action, Request};
use crate::ssh::public_key::printable;

pub use crate::request::grants::{Grants, GrantsError, Scope};

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
    /// Grants, but not for this user.
    #[error("no grant in policy.toml lets `{principal}` do `{action}` about {}", about_user(.user.as_deref()))]
    User {
        /// Who.
        principal: String,
        /// What.
        action: Action,
        /// The user that is named; `None` is every user.
        user: Option<String>,
    },
    /// Grants, but not for this port.
    #[error("no grant in policy.toml lets `{principal}` do `{action}` about port {port} (`ports` names those besides ssh_port)")]
    Port {
        /// Who.
        principal: String,
        /// What.
        action: Action,
        /// The port that is named.
        port: u16,
    },
}

fn about_user(user: Option<&str>) -> String {
    user.map_or_else(|| "every user".to_owned(), |user| format!("user `{}`", printable(user)))
}

/// A request that a grant permits. Made by [`authorize`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedRequest {
    authenticated: AuthenticatedRequest,
    grant: usize,
    others: bool,
    scope: Scope,
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

    /// What the signer may see in the reply.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// The one way to an [`AuthorizedRequest`]: the first grant that names the principal, the action, the source, the user and the port
/// permits.
///
/// To confirm and to take back one's own changes needs no action: whoever has a grant may. Whose a change is, is looked at with
/// the change itself; [`AuthorizedRequest::others`] tells whether it may be another's. `ssh_port` is the one of agent.toml.
pub fn authorize(
    authenticated: AuthenticatedRequest,
    grants: &Grants,
    ssh_port: u16,
) -> Result<AuthorizedRequest, AuthorizeError> {
    let action = authenticated.request().operation.action();
    let principal = authenticated.principal();
    let named = grants.naming(principal);
    let Some((first, _)) = named.first() else {
        return Err(AuthorizeError::Principal(principal.to_owned()));
    };
    let any = match action {
        Action::Confirm => Some(Action::ConfirmAny),
        Action::Rollback => Some(Action::RollbackAny),
        _ => None,
    };
    let (grant, others) = match any {
        Some(any) => {
            let permitting = named.iter().find(|(_, grant)| grant.permits_action(any) && grant.covers(None));
            (permitting.map_or(*first, |(index, _)| *index), permitting.is_some())
        }
        None => (permitting(&authenticated, &named, ssh_port)?, false),
    };
    let scope = Scope::new(principal, action, named.into_iter().map(|(_, grant)| grant.clone()).collect());
    Ok(AuthorizedRequest { authenticated, grant: grant + 1, others, scope })
}

/// The first of the grants that permits the request. The error names the first thing that none of them is about.
fn permitting(authenticated: &AuthenticatedRequest, named: &[(usize, &Grant)], ssh_port: u16) -> Result<usize, AuthorizeError> {
    let request = authenticated.request();
    let (action, source) = (request.operation.action(), request.operation.widest());
    let principal = || authenticated.principal().to_owned();

    let mut able = named.to_vec();
    able.retain(|(_, grant)| grant.permits_action(action));
    if able.is_empty() {
        return Err(AuthorizeError::Action { principal: principal(), action });
    }
    able.retain(|(_, grant)| grant.covers(source));
    if able.is_empty() {
        let about = source.map_or_else(|| "everybody".to_owned(), Source::short);
        return Err(AuthorizeError::Network { principal: principal(), action, about });
    }
    able.retain(|(_, grant)| grant.covers_user(request));
    if able.is_empty() {
        return Err(AuthorizeError::User { principal: principal(), action, user: request.user().map(Into::into) });
    }
    let about_port = able.iter().find(|(_, grant)| grant.covers_port(request, ssh_port));
    about_port.map(|(index, _)| *index).ok_or_else(|| {
        let port = request.operation.port().unwrap_or(ssh_port);
        AuthorizeError::Port { principal: principal(), action, port }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use jiff::tz::TimeZone;
    use ssh_key::PrivateKey;
    use ssh_key::private::Ed25519Keypair;

    use super::*;
    use crate::request::allowed_signers::AllowedSigners;
    use crate::request::authenticate::{Context, authenticate};
    use crate::request::wire::{Challenge, SignedRequest};
    use crate::request::{Intent, Mode, Operation, PROTOCOL, Query, REQUEST_NAMESPACE};
    use crate::ssh::sshsig;

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
        Operation::Intent(Intent::Unban { source: source.parse().unwrap(), jail: None, ignore_for: None, range: false })
    }

    fn permitted(grants: &str, principal: &str, operation: Operation) -> Result<usize, AuthorizeError> {
        authorize(signed_by(principal, operation), &Grants::parse(grants).unwrap(), 22).map(|request| request.grant())
    }

    #[test]
    fn without_a_grant_nothing_is_permitted() {
        assert_eq!(permitted("", "root", Operation::Query(Query::Status)), Err(AuthorizeError::Principal("root".into())));
        let other = "[[grant]]\nprincipal = \"alice\"\nactions = [\"*\"]";
        assert_eq!(permitted(other, "root", Operation::Query(Query::Status)), Err(AuthorizeError::Principal("root".into())));
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
        assert_eq!(permitted(grants, "bob", Operation::Query(Query::Status)), Ok(3));
        assert_eq!(permitted(grants, "alice", Operation::Query(Query::Fail2banJails)), Ok(3));
        // The range asked about must lie inside the network, not only touch it.
        for source in ["203.0.112.0/23", "203.0.114.7", "0.0.0.0/0"] {
            let got = permitted(grants, "alice", unban(source));
            assert!(matches!(got, Err(AuthorizeError::Network { .. })), "{source}: {got:?}");
        }
        assert!(matches!(permitted(grants, "ops-intern", unban("203.0.113.7")), Err(AuthorizeError::Action { .. })));
        let ban = Operation::Intent(Intent::Ban { source: "203.0.113.7".parse().unwrap(), jail: "sshd".to_owned() });
        assert!(matches!(permitted(grants, "alice", ban), Err(AuthorizeError::Action { .. })));
    }

    #[test]
    fn a_question_about_everybody_needs_a_grant_about_everybody() {
        let grant = |networks: &str| format!("[[grant]]\nprincipal = \"a\"\nactions = [\"banned\"]\n{networks}");
        let everybody = Operation::Query(Query::Banned { source: None });
        assert_eq!(permitted(&grant(""), "a", everybody.clone()), Ok(1));
        assert_eq!(permitted(&grant("networks = [\"0.0.0.0/0\", \"::/0\"]"), "a", everybody.clone()), Ok(1));
        for networks in ["[\"0.0.0.0/0\"]", "[\"::/0\"]", "[\"203.0.113.0/24\"]"] {
            let got = permitted(&grant(&format!("networks = {networks}")), "a", everybody.clone());
            assert!(matches!(got, Err(AuthorizeError::Network { .. })), "{networks}: {got:?}");
        }
        // All of IPv6 is not all of IPv4, mapped or not.
        let one = Operation::Query(Query::Banned { source: Some("203.0.113.7".parse().unwrap()) });
        assert!(permitted(&grant("networks = [\"::/0\"]"), "a", one).is_err());
    }

    fn diagnose(user: Option<&str>, port: Option<u16>) -> Operation {
        let address = "203.0.113.7".parse().unwrap();
        Operation::Query(Query::Diagnose { address, user: user.map(str::to_owned), port, explain: false })
    }

    fn show(user: Option<&str>, address: Option<&str>) -> Operation {
        let address = address.map(|address| address.parse().unwrap());
        Operation::Query(Query::SshdShow { keywords: Vec::new(), user: user.map(str::to_owned), address, port: None })
    }

    #[test]
    fn a_grant_that_names_users_is_about_no_other_and_not_about_all_at_once() {
        let grant = "[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nusers = [\"alice\", \"ops-*\", \"!ops-root\"]";
        for user in ["alice", "ops-1"] {
            assert_eq!(permitted(grant, "a", diagnose(Some(user), None)), Ok(1));
            assert_eq!(permitted(grant, "a", show(Some(user), Some("203.0.113.7"))), Ok(1));
        }
        assert_eq!(permitted(grant, "a", diagnose(None, None)), Ok(1));
        assert_eq!(permitted(grant, "a", unban("203.0.113.7")), Ok(1));
        let fix =
            Operation::Intent(Intent::Fix { address: "203.0.113.7".parse().unwrap(), user: Some("root".to_owned()), port: None });
        let set = Operation::Intent(Intent::SshdUnset { keyword: "AllowUsers".to_owned(), criteria: None });
        for refused in [
            diagnose(Some("root"), None),
            diagnose(Some("ops-root"), None),
            diagnose(Some("Alice"), None),
            fix,
            // As root, where no user is named.
            show(None, Some("203.0.113.7")),
            show(None, None),
            set,
            Operation::Intent(Intent::SshdReload),
        ] {
            let got = permitted(grant, "a", refused.clone());
            assert!(matches!(got, Err(AuthorizeError::User { .. })), "{refused:?}: {got:?}");
        }
        // Without `users`, as ever.
        let grant = "[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nnetworks = [\"203.0.113.0/24\"]";
        assert_eq!(permitted(grant, "a", diagnose(Some("root"), None)), Ok(1));
    }

    #[test]
    fn another_port_needs_a_grant_that_names_it() {
        let grant = |rest: &str| format!("[[grant]]\nprincipal = \"a\"\n{rest}");
        let of = |rest: &str, port: Option<u16>| permitted(&grant(rest), "a", diagnose(None, port));
        for restricted in [
            "actions = [\"diagnose\"]",
            "actions = [\"*\"]\nnetworks = [\"203.0.113.0/24\"]",
            "actions = [\"*\"]\nusers = [\"alice\"]",
        ] {
            assert_eq!(of(restricted, None), Ok(1), "{restricted}");
            assert_eq!(of(restricted, Some(22)), Ok(1), "{restricted}");
            let got = of(restricted, Some(2222));
            assert!(matches!(got, Err(AuthorizeError::Port { port: 2222, .. })), "{restricted}: {got:?}");
        }
        let named = "actions = [\"diagnose\", \"unban\"]\nports = [2222]";
        assert_eq!(of(named, Some(2222)), Ok(1));
        assert!(of(named, None).is_err() && of(named, Some(22)).is_err(), "only this one");
        assert_eq!(permitted(&grant(named), "a", unban("203.0.113.7")), Ok(1), "no port can be named");
        // Root's grant, as `init` writes it and has always written it.
        assert_eq!(of("actions = [\"*\"]", Some(2222)), Ok(1));
        // What one grant says is not lent to another.
        let two = "[[grant]]\nprincipal = \"a\"\nactions = [\"diagnose\"]\nnetworks = [\"203.0.113.0/24\"]\n\
                   [[grant]]\nprincipal = \"a\"\nactions = [\"diagnose\"]\nnetworks = [\"198.51.100.0/24\"]\nports = [2222]";
        assert!(matches!(permitted(two, "a", diagnose(None, Some(2222))), Err(AuthorizeError::Port { .. })));
    }

    #[test]
    fn what_a_signer_may_lift_ends_with_the_grant() {
        let grants = "[[grant]]\nprincipal = \"a\"\nactions = [\"unban\"]\nnetworks = [\"203.0.113.0/24\"]\n\
                      [[grant]]\nprincipal = \"a\"\nactions = [\"diagnose\"]";
        let permit = |principal: &str, source: &str| {
            Grants::parse(grants).unwrap().permit(principal, Action::Unban, source.parse().unwrap())
        };
        assert!(permit("a", "203.0.113.7"));
        assert!(!permit("a", "198.51.100.7") && !permit("b", "203.0.113.7"));
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
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nusers = []", &["line 4, column 9", "permits no user"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nusers = [\"a,b\"]", &["line 4, column 9", "not one user name"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nusers = [\"!a\"]", &["line 4, column 9", "name no user"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nports = []", &["line 4, column 9", "permits no port"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nports = [0]", &["line 4, column 9", "1 to 65535"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nports = [22, 70000]", &["line 4, column ", "70000"]),
            ("[[grant]]\nprincipal = \"a\"\nactions = [\"*\"]\nports = 22", &["line 4, column 9"]),
        ] {
            let got = Grants::parse(text).unwrap_err().to_string();
            for want in want {
                assert!(got.contains(want), "{text}\n{got}\nwithout {want}");
            }
        }
    }
}
