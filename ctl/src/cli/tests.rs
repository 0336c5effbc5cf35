#![allow(clippy::unwrap_used)]

use clap::CommandFactory;

use super::*;

fn ask(line: &str) -> Result<Ask, clap::Error> {
    let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    let Program::Ctl(ctl) = Cli::read(&args)?.program;
    match ctl.verb.wish() {
        Wish::Ask(ask) => Ok(ask),
        Wish::Confirm { .. } => panic!("a confirm is no question before its challenge"),
    }
}

#[test]
fn a_value_may_begin_with_a_dash_and_an_option_is_never_a_value() {
    let kind = |line: &str| ask(line).unwrap_err().kind();
    let set = |line: &str| match ask(line).unwrap() {
        Ask { operation: Operation::Intent(Intent::SshdSet { values, .. }), mode, .. } => (values.join(" "), mode),
        other => panic!("{other:?}"),
    };
    assert_eq!(kind("sshfix ctl sshd set --help"), clap::error::ErrorKind::DisplayHelp);
    for line in ["MACs -hmac*,-umac-64@openssh.com --dry-run", "--dry-run MACs -- -hmac*,-umac-64@openssh.com"] {
        let (values, mode) = set(&format!("sshfix ctl sshd set {line}"));
        assert_eq!((values.as_str(), mode), ("-hmac*,-umac-64@openssh.com", Mode::DryRun), "{line}");
    }
    let (values, mode) = set("sshfix ctl sshd set Subsystem sftp internal-sftp -l INFO -u 0027 --confirm-within 5m");
    assert_eq!(values, "sftp internal-sftp -l INFO -u 0027");
    assert_eq!(mode, Mode::Apply { plan: None, confirm_within: Some(300) });
    assert_eq!(set("sshfix ctl sshd set ForceCommand -- menu --all").0, "menu --all");
    for wrong in
        ["AllowUsers bob --dry-rnu", "AllowUsers --dry-rnu bob", "Ciphers -- -3des-cbc --dry-run", "Ciphers -- -a --plan=x"]
    {
        assert_eq!(kind(&format!("sshfix ctl sshd set {wrong}")), clap::error::ErrorKind::UnknownArgument, "{wrong}");
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn a_shown_command_line_asks_for_the_same_operation_again() {
    for line in [
        "sshfix ctl diagnose 203.0.113.7 --user root --port 2222",
        "sshfix ctl diagnose ::ffff:203.0.113.7",
        "sshfix ctl unban 203.0.113.0/24 --jail sshd --ignore-for 1h30m",
        "sshfix ctl unban 2001:db8::7",
        "sshfix ctl unban 203.0.113.7 --range",
        "sshfix ctl ban 203.0.113.7 --jail sshd",
        "sshfix ctl banned",
        "sshfix ctl banned 203.0.113.7",
        "sshfix ctl hosts list",
        "sshfix ctl hosts allow 203.0.113.7 --daemon sshd",
        "sshfix ctl hosts deny 203.0.113.7",
        "sshfix ctl hosts remove 203.0.113.7",
        "sshfix ctl firewall list",
        "sshfix ctl firewall who",
        "sshfix ctl firewall who --port 2222",
        "sshfix ctl firewall accept 203.0.113.7",
        "sshfix ctl firewall remove nft:inet:filter:input:7",
        "sshfix ctl fail2ban jails",
        "sshfix ctl fail2ban ignore 203.0.113.7 --jail sshd",
        "sshfix ctl fail2ban unignore 203.0.113.7",
        "sshfix ctl sshd show",
        "sshfix ctl sshd show PermitRootLogin AllowUsers --user alice --address 203.0.113.7 --port 2222",
        "sshfix ctl sshd check",
        "sshfix ctl sshd set PermitRootLogin no",
        "sshfix ctl sshd set AllowUsers alice bob@10.0.0.0/8",
        "sshfix ctl sshd set MaxSessions 3 --match all",
        "sshfix ctl sshd set Ciphers -- -aes128-ctr",
        "sshfix ctl sshd unset PermitRootLogin",
        "sshfix ctl sshd reload",
        "sshfix ctl sshd restart",
        "sshfix ctl allow 203.0.113.7 --for 2h",
        "sshfix ctl allow 203.0.113.0/24 --for 1h30m5s",
        "sshfix ctl leases",
        "sshfix ctl revoke 3",
        "sshfix ctl audit show",
        "sshfix ctl audit show --since 2026-11-21T06:30:00Z --until 2026-11-22T06:30:00Z --principal alice --action unban \
         --change 6d05d3c4d0 --outcome rolled-back --address 203.0.113.0/24 --limit 3",
        "sshfix ctl audit verify",
        "sshfix ctl audit checkpoint",
        "sshfix ctl changes",
        "sshfix ctl changes 1a2b3c4d5e",
        "sshfix ctl rollback 1a2b3c4d5e",
        "sshfix ctl rollback 1a2b3c4d5e --abandon",
        "sshfix ctl status",
    ] {
        let first = ask(line).unwrap().operation;
        assert_eq!(ask(&command_line(&first)).unwrap().operation, first, "{line}");
    }
}

#[test]
fn a_change_is_made_unless_a_dry_run_is_asked_for() {
    let digest = format!("sha256:{}", "a".repeat(64));
    assert_eq!(ask("sshfix ctl unban 203.0.113.7").unwrap().mode, Mode::Apply { plan: None, confirm_within: None });
    let within = ask("sshfix ctl unban 203.0.113.7 --confirm-within 5m").unwrap().mode;
    assert_eq!(within, Mode::Apply { plan: None, confirm_within: Some(300) });
    assert_eq!(ask("sshfix ctl unban 203.0.113.7 --dry-run").unwrap().mode, Mode::DryRun);
    let with_plan = ask(&format!("sshfix ctl unban 203.0.113.7 --plan {digest}")).unwrap();
    assert_eq!(with_plan.mode, Mode::Apply { plan: Some(digest.clone()), confirm_within: None });
    assert!(ask(&format!("sshfix ctl unban 203.0.113.7 --dry-run --plan {digest}")).is_err());
    assert!(ask("sshfix ctl unban 203.0.113.7 --plan abc").is_err());
}

#[test]
fn wrong_addresses_and_verbs_of_later_versions_are_usage_errors() {
    for line in [
        "sshfix ctl diagnose 203.0.113.0/24",
        "sshfix ctl diagnose example.org",
        "sshfix ctl unban 203.0.113.7/24",
        "sshfix ctl ban 203.0.113.7",
        "sshfix ctl unban 203.0.113.7 --confirm-within 5",
        "sshfix ctl rollback",
        "sshfix ctl confirm",
        "sshfix ctl",
        "sshfix",
    ] {
        assert!(ask(line).is_err(), "{line}");
    }
}

#[test]
fn durations_are_read_and_nonsense_is_refused() {
    for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400), ("1w", 604_800)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for text in ["", "0s", "10", "m", "1x", "-1h", "1h30", "99999999999999999999h", "100000w", "1 h"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn a_pasted_command_cannot_smuggle_in_another() {
    let operation = Operation::Intent(Intent::FirewallRemove { reference: "a; rm -rf / 'b".to_owned() });
    assert_eq!(command_line(&operation), r"sshfix ctl firewall remove 'a; rm -rf / '\''b'");
}
