//! Who is next: one line of requests before each thing that only so many may use at once. Each asker has a share, askers take turns,
//! and nothing but a place in the line is held while one waits: no thread, no permit, no lock. Knows nothing of requests.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Askers whose last turn is remembered.
const MAX_REMEMBERED: usize = 1024;

/// Who asks: all of one asker share what one asker may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// The agent, for what it does by itself: deadlines, leases.
    Agent,
    /// Somebody of whom nothing but the user is known (`SO_PEERCRED`).
    User(u32),
    /// Who signed.
    Principal(String),
}

/// Who goes before whom. Within one, the asker whose last turn is the longest ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precedence {
    /// What takes a change back, and what must be answered at once.
    First,
    /// Root on this host.
    Root,
    /// Everybody else.
    Others,
}

/// A wish for a turn.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who.
    pub asker: Asker,
    /// Before whom.
    pub precedence: Precedence,
}

impl Claim {
    /// The agent's own.
    pub fn own() -> Self {
        Self { asker: Asker::Agent, precedence: Precedence::First }
    }
}

/// More of this asker wait already than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFull;

/// How many at once, and how many of one asker.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    /// Turns at the same time.
    pub at_once: usize,
    /// Of them, of one asker.
    pub of_one: usize,
    /// Of one asker that wait.
    pub waiting: usize,
}

/// The line.
#[derive(Debug)]
pub struct Line {
    width: Width,
    places: Mutex<Places>,
    pulse: Pulse,
}

/// When work last went on, in milliseconds after the pulse was made.
#[derive(Clone, Debug)]
pub struct Pulse {
    made: Instant,
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { made: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    /// Work goes on.
    pub fn beat(&self) {
        let since = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.made + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    held: BTreeMap<u64, Holding>,
    waiting: BTreeMap<u64, Waiting>,
    /// When each asker last had a turn, as the number of that turn.
    last_turn: BTreeMap<Asker, u64>,
}

#[derive(Debug)]
struct Holding {
    asker: Asker,
    since: Instant,
}

#[derive(Debug)]
struct Waiting {
    claim: Claim,
    ready: oneshot::Sender<Turn>,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    /// None once it was taken away again.
    line: Option<Arc<Line>>,
    number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            line.places().held.remove(&self.number);
            line.hand_out();
        }
    }
}

impl Line {
    /// An empty one.
    pub fn new(width: Width) -> Arc<Self> {
        Self::with_pulse(width, Pulse::default())
    }

    fn with_pulse(width: Width, pulse: Pulse) -> Arc<Self> {
        Arc::new(Self { width, places: Mutex::default(), pulse })
    }

    /// Waits for a turn. Whoever stops waiting leaves the line.
    pub async fn turn(self: &Arc<Self>, claim: Claim) -> Result<Turn, LineFull> {
        let (place, ready) = self.join(claim)?;
        let turn = ready.await.map_err(|_| LineFull);
        drop(place);
        turn
    }

    /// The same on a thread that may block.
    pub fn wait(self: &Arc<Self>, claim: Claim) -> Result<Turn, LineFull> {
        let (place, ready) = self.join(claim)?;
        let turn = ready.blocking_recv().map_err(|_| LineFull);
        drop(place);
        turn
    }

    /// A turn if one is free now and nobody waits.
    pub fn try_turn(self: &Arc<Self>) -> Option<Turn> {
        let mut places = self.places();
        if places.held.len() >= self.width.at_once || !places.waiting.is_empty() {
            return None;
        }
        let number = places.begin(Asker::Agent);
        Some(Turn { line: Some(Arc::clone(self)), number })
    }

    /// Who keeps the line waiting without a sign of life for this long, in words.
    pub fn stuck(&self, after: Duration) -> Option<String> {
        let beat = self.pulse.last();
        let places = self.places();
        let over = |holding: &&Holding| holding.since.max(beat).elapsed() > after;
        let holding = places.held.values().find(over)?;
        Some(format!("{:?} has had its turn for {:?}", holding.asker, holding.since.elapsed()))
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.places().waiting.len()
    }

