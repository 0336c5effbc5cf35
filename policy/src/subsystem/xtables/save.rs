//! Pairs the text of iptables-legacy-save with the rules read from the kernel, chain by chain and rule by rule, so that a rule
//! can be given back to iptables to the letter. Text that does not pair is refused whole.

use std::sync::Arc;

use thiserror::Error;

use crate::subsystem::ipset::SetNames;
use crate::subsystem::xtables::Table;
use crate::subsystem::xtables::extension::render;

/// Why text and table do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Mispaired {
    /// A line that iptables-save does not print, for instance because a comment holds a line break.
    #[error("iptables-legacy-save printed a line that cannot be deleted by its number: {0:?}")]
    Strange(String),
    /// Another number of rules.
    #[error("iptables-legacy-save prints {printed} rules in chain {chain} of table {table}, the kernel has {held}")]
    Count {
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// By iptables-save.
        printed: usize,
        /// In the kernel.
        held: usize,
    },
    /// The tool does not know a match or target of the kernel and prints nothing for it.
    #[error("iptables-legacy-save printed another rule than the kernel holds: {printed:?} for {held:?}")]
    Differs {
        /// By iptables-save.
        printed: String,
        /// As decoded.
        held: String,
    },
}

/// Gives every rule of the table the text it had in an earlier reading of the very same rules.
pub fn take(table: &mut Table, earlier: &Table) {
    table.readonly.clone_from(&earlier.readonly);
    for (chain, earlier) in table.chains.iter_mut().zip(&earlier.chains) {
        for (rule, earlier) in Arc::make_mut(chain).rules.iter_mut().zip(&earlier.rules) {
            Arc::make_mut(rule).save.clone_from(&earlier.save);
        }
    }
}

/// Gives every rule of the table its text.
pub fn pair(table: &mut Table, text: &str) -> Result<(), Mispaired> {
    let mut lines: Vec<Vec<&str>> = vec![Vec::new(); table.chains.len()];
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') || line.starts_with('*') || line.starts_with(':') || line == "COMMIT" {
            continue;
        }
        let strange = || Mispaired::Strange(line.chars().take(200).collect());
        if line.chars().any(char::is_control) {
            return Err(strange());
        }
        let rule = line.strip_prefix("-A ").ok_or_else(strange)?;
        let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
        let index = table.chains.iter().position(|one| one.name == chain).ok_or_else(strange)?;
        lines.get_mut(index).ok_or_else(strange)?.push(rest);
    }
    for (chain, lines) in table.chains.iter_mut().zip(lines) {
        if lines.len() != chain.rules.len() {
            return Err(Mispaired::Count {
                table: table.name.clone(),
                chain: chain.name.clone(),
                printed: lines.len(),
                held: chain.rules.len(),
            });
        }
        let chain = Arc::make_mut(chain);
        for (rule, line) in chain.rules.iter_mut().zip(lines) {
            let rule = Arc::make_mut(rule);
            // The source is what a mistake would cost most; every version prints it first and the same way.
            let (value, mask) = rule.entry.source;
            let not = if rule.entry.invert & 8 != 0 { "! " } else { "" };
            let source = format!("{not}-s {} ", render::network(value, mask, table.v6, true));
            if mask != 0 && !format!("{line} ").starts_with(&source) {
                return Err(Mispaired::Differs { printed: line.to_owned(), held: rule.draw(table.v6, &SetNames::new()) });
            }
            rule.save = Some(line.to_owned());
        }
    }
    Ok(())
}
