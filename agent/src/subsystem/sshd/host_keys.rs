//! The host's own keys, as the sshd on a port is configured to use them: the public ones, and whether sshd could load the private ones.
//! No private key is opened here: `ssh-keygen` says whether one is sound.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sshfix_policy::ssh::public_key::PublicKey;
use sshfix_policy::subsystem::sshd::{Effective, HostKey, KeyProblem, authorized_keys};

use super::version::Sound;
use super::{SshdError, effective, invocation};
use crate::sys::{child, files, roots};

const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";
const KEYGEN_LIMIT: Duration = Duration::from_secs(5);

/// The longest `.pub` file: RSA of 16,384 bits and a long comment.
const PUBLIC_KEY_MAX: u64 = 16 * 1024;

/// The public host keys of the sshd on this port, from the `.pub` files beside its `HostKey` files. Keys that cannot be read, or
/// that no proof can use, are left out; where none is left the error names each.
pub fn host_keys(port: u16) -> Result<Vec<PublicKey>, SshdError> {
    let effective = effective(&invocation(port)?)?;
    let (mut keys, mut wrong) = (Vec::new(), Vec::new());
    for file in effective.all("hostkey") {
        match read(&public_file(Path::new(file))) {
            Ok(key) => keys.push(key),
            Err(why) => wrong.push(why),
        }
    }
    if keys.is_empty() { Err(SshdError::NoHostKeys(wrong)) } else { Ok(keys) }
}

/// The types of the host keys that a configuration names, where their public halves can be read. An RSA key that is shorter than
/// `RequiredRSASize` is not loaded (sshd.c, `main`: `sshkey_check_rsa_length`).
pub(super) fn kinds(effective: &Effective) -> Vec<String> {
    let required: u32 = effective.one("requiredrsasize").and_then(|bits| bits.parse().ok()).unwrap_or_default();
    let kind = |file: &String| {
        let path = public_file(Path::new(file));
        let line = line_of(&path).ok()?;
        let long_enough = rsa_bits(&line).is_none_or(|bits| bits >= required);
        key_in(&line, &path).ok().filter(|_| long_enough).map(|key| key.kind())
    };
    effective.all("hostkey").iter().filter_map(kind).collect()
}

/// Of a public key in a line of its own.
fn rsa_bits(line: &str) -> Option<u32> {
    authorized_keys(line).into_iter().next()?.rsa_bits
}

/// `sshd_config(5)`, `HostKey`: a private key, or the public one itself where an agent holds the private one.
fn public_file(file: &Path) -> PathBuf {
    if file.extension().is_some_and(|extension| extension == "pub") {
        return file.to_owned();
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// What sshd would make of a file of `HostKey` (authfile.c, `sshkey_perm_ok`, `sshkey_load_private`).
pub(super) fn look_at(path: &str, sound: &Sound) -> HostKey {
    let public = roots::read(&public_file(Path::new(path)), PUBLIC_KEY_MAX).ok();
    let public = public.and_then(|bytes| String::from_utf8(bytes).ok());
    let algorithm = public.as_deref().and_then(|line| line.split(' ').next()).map(str::to_owned);
    let rsa_bits = public.as_deref().and_then(rsa_bits);
    HostKey { path: path.to_owned(), algorithm, rsa_bits, problem: problem(Path::new(path), sound), changed: false }
}

fn problem(path: &Path, sound: &Sound) -> Option<KeyProblem> {
    match roots::find(path) {
        Ok(_) => {}
        Err(roots::RootsError::Missing(_)) => return Some(KeyProblem::Missing),
        Err(error @ (roots::RootsError::Unseen { .. } | roots::RootsError::Failed { .. })) => {
            return Some(KeyProblem::Unread(error.to_string()));
        }
        Err(error) => return Some(KeyProblem::Corrupt(error.to_string())),
    }
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(KeyProblem::Missing),
        Err(error) => return Some(KeyProblem::Unread(error.to_string())),
    };
    if path.extension().is_some_and(|extension| extension == "pub") {
        return None;
    }
    // Only a file of root's own is looked at so closely.
    if file.uid() == 0 && file.mode() & 0o077 != 0 {
        return Some(KeyProblem::Open(file.mode() & 0o7777));
    }
    if sound.knows(path, &file) {
        return None;
    }
    // It prints the public half.
    let Some(name) = path.to_str() else { return Some(KeyProblem::Unread("its name is not UTF-8".to_owned())) };
    let words = ["-y", "-P", "", "-f", name];
    let output = match child::run_reading(Path::new(SSH_KEYGEN), &words, None, KEYGEN_LIMIT, 64 << 10) {
        Ok(output) => output,
        Err(error) => return Some(KeyProblem::Unread(error.to_string())),
    };
    if output.success() {
        sound.note(path, &file);
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().chars().take(200).collect();
    (!output.success()).then_some(KeyProblem::Corrupt(said))
}

fn read(path: &Path) -> Result<PublicKey, String> {
    key_in(&line_of(path)?, path)
}

fn line_of(path: &Path) -> Result<String, String> {
    let file = files::read_checked(path, PUBLIC_KEY_MAX).map_err(|error| match error {
        files::FileError::Missing(_) => {
            let private = path.with_extension("");
            format!("{} is missing: `ssh-keygen -y -f {} > {}`", path.display(), private.display(), path.display())
        }
        other => other.to_string(),
    })?;
    Ok(String::from_utf8_lossy(&file.bytes).into_owned())
}

fn key_in(line: &str, path: &Path) -> Result<PublicKey, String> {
    PublicKey::from_host_line(line).map_err(|error| format!("{}: {error}", path.display()))
}
