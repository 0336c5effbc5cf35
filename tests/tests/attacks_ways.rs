//! Ways in that sshfix itself cannot judge, and edits that would close them: other clients' algorithms, signatures, empty passwords,
//! certificates, lines of `authorized_keys` that are no keys, modules of PAM, names of hosts, ranges in parts, many addresses of the host,
//! tunnels of users with a domain. Each way is a real login, before and after; every edit is to be refused. One server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sshfix_tests::lab::{self, Release, Server};

const DROP_IN: &str = "/etc/ssh/sshd_config.d/50-x.conf";
const FROM: &str = "198.51.100.7";
/// Waiting for what comes by itself, on a loaded machine.
const LONG: Duration = Duration::from_mins(3);

/// An open login; killed when dropped.
struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One way to come in.
#[derive(Clone, Debug)]
struct Way {
    user: &'static str,
    options: Vec<String>,
    /// Whether the key of the lab is offered.
    lab_key: bool,
    /// A program that types what is asked for.
    types: Option<String>,
}

impl Way {
    fn new(user: &'static str, options: &[&str]) -> Self {
        let options = options.iter().map(|word| (*word).to_owned()).collect();
        Self { user, options, lab_key: true, types: None }
    }

    fn without_lab_key(self) -> Self {
        Self { lab_key: false, ..self }
    }

    fn command(&self, server: &Server) -> Vec<String> {
        let mut command = server.ssh_command(FROM);
        let destination = command.pop().unwrap().replace("root@", &format!("{}@", self.user));
        if !self.lab_key {
            let key = command.iter().position(|word| word == "-i").unwrap();
            command.drain(key..key + 2);
        }
        // What comes first counts.
        let ssh = command.iter().position(|word| word == "ssh").unwrap();
        let env = self.types.iter().flat_map(|program| {
            let askpass = format!("SSH_ASKPASS={program}");
            ["env".to_owned(), askpass, "SSH_ASKPASS_REQUIRE=force".to_owned()]
        });
        let words: Vec<String> = env.chain(["ssh".to_owned()]).chain(self.options.iter().cloned()).collect();
        command.splice(ssh..=ssh, words);
        command.push(destination);
        command
    }

    fn gets_in(&self, server: &Server) -> Result<(), String> {
        let words = [self.command(server), vec!["true".to_owned()]].concat();
        let words: Vec<&str> = ["timeout", "20"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let mut last = String::new();
        for _ in 0..3 {
            let output = lab::run(&words);
            if output.ok() {
                return Ok(());
            }
            last = output.stderr;
            std::thread::sleep(Duration::from_millis(200));
        }
        Err(last)
    }

    fn session(&self, server: &Server) -> Session {
        let mark = format!("/tmp/in-{}", self.user);
        let _ = std::fs::remove_file(server.path(&mark));
        let words = [self.command(server), vec![format!("echo in > {mark}; sleep 3000")]].concat();
        let mut run = Command::new(&words[0]);
        let ssh = run.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let session = Session(ssh);
        server.wait_until("the session is open", LONG, || server.path(&mark).exists());
        session
    }
}

/// Writes the drop-in by hand and has sshd follow.
fn configure(server: &Server, text: &str) {
    server.sshd_follows(DROP_IN, text);
}

/// Entries of agent.toml in the place of those that were there.
fn keep(server: &Server, entries: &[(&str, &str)]) {
    let config = server.read("/etc/sshfix/agent.toml.plain");
    let one = |(address, user): &(&str, &str)| format!("[[keep]]\naddress = \"{address}\"\nuser = \"{user}\"\n");
    let entries: String = entries.iter().map(one).collect();
    server.write("/etc/sshfix/agent.toml", format!("{entries}{config}"));
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
}

/// What was wrong, in all scenes of a release.
struct Scenes<'a> {
    server: &'a Server,
    wrong: Vec<String>,
}

