//! Ways in that sshfix may call closed, or takes for another one than sshd does: what forwards alone, Match blocks that sshd cannot be asked
//! about, clients at link-local addresses, homes that are away, subsystems and terminals. Whoever is in, or is a keep entry, loses nothing by
//! an edit even where its way is called closed, and a way that is closed can be opened again. Real logins are the judge. One server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sshfix_tests::lab::{self, ADMIN_V4, Release, Server, Session};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const UNREAD: &str = "/etc/ssh/sshd_config.d/99-unread.conf";
const FROM: &str = "198.51.100.7";
/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(3);

/// A client that stays; killed when dropped.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the drop-in by hand and has sshd follow.
fn configure(server: &Server, text: &str) {
    server.sshd_follows(DROP_IN, text);
}

/// Entries of agent.toml in the place of those that were there.
fn keep(server: &Server, entries: &[&str]) {
    let config = server.read("/etc/sshfix/agent.toml.plain");
    let one = |user: &&str| format!("[[keep]]\naddress = \"{FROM}\"\nuser = \"{user}\"\n");
    let entries: String = entries.iter().map(one).collect();
    server.write("/etc/sshfix/agent.toml", format!("{entries}{config}"));
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
}

/// A client's command with options of ssh.
fn with_options(mut command: Vec<String>, options: &[&str]) -> Vec<String> {
    let ssh = command.iter().position(|word| word == "ssh").unwrap() + 1;
    command.splice(ssh..ssh, options.iter().map(|word| (*word).to_owned()));
    command
}

/// Three times, since a busy sshd turns some away.
fn tried(try_once: impl Fn() -> bool) -> bool {
    (0..3).any(|_| {
        let works = try_once();
        if !works {
            std::thread::sleep(Duration::from_millis(200));
        }
        works
    })
}

fn through(server: &Server, user: &str) -> bool {
    let command = with_options(server.login_command(user, FROM, 22), &["-W", "127.0.0.1:22"]);
    let words: Vec<&str> = ["timeout", "4"].into_iter().chain(command.iter().map(String::as_str)).collect();
    tried(|| lab::run(&words).stdout.starts_with("SSH-2.0"))
}

fn held(server: &Server, user: &str, options: &[&str]) -> Held {
    let words = with_options(server.login_command(user, FROM, 22), options);
    let piped = Stdio::piped;
    let held = Held(Command::new(&words[0]).args(&words[1..]).stdin(piped()).stdout(piped()).spawn().unwrap());
    let seen = || server.ctl(&["status", "--json"]).stdout.contains(&format!("{user} from"));
    server.wait_until("the session is seen", LONG, seen);
    held
}

/// What was wrong, in all scenes of a release.
struct Scenes<'a> {
    server: &'a Server,
    wrong: Vec<String>,
}

impl Scenes<'_> {
    /// The way works, these edits are refused as lockouts, the others are applied and leave it working. `in BLOCK` is a Match block.
    fn check(&mut self, scene: &str, works: &dyn Fn() -> bool, refused: &[&str], applied: &[&str]) {
        if !works() {
            self.wrong.push(format!("{}: {scene}: does not work before", self.server.release()));
            return;
        }
        self.edits(scene, works, refused, applied);
    }

    /// The same of a way that does not work before, which the edits that are applied open or leave as it is.
    fn edits(&mut self, scene: &str, works: &dyn Fn() -> bool, refused: &[&str], applied: &[&str]) {
        let scene = format!("{}: {scene}", self.server.release());
        for edit in refused {
            let asked = self.ask(edit);
            let said = asked.json()["message"].as_str().unwrap_or_default().to_owned();
            if asked.status != 4 || !said.contains("nothing was changed") {
                self.wrong.push(format!("{scene}: {edit}: {} {said}; works after: {}", asked.status, works()));
            }
            self.roll_back(&asked);
        }
        for edit in applied {
            let asked = self.ask(edit);
            if asked.status != 5 || !works() {
                self.wrong.push(format!("{scene}: {edit}: {} {}", asked.status, asked.json()["message"]));
            }
            self.roll_back(&asked);
        }
    }

    fn ask(&self, edit: &str) -> lab::CtlResult {
        let (edit, block) = edit.split_once(" in ").map_or((edit, None), |(edit, block)| (edit, Some(block)));
        let mut words: Vec<&str> = ["sshd"].into_iter().chain(edit.split(' ')).collect();
        words.extend(block.into_iter().flat_map(|block| ["--match", block]));
        words.extend(["--json", "--confirm-within", "10m"]);
        self.server.ctl(&words)
    }

    fn roll_back(&self, asked: &lab::CtlResult) {
        if let Some(id) = asked.json()["id"].as_str() {
            self.server.ctl(&["rollback", id]);
        }
    }

    fn diagnosed(&mut self, scene: &str, user: &str, from: &str, status: i32, words: &str) {
        let said = self.server.ctl(&["diagnose", from, "--user", user]);
        if said.status != status || !said.stdout.contains(words) {
            self.wrong.push(format!("{}: {scene}: {} {}", self.server.release(), said.status, said.stdout));
        }
    }
}

