//! One server of the lab: its disk, its boot, its network, commands in it and logins to it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::command::{Output, run, run_with_input};
use super::place::Place;
use super::{ADMIN_V4, CLIENTS, Release, SERVER_V4, SERVER_V6};

/// Gives up on a boot after this long; one takes about a second on an idle machine.
const BOOT: Duration = Duration::from_mins(3);

/// What `ssh` from one of the client addresses came to.
#[derive(Clone, Debug)]
pub struct SshResult {
    /// Whether a command ran on the server.
    pub ok: bool,
    /// What ssh said.
    pub stderr: String,
    /// How long it took.
    pub time: Duration,
}

/// A server, on or off. Dropping it kills it and removes all of it, also while a panic unwinds.
pub struct Server {
    release: Release,
    place: Place,
    nspawn: Option<Child>,
    leader: Option<u32>,
}

impl Server {
    /// Boots a server of this release and waits for its sshd and its fail2ban.
    #[track_caller]
    pub fn boot(release: Release) -> Self {
        let mut server = Server::prepare(release);
        server.start();
        server.wait_for_fail2ban();
        server
    }

    /// The same with the programs that manage firewalls installed and off: ufw, firewalld, sshguard, `CrowdSec` and its bouncer.
    #[track_caller]
    pub fn boot_with_managers(release: Release) -> Self {
        let mut server = Server::lay(release, true);
        server.start();
        server.wait_for_fail2ban();
        server
    }

    /// A server that is still off: change files below [`Server::root`], then [`Server::start`] it.
    #[track_caller]
    pub fn prepare(release: Release) -> Self {
        Server::lay(release, false)
    }

    /// An overlay on the image, or on the image and the layer of managers.
    #[track_caller]
    fn lay(release: Release, managers: bool) -> Self {
        let current = |image: PathBuf, stamp: &str, recipe: &str| {
            let stamp = fs::read_to_string(image.join("etc").join(stamp)).unwrap_or_default();
            let image = image.display().to_string();
            assert!(stamp == recipe, "the lab has no current image {image}. Make it with: sudo tests/lab-images");
            image
        };
        let mut lower = current(release.image(), "sshfix-lab-packages", include_str!("../../lab-packages"));
        if managers {
            let layer = current(release.managers(), "sshfix-lab-managers", include_str!("../../lab-managers"));
            lower = format!("{layer}:{lower}");
        }
        let place = Place::take();
        let dir = place.dir();
        fs::create_dir_all(&dir).expect("a directory for the server");
        run(&["mount", "-t", "tmpfs", "-o", "mode=0755", "sshfix-lab", &dir.display().to_string()]).expect_ok();
        for part in ["upper", "work", "root"] {
            fs::create_dir(dir.join(part)).expect("a directory for the overlay");
        }
        let layers = format!("lowerdir={lower},upperdir={},workdir={}", dir.join("upper").display(), dir.join("work").display());
        let root = dir.join("root").display().to_string();
        run(&["mount", "-t", "overlay", "-o", &layers, "sshfix-lab", &root]).expect_ok();
        place.make_netns();
        let server = Server { release, place, nspawn: None, leader: None };
        server.furnish();
        server
    }

