//! The step that deletes one route or makes it: what it changes, what it asks for, and what the host is like afterwards.

use serde::{Deserialize, Serialize};

use super::{Answer, Fact, Route, TABLES, best, program};
use crate::address::Source;
use crate::host::step::{Mismatch, Reach};
use crate::host::{HostState, Need, Needs, Part};

/// A route that is deleted, or made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// As it is.
    pub before: Option<Route>,
    /// As it will be.
    pub after: Option<Route>,
}

impl Step {
    /// See [`crate::host::step::Step::inverse`].
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { before: self.after.clone(), after: self.before.clone() }
    }

    fn routes(&self) -> impl Iterator<Item = &Route> {
        self.before.iter().chain(&self.after)
    }

    /// See [`crate::host::step::Step::summary`].
    pub fn summary(&self) -> String {
        let said = |verb: &str, route: &Route| format!("{verb} the route `{route}`");
        match (&self.before, &self.after) {
            (_, Some(after)) => said("add", after),
            (Some(before), None) => said("delete", before),
            (None, None) => "change no route".to_owned(),
        }
    }

    /// See [`crate::host::step::Step::diff`].
    pub fn diff(&self) -> String {
        let program = self.routes().next().map_or("ip route", |route| program(route.destination));
        let line =
            |mark: char, route: &Option<Route>| route.as_ref().map_or_else(String::new, |route| format!("{mark} {route}\n"));
        format!("{program}\n{}{}", line('-', &self.before), line('+', &self.after))
    }

    /// See [`crate::host::step::Step::undo`].
    pub fn undo(&self) -> String {
        self.inverse().summary()
    }

    /// See [`crate::host::step::Step::touches`].
    pub fn touches(&self) -> Option<Vec<Source>> {
        Some(self.routes().map(|route| route.destination).collect())
    }

    /// See [`crate::host::step::Step::reach`].
    pub fn reach(&self) -> Reach {
        let takes_away_a_way = self.before.as_ref().is_some_and(|route| !route.refuses());
        let refuses = self.after.as_ref().is_some_and(Route::refuses);
        if takes_away_a_way || refuses { Reach::Anybody } else { Reach::Nobody }
    }

    /// See [`crate::host::step::Step::needs`].
    pub fn needs(&self) -> Needs {
        self.routes().map(|route| Need::Route(route.destination)).collect()
    }

    /// See [`crate::host::step::Step::predict`]. What takes the place of a deleted route is told by the routes that were read with it.
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        let state = match &mut state.route {
            Part::Present(state) => state,
            Part::Absent(why) | Part::Unreadable(why) => return Err(Mismatch(format!("routes: {why}"))),
        };
        for (source, fact) in &mut state.facts {
            let count = fact.routes.len();
            if let Some(before) = &self.before {
                fact.routes.retain(|route| !route.same(before));
            }
            if let Some(after) = &self.after
                && after.destination.overlaps(*source)
                && !fact.routes.iter().any(|route| route.same(after))
            {
                fact.routes.push(after.clone());
            }
            let changed = fact.routes.len() != count;
            let goes = matches!(fact.answer, Answer::Goes(_));
            if !changed || (goes && self.after.is_none()) {
                continue;
            }
            fact.answer = match best(&fact.routes, Source::from(source.first())) {
                _ if fact.routes.iter().any(|route| !TABLES.contains(&route.table)) => {
                    Answer::Unknown("policy rules choose among several routing tables".to_owned())
                }
                Some(route) if route.refuses() => Answer::Refused(route.kind),
                // The routes that deliver are not read where one does.
                _ if goes => continue,
                Some(route) => Answer::Goes(route.to_string()),
                None => Answer::NoRoute,
            };
        }
        Ok(())
    }

    /// See [`crate::host::step::Step::holds`].
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        let state = match &state.route {
            Part::Present(state) => state,
            Part::Absent(why) | Part::Unreadable(why) => return Err(Mismatch(format!("routes: {why}"))),
        };
        let there = |route: &Route| match state.facts.get(&route.destination) {
            None => Err(Mismatch(format!("the routes to {} were not read", route.destination.short()))),
            Some(Fact { answer: Answer::Unknown(why), .. }) => Err(Mismatch(why.clone())),
            Some(fact) => Ok(fact.routes.iter().any(|one| one.same(route))),
        };
        match (&self.before, &self.after) {
            (_, Some(after)) if !there(after)? => Err(Mismatch(format!("there is no route `{after}`"))),
            (Some(before), None) if there(before)? => Err(Mismatch(format!("the route `{before}` is still there"))),
            _ => Ok(()),
        }
    }
}
