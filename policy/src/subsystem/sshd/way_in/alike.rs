//! Which clients sshd's Match blocks tell apart: of those that they do not, one is asked about for all. Somebody with many sessions from many
//! addresses costs one question for each kind of address. Asks nothing itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::address;
use crate::host::HostState;
use crate::subsystem::sshd::config::{Directive, Document, address_list, pattern_list};
use crate::subsystem::sshd::facts::state::Server;

/// The first address of a live session that every Match line takes as it takes this one; where there is none, or the lines are not known,
/// the address itself.
pub fn representative(host: &HostState, server: &Server, client: IpAddr) -> IpAddr {
    if client.is_unspecified() {
        return client;
    }
    let with_match = |word: &String| word.to_ascii_lowercase().contains("match");
    let (Ok(tree), false) = (&server.tree, server.invocation.options.iter().any(with_match)) else { return client };
    let lines = tree.files.values().flat_map(Document::lines);
    // A line that cannot be read may be a Match line.
    let Ok(directives) = lines.map(|(_, line)| line.directive()).collect::<Result<Vec<Option<Directive>>, _>>() else {
        return client;
    };
    let conditions: Vec<String> = directives
        .into_iter()
        .flatten()
        .filter(|directive| directive.keyword == "match")
        .flat_map(|directive| directive.arguments)
        .flat_map(|word| word.split(['=', ' ']).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let sessions = host.listener.present().into_iter().flat_map(|state| &state.sessions);
    let others: BTreeSet<IpAddr> = sessions.map(|session| address::canonical(session.peer.ip())).collect();
    let same_kind = |other: &IpAddr| (other.is_ipv4(), other.is_loopback()) == (client.is_ipv4(), client.is_loopback());
    let taken =
        |client: IpAddr, condition: &String| (address_list(client, condition), pattern_list(&client.to_string(), condition));
    let ours: Vec<_> = conditions.iter().map(|condition| taken(client, condition)).collect();
    let alike = |other: &IpAddr| conditions.iter().zip(&ours).all(|(condition, ours)| taken(*other, condition) == *ours);
    others.into_iter().filter(same_kind).find(alike).unwrap_or(client)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::host::Part;
    use crate::subsystem::listener::{self, Session};
    use crate::subsystem::sshd::Invocation;

    fn server(text: &str, options: &[&str]) -> Server {
        let invocation = Invocation::new("/usr/sbin/sshd", options.iter().copied());
        Server::with_files(invocation, &[("/etc/ssh/sshd_config", text)])
    }

    #[test]
    fn sessions_from_many_addresses_are_one_question_for_each_kind_that_match_lines_tell_apart() {
        let sessions = (1..=150_u8).map(|last| Session {
            peer: (IpAddr::from([127, 7, 0, last]), 4711).into(),
            local: IpAddr::from([127, 0, 0, 1]),
            port: 22,
            user: Some("alice".to_owned()),
            pid: 1,
            interface: None,
        });
        let mut host = HostState::empty();
        host.listener = Part::Present(listener::State { sessions: sessions.collect(), ..listener::State::default() });
        let asked = |text: &str, options: &[&str]| -> BTreeSet<IpAddr> {
            let server = server(text, options);
            (1..=150_u8).map(|last| representative(&host, &server, IpAddr::from([127, 7, 0, last]))).collect()
        };
        for (text, count) in [
            ("X11Forwarding yes\n", 1),
            ("AllowUsers alice@127.7.0.1\n", 1),
            ("Match User alice\n    X11Forwarding no\n", 1),
            ("Match Address 127.7.0.0/25\n", 2),
            ("Match Address=127.7.0.9,10.0.0.0/8 User=bob\n", 2),
            ("Match Host 127.7.0.1?\n", 2),
            ("Match User alice Address !127.7.0.9,127.7.0.8,*\n", 2),
            ("Match Address 127.7.0.4\nMatch LocalAddress 10.0.0.1 Address 127.7.0.4,127.7.0.5\n", 3),
            ("\"broken\n", 150),
        ] {
            assert_eq!(asked(text, &[]).len(), count, "{text}");
        }
        assert_eq!(asked("", &["-oMatch Address 127.7.0.4"]).len(), 150);
        // The others are of another kind.
        let alone = IpAddr::from([203, 0, 113, 7]);
        assert_eq!(representative(&host, &server("", &[]), alone), alone);
    }
}
