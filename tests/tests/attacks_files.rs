//! Files and folders that sshd passes over or refuses for their owner or mode: of a chroot, of keys, of its own configuration; and the advice
//! about them, which is followed to the letter. Real logins are the judge. One server a release.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::process::{Child, Command, Stdio};

use sshfix_tests::lab::{self, Release, Server};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const FROM: &str = "198.51.100.7";

fn prepared(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("for u in alice carl; do useradd -m -s /bin/bash -p '*' $u; cp -r /root/.ssh /home/$u/; chown -R $u: /home/$u; done
             chmod 755 /home/*; useradd -m bob; chmod 755 /home/bob")
        .expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    configured(&server, "X11Forwarding yes\n");
    server
}

/// A configuration, and an sshd that has read it.
fn configured(server: &Server, text: &str) {
    server.sshd_follows(DROP_IN, text);
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// A login, or sftp in its place.
fn gets_in(server: &Server, user: &str, sftp: bool) -> bool {
    let mut command = server.login_command(user, FROM, 22);
    if sftp {
        let at = |command: &[String], word: &str| command.iter().position(|one| one == word).unwrap();
        let bound = at(&command, "-b");
        command.splice(bound..bound + 2, ["-o".to_owned(), format!("BindAddress={FROM}")]);
        let port = at(&command, "-p");
        command.splice(port..=port, ["-P".to_owned()]);
        let ssh = at(&command, "ssh");
        command.splice(ssh..=ssh, ["sftp", "-b", "-"].map(str::to_owned));
        return lab::run_with_input(&words(&command), b"pwd\n").ok();
    }
    command.push("true".to_owned());
    lab::run(&words(&command)).ok()
}

/// An open sftp session.
struct Sftp(Child);

impl Sftp {
    fn open(server: &Server, user: &str) -> Self {
        let mut command = server.login_command(user, FROM, 22);
        let destination = command.pop().unwrap();
        command.extend(["-s".to_owned(), destination, "sftp".to_owned()]);
        let piped = Stdio::piped;
        let session = Self(Command::new(&command[0]).args(&command[1..]).stdin(piped()).stdout(piped()).spawn().unwrap());
        let seen = || server.ctl(&["status", "--json"]).stdout.contains(&format!("{user} from"));
        server.wait_until("the session is seen", std::time::Duration::from_mins(1), seen);
        session
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is between backticks.
fn commands(fix: &str) -> Vec<&str> {
    fix.split('`').skip(1).step_by(2).collect()
}

/// Collects what is wrong.
struct Cases<'a> {
    server: &'a Server,
    wrong: Vec<String>,
}

impl Cases<'_> {
    fn wrong(&mut self, case: &str, what: &str) {
        self.wrong.push(format!("{}: {case}: {what}", self.server.release()));
    }

    fn diagnosed(&self, user: &str) -> (String, String, String) {
        let said = self.server.ctl(&["--json", "diagnose", FROM, "--user", user]).json();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let blocking = said["findings"].as_array().and_then(|all| all.iter().find(|one| one["blocking"] == true)).cloned();
        let fix = blocking.map(|one| text(&one["fix"])).unwrap_or_default();
        (text(&said["verdict"]), said.to_string(), fix)
    }

    /// The login fails and is called blocked, for what these words say; the advice is these commands, and after them the login works.
    fn mended(&mut self, case: &str, (user, sftp): (&str, bool), saying: &[&str], advised: &[&str]) {
        let server = self.server;
        let before = gets_in(server, user, sftp);
        let (verdict, said, fix) = self.diagnosed(user);
        if before || verdict != "refuse" || saying.iter().any(|word| !said.contains(word)) {
            self.wrong(case, &format!("works: {before}, {verdict}, not {saying:?}: {said}"));
        }
        if commands(&fix) != advised {
            self.wrong(case, &format!("advice: {fix}"));
        }
        for command in commands(&fix) {
            let ran = server.sh(command);
            if !ran.ok() {
                self.wrong(case, &format!("`{command}`: {}", ran.stderr));
            }
        }
        let (after, (verdict, said, _)) = (gets_in(server, user, sftp), self.diagnosed(user));
        if !after || verdict != "accept" {
            self.wrong(case, &format!("after the advice: works: {after}, {verdict}: {said}"));
        }
    }

    /// The link is taken away by the advice, and the key is put there as it says.
    fn unlinked(&mut self, case: &str, saying: &str, advised: &str) {
        let (verdict, said, fix) = self.diagnosed("alice");
        if verdict != "refuse"
            || !said.contains(saying)
            || commands(&fix) != [advised]
            || !fix.contains("put a public key of alice")
        {
            self.wrong(case, &format!("{verdict}: {said}: {fix}"));
        }
        self.server.sh(advised).expect_ok();
        let put = "install -d -o alice -g alice -m 700 /home/alice/.ssh
                   install -o alice -m 600 /root/.ssh/authorized_keys /home/alice/.ssh/";
        self.server.sh(put).expect_ok();
        self.works(case, ("alice", false));
    }

    fn works(&mut self, case: &str, (user, sftp): (&str, bool)) {
        let (works, (verdict, said, _)) = (gets_in(self.server, user, sftp), self.diagnosed(user));
        if !works || verdict != "accept" {
            self.wrong(case, &format!("works: {works}, {verdict}: {said}"));
        }
    }

    /// An edit is refused as a lockout with these words, and nothing is lost.
    fn refused(&mut self, case: &str, (user, sftp): (&str, bool), edit: &[&str], saying: &str) {
        let asked = self.server.ctl(&[&["sshd", "set", "--json", "--confirm-within", "10m"][..], edit].concat());
        let said = asked.json()["message"].as_str().unwrap_or_default().to_owned();
        let works = gets_in(self.server, user, sftp);
        if asked.status != 4 || !said.contains(saying) || !works {
            self.wrong(case, &format!("{edit:?}: {} {said} {}; works: {works}", asked.status, asked.stderr));
        }
        if let Some(id) = asked.json()["id"].as_str() {
            self.server.ctl(&["rollback", id]);
        }
    }
}

/// sshd looks at the folder that becomes the root of a session, and at each one above it.
fn chroots(cases: &mut Cases) {
    let (server, carl) = (cases.server, ("carl", true));
    let block = |root: &str| format!("Match User carl\n    ForceCommand internal-sftp\n    ChrootDirectory {root}\n");
    configured(server, &block("%h"));
    cases.mended(
        "a home of the user's",
        carl,
        &["/home/carl belongs to another user than root (owner ", "ChrootDirectory %h"],
        &["chown root /home/carl"],
    );
    server.sh("chgrp carl /home/carl; chmod 775 /home/carl").expect_ok();
    cases.mended("a home that a group can write", carl, &["can be written by others than root"], &["chmod go-w /home/carl"]);
    configured(server, &block("/srv/jail/%u"));
    cases.mended("a folder that is not there", carl, &["/srv/jail is not there"], &["install -d -m 755 /srv/jail/carl"]);
    server.sh("chmod 777 /srv/jail; chown carl /srv/jail/carl").expect_ok();
    cases.mended(
        "two at once",
        carl,
        &["/srv/jail can be written by others than root (owner 0, mode 0777)"],
        &["chmod go-w /srv/jail", "chown root /srv/jail/carl"],
    );
    // A link is followed, whoever owns it: nobody but sshd asks what it leads to.
    server.sh("ln -s /srv/jail/carl /srv/link; chown -h carl /srv/link").expect_ok();
    configured(server, &block("/srv/link"));
    cases.works("a link to a good folder", carl);
    server.sh("rm /srv/link; mkdir -m 700 /srv/hidden; mkdir /srv/hidden/carl").expect_ok();
    configured(server, &block("/srv/hidden/carl"));
    // sshd looks as root, sshfix as the user: what is not seen is not known.
    let (works, (verdict, said, _)) = (gets_in(server, "carl", true), cases.diagnosed("carl"));
    if !works || verdict != "unknown" || !said.contains("/srv/hidden/carl could not be looked at") {
        cases.wrong("a folder that the user does not see", &format!("works: {works}, {verdict}: {said}"));
    }
    configured(server, "Match User carl\n    ForceCommand internal-sftp\n");
    let session = Sftp::open(server, "carl");
    server.sh("chmod 777 /srv/jail").expect_ok();
    for (root, saying) in [
        ("/srv/jail/%u", "/srv/jail can be written by others than root (owner 0, mode 0777)"),
        ("/srv/none", "/srv/none is not there"),
        ("%h/.ssh", "/home/carl/.ssh belongs to another user than root"),
        ("/srv/%x", "has a % token that sshd does not know"),
    ] {
        cases.refused("carl is in", carl, &["ChrootDirectory", root, "--match", "User carl"], saying);
    }
    drop(session);
    // What is closed already is no reason against an edit of something else.
    configured(server, &block("/srv/jail/%u"));
    let asked = server.ctl(&["sshd", "set", "--json", "X11Forwarding", "no"]);
    if asked.status != 5 {
        cases.wrong("a chroot that is closed already", &format!("{} {}", asked.status, asked.stdout));
    }
    if let Some(id) = asked.json()["id"].as_str() {
        server.ctl(&["rollback", id]);
    }
    configured(server, "X11Forwarding yes\n");
}

/// What a user made is not followed by what root is told to run.
fn keys(cases: &mut Cases) {
    let (server, alice) = (cases.server, ("alice", false));
    server
        .sh("touch /etc/mine; chmod 666 /etc/mine; ln -s /etc/mine /home/alice/.ssh/link; rm -f /home/alice/.ssh/authorized_keys2")
        .expect_ok();
    let (file, folder) = ("/home/alice/.ssh/authorized_keys", "/home/alice/.ssh");
    let handed_over = format!("chown -Rh alice: {folder}");
    let as_alice = |change: &str| format!("setsid --wait runuser -u alice -- chmod {change} </dev/null >/dev/null 2>&1");
    let look = format!("find {folder} ! -user alice -ls");
    for (spoil, saying, advised) in [
        (
            "chmod 777 /home/alice/.ssh",
            "/home/alice/.ssh can be written by others (owner 100",
            as_alice(&format!("go-w {folder}")),
        ),
        (
            "chmod 666 /home/alice/.ssh/authorized_keys",
            "authorized_keys can be written by others",
            as_alice(&format!("go-w {file}")),
        ),
        ("chgrp users /home/alice; chmod 775 /home/alice", "/home/alice can be written by others", as_alice("go-w /home/alice")),
        (
            "chgrp users /home/alice/.ssh; chmod 775 /home/alice/.ssh",
            "/home/alice/.ssh can be written by others",
            as_alice(&format!("go-w {folder}")),
        ),
        (
            "chgrp users /home/alice/.ssh/authorized_keys; chmod 664 /home/alice/.ssh/authorized_keys",
            "/home/alice/.ssh/authorized_keys can be written by others",
            as_alice(&format!("go-w {file}")),
        ),
        (
            "chown bob /home/alice/.ssh/authorized_keys; chmod 644 /home/alice/.ssh/authorized_keys",
            "authorized_keys belongs to another user (owner 1002 bob, mode 0644, a file)",
            handed_over.clone(),
        ),
        (
            "chown root /home/alice/.ssh/authorized_keys; chmod 600 /home/alice/.ssh/authorized_keys",
            "authorized_keys cannot be read by the user (owner 0, mode 0600, a file)",
            handed_over.clone(),
        ),
        (
            "chown bob /home/alice/.ssh; chmod 755 /home/alice/.ssh",
            "/home/alice/.ssh belongs to another user (owner 1002 bob, mode 0755, a folder)",
            handed_over.clone(),
        ),
        (
            "chown bob /home/alice; chmod 755 /home/alice",
            "/home/alice belongs to another user",
            "chown -h alice: /home/alice".into(),
        ),
        (
            "chown root /home/alice; chmod 700 /home/alice",
            "/home/alice does not let the user in (owner 0, mode 0700, a folder)",
            "chown -h alice: /home/alice".into(),
        ),
        ("chmod 700 /home", "/home does not let the user in", "chmod a+x /home".into()),
        (
            "chmod 775 /home/alice; chgrp users /home/alice; chmod 777 /home/alice/.ssh; chown bob /home/alice/.ssh/authorized_keys; \
             chmod 666 /home/alice/.ssh/authorized_keys",
            "/home/alice/.ssh can be written by others",
            format!(
                "{} && {handed_over} && {}",
                as_alice(&format!("go-w /home/alice {folder}")),
                as_alice(&format!("go-w {file}"))
            ),
        ),
    ] {
        server.sh(spoil).expect_ok();
        // What else would become hers is shown.
        let looks = advised.contains("chown -Rh").then_some(look.as_str());
        let all: Vec<&str> = [advised.as_str()].into_iter().chain(looks).collect();
        cases.mended(spoil, alice, &[saying], &all);
    }
    private_group(cases);
    if server.sh("stat -c %u%a /etc/mine").stdout.trim() != "0666" {
        cases.wrong("a link of alice's", "the advice changed what it leads to");
    }
    links(cases);
    elsewhere(cases);
    configured(server, "X11Forwarding yes\n");
}

/// In a home of root's that her private group may write to, she can put another folder into the place of hers: of what that leads to, nothing
/// becomes hers.
fn private_group(cases: &mut Cases) {
    let server = cases.server;
    server
        .sh("chown root:alice /home/alice; chmod 775 /home/alice; chown bob /home/alice/.ssh/authorized_keys; chmod 644 \
             /home/alice/.ssh/authorized_keys; install -D -m 600 -o bob /etc/hostname /home/bob/.ssh/authorized_keys")
        .expect_ok();
    let (verdict, said, fix) = cases.diagnosed("alice");
    let found: Vec<String> = commands(&fix).into_iter().map(str::to_owned).collect();
    if verdict != "refuse" || found.first().is_none_or(|first| first != "chown -Rh alice: /home/alice/.ssh") {
        cases.wrong("a home of the private group", &format!("{verdict}: {said}: {fix}"));
    }
    server.sh("runuser -u alice -- sh -c 'mv /home/alice/.ssh /home/alice/y; ln -s /home/bob/.ssh /home/alice/.ssh'").expect_ok();
    for command in &found {
        server.sh(command);
    }
    if server.sh("stat -c %U /home/bob/.ssh/authorized_keys").stdout.trim() != "bob" {
        cases.wrong("a home of the private group", "bob's keys became hers");
    }
    server
        .sh("rm -f /home/alice/.ssh; mv /home/alice/y /home/alice/.ssh; chown -R alice: /home/alice; chmod 755 /home/alice")
        .expect_ok();
}

/// What a link of alice's leads to is neither opened nor closed nor copied: others may decide what is in it.
fn links(cases: &mut Cases) {
    let (server, alice) = (cases.server, ("alice", false));
    let gone = |link: &str| format!("setsid --wait runuser -u alice -- rm {link} </dev/null >/dev/null 2>&1");
    server
        .sh("mkdir -m 777 /srv/wide; mv /home/alice/.ssh/* /srv/wide; rm -r /home/alice/.ssh; ln -s /srv/wide /home/alice/.ssh")
        .expect_ok();
    cases.unlinked(
        "a folder that is a link to one that all can write",
        "/home/alice/.ssh is a link to /srv/wide; /srv/wide can be written by others (owner 0, mode 0777, a folder)",
        &gone("/home/alice/.ssh"),
    );
    server
        .sh("mkdir -m 1777 /srv/all; cp /home/alice/.ssh/authorized_keys /tmp/of-alice; chmod 644 /tmp/of-alice
             mv /home/alice/.ssh/authorized_keys /srv/all/of-alice
             runuser -u alice -- ln -s /srv/all/of-alice /home/alice/.ssh/authorized_keys")
        .expect_ok();
    cases.unlinked(
        "a file that is a link into a folder of all users",
        "/home/alice/.ssh/authorized_keys is a link to /srv/all/of-alice; /srv/all can be written by others",
        &gone("/home/alice/.ssh/authorized_keys"),
    );
    cases.works("with a file of her own", alice);
    // The service has a /tmp of its own: what is not in it is not missing.
    server.sh("runuser -u alice -- ln -sf /tmp/of-alice /home/alice/.ssh/authorized_keys").expect_ok();
    let (verdict, said, _) = cases.diagnosed("alice");
    if verdict != "unknown" || !said.contains("(PrivateTmp=)") {
        cases.wrong("a link into /tmp", &format!("{verdict}: {said}"));
    }
    server.sh("runuser -u alice -- ln -sf /etc/shadow /home/alice/.ssh/authorized_keys").expect_ok();
    let (verdict, said, fix) = cases.diagnosed("alice");
    let expected = [gone("/home/alice/.ssh/authorized_keys")];
    if verdict != "refuse" || commands(&fix) != expected || !said.contains("/etc/shadow cannot be read by the user") {
        cases.wrong("a link to /etc/shadow", &format!("{verdict}: {said}"));
    }
    if server.sh("stat -c %a /srv/all /etc/shadow /srv/wide").stdout.split_whitespace().collect::<Vec<_>>()
        != ["1777", "640", "777"]
    {
        cases.wrong("links", "the advice changed what they lead to");
    }
    server
        .sh("rm /home/alice/.ssh/authorized_keys; install -o alice -m 600 /root/.ssh/authorized_keys /home/alice/.ssh/")
        .expect_ok();
}

/// Keys outside of the home.
fn elsewhere(cases: &mut Cases) {
    let (server, alice) = (cases.server, ("alice", false));
    configured(server, "AuthorizedKeysFile /etc/ssh/keys/%u\n");
    server.sh("install -D -m 644 /root/.ssh/authorized_keys /etc/ssh/keys/alice").expect_ok();
    let (file, folder) = ("/etc/ssh/keys/alice", "/etc/ssh/keys");
    for (spoil, saying, advised) in [
        ("chmod 700 /etc/ssh/keys", "/etc/ssh/keys does not let the user in", format!("chmod a+x {folder}")),
        (
            "chmod 2775 /etc/ssh/keys",
            "/etc/ssh/keys can be written by others (owner 0, mode 2775",
            format!("chmod go-w {folder}"),
        ),
        ("chown bob /etc/ssh/keys", "/etc/ssh/keys belongs to another user (owner 1002 bob", format!("chown -h root {folder}")),
        ("chmod 600 /etc/ssh/keys/alice", "/etc/ssh/keys/alice cannot be read by the user", format!("chmod a+r {file}")),
        (
            "chown alice /etc/ssh/keys/alice; chmod 664 /etc/ssh/keys/alice",
            "/etc/ssh/keys/alice can be written by others",
            format!("setsid --wait runuser -u alice -- chmod go-w {file} </dev/null >/dev/null 2>&1"),
        ),
        (
            "chmod 777 /etc/ssh/keys; chown bob /etc/ssh/keys/alice; chmod 600 /etc/ssh/keys/alice",
            "/etc/ssh/keys/alice cannot be read by the user (owner 1002 bob",
            format!("chmod go-w {folder} && test ! -h {file} && chown -h root {file} && chmod a+r {file}"),
        ),
    ] {
        server.sh(spoil).expect_ok();
        cases.mended(spoil, alice, &[saying], &[&advised]);
    }
}

/// What `sshd check` and `diagnose` say of lines that refuse everybody, with the line that does.
fn lines(cases: &mut Cases) {
    let (server, release) = (cases.server, cases.server.release());
    let text = "AuthorizedKeysFile /etc/ssh/keys/%u .ssh/authorized_keys\nRevokedKeys /etc/ssh/none\nTrustedUserCAKeys /etc/ssh/ca\n\
                Match User carl\n    RevokedKeys none\n";
    configured(server, text);
    let check = server.ctl(&["sshd", "check"]).stdout;
    for part in [
        "RevokedKeys /etc/ssh/none: there is no such file, so that sshd refuses every key of everybody",
        "TrustedUserCAKeys /etc/ssh/ca: there is no such file",
        "RevokedKeys none: under Match this is a file that is named none",
        "50-x.conf line 2",
        "50-x.conf line 5",
    ] {
        if !check.contains(part) {
            cases.wrong("sshd check", &format!("not `{part}`: {check}"));
        }
    }
    if check.contains("/etc/ssh/keys") || gets_in(server, "alice", false) || gets_in(server, "carl", false) {
        cases.wrong("sshd check", &format!("a token was guessed, or somebody gets in: {check}"));
    }
    configured(
        server,
        "KbdInteractiveAuthentication no\nMatch User alice\n    AuthenticationMethods publickey,keyboard-interactive\n",
    );
    let (verdict, said, fix) = cases.diagnosed("alice");
    let cause = said.contains("keyboard-interactive (by KbdInteractiveAuthentication)") && fix.contains("50-x.conf line 1");
    if verdict != "refuse" || !cause || gets_in(server, "alice", false) {
        cases.wrong("a method that is off", &format!("{verdict}: {fix}: {said}"));
    }
    configured(server, "X11Forwarding yes\n");
    // OpenSSH 10.0 knows no DSA key: neither this one nor one that is there.
    if release == Release::Trixie {
        server.write(DROP_IN, "HostKey /etc/ssh/ssh_host_dsa_key\n");
        server.sh("systemctl restart ssh || true").expect_ok();
        let (verdict, said, fix) = cases.diagnosed("alice");
        if verdict != "refuse"
            || !said.contains("comment out /etc/ssh/sshd_config.d/50-x.conf line 1: this sshd takes no DSA key")
        {
            cases.wrong("a DSA host key", &format!("{verdict}: {fix}: {said}"));
        }
        server.sh(&format!("rm {DROP_IN}; systemctl reset-failed ssh; systemctl start ssh")).expect_ok();
    }
}

fn all(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = prepared(release);
    let mut cases = Cases { server: &server, wrong: Vec::new() };
    keys(&mut cases);
    chroots(&mut cases);
    lines(&mut cases);
    assert!(cases.wrong.is_empty(), "{}", cases.wrong.join("\n"));
}

#[test]
fn what_is_wrong_with_a_file_or_folder_is_named_and_the_advice_mends_it_bookworm() {
    all(Release::Bookworm);
}

#[test]
fn what_is_wrong_with_a_file_or_folder_is_named_and_the_advice_mends_it_trixie() {
    all(Release::Trixie);
}
