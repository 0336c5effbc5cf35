//! `Match` lines whose criteria sshd cannot be asked about: what `sshd -T -C` takes is a user, names and addresses (servconf.c,
//! `parse_server_match_testspec`), and a criterion that it is not given does not match there. A real connection may match it. And lists that it
//! prints without their quotes, and a `none` that it prints as if it were none. Judges by lines.

use crate::subsystem::sshd::config::keyword::canonical;
use crate::subsystem::sshd::config::{Client, Directive, Document, Matching, criteria, is_scoped, match_line};
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::judge::effect;
use crate::subsystem::sshd::quoting::line as quote;
use crate::text::quoted::Text;

/// What sshd is told of a login, and what it knows itself.
const TOLD: [&str; 9] = ["all", "user", "group", "host", "address", "localaddress", "localport", "invalid-user", "version"];
/// Lines of a block that are quoted.
const MAX_LINES: usize = 3;

/// The block that may count for this client, and that sshd says nothing of. None where its other criteria leave the client out, or nothing
/// in it keeps anybody out.
pub fn of(server: &Server, client: &Client) -> Option<Text> {
    let tree = server.tree.as_ref().ok()?;
    let directives = |file: &Document| file.lines().filter_map(|(_, line)| line.directive().ok().flatten()).collect();
    let files: Vec<Vec<Directive>> = tree.files.values().map(directives).collect();
    let none = files.iter().flatten().find(|line| names_none(line));
    files.iter().find_map(|lines| of_file(lines, client, none).or_else(|| joined(lines)))
}

/// A name of a file with a blank in it: `sshd -T` joins the names by blanks, so that it reads as two.
fn joined(lines: &[Directive]) -> Option<Text> {
    let has_blank = |line: &Directive| line.arguments.iter().any(|word| word.contains(char::is_whitespace));
    let line = lines.iter().find(|line| canonical(&line.keyword) == "authorizedkeysfile" && has_blank(line))?;
    let words: Vec<String> = line.arguments.iter().map(|word| format!("\"{word}\"")).collect();
    Some(
        Text::from("sshd -T does not tell which files this line names: AuthorizedKeysFile ")
            + quote(&words.join(" "))
            + "; a name with a blank in it is one file",
    )
}

/// `none` is a line of any file that may be included.
fn of_file(lines: &[Directive], client: &Client, none: Option<&Directive>) -> Option<Text> {
    let untold = |criterion: &String| {
        let criterion = criterion.as_str();
        let scoped = match criterion {
            "host" | "address" => is_scoped(client.address),
            "localaddress" => client.local_address.is_some_and(is_scoped),
            _ => false,
        };
        !TOLD.contains(&criterion) || scoped && client.interface.is_none()
    };
    let mut blocks = lines.iter().enumerate().filter(|(_, line)| line.keyword == "match");
    blocks.find_map(|(at, condition)| {
        let holds = match_line(condition, Some(client));
        let block = || lines.iter().skip(at + 1).take_while(|line| line.keyword != "match");
        let included = || none.filter(|_| block().any(|line| line.keyword == "include"));
        if let Some(line) = block().find(|line| names_none(line)).or_else(included).filter(|_| holds != Matching::No) {
            return Some(file_none(condition, line));
        }
        let may_count = criteria(condition).iter().any(untold) && holds != Matching::No;
        let decides: Vec<&Directive> = block().filter(|line| !effect::never_keeps_out(&line.keyword)).collect();
        (may_count && !decides.is_empty()).then(|| told(condition, &decides))
    })
}

/// Under a `Match` line sshd does not take these as cleared (servconf.c, `copy_set_server_options`; only `fill_default_server_options` clears
/// them): it opens a file of that name for each key. `sshd -T` prints both alike.
fn names_none(line: &Directive) -> bool {
    let keyword = canonical(&line.keyword);
    let files = matches!(keyword.as_str(), "revokedkeys" | "authorizedprincipalsfile");
    files && line.arguments.first().is_some_and(|value| value.eq_ignore_ascii_case("none"))
}