    fn join(self: &Arc<Self>, claim: Claim) -> Result<(Place<'_>, oneshot::Receiver<Turn>), LineFull> {
        let (sender, ready) = oneshot::channel();
        let mut places = self.places();
        let of_this = places.waiting.values().filter(|waiting| waiting.claim.asker == claim.asker).count();
        if of_this >= self.width.waiting && claim.asker != Asker::Agent {
            return Err(LineFull);
        }
        let number = places.next;
        places.next += 1;
        places.waiting.insert(number, Waiting { claim, ready: sender });
        drop(places);
        self.hand_out();
        Ok((Place { line: self, number }, ready))
    }

    /// Gives free turns to who is next.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let mut places = self.places();
            if places.held.len() >= self.width.at_once {
                return;
            }
            let Some(next) = places.next_in_line(self.width.of_one) else { return };
            let Some(Waiting { claim, ready }) = places.waiting.remove(&next) else { return };
            let number = places.begin(claim.asker);
            drop(places);
            let turn = Turn { line: Some(Arc::clone(self)), number };
            if let Err(mut turn) = ready.send(turn) {
                // It went away in this very moment. Its drop must not hand out: that would call itself again.
                turn.line = None;
                self.places().held.remove(&number);
            }
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn begin(&mut self, asker: Asker) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.last_turn.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.last_turn.iter().min_by_key(|(_, turn)| **turn).map(|(asker, _)| asker.clone())
        {
            self.last_turn.remove(&oldest);
        }
        self.last_turn.insert(asker.clone(), number);
        self.held.insert(number, Holding { asker, since: Instant::now() });
        number
    }

    fn next_in_line(&self, of_one: usize) -> Option<u64> {
        let has_room = |asker: &Asker| self.held.values().filter(|holding| holding.asker == *asker).count() < of_one;
        let waiting = self.waiting.iter().filter(|(_, waiting)| has_room(&waiting.claim.asker));
        let rank = |number: u64, claim: &Claim| {
            // Before the first turn ever.
            let last = self.last_turn.get(&claim.asker).map_or(0, |turn| turn + 1);
            (claim.precedence, last, number)
        };
        waiting.min_by_key(|(number, waiting)| rank(**number, &waiting.claim)).map(|(number, _)| *number)
    }
}

/// A place in the line; it is left when this is dropped.
struct Place<'a> {
    line: &'a Arc<Line>,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.places().waiting.remove(&self.number);
    }
}

/// A value that one uses at a time, in turns.
#[derive(Debug)]
pub struct InTurns<T> {
    line: Arc<Line>,
    value: Mutex<T>,
}

impl<T> InTurns<T> {
    /// Of one asker so many wait; `pulse` is what the value's work is seen by.
    pub fn new(value: T, waiting: usize, pulse: Pulse) -> Self {
        Self { line: Line::with_pulse(Width { at_once: 1, of_one: 1, waiting }, pulse), value: Mutex::new(value) }
    }

    /// Where turns are had.
    pub fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// The value, for who has the turn.
    pub fn held(&self, turn: &Turn) -> Option<MutexGuard<'_, T>> {
        // One that panicked left nothing worse behind than any other end of it.
        turn.line
            .as_ref()
            .is_some_and(|line| Arc::ptr_eq(line, &self.line))
            .then(|| self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a turn of the agent's own, before all others.
    pub fn lock(&self) -> Held<'_, T> {
        loop {
            // The agent's own claims are never too many.
            if let Ok(turn) = self.line.wait(Claim::own()) {
                return self.hold(turn);
            }
        }
    }

    /// A turn if nobody has or wants one.
    pub fn try_lock(&self) -> Option<Held<'_, T>> {
        self.line.try_turn().map(|turn| self.hold(turn))
    }

    fn hold(&self, turn: Turn) -> Held<'_, T> {
        Held { value: self.value.lock().unwrap_or_else(PoisonError::into_inner), _turn: turn }
    }
}

