//! hosts: what the edits of hosts.allow and hosts.deny change, and what they leave.

use sshfix_tests::lab::on_both;

use super::{expect_in, expect_nothing_to_do, expect_out, snapshot};

#[test]
fn hosts_edits_only_its_own_lines() {
    on_both(|server| {
        let allow = "# mine\nsshd: 192.0.2.0/255.255.255.0\n\nother: 10.0.0.1   # kept\n";
        let deny = "\t# a comment \n#sshd: 203.0.113.7\nsshd: 10.0.0.10, \\\n 10.0.0.100\nvsftpd: 203.0.113.7\n";
        server.write("/etc/hosts.allow", allow);
        server.write("/etc/hosts.deny", deny);
        let deny_now = || server.read("/etc/hosts.deny");

        for (source, line) in [
            ("203.0.113.7", "sshd: 203.0.113.7\n"),
            ("2001:db8::7", "sshd: [2001:db8::7]\n"),
            ("198.51.100.0/24", "sshd: 198.51.100.0/255.255.255.0\n"),
            ("10.0.0.1", "sshd: 10.0.0.1\n"),
        ] {
            let before = deny_now();
            server.ctl_confirmed(&["hosts", "deny", source]);
            assert_eq!(deny_now(), format!("{before}{line}"));
            expect_nothing_to_do(server.ctl(&["hosts", "deny", source, "--json"]));
        }
        expect_out(server, &["203.0.113.7", "2001:db8::7", "198.51.100.7"]);
        expect_in(server, &["203.0.113.70", "2001:db8::70"]);

        let list = server.ctl(&["hosts", "list", "--json"]).expect_status(0);
        assert!(list.stdout.starts_with("{\"schema\":\"sshfix.hosts/1\""));
        let list = list.json();
        assert!(list["enforced"].as_str().unwrap().starts_with("yes"), "{list:#}");
        let rule = |text: &str| {
            let rules = list["rules"].as_array().unwrap();
            rules.iter().find(|rule| rule["text"].as_str().unwrap().contains(text)).cloned().unwrap_or_default()
        };
        assert_eq!(rule("10.0.0.100")["line"], 3, "{list:#}");
        assert_eq!(rule("vsftpd")["concerns_sshd"], false);
        assert_eq!(rule("192.0.2.0")["file"], "/etc/hosts.allow");
        let text = server.ctl(&["hosts", "list"]).expect_status(0).stdout;
        assert!(text.starts_with("does sshd obey these files? yes"), "{text}");

        // Taken out again, byte for byte, and 10.0.0.1 leaves 10.0.0.10 and 10.0.0.100.
        for source in ["10.0.0.1", "2001:db8::7", "198.51.100.0/24", "203.0.113.7"] {
            server.ctl(&["hosts", "remove", source]).expect_status(0);
            expect_nothing_to_do(server.ctl(&["hosts", "remove", source, "--json"]));
        }
        assert_eq!((deny_now().as_str(), server.read("/etc/hosts.allow").as_str()), (deny, allow));
        expect_in(server, &["203.0.113.7", "2001:db8::7", "198.51.100.7"]);

        // Allowed past a deny for all.
        server.write("/etc/hosts.deny", "ALL: ALL EXCEPT 192.0.2.9\n");
        for source in ["203.0.113.7", "2001:db8::7", "198.51.100.0/24"] {
            server.ctl(&["hosts", "allow", source]).expect_status(0);
            expect_nothing_to_do(server.ctl(&["hosts", "allow", source, "--json"]));
        }
        expect_in(server, &["203.0.113.7", "2001:db8::7", "198.51.100.7"]);
        expect_out(server, &["203.0.113.70", "2001:db8::70"]);
        assert!(server.read("/etc/hosts.allow").starts_with(allow));

        // Taking away the line that lets the requester in.
        let before = snapshot(server);
        let refused = server.ctl_from("203.0.113.7", &["hosts", "remove", "203.0.113.7", "--json"]);
        refused.expect_error(4, "lockout", &["203.0.113.7", "your own way in"]);
        let refused = server.ctl_from("2001:db8::7", &["hosts", "deny", "2001:db8::/64", "--json"]);
        refused.expect_error(4, "lockout", &["2001:db8::7", "your own way in"]);
        // Nothing but a daemon's name gets into the file.
        for daemon in ["sshd: ALL\nALL", "ALL", "", "sshd,x", "a b"] {
            let wrong = server.ctl(&["hosts", "deny", "203.0.113.8", "--daemon", daemon, "--json"]);
            assert!([1, 2].contains(&wrong.status), "{daemon:?}: {wrong:#?}");
        }
        assert_eq!(before, snapshot(server));
    });
}
