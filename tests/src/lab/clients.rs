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

/// An ssh session of root that stays open until it is dropped.
pub struct Session(#[allow(dead_code, reason = "its drop ends the session")] Running);

impl Session {
    /// Logs in from this address.
    #[track_caller]
    pub fn open(server: &Server, from: &str) -> Self {
        let command = server.ssh_command(from);
        let mut ssh = Command::new(&command[0]);
        ssh.args(&command[1..]).arg("echo in; exec sleep 600").stdin(Stdio::null()).stdout(Stdio::piped());
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
