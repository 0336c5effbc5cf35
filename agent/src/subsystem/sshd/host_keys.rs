//! The host's own public keys, as the sshd on a port is configured to use them. Private keys are never opened.

use std::path::{Path, PathBuf};

use sshfix_policy::public_key::PublicKey;
use sshfix_policy::subsystem::sshd::Effective;

use super::{SshdError, effective, invocation};
use crate::sys::files;

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

/// The types of the host keys that a configuration names, where their public halves can be read.
pub(super) fn kinds(effective: &Effective) -> Vec<String> {
    effective.all("hostkey").iter().filter_map(|file| read(&public_file(Path::new(file))).ok()).map(|key| key.kind()).collect()
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

fn read(path: &Path) -> Result<PublicKey, String> {
    let file = files::read_checked(path, PUBLIC_KEY_MAX).map_err(|error| match error {
        files::FileError::Missing(_) => {
            let private = path.with_extension("");
            format!("{} is missing: `ssh-keygen -y -f {} > {}`", path.display(), private.display(), path.display())
        }
        other => other.to_string(),
    })?;
    let line = String::from_utf8_lossy(&file.bytes);
    PublicKey::from_host_line(&line).map_err(|error| format!("{}: {error}", path.display()))
}
