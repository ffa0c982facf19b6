//! The data folder: who may have it, how it is left, and what is said where it cannot be used.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{
    Folder,
    hub::Hub,
    ledger::{self, Ledger},
    mount::{self, Mount},
    wire::Connection,
};

/// What a hub says that cannot have its folder; it must not start.
fn refused(data: &Path) -> String {
    match Hub::launch(data.parent().unwrap(), data, &[]) {
        Ok(_) => panic!("a hub started on {}", data.display()),
        Err((status, log)) => {
            assert_eq!(status.code(), Some(1), "{log}");
            assert!(!log.contains("panicked"), "{log}");
            log
        }
    }
}

fn assert_says(log: &str, parts: &[&str]) {
    for part in parts {
        assert!(log.contains(part), "says\n{log}\nand not {part:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hub_on_a_folder_is_refused_and_the_first_goes_on() {
    let folder = Folder::new("second");
    let data = folder.0.join("data");
    let first = Hub::start(&data, &[]);
    let mut connection = Connection::open(&first.address).await;
    let mut number = 0..10;
    assert_eq!(connection.publish(1, || number.next().map(ledger::event), || {}).await.len(), 10);
    let log = refused(&data);
    assert_says(&log, &[data.to_str().unwrap(), "in use by another hub", "PROM_DATA", "--data"]);
    let mut number = 10..20;
    let after = connection.publish(1, || number.next().map(ledger::event), || {}).await;
    assert!(after.iter().all(|publish| publish.answer.is_some()));
    // As soon as the first is gone, however that was, the next may have it.
    first.kill();
    drop(Hub::start(&data, &[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_told_to_end_leaves_a_closed_store() {
    let folder = Folder::new("sigterm");
    let data = folder.0.join("data");
    let mut ledger = Ledger::default();
    let mut first = 0_u64;
    for round in 0..3 {
        let hub = Hub::start(&data, &[]);
        assert!(!hub.log().contains("WARN"), "round {round}: {}", hub.log());
        // It is told among publishes that are under way.
        let mut number = first..first + 2000;
        first += 2000;
        let address = hub.address.clone();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        let publishing = tokio::spawn(async move {
            let mut connection = Connection::open(&address).await;
            let count = || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            connection.publish(256, || number.next().map(ledger::event), count).await
        });
        let enough = fastrand::usize(1..1500);
        while answered.load(Ordering::Relaxed) < enough && !publishing.is_finished() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let (status, took, log) = tokio::task::spawn_blocking(|| hub.terminate()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(took < Duration::from_secs(30), "took {took:?}");
        assert!(!log.contains("WARN") && log.contains("hub ended"), "{log}");
        let sent = publishing.await.unwrap();
        let hub = Hub::start(&data, &[]);
        assert!(!hub.log().contains("WARN"), "{}", hub.log());
        ledger.check(&hub, &sent);
        assert_eq!(hub.terminate().0.code(), Some(0));
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = Folder::new("unusable");
    let file = folder.0.join("file");
    std::fs::write(&file, "somebody's").unwrap();
    // A file stands there, or where its parent should be; root is stopped by that too.
    for data in [file.clone(), file.join("data")] {
        let log = Hub::launch(&folder.0, &data, &[]).err().expect("it cannot start").1;
        assert_says(&log, &[data.to_str().unwrap(), "cannot be used", "PROM_DATA", "--data"]);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"somebody's");
    // A file system nobody can write to.
    let data = Path::new("/proc/prom-data");
    if cfg!(target_os = "linux") {
        let log = Hub::launch(&folder.0, data, &[]).err().expect("it cannot start").1;
        assert_says(&log, &["/proc/prom-data", "cannot be used", "PROM_DATA", "--data"]);
    }
}

#[test]
fn a_read_only_folder_is_named() {
    let folder = Folder::new("read-only");
    let mount = match Mount::new(&folder.0.join("disk"), "size=160m") {
        Ok(mount) => mount,
        Err(why) => return mount::skipped("a_read_only_folder_is_named", &why),
    };
    let data = mount.0.join("data");
    // With a store in it, and without.
    drop(Hub::launch(&folder.0, &data, &[]).unwrap_or_else(|(_, log)| panic!("{log}")));
    std::fs::create_dir(mount.0.join("empty")).unwrap();
    mount.remount("ro");
    for data in [data, mount.0.join("empty"), mount.0.join("new")] {
        let (status, log) = Hub::launch(&folder.0, &data, &[]).err().expect("it cannot start");
        assert_eq!(status.code(), Some(1));
        assert_says(&log, &[data.to_str().unwrap(), "cannot be used", "Read-only file system", "PROM_DATA", "--data"]);
    }
}