fn prepare(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("for u in alice jump carl; do useradd -m -s /bin/bash -p '*' $u; cp -r /root/.ssh /home/$u/; chown -R $u: /home/$u; done
             chmod 755 /home/*; cp /etc/sshfix/agent.toml /etc/sshfix/agent.toml.plain")
        .expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    server
}

/// `MaxSessions 0` permits forwarding: a jump host's usual line.
fn who_only_forwards(scenes: &mut Scenes) {
    let server = scenes.server;
    let plain = "Match User jump\n    MaxSessions 0\n";
    configure(server, plain);
    let works = || through(server, "jump");
    let edits =
        ["set DenyUsers jump", "set AllowUsers root", "set AllowTcpForwarding no", "set PubkeyAuthentication no in User jump"];
    let harmless = ["set X11Forwarding no", "unset MaxSessions in User jump"];
    {
        let _session = held(server, "jump", &["-N"]);
        scenes.check("jump is in", &works, &edits, &harmless);
        configure(server, plain);
        scenes.check("jump is in, and sshd read its files again", &works, &edits, &[]);
    }
    keep(server, &["jump", "alice"]);
    scenes.check("keep jump", &works, &edits, &harmless);
    scenes.check(
        "keep alice",
        &|| server.gets_in("alice", FROM, 22),
        &["set MaxSessions 0", "set MaxSessions 0 in User alice"],
        &[],
    );
}

/// A block that `sshd -T` is silent about.
fn criteria_that_sshd_is_not_asked_about(scenes: &mut Scenes) {
    let server = scenes.server;
    keep(server, &[]);
    configure(server, "X11Forwarding yes\n");
    let _session = Session::open_as(server, "root", ADMIN_V4, 22);
    let works = || server.gets_in("root", ADMIN_V4, 22);
    let block = "Match RDomain *\n    PermitRootLogin no\n";
    server.write(UNREAD, block);
    scenes.check("a block by RDomain that is not read", &works, &["reload", "set X11Forwarding no"], &[]);
    server.write(UNREAD, "Match RDomain *\n    X11Forwarding no\nMatch User bob RDomain *\n    DenyUsers bob\n");
    scenes.check("blocks by RDomain that keep nobody out", &works, &[], &["set LogLevel VERBOSE"]);
    server.write(UNREAD, block);
    configure(server, "X11Forwarding yes\n");
    scenes.diagnosed("a block by RDomain", "root", ADMIN_V4, 9, "RDomain *: PermitRootLogin no");
    server.sh(&format!("rm {UNREAD}")).expect_ok();
    configure(server, "X11Forwarding yes\n");
}

/// sshd knows a link-local client by the interface, too.
fn link_local_clients(scenes: &mut Scenes) {
    let server = scenes.server;
    let address = server.sh("ip -6 -o addr show dev host0 scope link | awk '{print $4}' | cut -d/ -f1").stdout.trim().to_owned();
    let mut command = server.ssh_command(ADMIN_V4);
    let bound = command.iter().position(|word| word == "-b").unwrap();
    command.drain(bound..bound + 2);
    *command.last_mut().unwrap() = format!("root@{address}%ve-{}", server.clients_netns());
    let login = [command.clone(), vec!["true".to_owned()]].concat();
    let login: Vec<&str> = login.iter().map(String::as_str).collect();
    let works = || tried(|| lab::run(&login).ok());
    let _session = Session::begin(&command);
    let refused = ["set AllowUsers root@fe80::/10", "set DenyUsers root@*%host0"];
    scenes.check(
        "root is in by a link-local address",
        &works,
        &refused,
        &["set AllowUsers root", "set DenyUsers root@203.0.113.0/24"],
    );
    server.write(UNREAD, "Match Address *%host0\n    PermitRootLogin no\n");
    scenes.check("a block by the interface that is not read", &works, &["reload"], &[]);
    server.sh(&format!("rm {UNREAD}")).expect_ok();
    configure(server, "X11Forwarding yes\n");
}

/// A home that is not mounted for the moment.
fn homes_that_are_away(scenes: &mut Scenes) {
    let server = scenes.server;
    keep(server, &["alice"]);
    server.sh("mv /home/alice /home/alice.away").expect_ok();
    scenes.diagnosed("a home that is away", "alice", FROM, 9, "the home folder /home/alice is not there");
    let lost = ["set PubkeyAuthentication no in User alice", "set AuthorizedKeysFile none in User alice", "set DenyUsers alice"];
    scenes.edits("a home that is away", &|| true, &lost, &["set X11Forwarding no"]);
    server.sh("mv /home/alice.away /home/alice").expect_ok();
}

/// A way that is really closed: nothing more is taken away, and it can be opened.
fn ways_that_are_closed(scenes: &mut Scenes) {
    let server = scenes.server;
    let alice = || server.gets_in("alice", FROM, 22);
    configure(server, "DenyUsers alice mallory\n");
    let more = ["set PubkeyAuthentication no in User alice", "set AllowUsers root", "set AuthorizedKeysFile none in User alice"];
    scenes.edits("keep alice, denied", &|| true, &more, &["set X11Forwarding no", "set DenyUsers alice"]);
    scenes.edits("keep alice, denied", &alice, &[], &["unset DenyUsers", "set DenyUsers mallory"]);
    configure(server, "Match User alice\n    AuthorizedKeysFile /etc/ssh/none\n");
    let more = [
        "set PubkeyAuthentication no in User alice",
        "set AuthorizedKeysFile /etc/ssh/other in User alice",
        "set DenyUsers alice",
    ];
    scenes.edits("keep alice, without keys", &|| true, &more, &["set X11Forwarding no"]);
    let opens = ["set AuthorizedKeysFile .ssh/authorized_keys in User alice", "unset AuthorizedKeysFile in User alice"];
    scenes.edits("keep alice, without keys", &alice, &[], &opens);
    keep(server, &[]);
    // Somebody closes root's way by hand while root is in.
    configure(server, "X11Forwarding yes\n");
    let root = || server.gets_in("root", ADMIN_V4, 22);
    let _session = Session::open_as(server, "root", ADMIN_V4, 22);
    configure(server, "PermitRootLogin no\nDenyUsers root mallory\n");
    scenes.edits(
        "root is in, refused since",
        &|| true,
        &["set AllowUsers alice", "set PubkeyAuthentication no"],
        &["set DenyUsers root"],
    );
    let fixed = server.ctl(&["fix", ADMIN_V4, "--user", "root", "--json", "--confirm-within", "10m"]);
    if fixed.status != 5 || !root() {
        scenes.wrong.push(format!("{}: fix of root's way: {} {}", server.release(), fixed.status, fixed.stdout));
    }
    scenes.roll_back(&fixed);
    configure(server, "X11Forwarding yes\n");
    // sshd is down: what is edited then counts when it is started.
    // The folder goes with the unit, and without it sshd says nothing of its files.
    server.sh("systemctl stop ssh.service; mkdir -p -m 755 /run/sshd").expect_ok();
    scenes.edits("sshd is down", &|| true, &["set DenyUsers root", "set PubkeyAuthentication no"], &["set X11Forwarding no"]);
    server.run(&["systemctl", "start", "ssh.service"]).expect_ok();
    configure(server, "X11Forwarding yes\n");
}

/// Whether an sftp server answers.
fn has_sftp(server: &Server, user: &str) -> bool {
    let mut command = server.login_command(user, FROM, 22);
    let at = |command: &[String], word: &str| command.iter().position(|one| one == word).unwrap();
    let bound = at(&command, "-b");
    command.splice(bound..bound + 2, ["-o".to_owned(), format!("BindAddress={FROM}")]);
    let port = at(&command, "-p");
    command.splice(port..=port, ["-P".to_owned()]);
    let ssh = at(&command, "ssh");
    command.splice(ssh..=ssh, ["sftp", "-b", "-"].map(str::to_owned));
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    tried(|| lab::run_with_input(&words, b"pwd\n").ok())
}

/// sftp, scp and Ansible go by the program of a subsystem, and who is locked into a folder finds none there.
fn subsystems_and_roots(scenes: &mut Scenes) {
    let server = scenes.server;
    configure(server, "X11Forwarding yes\n");
    let elsewhere = ["set Subsystem sftp /usr/libexec/openssh/sftp-server", "set Subsystem sftp /usr/lib/ssh/sftp-server"];
    {
        let _session = Session::open_as(server, "alice", FROM, 22);
        scenes.check("sftp of alice", &|| has_sftp(server, "alice"), &elsewhere, &["set Subsystem sftp internal-sftp"]);
    }
    let sftp = || has_sftp(server, "carl");
    let with_program = server.read("/etc/ssh/sshd_config");
    server.write("/etc/ssh/sshd_config", with_program.replace("/usr/lib/openssh/sftp-server", "internal-sftp"));
    server.sh("chown root: /home/carl").expect_ok();
    configure(server, "Match User carl\n    ChrootDirectory %h\n");
    keep(server, &["carl"]);
    scenes.check(
        "sftp of carl inside of a folder",
        &sftp,
        &["set Subsystem sftp /usr/lib/openssh/sftp-server"],
        &["set X11Forwarding no"],
    );
    server.write("/etc/ssh/sshd_config", with_program);
    configure(server, "Match User carl\n    ForceCommand internal-sftp\n");
    let applied = ["set AllowTcpForwarding no in User carl", "set DisableForwarding yes", "set PermitTTY no in User carl"];
    scenes.check("carl has sftp alone", &sftp, &["set ChrootDirectory /home in User carl", "set MaxSessions 0"], &applied);
}

/// `PermitTTY no` ends what asks for a terminal.
fn terminals(scenes: &mut Scenes) {
    let server = scenes.server;
    configure(server, "Match User alice\n    ForceCommand test -t 0 && echo menu\n");
    keep(server, &["alice"]);
    let words = [with_options(server.login_command("alice", FROM, 22), &["-tt"]), vec!["x".to_owned()]].concat();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let menu = || tried(|| lab::run(&words).stdout.contains("menu"));
    scenes.check("a menu", &menu, &["set PermitTTY no"], &["set PermitTTY no in User carl"]);
    configure(server, "X11Forwarding yes\n");
    let asked = scenes.ask("set PermitTTY no");
    let said = asked.json()["plan"]["paths"].to_string();
    if asked.status != 5 || !said.contains("PermitTTY no: no terminal") {
        scenes.wrong.push(format!("{}: the risk of PermitTTY no: {} {said}", server.release(), asked.status));
    }
    scenes.roll_back(&asked);
    keep(server, &[]);
}

fn scenes(release: Release) -> Vec<String> {
    let server = prepare(release);
    let mut scenes = Scenes { server: &server, wrong: Vec::new() };
    who_only_forwards(&mut scenes);
    criteria_that_sshd_is_not_asked_about(&mut scenes);
    link_local_clients(&mut scenes);
    homes_that_are_away(&mut scenes);
    ways_that_are_closed(&mut scenes);
    subsystems_and_roots(&mut scenes);
    terminals(&mut scenes);
    scenes.wrong
}

#[test]
fn what_is_called_closed_loses_nothing() {
    if !lab::root_or_skip() {
        return;
    }
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = Release::ALL.into_iter().map(|release| scope.spawn(move || scenes(release))).collect();
        all.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(wrong, [""; 0], "{}", wrong.join("\n"));
}