    /// Files every server of the lab has: names, network, root's authorized key.
    fn furnish(&self) {
        let key = self.place.dir().join("client_ed25519");
        run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", &key.display().to_string()]).expect_ok();
        let public = fs::read(key.with_extension("pub")).expect("the client's public key");
        self.write("/root/.ssh/authorized_keys", public);
        fs::set_permissions(self.path("/root/.ssh"), fs::Permissions::from_mode(0o700)).expect("mode of /root/.ssh");

        self.write("/etc/hostname", "server\n");
        let clients: Vec<_> = CLIENTS.iter().map(|(address, name)| format!("{address} {name}\n")).collect();
        let hosts = format!(
            "127.0.0.1 localhost\n::1 localhost ip6-localhost\n{SERVER_V4} server\n{SERVER_V6} server\n{}",
            clients.concat()
        );
        self.write("/etc/hosts", hosts);
        // libwrap and sshd look clients up; without this they would wait for a name server that is not there.
        self.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        // Debian 12's sshd jail does not start without its log file (fail2ban, `jailreader.py`), which rsyslog may make a moment too late.
        self.write("/var/log/auth.log", "");
        self.write(
            "/etc/systemd/system/lab-network.service",
            format!(
                "[Unit]\nDefaultDependencies=no\nBefore=network-pre.target\nWants=network-pre.target\n\n\
                 [Service]\nType=oneshot\nRemainAfterExit=yes\n\
                 ExecStart=/bin/sh -euc 'ip addr add {SERVER_V4}/24 dev host0; ip addr add {SERVER_V6}/64 dev host0 nodad; \
                 ip link set host0 up; ip route add default via 203.0.113.254 onlink dev host0; \
                 ip -6 route add default via 2001:db8::fe onlink dev host0'\n"
            ),
        );
        let wants = self.path("/etc/systemd/system/sysinit.target.wants");
        fs::create_dir_all(&wants).expect("a wants directory");
        symlink("/etc/systemd/system/lab-network.service", wants.join("lab-network.service")).expect("lab-network enabled");
    }

