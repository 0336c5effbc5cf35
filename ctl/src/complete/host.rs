//! Facts of this host that completion names, as any user may read them: its users and groups, and what its ssh and
//! sshd say of themselves. Asks no name service, which could block; what cannot be had at once is left out.

use std::io::{Read, pipe};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sshfix_policy::subsystem::sshd::config::keyword::{self, Release};

const SSH: &str = "/usr/bin/ssh";
const SSHD: &str = "/usr/sbin/sshd";
/// They answer in some 10 ms.
const TIME: Duration = Duration::from_millis(800);
/// `ssh -Q` prints some 1 KiB; a passwd file of 10,000 users has as much.
const BYTES: usize = 1024 * 1024;

/// Those that begin so.
pub fn starting(current: &str, names: Vec<String>) -> Vec<String> {
    names.into_iter().filter(|name| name.starts_with(current)).collect()
}

/// Whether a word begins so, whatever its case.
pub fn begins(word: &str, current: &str) -> bool {
    word.get(..current.len()).is_some_and(|start| start.eq_ignore_ascii_case(current))
}

/// Users of this host (passwd(5)); not those of a directory service.
pub fn users() -> Vec<String> {
    names("/etc/passwd")
}

/// Groups of this host (group(5)).
pub fn groups() -> Vec<String> {
    names("/etc/group")
}

/// The first fields of a file of lines with colons. NIS entries begin with a sign.
fn names(path: &str) -> Vec<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(BYTES).unwrap_or(u64::MAX);
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let fields = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name);
    fields.filter(|name| !name.is_empty() && !name.starts_with(['+', '-', '#'])).map(str::to_owned).collect()
}

/// What `ssh -Q` says of a query; nothing where it knows no such query. `ssh` and `sshd` of a host are of one release.
pub fn algorithms(query: &str) -> Vec<String> {
    let printed = ask(SSH, &["-Q", query]).unwrap_or_default();
    let names = printed.lines().filter(|line| !line.is_empty() && !line.contains(char::is_whitespace));
    names.map(str::to_owned).collect()
}

/// The release of this host's sshd: `OpenSSH_9.2p1 Debian-2+deb12u3, ...`. One that knows no `-V` (before 9.3) says so, and prints it too.
pub fn release() -> Option<Release> {
    keyword::release(&ask(SSHD, &["-V"])?)
}

/// What a program prints on either stream, within the time.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let (reader, writer) = pipe().ok()?;
    let errors = writer.try_clone().ok()?;
    // The command keeps its ends of the pipe until it is dropped.
    let mut child = {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/").stdin(Stdio::null()).stdout(writer).stderr(errors);
        command.spawn().ok()?
    };
    let printed = read(reader, Instant::now() + TIME);
    end(&mut child);
    String::from_utf8(printed?).ok()
}

/// Everything up to its end; `None` where that does not come in time, or there is too much.
fn read(mut reader: impl Read + AsFd, until: Instant) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = PollTimeout::try_from(until.checked_duration_since(Instant::now())?).ok()?;
        if poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], left).ok()? == 0 {
            return None;
        }
        let count = reader.read(&mut chunk).ok()?;
        if count == 0 {
            return Some(all);
        }
        all.extend_from_slice(chunk.get(..count)?);
        if all.len() > BYTES {
            return None;
        }
    }
}

/// It closed its streams or had its time: a killed one is gone at once, unless the kernel holds it, and that is not waited for.
fn end(child: &mut Child) {
    let _ = child.kill();
    for _ in 0..20 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
