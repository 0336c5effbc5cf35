//! What stands at a path that is a value of a keyword of sshd's: a regular file of root's or not, who may read it, whether it holds a pid.
//! Nothing of its content is shown or kept. Decides nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use sshfix_policy::subsystem::listener as listener_model;
use sshfix_policy::subsystem::sshd::config::glob;
use sshfix_policy::subsystem::sshd::way_in::values;
use sshfix_policy::subsystem::sshd::{Pid, ValueFile};

use crate::sys::roots::{self, RootsError};

/// Where systemd finds units (systemd.unit(5)); what generators make of init scripts, too.
const UNIT_FOLDERS: [&str; 8] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.early",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/run/systemd/transient",
];
/// The longest file of a unit that is read.
const UNIT_MAX: u64 = 64 << 10;
/// The number of a process is shorter.
pub(super) const PID_MAX: u64 = 32;

/// Looks at it, for the sshds with these pids.
pub(super) fn look_at(path: &str, own: &[u32]) -> ValueFile {
    let found = look(Path::new(path), own);
    match (&found, of_unit(path, &UNIT_FOLDERS)) {
        (ValueFile::Missing | ValueFile::Regular { .. }, Some(unit)) => ValueFile::OfUnit(unit),
        _ => found,
    }
}

fn look(path: &Path, own: &[u32]) -> ValueFile {
    let found = match roots::find(path) {
        Ok(found) => found,
        Err(RootsError::Missing(_)) => return ValueFile::Missing,
        Err(error) => return ValueFile::Other(error.to_string()),
    };
    if !found.is_regular() {
        return ValueFile::Other(RootsError::NotRegular(path.into()).to_string());
    }
    if found.writable_by_others() {
        let mode = found.stat.st_mode & 0o7777;
        return ValueFile::Other(format!("others than root can write {} (mode {mode:04o})", found.real.display()));
    }
    // Every folder above is root's, so that only root can change this meanwhile.
    let enters = |folder: &Path| fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & 0o001 != 0);
    let mode = found.stat.st_mode;
    ValueFile::Regular {
        size: u64::try_from(found.stat.st_size).unwrap_or(u64::MAX),
        for_all: mode & libc::S_IROTH != 0 && found.real.ancestors().skip(1).all(enters),
        program: mode & libc::S_IXUSR != 0,
        pid: match roots::read(path, PID_MAX).ok().as_deref().and_then(values::pid) {
            None => Pid::None,
            Some(pid) if own.contains(&pid) => Pid::Own,
            Some(pid) if Path::new(&format!("/proc/{pid}")).exists() => Pid::Others(pid),
            Some(_) => Pid::Ended,
        },
    }
}

/// The unit of the system whose `PIDFile=` this is, by the files of units that may be started; none of sshd's own.
fn of_unit(path: &str, folders: &[&str]) -> Option<String> {
    let name = |path: &str| path.trim_start_matches("/var").trim_start_matches("/run/").to_owned();
    let wanted = Path::new(path).extension().is_some_and(|end| end == "pid").then(|| name(path))?;
    let names_it = |file: &Path| {
        let bytes = roots::read(file, UNIT_MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let values = text.lines().filter_map(|line| line.trim().strip_prefix("PIDFile"));
        let mut values = values.filter_map(|rest| rest.trim_start().strip_prefix('='));
        // `%t` is /run; what an instance puts in the place of `%i` may be anything.
        values.any(|value| matches(&name(&value.trim().replace("%t/", "/run/")), &wanted))
    };
    let listed = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).collect()
    };
    let ends = |path: &Path, end: &str| path.to_str().is_some_and(|path| path.ends_with(end));
    let files = folders.iter().flat_map(|folder| listed(Path::new(folder))).flat_map(|path| {
        if ends(&path, ".service.d") {
            listed(&path).into_iter().filter(|path| ends(path, ".conf")).collect()
        } else {
            vec![path]
        }
    });
    let of_service = |file: &Path| {
        let parts = file.iter().rev().filter_map(|part| part.to_str());
        parts.map(|part| part.trim_end_matches(".d")).find(|part| ends(Path::new(part), ".service")).map(str::to_owned)
    };
    let services = files.filter_map(|file| Some((of_service(&file)?, file)));
    let mut others = services.filter(|(service, _)| !listener_model::UNITS.contains(&service.as_str()));
    others.find(|(_, file)| names_it(file)).map(|(service, _)| service)
}

/// Whether a name with specifiers of systemd.unit(5) may become this one.
fn matches(named: &str, wanted: &str) -> bool {
    let mut parts = named.split('%');
    let pattern: String = parts
        .next()
        .into_iter()
        .map(str::to_owned)
        .chain(parts.map(|part| {
            let mut rest = part.chars();
            rest.next();
            format!("*{}", rest.as_str())
        }))
        .collect();
    glob::matches(&pattern, wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn pipes_folders_and_what_others_can_write_are_named_and_files_are_described() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let put = |name: &str, text: &str, mode: u32| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        put("public", "hello", 0o644);
        put("secret", "hello", 0o600);
        put("program", "", 0o755);
        put("pid", &format!("{}\n", std::process::id()), 0o644);
        put("ended", "4194305\n", 0o644);
        put("shared", "4711\n", 0o666);
        nix::unistd::mkfifo(Path::new(&at("pipe")), Mode::S_IRUSR).unwrap();
        let regular = |size, for_all, program, pid| ValueFile::Regular { size, for_all, program, pid };
        let own = std::process::id();
        let length = u64::try_from(own.to_string().len() + 1).unwrap();
        for (name, expected) in [
            ("public", regular(5, true, false, Pid::None)),
            ("secret", regular(5, false, false, Pid::None)),
            ("program", regular(0, true, true, Pid::None)),
            ("pid", regular(length, true, false, Pid::Own)),
            ("ended", regular(8, true, false, Pid::Ended)),
            ("none", ValueFile::Missing),
        ] {
            assert_eq!(look_at(&at(name), &[own]), expected, "{name}");
        }
        assert_eq!(look_at(&at("pid"), &[1]), regular(length, true, false, Pid::Others(own)));
        for (name, word) in [("pipe", "is no regular file"), ("", "is no regular file"), ("shared", "(mode 0666)")] {
            assert!(matches!(look_at(&at(name), &[]), ValueFile::Other(why) if why.contains(word)), "{name}");
        }
        // Nobody else gets into the folder.
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(look_at(&at("public"), &[]), regular(5, false, false, Pid::None));
    }

    #[test]
    fn the_pid_file_of_another_unit_is_found_by_the_files_of_units() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let put = |name: &str, text: &str| {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), format!("[Service]\n{text}\n")).unwrap();
        };
        put("cron.service", "PIDFile=/run/crond.pid");
        put("nginx.service.d/50-x.conf", " PIDFile = nginx.pid");
        put("vpn@.service", "PIDFile=%t/vpn/%i.pid");
        put("ssh.service", "PIDFile=/run/sshd.pid");
        put("other.socket", "PIDFile=/run/x.pid");
        let folders = [folder.path().to_str().unwrap()];
        let found = |path: &str| of_unit(path, &folders);
        for (path, unit) in [
            ("/run/crond.pid", Some("cron.service")),
            ("/var/run/crond.pid", Some("cron.service")),
            ("/run/nginx.pid", Some("nginx.service")),
            ("/run/vpn/home.pid", Some("vpn@.service")),
            ("/run/sshd.pid", None),
            ("/run/x.pid", None),
            ("/run/crond", None),
        ] {
            assert_eq!(found(path).as_deref(), unit, "{path}");
        }
    }
}
