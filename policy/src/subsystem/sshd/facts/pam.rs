//! Whether a password that is not in shadow(5) can open sshd's PAM stack (pam.conf(5), `pam_unix(8)`). Takes as certain only what Debian
//! installs, and modules beside it that can refuse but take no password. Reads lines; opens no file.

use serde::{Deserialize, Serialize};

/// What sshd's PAM stack does with passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passwords {
    /// Those of shadow(5) count, and no others.
    Shadow,
    /// Others may count: why.
    Perhaps(String),
}

impl Default for Passwords {
    fn default() -> Self {
        Self::Perhaps("sshd's PAM stack was not read".to_owned())
    }
}

/// Modules that refuse, wait or note something, and take no password by themselves.
const TAKE_NONE: [&str; 5] = ["pam_faillock.so", "pam_faildelay.so", "pam_env.so", "pam_nologin.so", "pam_securetty.so"];

/// The lines of kind `auth`, includes already in place.
pub fn passwords<'a>(lines: impl IntoIterator<Item = &'a str>) -> Passwords {
    let perhaps = |module: &str| {
        Passwords::Perhaps(format!("{} of sshd's PAM stack may take another", crate::subsystem::sshd::shown(module)))
    };
    let mut unix = false;
    for line in lines {
        let text = line.split('#').next().unwrap_or_default();
        let (kind, rest) = text.trim().split_once(char::is_whitespace).unwrap_or_default();
        if kind.trim_start_matches('-') != "auth" {
            continue;
        }
        let rest = rest.trim_start();
        let (control, rest) = if rest.starts_with('[') {
            rest.split_once(']').unwrap_or((rest, ""))
        } else {
            rest.split_once(char::is_whitespace).unwrap_or((rest, ""))
        };
        let module = rest.split_ascii_whitespace().next().unwrap_or_default();
        let module = module.rsplit('/').next().unwrap_or_default();
        match module {
            // Nothing before it jumped over it, and pam_deny(8) refuses whatever comes after.
            "pam_deny.so" if unix && matches!(control, "requisite" | "required") => return Passwords::Shadow,
            "pam_unix.so" if succeeds_alone(control) => unix = true,
            _ if TAKE_NONE.contains(&module) && never_jumps(control) => {}
            _ => return perhaps(module),
        }
    }
    Passwords::Perhaps("sshd's PAM stack has no pam_deny.so after pam_unix.so".to_owned())
}

/// Whether the module goes on or ends with a refusal where it does not succeed.
fn succeeds_alone(control: &str) -> bool {
    let refuses = |word: &str| match word.split_once('=') {
        Some(("success" | "new_authtok_reqd", _)) => true,
        Some((_, action)) => matches!(action, "ignore" | "die" | "bad"),
        None => false,
    };
    match control.strip_prefix('[') {
        Some(words) => words.split_ascii_whitespace().all(refuses),
        None => matches!(control, "required" | "requisite" | "sufficient"),
    }
}

/// Whether the next line is always the next.
fn never_jumps(control: &str) -> bool {
    match control.strip_prefix('[') {
        Some(words) => words
            .split_ascii_whitespace()
            .all(|word| word.split_once('=').is_some_and(|(_, action)| matches!(action, "ignore" | "die" | "bad"))),
        None => matches!(control, "required" | "requisite" | "optional"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_not_in_shadow_is_ruled_out_only_for_the_stack_that_debian_has() {
        let debian = "@include\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\n# here's the fallback\nauth requisite pam_deny.so\n\
                      auth required pam_permit.so\nauth optional pam_cap.so";
        let faillock = "auth required pam_faillock.so preauth silent\nauth [success=2 default=ignore] pam_unix.so nullok\n\
                        auth [default=die] pam_faillock.so authfail\nauth requisite pam_deny.so\nauth required pam_permit.so";
        for text in [debian, faillock] {
            assert_eq!(passwords(text.lines()), Passwords::Shadow, "{text}");
        }
        for text in [
            "",
            "auth required pam_unix.so",
            "auth sufficient pam_permit.so\nauth requisite pam_deny.so",
            "auth [success=2 default=ignore] pam_unix.so\nauth [success=1 default=ignore] pam_sss.so use_first_pass\nauth requisite pam_deny.so",
            "auth [default=1] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so",
            "auth requisite pam_deny.so\nauth required pam_unix.so",
            "auth [success=1] pam_faillock.so preauth\nauth required pam_unix.so\nauth requisite pam_deny.so",
            "auth sufficient pam_google_authenticator.so\nauth required pam_unix.so\nauth requisite pam_deny.so",
        ] {
            assert!(matches!(passwords(text.lines()), Passwords::Perhaps(_)), "{text}");
        }
    }
}
