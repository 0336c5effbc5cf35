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
    let advised = "chown -Rh alice: /home/alice/.ssh && runuser -u alice -- chmod go-w /home/alice /home/alice/.ssh \
                   /home/alice/.ssh/authorized_keys";
    server.sh("touch /etc/mine; chmod 666 /etc/mine; ln -s /etc/mine /home/alice/.ssh/link; rm -f /home/alice/.ssh/authorized_keys2").expect_ok();
    for (case, spoil) in [
        ("a folder of keys that all can write", "chmod 777 /home/alice/.ssh"),
        ("a file of keys that all can write", "chmod 666 /home/alice/.ssh/authorized_keys"),
        ("a home that all can write", "chmod 777 /home/alice"),
        (
            "a file of keys of another user's",
            "chown bob /home/alice/.ssh/authorized_keys; chmod 644 /home/alice/.ssh/authorized_keys",
        ),
    ] {
        server.sh(spoil).expect_ok();
        cases.mended(case, alice, &["StrictModes"], &[advised]);
    }
    if server.sh("stat -c %u%a /etc/mine").stdout.trim() != "0666" {
        cases.wrong("a link of alice's", "the advice changed what it leads to");
    }
    configured(server, "AuthorizedKeysFile /srv/keys/%u\n");
    server.sh("mkdir -m 777 /srv/keys; cp /root/.ssh/authorized_keys /srv/keys/alice; chmod 644 /srv/keys/alice").expect_ok();
    let (verdict, _, fix) = cases.diagnosed("alice");
    if verdict != "refuse" || !fix.contains("`namei -l /srv/keys/alice`") || gets_in(server, "alice", false) {
        cases.wrong("keys outside of the home", &format!("{verdict}: {fix}"));
    }
    configured(server, "X11Forwarding yes\n");
}

fn all(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = prepared(release);
    let mut cases = Cases { server: &server, wrong: Vec::new() };
    keys(&mut cases);
    chroots(&mut cases);
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
