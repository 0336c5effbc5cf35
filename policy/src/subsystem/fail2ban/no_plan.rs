//! Why there is no plan on fail2ban: one case a reason, with what is known of it and what to do. Text only where it is shown.

use thiserror::Error;

/// Why there is no plan on fail2ban. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoPlan {
    /// It does not run, or is not installed.
    #[error("{0}")]
    Absent(String),
    /// It runs, and did not answer.
    #[error("fail2ban could not be read: {0}")]
    Unread(String),
    /// No jail of this name.
    #[error("fail2ban has no jail `{}`; {}", .name.chars().take(MAX_NAME).collect::<String>(), there_are(.jails))]
    NoJail {
        /// What was asked for.
        name: String,
        /// Those there are.
        jails: Vec<String>,
    },
}

/// More characters of a name are not shown.
const MAX_NAME: usize = 100;

fn there_are(jails: &[String]) -> String {
    if jails.is_empty() { "it has none at all".to_owned() } else { format!("it has: {}", jails.join(", ")) }
}

impl NoPlan {
    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            NoPlan::Absent(_) => "where fail2ban is installed: `systemctl start fail2ban`, then run the command again",
            NoPlan::Unread(_) => "`systemctl status fail2ban` shows how it is; `sshfix ctl status` shows what was found",
            NoPlan::NoJail { .. } => "`sshfix ctl fail2ban jails` shows what there is",
        }
    }
}
