//! The account part of sshd's PAM stack (pam.conf(5)): whether it is the distribution's, whose modules refuse nobody but for what sshfix reads
//! itself (nologin(5), shadow(5)). Anything else makes the answer unknown. Reads lines; opens no file.

use serde::{Deserialize, Serialize};

use crate::subsystem::sshd::shown;

/// A line of a stack, with where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackLine {
    /// `/etc/pam.d/sshd line 7`
    pub place: String,
    /// The line.
    pub text: String,
}

/// What the account part of the stack does with a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountStack {
    /// It asks nothing but shadow(5) and nologin(5).
    Plain {
        /// Whether the age of the password counts, however a user logs in.
        ages: bool,
    },
    /// Other modules decide: the line, with its file and number, or why it was not read.
    Perhaps(String),
}

impl Default for AccountStack {
    fn default() -> Self {
        Self::Plain { ages: true }
    }
}

/// Modules that refuse nobody: `pam_faillock.so` forgets failures here, `pam_permit.so` permits.
const PERMIT: [&str; 3] = ["pam_faillock.so", "pam_permit.so", "pam_nologin.so"];

/// What the lines say, includes already in place.
pub fn account_stack(lines: &[StackLine]) -> AccountStack {
    let (mut ages, mut skip, mut asked) = (false, 0_usize, false);
    for line in lines {
        let text = line.text.split('#').next().unwrap_or_default().trim();
        let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or_default();
        if !kind.trim_start_matches('-').eq_ignore_ascii_case("account") {
            continue;
        }
        if skip > 0 {
            skip -= 1;
            continue;
        }
        asked = true;
        let rest = rest.trim_start();
        let (control, rest) = match rest.strip_prefix('[') {
            Some(words) => words.split_once(']').unwrap_or((words, "")),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        let mut words = rest.split_ascii_whitespace();
        let module = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let perhaps = || AccountStack::Perhaps(format!("{} ({})", line.place, shown(module)));
        match module {
            "pam_unix.so" => ages |= !words.any(|word| word == "no_pass_expiry"),
            _ if PERMIT.contains(&module) => {}
            // pam_deny.so where nothing jumps over it, and every other.
            _ => return perhaps(),
        }
        match on_success(control) {
            Next::Ends => return AccountStack::Plain { ages },
            Next::Goes(lines) => skip = lines,
            Next::Unknown => return perhaps(),
        }
    }
    if asked {
        AccountStack::Plain { ages }
    } else {
        AccountStack::Perhaps("sshd's PAM stack asks nothing of accounts".to_owned())
    }
}

/// What follows where a module permits.
enum Next {
    Ends,
    /// Past so many lines.
    Goes(usize),
    Unknown,
}

fn on_success(control: &str) -> Next {
    match control {
        "required" | "requisite" | "optional" => return Next::Goes(0),
        "sufficient" => return Next::Ends,
        _ => {}
    }
    let mut words = control.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    let action = words.clone().find(|(on, _)| *on == "success").or_else(|| words.find(|(on, _)| *on == "default"));
    match action {
        Some((_, "ok" | "ignore")) => Next::Goes(0),
        Some((_, "done")) => Next::Ends,
        Some((_, number)) => number.parse().map_or(Next::Unknown, Next::Goes),
        None => Next::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> AccountStack {
        let lines = (1..).zip(text.lines());
        let lines: Vec<StackLine> =
            lines.map(|(number, text)| StackLine { place: format!("f line {number}"), text: text.to_owned() }).collect();
        account_stack(&lines)
    }

    #[test]
    fn only_the_distributions_account_part_is_plain() {
        let debian = "auth required pam_x.so\naccount    required     pam_nologin.so\n# account  required     pam_access.so\n\
                      account\t[success=1 new_authtok_reqd=done default=ignore]\tpam_unix.so \naccount\trequisite\tpam_deny.so\n\
                      account\trequired\tpam_permit.so\nsession required pam_selinux.so";
        assert_eq!(read(debian), AccountStack::Plain { ages: true });
        assert_eq!(read(&debian.replace("pam_unix.so", "pam_unix.so no_pass_expiry")), AccountStack::Plain { ages: false });
        assert_eq!(read("account required pam_unix.so"), AccountStack::Plain { ages: true });
        assert_eq!(read("account sufficient pam_unix.so\naccount required pam_access.so"), AccountStack::Plain { ages: true });
        for (text, line) in [
            (debian.replace("# account  required", "account required"), "f line 3 (pam_access.so)"),
            (debian.replace("success=1", "success=ignore"), "f line 5 (pam_deny.so)"),
            ("account [success=later] pam_unix.so".to_owned(), "f line 1 (pam_unix.so)"),
            ("-account required pam_time.so".to_owned(), "f line 1 (pam_time.so)"),
            ("account required pam_permit.so\naccount substack x".to_owned(), "f line 2 (x)"),
        ] {
            assert_eq!(read(&text), AccountStack::Perhaps(line.to_owned()), "{text}");
        }
        assert!(matches!(read("auth required pam_unix.so"), AccountStack::Perhaps(_)));
    }
}
