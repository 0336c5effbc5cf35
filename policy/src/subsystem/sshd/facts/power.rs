//! What systemd and logind say of the host as a whole. Judges nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What systemd and logind say of the host as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// `SystemState` (systemctl(1), `is-system-running`): `running`, `starting`, `stopping`, ...; `None` without systemd. The error says
    /// why it could not be read.
    pub state: Result<Option<String>, String>,
    /// A shutdown that is planned (`shutdown(8)`): `reboot`, `poweroff`, ... and when. logind keeps it in [`SCHEDULED`].
    pub scheduled: Result<Option<(String, Timestamp)>, String>,
}

/// Where logind notes what is planned.
pub const SCHEDULED: &str = "/run/systemd/shutdown/scheduled";

impl Power {
    /// The planned shutdown in the text of that file: `USEC=1795265155129059`, `MODE=reboot`.
    pub fn scheduled(text: &str) -> Option<(String, Timestamp)> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let at = Timestamp::from_microsecond(field("USEC")?.parse().ok()?).ok()?;
        let mode = field("MODE")?;
        // `dry-reboot` only tells people.
        (!mode.starts_with("dry-")).then(|| (mode.to_owned(), at))
    }

    /// The state, or nothing.
    pub fn state(&self) -> &str {
        self.state.as_ref().ok().and_then(Option::as_deref).unwrap_or_default()
    }

    /// It goes down.
    pub fn going(&self) -> bool {
        self.state() == "stopping"
    }

    /// It is still coming up.
    pub fn coming(&self) -> bool {
        matches!(self.state(), "initializing" | "starting")
    }

    /// Whether nologin(5) is the host's own doing: `pam_nologin` keeps users out from five minutes before a shutdown until the host is up.
    pub fn explains_nologin(&self) -> bool {
        self.going() || self.coming() || matches!(self.scheduled, Ok(Some(_)))
    }
}