fn file_none(condition: &Directive, line: &Directive) -> Text {
    let name = crate::subsystem::sshd::config::keyword::spelling(&canonical(&line.keyword));
    Text::from(format!(
        "under Match, sshd takes `{name} none` for a file that is named none, and refuses the keys where there is no such file: Match "
    )) + quote(&condition.arguments.join(" "))
}

fn told(condition: &Directive, block: &[&Directive]) -> Text {
    let words = |line: &Directive| quote(&line.arguments.join(" "));
    let mut text = Text::from("sshd -T cannot be asked whether this block counts for a login: Match ") + words(condition) + ": ";
    for (at, line) in block.iter().take(MAX_LINES).enumerate() {
        text.push(if at == 0 { "" } else { ", " });
        text.push(crate::subsystem::sshd::config::keyword::spelling(&line.keyword));
        text = text + " " + words(line);
    }
    if block.len() > MAX_LINES { text + ", ..." } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::subsystem::sshd::Invocation;

    #[test]
    fn a_block_matters_where_it_may_count_for_the_client_and_decides_something() {
        let client = |address: &str| Client {
            user: "alice".to_owned(),
            groups: Some(vec!["alice".to_owned()]),
            host: address.to_owned(),
            address: address.parse().unwrap(),
            local_address: Some(if address.starts_with("fe80") { "fe80::2" } else { "203.0.113.1" }.parse().unwrap()),
            local_port: 22,
            is_root: false,
            interface: None,
        };
        for (text, address, matters) in [
            ("Match RDomain *\n  PermitRootLogin no\n", "203.0.113.7", true),
            ("Match rdomain=*\n  DenyUsers bob\n", "203.0.113.7", true),
            ("Match SessionType shell User alice\n  ForceCommand x\n", "203.0.113.7", true),
            ("Match RDomain *\n  X11Forwarding no\n", "203.0.113.7", false),
            ("Match RDomain *\n  Include x\n", "203.0.113.7", true),
            ("Match RDomain *\nMatch User alice\n  DenyUsers alice\n", "203.0.113.7", false),
            ("Match User bob RDomain *\n  DenyUsers bob\n", "203.0.113.7", false),
            ("Match Address 198.51.100.0/24 RDomain *\n  DenyUsers x\n", "203.0.113.7", false),
            ("Match Version OpenSSH_9*\n  DenyUsers x\n", "203.0.113.7", false),
            ("AuthorizedKeysFile \".ssh/a .ssh/b\"\n", "203.0.113.7", true),
            ("AuthorizedKeysFile .ssh/a\\ .ssh/b\n", "203.0.113.7", true),
            ("AuthorizedKeysFile .ssh/a .ssh/b\n", "203.0.113.7", false),
            ("RevokedKeys none\nMatch User alice\n  X11Forwarding no\n", "203.0.113.7", false),
            ("Match all\n  RevokedKeys none\n", "203.0.113.7", true),
            ("Match User bob\n  RevokedKeys none\n", "203.0.113.7", false),
            ("Match User rdomain\n  DenyUsers x\n", "203.0.113.7", false),
            ("Match Address 203.0.113.0/24\n  DenyUsers x\n", "203.0.113.7", false),
            ("Match Address fe80::/10\n  DenyUsers x\n", "fe80::1", true),
            ("Match Host *%eth0\n  DenyUsers x\n", "fe80::1", true),
            ("Match Address 203.0.113.0/24\n  DenyUsers x\n", "fe80::1", false),
            ("Match LocalAddress *%eth0\n  DenyUsers x\n", "fe80::1", true),
            ("Match LocalAddress *%eth0\n  DenyUsers x\n", "203.0.113.7", false),
        ] {
            let server = Server::with_files(Invocation::plain("/usr/sbin/sshd"), &[("/etc/ssh/sshd_config", text)]);
            assert_eq!(of(&server, &client(address)).is_some(), matters, "{text} {address}");
            let known = Client { interface: Some("eth0".to_owned()), ..client(address) };
            assert_eq!(of(&server, &known).is_some(), matters && !address.starts_with("fe80"), "{text} {address}: sshd is asked");
        }
    }
}
