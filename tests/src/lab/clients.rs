//! Clients that stay: ssh sessions and connections that go on until they are dropped.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::Server;

/// Kills its process when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ssh session that stays open until it is dropped.
pub struct Session(#[allow(dead_code, reason = "its drop ends the session")] Running);

impl Session {
    /// Root logs in from this address.
    #[track_caller]
    pub fn open(server: &Server, from: &str) -> Self {
        Self::open_as(server, "root", from, 22)
    }

    /// This user logs in from this address, at this port.
    #[track_caller]
    pub fn open_as(server: &Server, user: &str, from: &str, port: u16) -> Self {
        Self::begin(&server.login_command(user, from, port))
    }

    /// Logs in with a command line made from [`Server::login_command`].
    #[track_caller]
    pub fn begin(command: &[String]) -> Self {
        let mut ssh = Command::new(&command[0]);
        ssh.args(&command[1..]).arg("echo in; exec sleep 3000").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut session = Running(ssh.spawn().expect("ssh runs"));
        let mut line = [0; 3];
        let says = session.0.stdout.as_mut().expect("its output");
        says.read_exact(&mut line).expect("the session says that it is there");
        Self(session)
    }
}

/// Connections to the server's SSH port on which nobody logs in, until they are dropped.
pub struct HeldConnections(#[allow(dead_code, reason = "its drop ends the connections")] Running);

impl HeldConnections {
    /// So many of them from this IPv4 address; those that sshd turns away are made anew.
    #[track_caller]
    pub fn open(server: &Server, from: &str, count: usize) -> Self {
        let script = format!(
            "import socket, time\nheld = []\nwhile len(held) < {count}:\n  \
             s = socket.create_connection(('{}', 22), source_address=('{from}', 0))\n  \
             if s.recv(100).startswith(b'SSH-'): held.append(s)\ntime.sleep(100)",
            super::SERVER_V4
        );
        let mut python = Command::new("ip");
        python.args(["netns", "exec", server.clients_netns(), "python3", "-c", &script]);
        let held = Self(Running(python.stdin(Stdio::null()).spawn().expect("python runs")));
        let waiting = format!("sshd: /usr/sbin/sshd -D \\[listener\\] {count} of");
        let limit = Duration::from_mins(2);
        server.wait_until("the connections are held", limit, || server.run(&["pgrep", "-f", &waiting]).ok());
        held
    }
}

/// A program of a user without rights: 112,000 listening sockets, more than the agent ever reads of them, until it is killed.
pub const MANY_SOCKETS: &str = r"
import os, socket, time, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for child in range(40):
    if os.fork() == 0:
        keep = []
        for port in range(3000, 3000 + 2800):
            s = socket.socket(); s.bind(('127.9.%d.1' % child, port)); s.listen(1); keep.append(s)
        time.sleep(100000)
time.sleep(100000)
";

/// A program of a user without rights: forty connections that ask systemd for all its units, again and again, and wait for no answer.
pub const BUSY_SYSTEMD: &str = r"
import os, socket, struct, threading, time
def pad(b, n): return b + b'\0' * (-len(b) % n)
def field(code, sig, value):
    return pad(struct.pack('<BB', code, 1) + sig + b'\0', 4) + struct.pack('<I', len(value)) + value + b'\0'
def call(serial, dest, path, interface, member):
    fields = b''
    for part in [(1, b'o', path), (2, b's', interface), (3, b's', member), (6, b's', dest)]:
        fields = pad(fields, 8) + field(*part)
    return pad(struct.pack('<cBBBIII', b'l', 1, 0, 1, 0, serial, len(fields)) + fields, 8)
SYSTEMD = b'org.freedesktop.systemd1'
def one():
    while True:
        try:
            bus = socket.socket(socket.AF_UNIX); bus.connect('/run/dbus/system_bus_socket')
            bus.sendall(b'\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\r\n'); bus.recv(1000)
            bus.sendall(b'BEGIN\r\n')
            bus.sendall(call(1, b'org.freedesktop.DBus', b'/org/freedesktop/DBus', b'org.freedesktop.DBus', b'Hello'))
            def drain():
                while bus.recv(1 << 20): pass
            threading.Thread(target=drain, daemon=True).start()
            serial = 2
            while True:
                bus.sendall(call(serial, SYSTEMD, b'/org/freedesktop/systemd1', SYSTEMD + b'.Manager', b'ListUnits')); serial += 1
        except OSError:
            time.sleep(0.2)
for _ in range(40): threading.Thread(target=one, daemon=True).start()
time.sleep(100000)
";