    /// Switches it on and waits until sshd lets the harness in.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_without_waiting();
        let started = Instant::now();
        loop {
            let login = self.ssh(ADMIN_V4);
            if login.ok {
                return;
            }
            assert!(started.elapsed() < BOOT, "{} did not come up: {}\n{}", self.release, login.stderr, self.console());
            sleep(Duration::from_millis(50));
        }
    }

    /// Switches it on; its network is there when this returns, its sshd perhaps not yet (or never: test that).
    #[track_caller]
    pub fn start_without_waiting(&mut self) {
        assert!(self.nspawn.is_none(), "the server is on already");
        let cgroup = self.place.make_cgroup();
        let console = File::create(self.place.dir().join("console")).expect("a console log");
        let net = format!("--net={}", self.place.netns_file().display());
        let nspawn = Command::new("setsid")
            .args(["sh", "-c", "echo $$ >\"$1\"/cgroup.procs && shift && exec \"$@\"", "sh"])
            .arg(&cgroup)
            // In the clients' namespace, so that the host end of the veth never is in the machine's own.
            .args(["nsenter", &net, "systemd-nspawn", "--quiet", "--boot", "--network-veth", "--link-journal=no"])
            .args(["--resolv-conf=off", "--timezone=off", "--register=no", "--keep-unit", "--machine", self.place.name()])
            .arg("--directory")
            .arg(self.root())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("a second handle"))
            .stderr(console)
            .spawn()
            .expect("setsid(1) runs");
        let pid = nspawn.id();
        self.nspawn = Some(nspawn);
        let started = Instant::now();
        while !self.network_is_up(pid) {
            let over = self.nspawn.as_mut().expect("just started").try_wait().expect("a child of ours").is_some();
            assert!(!over && started.elapsed() < BOOT, "systemd-nspawn did not boot the server:\n{}", self.console());
            sleep(Duration::from_millis(20));
        }
    }

    /// Learns the leader, gives the client end its addresses once it is there, and waits for the server's end.
    fn network_is_up(&mut self, nspawn: u32) -> bool {
        // proc_pid_task(5): children; setsid, sh and nsenter have all become nspawn itself by exec.
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).unwrap_or_default();
        let Some(leader) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else { return false };
        let link = format!("ve-{}", self.place.name());
        if !run(&["ip", "-n", self.place.name(), "link", "show", &link]).ok() {
            return false;
        }
        if self.leader != Some(leader) {
            for (address, _) in CLIENTS {
                let length = if address.contains(':') { "128" } else { "32" };
                self.client_ip(&["addr", "replace", &format!("{address}/{length}"), "dev", &link, "nodad"]);
            }
            self.client_ip(&["addr", "replace", "203.0.113.254/24", "dev", &link]);
            self.client_ip(&["addr", "replace", "2001:db8::fe/64", "dev", &link, "nodad"]);
            self.client_ip(&["link", "set", &link, "up"]);
            self.leader = Some(leader);
        }
        self.run(&["systemctl", "is-active", "lab-network.service"]).ok()
    }

    fn client_ip(&self, command: &[&str]) {
        run(&[&["ip", "-n", self.place.name()], command].concat()).expect_ok();
    }

    /// Waits until fail2ban's sshd jail is up.
    #[track_caller]
    pub fn wait_for_fail2ban(&self) {
        self.wait_until("fail2ban's sshd jail is up", BOOT, || self.run(&["fail2ban-client", "status", "sshd"]).ok());
    }

    /// Asks again and again until it is so.
    ///
    /// # Panics
    /// When it is not so in time; the message names `what` and shows the end of the server's journal.
    #[track_caller]
    pub fn wait_until(&self, what: &str, at_most: Duration, mut is_so: impl FnMut() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < at_most, "{}: not in {at_most:?}: {what}\n{}", self.release, self.last_words());
            sleep(Duration::from_millis(50));
        }
    }

    /// The end of its journal, fail2ban's bans and hosts.deny: why a client is kept out, where the agent cannot be asked.
    fn last_words(&self) -> String {
        self.sh("journalctl --no-pager -n 150 -o short-precise || true; fail2ban-client banned || true; cat /etc/hosts.deny")
            .stdout
    }

    /// Which Debian it is.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Its disk as the machine sees it; it is there while the server is off, too. What the server mounts over it (`/run`,
    /// `/tmp`) is not: [`Server::path`] sees that.
    pub fn root(&self) -> PathBuf {
        self.place.dir().join("root")
    }

    /// Where one of its files is on the machine. Only for fixed paths: a symbolic link in the server could lead outside.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let root = self.leader.map_or_else(|| self.root(), |leader| format!("/proc/{leader}/root").into());
        root.join(path.as_ref().strip_prefix("/").expect("an absolute path"))
    }

    /// The network namespace of its clients, for `ip -n NAME` and `ip netns exec NAME`.
    pub fn clients_netns(&self) -> &str {
        self.place.name()
    }

    /// The pid of its init as the machine sees it.
    #[track_caller]
    pub fn leader(&self) -> u32 {
        self.leader.expect("the server is off")
    }

    /// What it printed while booting, the last 4,000 characters.
    pub fn console(&self) -> String {
        let console = fs::read(self.place.dir().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&console);
        let skip = text.chars().count().saturating_sub(4000);
        text.chars().skip(skip).collect()
    }

    /// Runs a command in it as root. It is killed after three minutes.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        self.run_with_input(command, b"")
    }

    /// The same with bytes on its standard input.
    #[track_caller]
    pub fn run_with_input(&self, command: &[&str], input: &[u8]) -> Output {
        let leader = self.leader().to_string();
        run_with_input(
            &[&["nsenter", "-t", &leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"], command].concat(),
            input,
        )
    }

    /// Runs a shell script in it; the first command that fails ends it.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.run(&["sh", "-euc", script])
    }

    /// Writes one of its files, and the directories above it.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().expect("a file has a directory")).expect("directories in the server");
        fs::write(&file, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    }

    /// Reads one of its files.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let file = self.path(path);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
    }

    /// Logs in as root with the real `ssh` from one of the clients' addresses.
    #[track_caller]
    pub fn ssh(&self, from: &str) -> SshResult {
        self.ssh_run(from, &["true"])
    }

    /// The same while sshd may be told to read its files again (SIGHUP): it closes its sockets before it opens others, and refuses who
    /// comes in that instant.
    #[track_caller]
    pub fn ssh_beside_reload(&self, from: &str) -> SshResult {
        let mut login = self.ssh(from);
        for _ in 0..5 {
            if login.ok || !login.stderr.contains("Connection refused") {
                break;
            }
            login = self.ssh(from);
        }
        login
    }

    /// The same with extra options or a command of one's own after the destination.
    #[track_caller]
    pub fn ssh_run(&self, from: &str, command: &[&str]) -> SshResult {
        let output = run(&[&self.ssh_command(from)[..], &command.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()]
            .concat()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>());
        SshResult { ok: output.ok(), stderr: output.stderr, time: output.elapsed }
    }

    /// The command line of such a login, up to the destination: for tests that keep a session open.
    pub fn ssh_command(&self, from: &str) -> Vec<String> {
        let to = if from.contains(':') { SERVER_V6 } else { SERVER_V4 };
        let net = format!("--net={}", self.place.netns_file().display());
        let key = self.place.dir().join("client_ed25519").display().to_string();
        let destination = format!("root@{to}");
        ["nsenter", &net, "--", "ssh", "-F", "/dev/null", "-i", &key, "-b", from]
            .into_iter()
            .chain(["-o", "BatchMode=yes", "-o", "ConnectTimeout=7", "-o", "ConnectionAttempts=1"])
            .chain(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"])
            .chain(["-o", "LogLevel=ERROR", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3", &destination])
            .map(str::to_owned)
            .collect()
    }

    /// The same of another user, to another port.
    pub fn login_command(&self, user: &str, from: &str, port: u16) -> Vec<String> {
        let mut command = self.ssh_command(from);
        let destination = command.pop().expect("the destination").replace("root@", &format!("{user}@"));
        command.extend(["-p".to_owned(), port.to_string(), destination]);
        command
    }

    /// Writes a file of sshd's by hand and has sshd read it.
    pub fn sshd_follows(&self, path: &str, text: &str) {
        self.write(path, text);
        self.sh("sshd -t && rm -f /run/sshd.pid && systemctl reload ssh.service").expect_ok();
        self.wait_until("sshd has read it", Duration::from_mins(3), || self.path("/run/sshd.pid").exists());
        sleep(Duration::from_millis(50));
    }

    /// Whether a new login works; sshd may be opening its sockets anew.
    pub fn gets_in(&self, user: &str, from: &str, port: u16) -> bool {
        let command = [self.login_command(user, from, port), vec!["true".to_owned()]].concat();
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        (0..5).any(|time| {
            sleep(Duration::from_millis(100 * time));
            run(&command).ok()
        })
    }

    /// Shuts it down in order, as `poweroff` does. Its disk stays: [`Server::start`] boots it again.
    #[track_caller]
    pub fn power_off(&mut self) {
        // systemd(1), SIGNALS: SIGRTMIN+4 starts poweroff.target.
        run(&["kill", "-s", "RTMIN+4", &self.leader().to_string()]).expect_ok();
        let started = Instant::now();
        let nspawn = self.nspawn.as_mut().expect("the server is off");
        while nspawn.try_wait().expect("a child of ours").is_none() {
            assert!(started.elapsed() < BOOT, "the server does not shut down");
            sleep(Duration::from_millis(20));
        }
        self.power_cut();
    }

    /// Ends every process in it at once, as pulling the plug does. What it had written stays on its disk.
    pub fn power_cut(&mut self) {
        self.place.kill();
        if let Some(mut nspawn) = self.nspawn.take() {
            // SIGKILL reaches even an nspawn that never got into its cgroup; its leader dies with it.
            let _ = nspawn.kill();
            let _ = nspawn.wait();
        }
        // The kernel takes the dead server's network apart when it finds the time; the next boot needs the name now.
        run(&["ip", "-n", self.place.name(), "link", "del", &format!("ve-{}", self.place.name())]);
        self.leader = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.power_cut();
    }
}
