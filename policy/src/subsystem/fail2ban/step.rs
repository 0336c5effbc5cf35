//! Steps on fail2ban: one ticket of one jail, or one ignoreip entry, as data. The agent does them through the socket.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{Jail, Ticket};
use crate::address::Source;
use crate::host::step::{Mismatch, Reach, Step as AnyStep};
use crate::host::{HostState, Part};
use crate::text::quoted::Text;

/// One change of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
// A plan has a handful of steps: what a box would save is not worth reading it.
#[allow(clippy::large_enum_variant)]
pub enum Step {
    /// A ticket: ban where `after` is there, unban where it is not. Which source is banned counts, not since when: fail2ban
    /// gives every new ticket new times.
    Ticket {
        /// In which jail.
        jail: String,
        /// Whom: the ticket of exactly this address or range.
        source: Source,
        /// As it is.
        before: Option<Ticket>,
        /// As it will be.
        after: Option<Ticket>,
        /// Of an unban: what removes the rules and elements that the jail's actions made for this source, as they were read. Done
        /// after fail2ban, which mostly did it itself; it answers "unbanned" even when its action failed. Not part of undo:
        /// fail2ban makes them again with the ban.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        leftovers: Vec<AnyStep>,
        /// Of an unban: what the jail's actions take back through another manager. Predicted and looked at again, never done.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        through: Vec<Through>,
    },
    /// An ignoreip entry of the running server; its configuration files stay as they are.
    Ignore {
        /// In which jail.
        jail: String,
        /// As fail2ban prints it.
        entry: String,
        /// Whether it is there.
        before: bool,
        /// Whether it will be there.
        after: bool,
    },
}

/// A rule that an action of fail2ban seems to have made through another manager (ufw, firewalld).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// What takes it away, on the model.
    pub step: AnyStep,
    /// The manager's own command, for where the rule was not fail2ban's.
    pub command: String,
}

