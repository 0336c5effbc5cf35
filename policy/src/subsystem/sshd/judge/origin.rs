//! Where a value comes from, for people: the lines of sshd's files, or what `sshd -T` prints. Decides nothing.

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::{Setting, Settings};
use crate::subsystem::sshd::quoting::{line, of_keyword, of_values};
use crate::text::quoted::Text;
use crate::verdict::Evidence;

/// The lines that set a keyword for this login, or what `sshd -T` prints of it where no line does.
pub(super) fn origin(effective: &Effective, settings: &Settings, keyword: &str) -> Vec<Evidence> {
    match settings.get(keyword) {
        Some(lines) => lines.iter().map(quote).collect(),
        None => effective
            .all(keyword)
            .iter()
            .map(|value| {
                let text = of_keyword(keyword) + " " + of_values(keyword, value.as_str());
                Evidence::new("sshd -T (the default, or not found in a file)", text)
            })
            .collect(),
    }
}

/// `/etc/ssh/sshd_config.d/50-x.conf line 3`, inside its Match lines.
pub fn quote(setting: &Setting) -> Evidence {
    let mut text = Text::default();
    for (at, outer) in &setting.under {
        text.push(line(outer) + format!("   # {at}\n"));
    }
    if !setting.under.is_empty() {
        text.push("    ");
    }
    Evidence::new(setting.at.to_string(), text + line(&setting.text))
}