impl Scenes<'_> {
    /// The way works, these edits are refused as lockouts that say this, the others are applied and leave it working.
    fn check(&mut self, scene: &str, way: &Way, refused: &[(&str, &str)], applied: &[&str]) {
        let scene = format!("{}: {scene}", self.server.release());
        if let Err(why) = way.gets_in(self.server) {
            self.wrong.push(format!("{scene}: does not work before: {why}"));
            return;
        }
        for (edit, words) in refused {
            let asked = self.ask(edit);
            let said = asked.json()["message"].as_str().unwrap_or_default().to_owned();
            if asked.status == 4 && said.contains(words) && said.contains("nothing was changed") {
                continue;
            }
            let after = way.gets_in(self.server).map_err(|why| format!("LOCKED OUT: {why}"));
            self.wrong.push(format!("{scene}: {edit}: {} {said} {after:?}", asked.status));
            self.roll_back(&asked);
        }
        for edit in applied {
            let asked = self.ask(edit);
            let after = way.gets_in(self.server);
            if asked.status != 5 || after.is_err() {
                self.wrong.push(format!("{scene}: {edit}: {} {} {after:?}", asked.status, asked.json()["message"]));
            }
            self.roll_back(&asked);
        }
    }

    fn ask(&self, edit: &str) -> lab::CtlResult {
        let words: Vec<&str> = edit.split(' ').collect();
        self.server.ctl(&[&["sshd", "set"][..], &words, &["--json", "--confirm-within", "10m"]].concat())
    }

    fn roll_back(&self, asked: &lab::CtlResult) {
        if let Some(id) = asked.json()["id"].as_str() {
            self.server.ctl(&["rollback", id]);
        }
    }
}

/// Keys and programs of the clients.
struct Client {
    dir: std::path::PathBuf,
}

