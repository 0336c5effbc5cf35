//! Is the sshd that serves a port linked with libwrap? Read from the ELF headers of its own program, never assumed.
//! OpenSSH 9.8 and later check in `sshd-session`, whose path is compiled into sshd.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_STRTAB, PT_LOAD};
use elf::endian::AnyEndian;
use sshfix_policy::subsystem::hosts_access::Libwrap;

use crate::subsystem::listener;
use crate::sys::files;

/// Where sshd is when nothing that listens tells otherwise.
const SSHD: &str = "/usr/sbin/sshd";
/// No sshd is larger.
const LONGEST: u64 = 64 << 20;

/// Looks at the program behind the listening socket, and at the one on the disk, which serves each new connection
/// (sshd executes itself or `sshd-session` anew for it).
pub fn detect(port: u16) -> Libwrap {
    // A proven one: anybody can listen on a port above 1023 with a program called sshd.
    let running = match listener::sshd_on(port) {
        Ok(running) => running,
        Err(error) => return Libwrap::Unknown(format!("which sshd serves port {port} is not known: {error}")),
    };
    let mut programs = BTreeSet::new();
    if let Some(sshd) = &running {
        programs.insert(PathBuf::from(format!("/proc/{}/exe", sshd.process.pid())));
    }
    let on_disk = running.as_ref().map_or_else(|| PathBuf::from(SSHD), |sshd| PathBuf::from(&sshd.program));
    // One that is gone from the disk serves nobody new; one that cannot be looked at may.
    if running.is_none() || !matches!(on_disk.try_exists(), Ok(false)) {
        programs.insert(on_disk);
    }
    let mut answers = programs.iter().map(|program| examine(program));
    let first = answers.next().unwrap_or_else(|| Libwrap::Unknown("no sshd was found".to_owned()));
    answers.fold(first, |one, other| match (one, other) {
        (unknown @ Libwrap::Unknown(_), _) | (_, unknown @ Libwrap::Unknown(_)) => unknown,
        (Libwrap::Linked(how), Libwrap::NotLinked(not)) | (Libwrap::NotLinked(not), Libwrap::Linked(how)) => {
            Libwrap::Unknown(format!("the running sshd and the one on the disk differ ({how}; {not}); restart it"))
        }
        // The one on the disk sorts last and has the better name.
        (_, other) => other,
    })
}

/// One sshd, and the sshd-session it runs, if it does.
fn examine(sshd: &Path) -> Libwrap {
    let bytes = match read(sshd) {
        Ok(bytes) => bytes,
        Err(why) => return Libwrap::Unknown(why),
    };
    match uses_libwrap(sshd, &bytes) {
        Libwrap::NotLinked(not) => match session_program(&bytes) {
            None => Libwrap::NotLinked(not),
            Some(session) => match read(&session) {
                Ok(bytes) => uses_libwrap(&session, &bytes),
                Err(why) => Libwrap::Unknown(why),
            },
        },
        answer => answer,
    }
}

fn read(program: &Path) -> Result<Vec<u8>, String> {
    files::read_followed(program, LONGEST).map(|followed| followed.bytes).map_err(|error| error.to_string())
}

fn uses_libwrap(program: &Path, bytes: &[u8]) -> Libwrap {
    let name = program_name(program);
    match needed(bytes) {
        Err(why) => Libwrap::Unknown(format!("{name} is not a readable ELF file: {why}")),
        Ok(libraries) => match libraries.iter().find(|library| library.starts_with("libwrap.so")) {
            Some(library) => Libwrap::Linked(format!("{name} is linked with {library}")),
            None if holds(bytes, b"/etc/hosts.deny\0") => {
                Libwrap::Linked(format!("{name} has libwrap built in (it names /etc/hosts.deny)"))
            }
            None => Libwrap::NotLinked(format!("{name} is not linked with libwrap")),
        },
    }
}

/// `/proc/PID/exe` as the path it stands for.
fn program_name(program: &Path) -> String {
    fs::read_link(program).unwrap_or_else(|_| program.to_owned()).display().to_string()
}

/// The `DT_NEEDED` entries: the shared libraries a program asks for.
fn needed(bytes: &[u8]) -> Result<Vec<String>, String> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes).map_err(|error| error.to_string())?;
    let Some(dynamic) = file.dynamic().map_err(|error| error.to_string())? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    let mut table = None;
    for entry in dynamic {
        match entry.d_tag {
            DT_NEEDED => names.push(entry.d_val()),
            DT_STRTAB => table = Some(entry.d_ptr()),
            _ => {}
        }
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    // The table's address in memory, as an offset in the file.
    let segments = file.segments().ok_or("no program headers")?;
    let table = table.ok_or("no string table")?;
    let start = segments
        .iter()
        .filter(|segment| segment.p_type == PT_LOAD)
        .find_map(|segment| {
            let into = table.checked_sub(segment.p_vaddr).filter(|into| *into < segment.p_filesz)?;
            segment.p_offset.checked_add(into)
        })
        .ok_or("the string table is outside the file")?;
    let text = |name: u64| {
        let at = usize::try_from(start.checked_add(name)?).ok()?;
        let rest = bytes.get(at..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
    };
    names.into_iter().map(|name| text(name).ok_or_else(|| "a name is outside the file".to_owned())).collect()
}

/// The path that ends in `/sshd-session` in sshd's own strings.
fn session_program(bytes: &[u8]) -> Option<PathBuf> {
    let ending = b"/sshd-session\0";
    let at = find(bytes, ending)?;
    let before = bytes.get(..at)?;
    let start = before.iter().rposition(|byte| *byte == 0).map_or(0, |nul| nul + 1);
    let path = bytes.get(start..at + ending.len() - 1).filter(|path| path.first() == Some(&b'/'))?;
    Some(PathBuf::from(OsString::from_vec(path.to_vec())))
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    find(bytes, wanted).is_some()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    #[test]
    fn needed_libraries_are_read_from_this_very_program() {
        let bytes = fs::read("/proc/self/exe").unwrap();
        let libraries = needed(&bytes).unwrap();
        assert!(libraries.iter().any(|library| library.starts_with("libc.so")), "{libraries:?}");
        assert!(matches!(examine(Path::new("/bin/true")), Libwrap::NotLinked(_)));
    }

    #[test]
    fn broken_programs_are_unknown_never_unlinked() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sshd");
        let good = fs::read("/proc/self/exe").unwrap();
        for bytes in [&b""[..], b"#!/bin/sh\nexec sshd\n", &good[..100], &good[..good.len() / 50]] {
            fs::write(&program, bytes).unwrap();
            assert!(matches!(examine(&program), Libwrap::Unknown(_)), "{} bytes", bytes.len());
        }
        assert!(matches!(examine(&folder.path().join("none")), Libwrap::Unknown(_)));
    }

    #[test]
    fn the_session_program_is_found_in_sshds_strings() {
        let bytes = b"\x7fELF\0/usr/sbin/sshd\0/usr/lib/openssh/sshd-session\0more";
        assert_eq!(session_program(bytes).unwrap(), Path::new("/usr/lib/openssh/sshd-session"));
        assert_eq!(session_program(b"sshd-session\0"), None);
    }
}
