//! How a process that looks at what a user owns gives up all that it does not need for that: the ids and capabilities of root, then every
//! system call but a few, then opening files at all. And how a thread gives up what a program that only reads, such as `sshd -T`, does not
//! need, before it starts that. Nothing here can be undone by the process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};
use seccompiler::{SeccompAction, SeccompFilter};
use serde::{Deserialize, Serialize};

/// What it may allocate; it reads a few MiB at most.
const MEMORY_MAX: u64 = 96 << 20;
/// Seconds of the processor.
const CPU_MAX: u64 = 5;
/// Open files at a time.
const FILES_MAX: u64 = 64;

/// Who a process becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Whether this process may take another user's ids: `CAP_SETUID` (capability(7), `proc_pid_status(5)`).
pub fn may_become_user() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> 7 & 1 == 1)
}

/// Becomes that user for good, with no open file but the first three and this one. Other processes of the user can stop or kill it then,
/// and see nothing of it (ptrace(2), `PR_SET_DUMPABLE`).
pub fn become_user(ids: &Ids, kept: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let kept = kept.and_then(|kept| u32::try_from(kept.as_raw_fd()).ok());
    let ranges = match kept {
        Some(kept) => [Some((3, kept.saturating_sub(1))), Some((kept.saturating_add(1), u32::MAX))],
        None => [Some((3, u32::MAX)), None],
    };
    for (first, last) in ranges.into_iter().flatten().filter(|(first, last)| first <= last) {
        // SAFETY: the call takes three numbers and no memory, and closes descriptors that nothing here refers to.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    }
    prctl::set_dumpable(false)?;
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CPU, CPU_MAX),
        (Resource::RLIMIT_DATA, MEMORY_MAX),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
    ] {
        setrlimit(resource, most, most)?;
    }
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    let groups: Vec<Gid> = ids.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // With the ids the kernel took the capabilities, but not from root.
    if uid.is_root() {
        only_read_anything()?;
    }
    // Changed ids clear both.
    prctl::set_dumpable(false)?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let (users, now) = (getresuid()?, getresgid()?);
    let others = getgroups()?.into_iter().any(|group| !groups.contains(&group));
    let all = [users.real, users.effective, users.saved].iter().all(|id| *id == uid);
    if !all || [now.real, now.effective, now.saved].iter().any(|id| *id != gid) || others {
        return Err(io::Error::other("the ids are not those of the user"));
    }
    Ok(())
}

/// What sshd reads root's files with: no capability but `CAP_DAC_READ_SEARCH` (capset(2)).
fn only_read_anything() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // linux/capability.h: `_LINUX_CAPABILITY_VERSION_3`, `CAP_DAC_READ_SEARCH`.
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let none = Sets { effective: 0, permitted: 0, inheritable: 0 };
    for sets in [[Sets { effective: 1 << 2, permitted: 1 << 2, ..none }, none], [none, none]] {
        // SAFETY: version 3 takes one header and two sets, which outlive the call.
        if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) } == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

/// From here on it can open files to read them, list folders, look at files, read, write to what is open, and end. Anything else kills it: a refusal
/// could be taken for a fact.
pub fn only_look() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    landlock()?;
    let look = [
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_getcwd,
        libc::SYS_seccomp,
        libc::SYS_prctl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat,
    ];
    filter(&look)
}

/// From here on it can read what is open, and end.
pub fn only_read() -> io::Result<()> {
    // `statx` of an open file: `File::read_to_end` asks how long it is.
    filter(&[libc::SYS_statx])
}

/// Reading files and nothing else of landlock(7), as far as this kernel knows it. Looking at files is not its matter.
fn landlock() -> io::Result<()> {
    let text = |error: landlock::RulesetError| io::Error::other(error.to_string());
    let abi = ABI::V6;
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let rules = rules.handle_access(AccessFs::from_all(abi)).and_then(|rules| rules.handle_access(AccessNet::from_all(abi)));
    let rules = rules.and_then(|rules| rules.scope(Scope::from_all(abi))).and_then(Ruleset::create).map_err(text)?;
    let root = PathFd::new("/").map_err(|error| io::Error::other(error.to_string()))?;
    let rules = rules.add_rule(PathBeneath::new(root, AccessFs::ReadFile | AccessFs::ReadDir)).map_err(text)?;
    rules.restrict_self().map_err(text)?;
    Ok(())
}

/// From here on this thread, and what it starts, can read and execute files, and neither write, make or remove any but `/dev/null`, nor
/// use TCP, nor reach processes elsewhere; as far as this kernel knows landlock(7). Netlink and raw sockets are not its matter.
pub fn only_read_files() -> io::Result<()> {
    let text = |error: landlock::RulesetError| io::Error::other(error.to_string());
    let place = |path: &str| PathFd::new(path).map_err(|error| io::Error::other(error.to_string()));
    let abi = ABI::V6;
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let rules = rules.handle_access(AccessFs::from_all(abi)).and_then(|rules| rules.handle_access(AccessNet::from_all(abi)));
    let rules = rules.and_then(|rules| rules.scope(Scope::from_all(abi))).and_then(Ruleset::create).map_err(text)?;
    let rules = rules.add_rule(PathBeneath::new(place("/")?, AccessFs::from_read(abi))).map_err(text)?;
    let null = AccessFs::ReadFile | AccessFs::WriteFile;
    rules
        .add_rule(PathBeneath::new(place("/dev/null")?, null))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(text)?;
    Ok(())
}

/// These system calls, and those that every process of this kind needs.
fn filter(more: &[libc::c_long]) -> io::Result<()> {
    const ALWAYS: [libc::c_long; 21] = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_fcntl,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let text = |error: seccompiler::BackendError| io::Error::other(error.to_string());
    let rules: BTreeMap<i64, Vec<_>> = ALWAYS.iter().chain(more).map(|call| (*call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into().map_err(text)?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture).map_err(text)?;
    let program: seccompiler::BpfProgram = filter.try_into().map_err(text)?;
    seccompiler::apply_filter(&program).map_err(|error| io::Error::other(error.to_string()))
}
