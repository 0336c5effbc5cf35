//! Targets for what other programs of the host say, and what every local user can make them say: process titles, lines of the journal, key
//! files, answers of whoever listens on the SSH port or plays ssh-agent, entries of sets and lists, orders on the writer's socket.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sshfix_agent::subsystem::kernel_says;
use sshfix_agent::write;
use sshfix_policy::subsystem::listener::{Title, session_title};
use sshfix_policy::subsystem::sshd::facts::faillock::{PamLine, Rules, pam_line};
use sshfix_policy::subsystem::sshd::facts::journal as lines;
use sshfix_policy::subsystem::sshd::{Effective, Invocation, Power, Startups, authorized_keys as keys, environment_file};

/// The title of a process. Who is logged in is a name without a terminal; options are none that sshd does not take.
pub fn title(bytes: &[u8]) {
    if let Title::LoggedIn(user) = session_title(bytes) {
        assert!(!user.is_empty() && !user.ends_with(']'));
    }
    if let Some(invocation) = Invocation::from_title("/usr/sbin/sshd", bytes) {
        assert_eq!(invocation.program, "/usr/sbin/sshd", "a title never names the program");
        assert!(invocation.options.iter().all(|option| !option.contains('\0') || bytes.contains(&0)));
        let other = invocation.with_file("/etc/ssh/other");
        assert_eq!(other.file(), "/etc/ssh/other");
        assert_eq!(other.program, invocation.program);
    }
    let _ = Startups::from_title(bytes);
}

/// Lines of `journalctl -o json`, with what they quote of strangers.
pub fn journal(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = lines::Lines::parse(text);
    let told = lines::read(&read);
    assert!(told.len() <= text.lines().count());
    for entrance in lines::entrances(&read).values() {
        assert!(!entrance.method.contains(' ') && !entrance.user.contains(' '));
    }
}

/// A user's file of keys: its lines in their order.
pub fn authorized_keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let found = keys(text);
    assert!(found.len() <= text.lines().count());
    assert!(found.is_sorted_by_key(|key| key.line) && found.iter().all(|key| key.fingerprint.starts_with("SHA256:")));
}

/// What sshd, PAM's files, unit files and logind print or hold.
pub fn told(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let effective = Effective::parse(text);
    for (keyword, values) in effective.iter() {
        assert_eq!(effective.all(keyword), values);
    }
    let _ = Power::scheduled(text);
    let environment = environment_file(text);
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    assert_eq!(Invocation::from_unit("/usr/sbin/sshd", &words, &environment).program, "/usr/sbin/sshd");
    for line in text.lines() {
        if matches!(pam_line(line), PamLine::Faillock) {
            let rules = Rules::new(("/etc/pam.d/sshd line 1".to_owned(), line.to_owned()), text);
            assert!(rules.directory.starts_with('/'));
        }
    }
}

/// Whoever listens on the SSH port, from its first byte to its last. It proves nothing without a signature over our own words.
pub fn kex(bytes: &[u8]) {
    // No more than the buffer of a socket takes at once.
    let Ok((mut server, client)) = UnixStream::pair() else { return };
    if bytes.len() > 60_000 || server.write_all(bytes).is_err() || server.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let to = SocketAddr::from(([127, 0, 0, 1], 22));
    let stream = TcpStream::from(OwnedFd::from(client));
    let proven = sshfix_kex::prove_over(stream, to, &[7; 16], Duration::from_secs(5));
    assert!(proven.is_err(), "bytes that were there before we spoke are no proof");
}

/// What a program at `SSH_AUTH_SOCK` answers.
pub fn ssh_agent(bytes: &[u8]) {
    if let Ok(held) = sshfix::ssh_agent::keys_of(bytes) {
        assert!(held.len() <= bytes.len() / 8);
    }
    if let Ok(signature) = sshfix::ssh_agent::signature_of(bytes) {
        assert!(signature.len() < bytes.len());
    }
}

/// What comes over the writer's socket: one order and its content, whole, or nothing is done.
pub fn write_order(bytes: &[u8]) {
    let mut rest = bytes;
    if let Ok((order, content)) = write::read(&mut rest) {
        let line = serde_json::to_vec(&order).expect("an order is JSON");
        let again = [&line[..], b"\n", &content].concat();
        assert_eq!(write::read(&mut &again[..]).expect("it is read again"), (order.clone(), content));
        let longer = [&again[..], b"x"].concat();
        assert!(write::read(&mut &longer[..]).is_err(), "more than it says");
    }
}

/// Comments of rules, entries of ipsets and `recent` lists.
pub fn kernel_reply(bytes: &[u8]) {
    kernel_says(bytes);
}
