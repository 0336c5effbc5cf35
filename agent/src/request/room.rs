//! Which connections may be open: each counts from its accept to its close, for the user at its other end. A user over the share loses
//! a connection of their own, never one of another's; root's share is apart. Reads and writes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::config::Bounds;

/// Root on this host.
pub const ROOT: u32 = 0;

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its request has not come whole.
    Idle,
    /// Its request waits for its turn.
    Waiting,
    /// Its request is worked on.
    Working,
    /// It takes its reply, or has it and does not close.
    Replying,
}

/// All connections.
#[derive(Debug)]
pub struct Room {
    bounds: Bounds,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    /// By age.
    open: BTreeMap<u64, Open>,
    stopping: bool,
}

#[derive(Debug)]
struct Open {
    user: u32,
    stage: Stage,
    /// Dropping it is the word to close.
    _close: oneshot::Sender<()>,
}

/// One connection's place; given back when this is dropped.
#[derive(Debug)]
pub struct Entry {
    room: Arc<Room>,
    number: u64,
}

impl Room {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, connections: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection of this user; the receiver ends when it must close. None where no other can make room for it.
    pub fn enter(self: &Arc<Self>, user: u32) -> Option<(Entry, oneshot::Receiver<()>)> {
        let mut connections = self.lock();
        if connections.stopping || !connections.make_room(user, self.bounds) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let number = connections.next;
        connections.next += 1;
        connections.open.insert(number, Open { user, stage: Stage::Idle, _close: sender });
        Some((Entry { room: Arc::clone(self), number }, receiver))
    }

    /// Closes what is not worked on and is not being answered; nothing else begins from now on.
    pub fn stop(&self) {
        let mut connections = self.lock();
        connections.stopping = true;
        connections.open.retain(|_, open| matches!(open.stage, Stage::Working | Stage::Replying));
    }
}

impl Connections {
    /// Closes the connection that makes room for one more of this user; false where there is none that could.
    fn make_room(&mut self, user: u32, bounds: Bounds) -> bool {
        let mut held: BTreeMap<u32, usize> = BTreeMap::from([(user, 1)]);
        for open in self.open.values() {
            *held.entry(open.user).or_default() += 1;
        }
        if held.get(&user).is_some_and(|count| *count > bounds.of_one) {
            return self.close_oldest(|open| open.user == user);
        }
        let others: usize = held.iter().filter(|(user, _)| **user != ROOT).map(|(_, count)| count).sum();
        if user == ROOT || others <= bounds.all {
            return true;
        }
        held.remove(&ROOT);
        let most = held.values().copied().max();
        self.close_oldest(|open| open.user != ROOT && held.get(&open.user).copied() == most)
    }

    fn close_oldest(&mut self, of: impl Fn(&Open) -> bool) -> bool {
        // What is worked on is not given up for another connection.
        let fits = |open: &Open| open.stage != Stage::Working && of(open);
        let Some(oldest) = self.open.iter().find(|(_, open)| fits(open)).map(|(number, _)| *number) else { return false };
        self.open.remove(&oldest);
        true
    }
}

impl Entry {
    /// It goes on to this; false where it must close instead.
    pub fn goes_on(&self, stage: Stage) -> bool {
        let mut connections = self.room.lock();
        if connections.stopping && stage != Stage::Replying {
            return false;
        }
        connections.open.get_mut(&self.number).map(|open| open.stage = stage).is_some()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.room.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    type Connection = (Entry, oneshot::Receiver<()>);

    fn is_open((_, close): &mut Connection) -> bool {
        matches!(close.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn over_the_share_the_oldest_of_the_same_user_makes_room_and_never_one_of_another() {
        let room = Room::new(Bounds { all: 8, of_one: 4 });
        let mut others: Vec<_> = [1000, 1001, ROOT, ROOT].map(|user| room.enter(user).unwrap()).into();
        let mut greedy: Vec<_> = (0..100).map(|_| room.enter(2000).unwrap()).collect();
        assert!(others.iter_mut().all(is_open));
        let open = greedy.iter_mut().map(is_open).collect::<Vec<_>>();
        assert_eq!(open, [vec![false; 96], vec![true; 4]].concat());
        // Also when all together are too many: the one with the most gives, to who has less.
        let mut more: Vec<_> = (1002..1006).map(|user| room.enter(user).unwrap()).collect();
        assert!(others.iter_mut().chain(&mut more).all(is_open));
        assert_eq!(greedy.iter_mut().filter_map(|one| is_open(one).then_some(())).count(), 2);
    }

    #[test]
    fn what_is_worked_on_is_not_given_up_and_counts_until_it_is_closed() {
        let room = Room::new(Bounds { all: 8, of_one: 2 });
        let mut both = [1000, 1000].map(|user| room.enter(user).unwrap());
        assert!(both.iter().all(|(entry, _)| entry.goes_on(Stage::Working)));
        assert!(room.enter(1000).is_none());
        assert!(both.iter_mut().all(is_open));
        // One that has its reply and does not close makes room.
        assert!(both[0].0.goes_on(Stage::Replying));
        let third = room.enter(1000).unwrap();
        assert!(!is_open(&mut both[0]) && is_open(&mut both[1]));
        assert!(!both[0].0.goes_on(Stage::Working));
        drop((both, third));
        assert!(room.lock().open.is_empty());
    }

    #[test]
    fn a_stop_closes_what_waits_and_lets_the_rest_come_to_its_end() {
        let room = Room::new(Bounds { all: 8, of_one: 8 });
        let mut connections: Vec<_> = (0..3).map(|_| room.enter(1000).unwrap()).collect();
        assert!(connections[0].0.goes_on(Stage::Waiting) && connections[1].0.goes_on(Stage::Working));
        room.stop();
        assert_eq!(connections.iter_mut().map(is_open).collect::<Vec<_>>(), [false, true, false]);
        assert!(connections[1].0.goes_on(Stage::Replying) && !connections[0].0.goes_on(Stage::Working));
        assert!(room.enter(ROOT).is_none());
    }
}
