//! A store that has no room says so.

use super::*;

#[test]
fn that_the_disk_is_full_is_said_until_there_is_space_for_what_was_refused() {
    let mut store = Quiet::open(SimDisk::default(), with_rules(Vec::new()));
    let look = |store: &Quiet| {
        store.log.appender().look_for_room(&store.log.shared);
        store.log.shared.full.why()
    };
    store.disk.limit_space(Some(300_000));
    while store.publish("t", None, None, 5_000).is_ok() {}
    let why = look(&store).expect("it is full");
    assert!(why.contains("the log cannot grow") && why.contains("publishing goes on when there is space"), "{why}");
    // Positions are taken, and do not make it less full.
    store.settle("t", 1);
    assert!(look(&store).is_some());
    store.disk.limit_space(None);
    assert_eq!(look(&store), None, "found out without an event that is tried");
    store.publish("t", None, None, 5_000).unwrap();
    assert_eq!(look(&store), None);
}

#[test]
fn a_disk_that_has_no_space_for_what_was_reserved_is_full_until_a_commit_is_written() {
    let mut store = Quiet::open(SimDisk::default(), with_rules(Vec::new()));
    store.publish("t", None, None, 100).unwrap();
    store.disk.fail_writes(Some(io::ErrorKind::StorageFull));
    store.publish("t", None, None, 100).unwrap_err();
    store.log.appender().look_for_room(&store.log.shared);
    let why = store.log.shared.full.why().expect("it is full");
    assert!(why.contains("the log cannot be written"), "{why}");
    store.disk.fail_writes(Some(io::ErrorKind::PermissionDenied));
    store.publish("t", None, None, 100).unwrap_err();
    store.disk.fail_writes(None);
    store.settle("t", 1);
    assert!(store.log.shared.full.why().is_some(), "a position takes less than an event");
    store.publish("t", None, None, 100).unwrap();
    assert_eq!(store.log.shared.full.why(), None);
}