impl Client {
    fn new(release: Release) -> Self {
        let dir = std::env::temp_dir().join(format!("sshfix-ways-{}-{release}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("code.c"), CODE).unwrap();
        let script = format!(
            "cd {}; ssh-keygen -q -t ed25519 -N '' -f ca; ssh-keygen -q -t ed25519 -N '' -f other; ssh-keygen -q -t rsa -b 3072 -N '' -f rsa
             ssh-keygen -q -s ca -I x -n alice,root other.pub; cc -shared -fPIC -o code.so code.c
             printf '#!/bin/sh\\ncase \"$1\" in *Code*) echo 123456;; *) echo secret;; esac\\n' > ask; chmod 755 ask",
            dir.display()
        );
        lab::run(&["sh", "-ec", &script]).expect_ok();
        Self { dir }
    }

    fn at(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    fn certificate(&self) -> Way {
        let certificate = format!("CertificateFile={}", self.at("other-cert.pub"));
        Way::new("alice", &["-i", &self.at("other"), "-o", &certificate]).without_lab_key()
    }

    fn typed(&self) -> Way {
        let options = ["-o", "BatchMode=no", "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"];
        Way { types: Some(self.at("ask")), ..Way::new("alice", &options) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A module of PAM that asks for a code.
const CODE: &str = r#"
#include <string.h>
struct pam_message { int style; const char *msg; }; struct pam_response { char *resp; int ret; };
struct pam_conv { int (*conv)(int, const struct pam_message **, struct pam_response **, void *); void *data; };
int pam_get_item(const void *, int, const void **);
int pam_sm_authenticate(void *h, int f, int c, const char **v) {
    const struct pam_conv *conv; struct pam_message m = { 2, "Code: " }; const struct pam_message *p = &m; struct pam_response *r = 0;
    if (pam_get_item(h, 5, (const void **)&conv) || !conv || conv->conv(1, &p, &r, conv->data) || !r || !r->resp) return 7;
    return strcmp(r->resp, "123456") ? 7 : 0;
}
int pam_sm_setcred(void *h, int f, int c, const char **v) { return 0; }
"#;

fn prepare(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("for u in alice dave; do useradd -m -s /bin/bash -p '*' $u; cp -r /root/.ssh /home/$u/; chown -R $u: /home/$u; chmod 755 /home/$u; done
            passwd -d dave; rm -rf /home/dave/.ssh; cp /home/alice/.ssh/authorized_keys /root/plain-keys
            cp /etc/sshfix/agent.toml /etc/sshfix/agent.toml.plain")
        .expect_ok();
    if release == Release::Trixie {
        server.write("/etc/ssh/sshd_config.d/10-quiet.conf", "PerSourcePenalties no\n");
    }
    server
}

fn authorized(server: &Server, text: &str) {
    server.write("/home/alice/.ssh/authorized_keys", text);
}

/// Clients that speak less than sshd's own.
fn algorithms(scenes: &mut Scenes) {
    let server = scenes.server;
    configure(server, "X11Forwarding yes\n");
    let old = ["-c", "aes128-ctr", "-m", "hmac-sha2-256", "-o", "KexAlgorithms=ecdh-sha2-nistp256"];
    let way = Way::new("alice", &old);
    let edits = [
        ("Ciphers chacha20-poly1305@openssh.com", "Ciphers would leave clients like"),
        ("MACs hmac-sha2-512-etm@openssh.com", "MACs would leave clients like"),
        ("KexAlgorithms curve25519-sha256", "KexAlgorithms would leave clients like"),
    ];
    let session = way.session(server);
    scenes.check("algorithms, session", &way, &edits, &["Ciphers aes128-ctr,aes256-ctr", "MACs hmac-sha2-256,hmac-sha1"]);
    drop(session);
    keep(server, &[(FROM, "alice")]);
    scenes.check("algorithms, keep", &way, &edits, &[]);
    keep(server, &[]);
}

/// A key may be known to sign by one of two algorithms.
fn signatures(scenes: &mut Scenes, client: &Client) {
    let server = scenes.server;
    authorized(server, &client.read("rsa.pub"));
    configure(server, "X11Forwarding yes\n");
    let sha256 = Way::new("alice", &["-i", &client.at("rsa"), "-o", "PubkeyAcceptedAlgorithms=rsa-sha2-256"]).without_lab_key();
    let edits = [("PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512", "would count no more")];
    let session = sha256.session(server);
    scenes.check("signature, session", &sha256, &edits, &["PubkeyAcceptedAlgorithms rsa-sha2-512,rsa-sha2-256"]);
    drop(session);
    keep(server, &[(FROM, "alice")]);
    scenes.check("signature, keep", &sha256, &edits, &[]);
    // Devices that sign by SHA-1 alone.
    configure(server, "X11Forwarding yes\nPubkeyAcceptedAlgorithms ssh-rsa\n");
    let sha1 = Way::new("alice", &["-i", &client.at("rsa"), "-o", "PubkeyAcceptedAlgorithms=ssh-rsa"]).without_lab_key();
    let edits = [("DenyUsers alice", "DenyUsers alice refuses"), ("PubkeyAcceptedAlgorithms rsa-sha2-512", "")];
    scenes.check("SHA-1, keep", &sha1, &edits, &["X11Forwarding no"]);
}

fn empty_passwords(scenes: &mut Scenes) {
    let server = scenes.server;
    configure(server, "X11Forwarding yes\nPermitEmptyPasswords yes\n");
    let none = Way::new("dave", &["-o", "PreferredAuthentications=none,password"]);
    let session = none.session(server);
    let edits = [
        ("PermitEmptyPasswords no", "dave is in by none, which would count no more"),
        ("PermitEmptyPasswords no --match User=dave", "dave is in by none, which would count no more"),
        ("PasswordAuthentication no", "no authentication method is left that can work"),
    ];
    scenes.check("empty password, session", &none, &edits, &["X11Forwarding no"]);
    drop(session);
    keep(server, &[(FROM, "dave")]);
    let edits =
        [("PermitEmptyPasswords no", "password, which would count no more"), ("DenyUsers dave", "DenyUsers dave refuses")];
    scenes.check("empty password, keep", &none, &edits, &[]);
}

/// Keys that sshfix does not know of, beside those that it knows, and alone.
fn certificates(scenes: &mut Scenes, client: &Client) {
    let server = scenes.server;
    let way = client.certificate();
    keep(server, &[(FROM, "alice")]);
    let plain = server.read("/root/plain-keys");
    let authority = format!("cert-authority {}", client.read("ca.pub"));
    for (what, keys, trusted) in [("beside keys", plain.as_str(), true), ("alone", "", true), ("in a line", &authority, false)] {
        authorized(server, keys);
        configure(server, if trusted { "X11Forwarding yes\nTrustedUserCAKeys /etc/ssh/ca.pub\n" } else { "X11Forwarding yes\n" });
        let mut edits = vec![
            ("CASignatureAlgorithms rsa-sha2-512", "CASignatureAlgorithms changes what counts"),
            ("PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512,rsa-sha2-256", "alice"),
            ("RevokedKeys /etc/ssh/ca.pub", "RevokedKeys changes what counts"),
            ("DenyUsers alice", "DenyUsers alice refuses"),
            ("PubkeyAuthentication no --match User=alice", "alice"),
        ];
        edits.extend(trusted.then_some(("TrustedUserCAKeys none", "alice")));
        scenes.check(&format!("certificate, {what}, keep"), &way, &edits, &["X11Forwarding no"]);
    }
    keep(server, &[]);
    // Sessions of which the journal has nothing any more: any user can write so much that it forgets.
    authorized(server, &plain);
    configure(server, "X11Forwarding yes\nTrustedUserCAKeys /etc/ssh/ca.pub\n");
    let session = way.session(server);
    let edits = [("TrustedUserCAKeys none", "alice")];
    scenes.check("certificate, session", &way, &edits, &[]);
    server.sh("journalctl --rotate; sleep 1.1; journalctl --vacuum-time=1s").expect_ok();
    scenes.check("certificate, session without its line", &way, &edits, &[]);
    drop(session);
}

/// What another module of PAM takes or asks for is not the password of shadow(5).
fn modules(scenes: &mut Scenes, client: &Client) {
    let server = scenes.server;
    let library = server.sh("dirname $(find / -xdev -name pam_unix.so | head -1)").stdout.trim().to_owned();
    std::fs::copy(client.at("code.so"), server.path(format!("{library}/pam_code.so"))).unwrap();
    server.sh("cp /etc/pam.d/sshd /root/pam; sed -i '1iauth sufficient pam_permit.so' /etc/pam.d/sshd").expect_ok();
    configure(server, "X11Forwarding yes\nPasswordAuthentication yes\n");
    keep(server, &[(FROM, "alice")]);
    let way = client.typed();
    let edits = [("PasswordAuthentication no", "may come in by password, which would count no more")];
    scenes.check("another module's password beside a key", &way, &edits, &["X11Forwarding no"]);
    keep(server, &[]);
    // A second factor.
    server
        .sh("echo alice:secret | chpasswd; cp /root/pam /etc/pam.d/sshd; sed -i '1iauth required pam_code.so' /etc/pam.d/sshd")
        .expect_ok();
    configure(server, "X11Forwarding yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication yes\n");
    let session = way.session(server);
    let edits = [("KbdInteractiveAuthentication no", "alice is in by keyboard-interactive, which would count no more")];
    scenes.check("second factor", &way, &edits, &["X11Forwarding no"]);
    drop(session);
    server.sh("cp /root/pam /etc/pam.d/sshd; usermod -p '*' alice").expect_ok();
}

/// Names of hosts, which sshd looks up and sshfix does not.
fn names(scenes: &mut Scenes) {
    let server = scenes.server;
    let way = Way::new("alice", &[]);
    let plain = server.read("/root/plain-keys");
    authorized(server, &plain);
    configure(server, "X11Forwarding yes\nUseDNS yes\nMatch Host other.example.com\n    X11Forwarding no\n");
    let session = way.session(server);
    let edits = [
        "DenyUsers alice --match Host=seven.example.org",
        "PubkeyAuthentication no --match Host=*.example.org",
        "AuthorizedKeysFile none --match Host=seven.*",
        "ForceCommand /bin/false --match Host=seven.*",
    ];
    let edits = edits.map(|edit| (edit, "alice from 198.51.100.7 (a live session)"));
    scenes.check("Match Host beside another", &way, &edits, &["ClientAliveInterval 60"]);
    drop(session);
    configure(
        server,
        "X11Forwarding yes\nUseDNS yes\nPubkeyAuthentication no\nMatch Host seven.example.org\n    PubkeyAuthentication yes\n",
    );
    let session = way.session(server);
    scenes.check("Match Host lets in", &way, &[("UseDNS no", "UseDNS keeps somebody out")], &[]);
    drop(session);
    configure(server, "X11Forwarding yes\nUseDNS yes\n");
    authorized(server, &format!("from=\"seven.example.org\" {plain}"));
    let edits = [("UseDNS no", "alice from 198.51.100.7")];
    let session = way.session(server);
    scenes.check("from= of a key, session", &way, &edits, &[]);
    drop(session);
    keep(server, &[(FROM, "alice")]);
    scenes.check("from= of a key, keep", &way, &edits, &["X11Forwarding no"]);
    authorized(server, &plain);
}

/// A range that lines take apart into more parts than are asked about, and patterns that meet one address inside a range.
fn ranges(scenes: &mut Scenes) {
    let server = scenes.server;
    let way = Way::new("alice", &[]);
    let many: Vec<String> = (1..40).map(|n| format!("Match Address 198.51.100.{}\n    X11Forwarding no\n", n * 6)).collect();
    configure(server, &format!("X11Forwarding yes\n{}", many.concat()));
    keep(server, &[("198.51.100.0/24", "alice")]);
    let edits = ["DenyUsers alice", "PubkeyAuthentication no --match User=alice"];
    let edits = edits.map(|edit| (edit, "into too many"));
    scenes.check("a range in many parts", &way, &edits, &["ClientAliveInterval 60"]);
    // The first part is closed before, the one of the client is not.
    configure(server, "X11Forwarding yes\nDenyUsers alice@198.51.100.0/30\n");
    let denies = "alice from 198.51.100.7";
    let edits = [
        ("DenyUsers alice@198.51.*.7", denies),
        ("DenyUsers a*@19?.51.100.7", denies),
        ("DenyUsers alice@198.51.100.0/30 alice@3325256711", denies),
        ("DenyUsers alice@198.51.100.0/30 alice@198.51.100.7", denies),
        ("DenyUsers alice --match Address=*.7", "DenyUsers alice refuses"),
    ];
    scenes.check("a pattern inside a range", &way, &edits, &["X11Forwarding no", "DenyUsers alice@198.52.*.7"]);
    keep(server, &[]);
}

/// More addresses of the host than anybody lists; the one that the client comes to is the last of them.
fn many_addresses(scenes: &mut Scenes) {
    let server = scenes.server;
    server.sh("for n in $(seq 1 12); do ip addr add 10.$n.0.1/32 dev host0; done").expect_ok();
    configure(server, "X11Forwarding yes\nMatch LocalAddress 10.3.0.1\n    DenyUsers alice\n");
    keep(server, &[(FROM, "alice")]);
    let edits = [
        ("DenyUsers alice --match LocalAddress=203.0.113.1", "DenyUsers alice refuses"),
        ("PubkeyAuthentication no --match LocalAddress=203.0.113.0/24", "alice"),
    ];
    let harmless = ["ClientAliveInterval 60", "DenyUsers alice --match LocalAddress=192.0.2.1"];
    scenes.check("many addresses", &Way::new("alice", &[]), &edits, &harmless);
    keep(server, &[]);
}

/// Users of directories have an `@` in their names, and `ssh -N` asks for no terminal.
fn a_tunnel_of_a_user_with_a_domain(scenes: &mut Scenes) {
    const USER: &str = "alice@example.org";
    let server = scenes.server;
    server
        .sh("echo 'alice@example.org:x:4711:4711::/home/of-domain:/bin/bash' >> /etc/passwd; echo 'of-domain:x:4711:' >> /etc/group
             echo 'alice@example.org:*:19000::::::' >> /etc/shadow; cp -r /home/alice /home/of-domain; chown -R 4711:4711 /home/of-domain")
        .expect_ok();
    configure(server, "X11Forwarding yes\n");
    let way = Way::new(USER, &["-o", "ServerAliveCountMax=9"]);
    let words = way.command(server);
    let mut tunnel = Command::new(&words[0]);
    tunnel.args(&words[1..words.len() - 1]).args(["-N", &words[words.len() - 1]]);
    let session = Session(tunnel.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    server.wait_until("the tunnel is there", LONG, || server.sh("ps axo args | grep -q '^sshd[^ ]*: alice@example.org$'").ok());
    let edits = [("AllowUsers root alice", "alice@example.org"), ("AllowGroups root alice", "alice@example.org")];
    scenes.check("a tunnel of a user with a domain", &way, &edits, &["X11Forwarding no"]);
    drop(session);
}

fn ways(release: Release) -> Vec<String> {
    let server = prepare(release);
    let client = Client::new(release);
    server.write("/etc/ssh/ca.pub", client.read("ca.pub"));
    let mut scenes = Scenes { server: &server, wrong: Vec::new() };
    algorithms(&mut scenes);
    signatures(&mut scenes, &client);
    empty_passwords(&mut scenes);
    certificates(&mut scenes, &client);
    modules(&mut scenes, &client);
    names(&mut scenes);
    ranges(&mut scenes);
    many_addresses(&mut scenes);
    a_tunnel_of_a_user_with_a_domain(&mut scenes);
    scenes.wrong
}

#[test]
fn no_edit_closes_a_way_that_sshfix_cannot_judge() {
    if !lab::root_or_skip() {
        return;
    }
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let releases = Release::ALL.map(|release| scope.spawn(move || ways(release)));
        releases.into_iter().flat_map(|release| release.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}
