//! The store contract on this backend, on a real folder and on the simulated disk.

use std::{io, path::Path};

use super::{disk::DiskFile, sim::SimDisk, *};

/// A folder that is gone when the store is.
#[derive(Debug)]
struct Temporary(Folder, tempfile::TempDir);

impl Temporary {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(Folder::take(dir.path()).unwrap(), dir)
    }
}

impl Disk for Temporary {
    fn path(&self) -> &Path {
        self.1.path()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(name)
    }
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(name, size)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// Small, so that a test has many segments, index runs and little in memory.
fn small(max_bytes: usize) -> Options {
    Options {
        max_bytes: Some(max_bytes as u64),
        cache_bytes: 16 * 1024,
        segment_bytes: 64 * 1024,
        flush_records: 100,
        ..Options::default()
    }
}

fn open_small(disk: Arc<dyn Disk>, max_bytes: usize) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open_on(disk, small(max_bytes)).unwrap())
}

mod on_a_folder {
    use super::*;

    crate::store_conformance!(|max_bytes| async move { open_small(Arc::new(Temporary::new()), max_bytes) });
}

mod simulated {
    use super::*;

    crate::store_conformance!(|max_bytes| async move { open_small(Arc::new(SimDisk::default()), max_bytes) });
}
