//! What the process title of an sshd says about the login it serves (OpenSSH `sshd-session.c`, `session.c`: `setproctitle`).

/// What a title tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Title {
    /// `sshd: alice@pts/0`, `sshd: alice@notty`, and `sshd: alice` where neither terminal nor command was asked for (`ssh -N`):
    /// this user is logged in.
    LoggedIn(String),
    /// Nobody is logged in by it: another half of a login, the listener, or a process of OpenSSH that has no title yet: `sshd: alice [priv]`,
    /// `sshd: alice [net]`, `sshd: [accepted]`, `sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups`, `/usr/sbin/sshd -D -R`.
    Door,
    /// Not understood, as that of any other SSH server: somebody may be logged in by it.
    Other,
}

/// Reads `/proc/PID/cmdline` of an sshd or sshd-session.
pub fn session_title(cmdline: &[u8]) -> Title {
    let text = String::from_utf8_lossy(cmdline);
    let text = text.trim_end_matches(['\0', ' ']);
    let Some(user) = ["sshd: ", "sshd-session: ", "sshd-auth: "].iter().find_map(|prefix| text.strip_prefix(prefix)) else {
        // It sets its title soon after it was executed.
        let program = text.split('\0').next().and_then(|path| path.rsplit('/').next());
        let openssh = program.is_some_and(|name| matches!(name, "sshd" | "sshd-session" | "sshd-auth"));
        return if openssh { Title::Door } else { Title::Other };
    };
    if user.ends_with(']') || user.contains(" [listener] ") || user.starts_with('/') {
        return Title::Door;
    }
    let user = user.rsplit_once('@').filter(|(_, end)| is_of_sshd(end)).map_or(user, |(user, _)| user);
    // A state in brackets is no part of a name.
    if user.is_empty() || user.ends_with(']') { Title::Other } else { Title::LoggedIn(user.to_owned()) }
}

/// Whether sshd wrote this behind a name: the terminals of the session or `notty` (session.c, `session_tty_list`), or what `do_child` does. The
/// part of a name such as `alice@example.org` is none of it.
fn is_of_sshd(end: &str) -> bool {
    // pts(4), pty(7): `pts/3`, and `ttyp3` of old.
    let terminal = |name: &str| match (name.strip_prefix("pts/"), name.strip_prefix("tty").map(str::as_bytes)) {
        (Some(number), _) => !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()),
        (None, Some([row, column])) => row.is_ascii_lowercase() && column.is_ascii_hexdigit(),
        (None, _) => false,
    };
    matches!(end, "notty" | "internal-sftp") || end.split(',').all(terminal)
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
            ("sshd-session: alice@example.org", Title::LoggedIn(user("alice@example.org"))),
            ("sshd: alice@tty.example.org", Title::LoggedIn(user("alice@tty.example.org"))),
            ("sshd: alice@example.org@notty", Title::LoggedIn(user("alice@example.org"))),
            ("sshd: alice@pts/0,pts/11", Title::LoggedIn(user("alice"))),
            ("sshd: alice@ttyp0", Title::LoggedIn(user("alice"))),
            ("sshd: alice@internal-sftp", Title::LoggedIn(user("alice"))),
            ("sshd-auth: [session-auth]", Title::Door),
            ("sshd: alice [priv]", Title::Door),
            ("sshd-session: root [priv]", Title::Door),
            ("sshd: unknown [priv]", Title::Door),
            ("sshd: alice [net]", Title::Door),
            ("sshd-session: [accepted]", Title::Door),
            ("sshd: [accepted]", Title::Door),
            ("sshd: [net]", Title::Door),
            ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", Title::Door),
            ("/usr/sbin/sshd\0-D\0", Title::Door),
            ("/usr/lib/openssh/sshd-session\0-D\0-R\0", Title::Door),
            ("/usr/sbin/dropbear\0-F\0-E\0", Title::Other),
            ("", Title::Other),
            ("sshd: @pts/0", Title::Other),
            ("sshd: alice [priv]@pts/0", Title::Other),
        ] {
            assert_eq!(session_title(title.as_bytes()), want, "{title}");
        }
    }
}
