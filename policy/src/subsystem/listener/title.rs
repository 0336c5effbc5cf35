//! What the process title of an sshd says about the login it serves (OpenSSH `sshd-session.c`, `session.c`: `setproctitle`).

/// What a title tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Title {
    /// `sshd: alice@pts/0`, `sshd: alice@notty`: this user has a session.
    Session(String),
    /// `sshd: alice [priv]`: root's half of a login of this user, before or after authentication.
    Monitor(String),
    /// `sshd: alice [net]`, `sshd: [accepted]`, `sshd: unknown [preauth]`: nobody is logged in.
    NotYet,
    /// No title of a connection: the listener, or another program.
    Other,
}

/// Reads `/proc/PID/cmdline` of an sshd or sshd-session.
pub fn session_title(cmdline: &[u8]) -> Title {
    let text = String::from_utf8_lossy(cmdline);
    let text = text.trim_end_matches(['\0', ' ']);
    let Some(rest) = ["sshd: ", "sshd-session: ", "sshd-auth: "].iter().find_map(|prefix| text.strip_prefix(prefix)) else {
        return Title::Other;
    };
    if let Some(user) = rest.strip_suffix(" [priv]") {
        return if user == "unknown" || user.is_empty() { Title::NotYet } else { Title::Monitor(user.to_owned()) };
    }
    if rest.ends_with(']') {
        return Title::NotYet;
    }
    match rest.rsplit_once('@') {
        // The listener's title is `sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups`.
        _ if rest.contains(" [listener] ") => Title::Other,
        Some((user, _terminal)) if !user.is_empty() => Title::Session(user.to_owned()),
        _ => Title::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_both_releases_are_read() {
        let user = |name: &str| name.to_owned();
        for (title, want) in [
            ("sshd: root@pts/0", Title::Session(user("root"))),
            ("sshd: alice@notty\0\0\0", Title::Session(user("alice"))),
            ("sshd-session: alice@example.org@pts/1", Title::Session(user("alice@example.org"))),
            ("sshd: alice [priv]", Title::Monitor(user("alice"))),
            ("sshd-session: root [priv]", Title::Monitor(user("root"))),
            ("sshd: unknown [priv]", Title::NotYet),
            ("sshd: alice [net]", Title::NotYet),
            ("sshd-session: [accepted]", Title::NotYet),
            ("sshd: [accepted]", Title::NotYet),
            ("sshd: [net]", Title::NotYet),
            ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", Title::Other),
            ("/usr/sbin/sshd\0-D\0", Title::Other),
            ("", Title::Other),
            ("sshd: @pts/0", Title::Other),
        ] {
            assert_eq!(session_title(title.as_bytes()), want, "{title}");
        }
    }
}