impl Step {
    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        match &mut inverse {
            Step::Ticket { before, after, .. } => std::mem::swap(before, after),
            Step::Ignore { before, after, .. } => std::mem::swap(before, after),
        }
        inverse
    }

    /// The jail it is about.
    pub fn jail(&self) -> &str {
        match self {
            Step::Ticket { jail, .. } | Step::Ignore { jail, .. } => jail,
        }
    }

    /// What is to be gone from the kernel after this step.
    pub fn leftovers(&self) -> &[AnyStep] {
        match self {
            Step::Ticket { after: None, leftovers, .. } => leftovers,
            Step::Ticket { after: Some(_), .. } | Step::Ignore { .. } => &[],
        }
    }

    /// What is to be gone because fail2ban takes it back through another manager.
    pub fn through(&self) -> &[Through] {
        match self {
            Step::Ticket { after: None, through, .. } => through,
            Step::Ticket { after: Some(_), .. } | Step::Ignore { .. } => &[],
        }
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        match self {
            Step::Ticket { jail, source, after: None, .. } => format!("unban {} in jail {jail}", source.short()),
            Step::Ticket { jail, source, after: Some(_), .. } => format!("ban {} in jail {jail}", source.short()),
            Step::Ignore { jail, entry, after: true, .. } => format!("ignore {entry} in jail {jail}"),
            Step::Ignore { jail, entry, after: false, .. } => format!("no longer ignore {entry} in jail {jail}"),
        }
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> Text {
        match self {
            Step::Ticket { jail, before, after, .. } => {
                let line = |mark: char, ticket: &Option<Ticket>| {
                    ticket.as_ref().map_or_else(String::new, |ticket| format!("{mark} {}\n", ticket.text))
                };
                let mut diff = Text::from(format!("fail2ban jail {jail}\n{}{}", line('-', before), line('+', after)));
                self.leftovers().iter().map(AnyStep::diff).for_each(|step| diff.push(step));
                self.through().iter().map(|through| through.step.diff()).for_each(|step| diff.push(step));
                diff
            }
            Step::Ignore { jail, entry, after, .. } => {
                let mark = if *after { '+' } else { '-' };
                format!("fail2ban jail {jail} ignoreip (until fail2ban reloads its configuration)\n{mark} {entry}\n").into()
            }
        }
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        match self {
            Step::Ticket { jail, source, after: None, .. } => {
                format!(
                    "ban {} in jail {jail} again; fail2ban makes its rules again, and the ban time starts anew",
                    source.short()
                )
            }
            Step::Ticket { .. } | Step::Ignore { .. } => self.inverse().summary(),
        }
    }

    /// See [`crate::host::step::Step::touches`]. An ignoreip entry lets nobody in and keeps nobody out now.
    pub fn touches(&self) -> Option<Vec<Source>> {
        match self {
            Step::Ticket { source, leftovers, through, .. } => {
                let mut touched = vec![*source];
                for leftover in leftovers.iter().chain(through.iter().map(|through| &through.step)) {
                    touched.extend(leftover.touches()?);
                }
                Some(touched)
            }
            Step::Ignore { .. } => Some(Vec::new()),
        }
    }

    /// See [`crate::host::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        match self {
            Step::Ticket { after: Some(_), .. } => Reach::Anybody,
            Step::Ticket { after: None, leftovers, .. } => leftovers.iter().map(AnyStep::reach).max().unwrap_or(Reach::Nobody),
            Step::Ignore { .. } => Reach::Nobody,
        }
    }

    /// See [`crate::host::step::Step::predict`].
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        if let Step::Ticket { after, leftovers, through, .. } = self {
            for leftover in leftovers.iter().chain(through.iter().map(|through| &through.step)) {
                if after.is_none() { leftover.predict(state)? } else { leftover.inverse().predict(state)? }
            }
        }
        let jail = jail_mut(state, self.jail())?;
        match self {
            Step::Ticket { source, after, .. } => {
                let place = jail.tickets.binary_search_by(|ticket| ticket.source.cmp(source));
                match (place, after) {
                    (Ok(place), None) => {
                        jail.tickets.remove(place);
                    }
                    (Err(place), Some(after)) => jail.tickets.insert(place, after.clone()),
                    (Ok(_), Some(_)) | (Err(_), None) => {}
                }
            }
            Step::Ignore { entry, after, .. } => match (jail.ignore.binary_search(entry), after) {
                (Ok(place), false) => {
                    jail.ignore.remove(place);
                }
                (Err(place), true) => jail.ignore.insert(place, entry.clone()),
                (Ok(_), true) | (Err(_), false) => {}
            },
        }
        Ok(())
    }

    /// See [`crate::host::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        let jail = match &state.fail2ban {
            Part::Present(fail2ban) => fail2ban.jail(self.jail()).ok_or_else(|| no_jail(self.jail()))?,
            Part::Absent(why) | Part::Unreadable(why) => return Err(Mismatch(format!("fail2ban: {why}"))),
        };
        match self {
            Step::Ticket { source, after, jail: name, .. } => match (jail.ticket(*source), after) {
                (Some(ticket), None) => Err(Mismatch(format!("jail {name} still bans {}", ticket.text))),
                (None, Some(_)) => Err(Mismatch(format!("jail {name} does not ban {}", source.short()))),
                (Some(_), Some(_)) | (None, None) => {
                    self.leftovers().iter().try_for_each(|leftover| leftover.holds(state))?;
                    self.through().iter().try_for_each(|through| {
                        let why = |mismatch: Mismatch| {
                            format!("{}; if fail2ban did not make this rule, run first: {}", mismatch.0, through.command)
                        };
                        through.step.holds(state).map_err(|mismatch| Mismatch(why(mismatch)))
                    })
                }
            },
            Step::Ignore { entry, after, jail: name, .. } => match (jail.ignore.contains(entry), after) {
                (true, false) => Err(Mismatch(format!("jail {name} still ignores {entry}"))),
                (false, true) => Err(Mismatch(format!("jail {name} does not ignore {entry}"))),
                (true, true) | (false, false) => Ok(()),
            },
        }
    }
}

/// The jail in the model, with its lists in the order that lookups rely on.
fn jail_mut<'a>(state: &'a mut HostState, name: &str) -> Result<&'a mut Jail, Mismatch> {
    let fail2ban = match &mut state.fail2ban {
        Part::Present(fail2ban) => fail2ban,
        Part::Absent(why) | Part::Unreadable(why) => return Err(Mismatch(format!("fail2ban: {why}"))),
    };
    let jail = fail2ban.jails.iter_mut().find(|jail| jail.name == name).ok_or_else(|| no_jail(name))?;
    if !jail.tickets.is_sorted_by(|a, b| a.source.cmp(&b.source) == Ordering::Less) || !jail.ignore.is_sorted() {
        return Err(Mismatch(format!("the tickets of jail {name} were not read in order")));
    }
    Ok(jail)
}

fn no_jail(name: &str) -> Mismatch {
    Mismatch(format!("fail2ban has no jail {name}"))
}