/// The value and the turn at it.
#[derive(Debug)]
pub struct Held<'a, T> {
    // First: it is free before the next one gets its turn.
    value: MutexGuard<'a, T>,
    _turn: Turn,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    fn width(at_once: usize, of_one: usize) -> Width {
        Width { at_once, of_one, waiting: 100 }
    }

    fn claim(name: &str, precedence: Precedence) -> Claim {
        Claim { asker: Asker::Principal(name.to_owned()), precedence }
    }

    /// Lets the first `n` turns end one after the other; whose they were.
    async fn order(line: &Arc<Line>, claims: &[(&str, Precedence)]) -> Vec<String> {
        let first = line.turn(claim("holder", Precedence::Others)).await.unwrap();
        let (done, mut ended) = tokio::sync::mpsc::unbounded_channel();
        for (name, precedence) in claims {
            let (line, name, done, before) = (Arc::clone(line), (*name).to_owned(), done.clone(), line.places().waiting.len());
            let (claim, waiting) = (claim(&name, *precedence), Arc::clone(&line));
            tokio::spawn(async move {
                let turn = line.turn(claim).await.unwrap();
                done.send(name).unwrap();
                drop(turn);
            });
            while waiting.places().waiting.len() == before {
                tokio::task::yield_now().await;
            }
        }
        drop((first, done));
        let mut order = Vec::new();
        while let Some(name) = ended.recv().await {
            order.push(name);
        }
        order
    }

    #[tokio::test]
    async fn askers_take_turns_however_many_wait_of_each() {
        let line = Line::new(width(1, 1));
        let greedy = [("greedy", Precedence::Others); 6];
        let claims =
            [&greedy[..], &[("honest", Precedence::Others), ("root", Precedence::Root), ("undo", Precedence::First)]].concat();
        let order = order(&line, &claims).await;
        assert_eq!(order[..4], ["undo", "root", "greedy", "honest"], "{order:?}");
        assert_eq!(order.len(), 9);
    }

    #[tokio::test]
    async fn one_asker_has_no_more_than_its_share_of_the_turns_and_of_the_line() {
        let line = Line::new(Width { waiting: 2, ..width(3, 2) });
        let turn = |name: &str| line.turn(claim(name, Precedence::Others));
        let held = [turn("greedy").await.unwrap(), turn("greedy").await.unwrap()];
        let mut third = Box::pin(turn("greedy"));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut third).await.is_err(), "two of three are its share");
        let _fourth = line.join(claim("greedy", Precedence::Others)).unwrap();
        assert_eq!(line.join(claim("greedy", Precedence::Others)).err(), Some(LineFull));
        turn("honest").await.unwrap();
        drop(held);
        third.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_stops_waiting_leaves_the_line_and_takes_no_turn() {
        let line = Line::new(width(1, 1));
        let held = line.turn(claim("a", Precedence::Others)).await.unwrap();
        let gone = tokio::spawn({
            let line = Arc::clone(&line);
            async move { line.turn(claim("b", Precedence::Others)).await }
        });
        while line.places().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        gone.abort();
        let _ = gone.await;
        assert!(line.places().waiting.is_empty());
        drop(held);
        assert!(line.try_turn().is_some());
        assert!(line.places().held.is_empty());
    }

    #[test]
    fn a_holder_without_a_sign_of_life_is_stuck_and_one_that_works_on_is_not() {
        let pulse = Pulse::default();
        let value = InTurns::new(0, 100, pulse.clone());
        let stuck = || value.line().stuck(Duration::from_millis(500));
        assert_eq!(stuck(), None);
        let held = value.lock();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            pulse.beat();
            assert_eq!(stuck(), None);
        }
        std::thread::sleep(Duration::from_millis(600));
        assert!(stuck().is_some_and(|why| why.starts_with("Agent")));
        drop(held);
        assert_eq!(stuck(), None);
        assert!(value.try_lock().is_some());
    }
}
