//! The life of a lease on a real database, and its time by two clocks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use super::*;
use crate::store::ChangeStage;
use crate::store::changes::tests::{bring, change, moment};
use crate::store::tests::{at, fresh};
use sshfix_policy::subsystem::fail2ban;

fn items() -> Vec<Item> {
    vec![Item::Ignore { jail: "sshd".to_owned(), entry: "203.0.113.7".to_owned() }]
}

fn lease(id: &str, seconds: u64) -> NewLease {
    NewLease { id: id.to_owned(), summary: "s".to_owned(), items: items(), time: Duration::from_secs(seconds) }
}

fn made(store: &Store, n: &str, seconds: u64) {
    store.change_begin(&NewChange { lease: Some(lease(n, seconds)), ..change(&format!("c{n}")) }).unwrap();
    bring(store, &format!("c{n}"), ChangeStage::Confirmed);
}

#[test]
fn a_lease_is_in_force_only_once_its_change_is_confirmed() {
    for stage in ChangeStage::ALL {
        let (_dir, store) = fresh();
        store.change_begin(&NewChange { lease: Some(lease("1", 300)), ..change("c1") }).unwrap();
        bring(&store, "c1", stage);
        let may_be_in_place = matches!(stage, ChangeStage::Confirmed | ChangeStage::Stuck | ChangeStage::Abandoned);
        assert_eq!(store.leases().unwrap().len(), usize::from(may_be_in_place), "{stage}");
    }
}

#[test]
fn a_lease_ends_once_and_survives_a_restart_until_then() {
    let (_dir, store) = fresh();
    assert_eq!(store.next_lease().unwrap(), "1");
    made(&store, "1", 400);
    made(&store, "2", 300);
    let path = store.path().to_owned();
    drop(store);
    let store = Store::open(&path).unwrap();
    let leases = store.leases().unwrap();
    assert_eq!(leases.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), ["2", "1"], "soonest end first");
    assert_eq!((&leases[0].items, leases[0].ends_at, leases[0].created_at), (&items(), at(400), at(100)));
    assert_eq!((leases[0].change.as_str(), leases[0].principal.as_str()), ("c2", "alice"));
    assert!(leases[0].in_place && matches!(leases[0].operation, Intent::Unban { .. }));
    store.lease_end("2", at(401), "left").unwrap();
    assert!(matches!(store.lease_end("2", at(402), ""), Err(StoreError::Missing { .. })));
    assert_eq!(store.leases().unwrap().len(), 1);
    assert_eq!(store.next_lease().unwrap(), "3", "a number is not used again");
}

#[test]
fn within_a_boot_no_wall_clock_makes_a_lease_longer_or_shorter() {
    let (_dir, store) = fresh();
    made(&store, "1", 300);
    let lease = &store.leases().unwrap()[0];
    for wall in [100, 5, 1_000_000] {
        let now = |since_boot| Moment { since_boot: Duration::from_secs(since_boot), ..moment(wall) };
        assert_eq!(lease.left(&now(100)), Duration::from_mins(5));
        assert_eq!(lease.left(&now(399)), Duration::from_secs(1));
        assert!(lease.left(&now(400)).is_zero() && lease.left(&now(4000)).is_zero());
        assert_eq!(lease.ends(&now(399)), at(wall + 1), "shown by the clock of now");
    }
}

#[test]
fn after_a_reboot_the_wall_clock_counts_and_then_the_new_boot_s_own() {
    let (_dir, store) = fresh();
    made(&store, "1", 300);
    let next = |wall, since_boot| Moment { boot: Boot::number(2), since_boot: Duration::from_secs(since_boot), ..moment(wall) };
    let lease = &store.leases().unwrap()[0];
    assert_eq!(lease.left(&next(250, 7)), Duration::from_secs(150));
    assert!(lease.left(&next(400, 7)).is_zero(), "over while the host was off");
    assert_eq!(
        lease.left(&next(-1_000_000, 7)),
        Duration::from_mins(5),
        "a clock that lost its battery: never longer than asked"
    );

    let now = next(250, 7);
    store.lease_take_up("1", &now, lease.left(&now)).unwrap();
    let lease = &store.leases().unwrap()[0];
    assert!(!lease.in_place);
    assert_eq!(lease.left(&next(9_999_999, 8)), Duration::from_secs(149));
    assert!(lease.left(&next(0, 157)).is_zero());
    store.lease_in_place("1").unwrap();
    assert!(store.leases().unwrap()[0].in_place);
}

#[test]
fn a_lease_of_an_older_schema_still_ends() {
    let (_dir, store) = fresh();
    made(&store, "1", 300);
    // As schema 1 wrote it: the step that takes it back, and no boot.
    let (jail, entry) = ("sshd".to_owned(), "203.0.113.7".to_owned());
    let step = Step::Fail2ban(fail2ban::Step::Ignore { jail, entry, before: true, after: false });
    store
        .connection()
        .execute(
            "UPDATE leases SET items = '[]', boot = '', boot_from = 0, boot_left = 0, steps = ?1",
            [to_json(&[step]).unwrap()],
        )
        .unwrap();
    let lease = &store.leases().unwrap()[0];
    assert_eq!(lease.items, items());
    assert_eq!(lease.left(&moment(399)), Duration::from_secs(1));
    assert!(lease.left(&moment(400)).is_zero());
}
