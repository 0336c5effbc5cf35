//! What the process title of an sshd says about the login it serves (OpenSSH `sshd-session.c`, `session.c`: `setproctitle`).

/// What a title tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Title {
    /// `sshd: alice@pts/0`, `sshd: alice@notty`, and `sshd: alice` where neither terminal nor command was asked for (`ssh -N`):
    /// this user is logged in.
    LoggedIn(String),
    /// Another half of a login, or the listener, or another program: `sshd: alice [priv]`, `sshd: alice [net]`,
    /// `sshd: [accepted]`, `sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups`.
    Other,
}

/// Reads `/proc/PID/cmdline` of an sshd or sshd-session.
pub fn session_title(cmdline: &[u8]) -> Title {
    let text = String::from_utf8_lossy(cmdline);
    let text = text.trim_end_matches(['\0', ' ']);
    let Some(user) = ["sshd: ", "sshd-session: "].iter().find_map(|prefix| text.strip_prefix(prefix)) else {
        return Title::Other;
    };
    if user.ends_with(']') || user.contains(" [listener] ") || user.starts_with('/') {
        return Title::Other;
    }
    let user = user.rsplit_once('@').map_or(user, |(user, _terminal)| user);
    if user.is_empty() { Title::Other } else { Title::LoggedIn(user.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_both_releases_are_read() {
        let user = |name: &str| name.to_owned();
        for (title, want) in [
            ("sshd: root@pts/0", Title::LoggedIn(user("root"))),
            ("sshd: alice@notty\0\0\0", Title::LoggedIn(user("alice"))),
            ("sshd-session: alice@example.org@pts/1", Title::LoggedIn(user("alice@example.org"))),
            ("sshd: root", Title::LoggedIn(user("root"))),
            ("sshd-auth: [session-auth]", Title::Other),
            ("sshd: alice [priv]", Title::Other),
            ("sshd-session: root [priv]", Title::Other),
            ("sshd: unknown [priv]", Title::Other),
            ("sshd: alice [net]", Title::Other),
            ("sshd-session: [accepted]", Title::Other),
            ("sshd: [accepted]", Title::Other),
            ("sshd: [net]", Title::Other),
            ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", Title::Other),
            ("/usr/sbin/sshd\0-D\0", Title::Other),
            ("", Title::Other),
            ("sshd: @pts/0", Title::Other),
        ] {
            assert_eq!(session_title(title.as_bytes()), want, "{title}");
        }
    }
}
