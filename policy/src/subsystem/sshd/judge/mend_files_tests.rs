use super::*;
use crate::subsystem::sshd::facts::chain::Stop;
use crate::subsystem::sshd::facts::passed_over::tests::found;

const ALICE: u32 = 1000;
const BOB: u32 = 1001;
const KEYS: &str = "/home/alice/.ssh/authorized_keys";

fn advice(path: &str, real: &str, owners: &[(u32, u32)], stop: Option<Stop>) -> String {
    let whose = Whose { user: "alice", uid: ALICE, home: "/home/alice" };
    mend(whose, [&found(path, real, owners, stop)].into_iter())
}

#[test]
fn in_the_home_each_path_is_handed_over_or_changed_as_the_user() {
    for (owners, expected) in [
        (
            [(ALICE, 0o600), (ALICE, 0o777), (ALICE, 0o775)],
            "`setsid --wait runuser -u alice -- chmod go-w /home/alice /home/alice/.ssh </dev/null >/dev/null 2>&1`",
        ),
        (
            [(BOB, 0o644), (ALICE, 0o700), (ALICE, 0o755)],
            "`chown -Rh alice: /home/alice/.ssh`; all that is there becomes alice's: look first, `find /home/alice/.ssh ! -user alice -ls`",
        ),
        (
            [(BOB, 0o666), (BOB, 0o700), (ALICE, 0o755)],
            "`chown -Rh alice: /home/alice/.ssh && setsid --wait runuser -u alice -- chmod go-w /home/alice/.ssh/authorized_keys </dev/null >/dev/null 2>&1`; all that is there becomes alice's: look first, `find /home/alice/.ssh ! -user alice -ls`",
        ),
        ([(ALICE, 0o600), (ALICE, 0o700), (BOB, 0o755)], "`chown -h alice: /home/alice`"),
        ([(ALICE, 0o600), (ALICE, 0o700), (0, 0o777)], "`chmod go-w /home/alice`"),
    ] {
        assert_eq!(advice(KEYS, KEYS, &owners, None), expected);
    }
}

#[test]
fn outside_of_the_home_root_mends_what_only_root_can_replace() {
    let at = "/etc/ssh/keys/alice";
    let above = [(0, 0o755), (0, 0o755), (0, 0o755)];
    let with = |file: (u32, u32), folder: (u32, u32), stop| advice(at, at, &[&[file, folder][..], &above].concat(), stop);
    assert_eq!(with((ALICE, 0o600), (0, 0o2775), None), "`chmod go-w /etc/ssh/keys`");
    assert_eq!(with((ALICE, 0o600), (BOB, 0o700), None), "`chown -h root /etc/ssh/keys && chmod a+x /etc/ssh/keys`");
    assert_eq!(
        with((ALICE, 0o666), (0, 0o755), None),
        "`setsid --wait runuser -u alice -- chmod go-w /etc/ssh/keys/alice </dev/null >/dev/null 2>&1`"
    );
    assert_eq!(with((0, 0o600), (0, 0o755), Some(Stop::Read)), "`chmod a+r /etc/ssh/keys/alice`");
    // Who could write to the folder could have put a link there.
    assert_eq!(
        with((BOB, 0o600), (0, 0o777), None),
        "`chmod go-w /etc/ssh/keys && test ! -h /etc/ssh/keys/alice && chown -h root /etc/ssh/keys/alice && chmod a+r /etc/ssh/keys/alice`"
    );
    let stopped = advice(at, "/etc/ssh/keys", &[&[(0, 0o700)][..], &above].concat(), Some(Stop::Enter));
    assert_eq!(stopped, "`chmod a+x /etc/ssh/keys`; then ask again: what is below was not seen");
}

#[test]
fn what_a_link_of_the_users_leads_to_is_neither_opened_nor_closed() {
    let tmp = advice(KEYS, "/tmp/authorized_keys", &[(ALICE, 0o600), (0, 0o1777), (0, 0o755)], None);
    // No copy of it: others can write there.
    let gone =
        "`setsid --wait runuser -u alice -- rm /home/alice/.ssh </dev/null >/dev/null 2>&1`; then put a public key of alice into";
    assert!(tmp.starts_with(gone), "{tmp}");
    let shadow = advice(KEYS, "/etc/shadow", &[(0, 0o640), (0, 0o755), (0, 0o755)], Some(Stop::Read));
    assert!(!shadow.contains("shadow"), "{shadow}");
    // Below the user's own folders only the user changes anything.
    let own = [(ALICE, 0o666), (ALICE, 0o777), (ALICE, 0o755)];
    let own = advice(KEYS, "/home/alice/dot/authorized_keys", &own, None);
    assert_eq!(
        own,
        "`setsid --wait runuser -u alice -- chmod go-w /home/alice/dot /home/alice/dot/authorized_keys </dev/null >/dev/null 2>&1`"
    );
}

#[test]
fn nobody_is_advised_to_close_what_is_for_everybody_or_another_users_home() {
    for (path, owners) in [
        ("/tmp/alice", &[(ALICE, 0o600), (0, 0o1777), (0, 0o755)][..]),
        ("/home/bob/alice", &[(ALICE, 0o600), (BOB, 0o755), (0, 0o755), (0, 0o755)]),
    ] {
        let said = advice(path, path, owners, None);
        assert!(said.contains("keep the keys of alice elsewhere") && !said.contains('`'), "{said}");
    }
    let odd = advice("/srv/a\u{1b}/alice", "/srv/a\u{1b}/alice", &[(BOB, 0o600), (0, 0o755), (0, 0o755), (0, 0o755)], None);
    assert!(odd.contains("by hand") && !odd.contains('\u{1b}'), "{odd}");
}
