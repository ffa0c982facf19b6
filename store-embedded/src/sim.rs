//! A disk for tests: in memory, and when it crashes it loses and tears what was not synced.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::Path,
    sync::{Arc, Mutex},
};

use crate::{
    disk::{Disk, DiskFile},
    shared::lock,
};

/// Bytes a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A folder in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<String, Arc<Mutex<Data>>>,
    /// Names as they are on disk, and what has happened to them since.
    durable_names: BTreeMap<String, Arc<Mutex<Data>>>,
    pending: Vec<NameChange>,
    /// After this many changes everything fails; none: never.
    crash_in: Option<u64>,
    changes: u64,
    reads: u64,
    /// Syncs of files fail while this is set, and those of names.
    syncs_fail: bool,
    writes_fail: Option<ErrorKind>,
    name_syncs_fail: bool,
    /// Bytes all files may have together.
    space: Option<u64>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Put(String, Arc<Mutex<Data>>),
    Remove(String),
}

#[derive(Debug, Default)]
struct Data {
    visible: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, written) => {
                let end = *at as usize + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at as usize..end].copy_from_slice(written);
            }
            Self::Length(length) => bytes.resize(*length as usize, 0),
        }
    }

    /// As much of it as reaches the disk by chance.
    fn apply_torn(&self, bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
        match (self, random.u8(0..4)) {
            (_, 0) => {}
            (_, 1) | (Self::Length(_), _) => self.apply(bytes),
            (Self::Write(at, written), _) => {
                // Sectors of the file, each by itself.
                let mut from = 0;
                while from < written.len() {
                    let to = ((*at as usize + from) / SECTOR + 1) * SECTOR - *at as usize;
                    let to = to.min(written.len());
                    if random.bool() {
                        Self::Write(at + from as u64, written[from..to].to_vec()).apply(bytes);
                    }
                    from = to;
                }
            }
        }
    }
}

fn crashed() -> io::Error {
    io::Error::other("the machine is down")
}

impl Inner {
    /// Counts a change; fails once the disk has crashed.
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match self.crash_in {
            Some(left) if self.changes > left => Err(crashed()),
            _ => Ok(()),
        }
    }

    fn has_space(&self, more: u64) -> io::Result<()> {
        let used: u64 = self.files.values().map(|data| lock(data).visible.len() as u64).sum();
        match self.space {
            Some(space) if used + more > space => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl SimDisk {
    /// Everything fails after this many more changes.
    pub(crate) fn crash_in(&self, changes: u64) {
        let mut inner = lock(&self.0);
        inner.crash_in = Some(inner.changes + changes);
    }

    /// Reads so far.
    pub(crate) fn reads(&self) -> u64 {
        lock(&self.0).reads
    }

    pub(crate) fn fail_syncs(&self, fail: bool) {
        lock(&self.0).syncs_fail = fail;
    }

    pub(crate) fn fail_writes(&self, fail: Option<ErrorKind>) {
        lock(&self.0).writes_fail = fail;
    }

    pub(crate) fn fail_name_syncs(&self, fail: bool) {
        lock(&self.0).name_syncs_fail = fail;
    }

    pub(crate) fn limit_space(&self, space: Option<u64>) {
        lock(&self.0).space = space;
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> u64 {
        lock(&self.0).files.values().map(|data| lock(data).visible.len() as u64).sum()
    }

    /// Only the process ended: what it wrote is there, and on disk some time or not.
    pub(crate) fn go_on(&self) {
        lock(&self.0).crash_in = None;
    }

    /// What is found when the machine is up again.
    pub(crate) fn restart(&self, random: &mut fastrand::Rng) -> Self {
        let inner = lock(&self.0);
        let mut names = inner.durable_names.clone();
        // Names change in their order.
        for change in &inner.pending[..random.usize(0..=inner.pending.len())] {
            match change {
                NameChange::Put(name, data) => drop(names.insert(name.clone(), Arc::clone(data))),
                NameChange::Remove(name) => drop(names.remove(name)),
            }
        }
        let files = names.into_iter().map(|(name, data)| {
            let data = lock(&data);
            let mut bytes = data.durable.clone();
            for change in &data.pending {
                change.apply_torn(&mut bytes, random);
            }
            (name, Arc::new(Mutex::new(Data { visible: bytes.clone(), durable: bytes, pending: Vec::new() })))
        });
        let files: BTreeMap<_, _> = files.collect();
        Self(Arc::new(Mutex::new(Inner { durable_names: files.clone(), files, ..Inner::default() })))
    }

    /// The files, for a test that damages them.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = lock(&self.0);
        inner.files.iter().map(|(name, data)| (name.clone(), lock(data).visible.clone())).collect()
    }

    pub(crate) fn with(contents: &BTreeMap<String, Vec<u8>>) -> Self {
        let file = |(name, bytes): (&String, &Vec<u8>)| {
            (
                name.clone(),
                Arc::new(Mutex::new(Data { visible: bytes.clone(), durable: bytes.clone(), pending: Vec::new() })),
            )
        };
        let files: BTreeMap<_, _> = contents.iter().map(file).collect();
        Self(Arc::new(Mutex::new(Inner { durable_names: files.clone(), files, ..Inner::default() })))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    data: Arc<Mutex<Data>>,
}

impl SimFile {
    fn change(&self, change: Change) -> io::Result<()> {
        lock(&self.disk.0).change()?;
        let mut data = lock(&self.data);
        change.apply(&mut data.visible);
        data.pending.push(change);
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        lock(&self.disk.0).reads += 1;
        let data = lock(&self.data);
        let rest = data.visible.get(at as usize..).unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write(&self, buf: &[u8], at: u64) -> io::Result<()> {
        {
            let mut inner = lock(&self.disk.0);
            let beyond = (at + buf.len() as u64).saturating_sub(lock(&self.data).visible.len() as u64);
            inner.has_space(beyond)?;
            if let Some(kind) = inner.writes_fail {
                return Err(kind.into());
            }
            if let Err(error) = inner.change() {
                if inner.crash_in.is_some_and(|at| inner.changes == at + 1) {
                    // The write the machine goes down in may be on its way.
                    let mut data = lock(&self.data);
                    let change = Change::Write(at, buf.to_vec());
                    change.apply(&mut data.visible);
                    data.pending.push(change);
                }
                return Err(error);
            }
        }
        let mut data = lock(&self.data);
        let change = Change::Write(at, buf.to_vec());
        change.apply(&mut data.visible);
        data.pending.push(change);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = lock(&self.disk.0);
        inner.change()?;
        let mut data = lock(&self.data);
        if inner.syncs_fail {
            // What could not be written is forgotten, and the next sync says all is well.
            data.pending.clear();
            return Err(io::Error::other("the disk has a bad sector"));
        }
        let Data { durable, pending, .. } = &mut *data;
        for change in pending.drain(..) {
            change.apply(durable);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.data).visible.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len))
    }

    fn zero_from(&self, at: u64, size: u64) -> io::Result<()> {
        self.change(Change::Length(at))?;
        self.change(Change::Length(size))
    }
}

impl Disk for SimDisk {
    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let data = lock(&self.0).files.get(name).map(Arc::clone).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), data }))
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = lock(&self.0);
        inner.has_space(size)?;
        inner.change()?;
        let bytes = vec![0; size as usize];
        let data = Data { visible: bytes, durable: Vec::new(), pending: vec![Change::Length(size)] };
        let data = Arc::new(Mutex::new(data));
        inner.files.insert(name.into(), Arc::clone(&data));
        inner.pending.push(NameChange::Put(name.into(), Arc::clone(&data)));
        Ok(Arc::new(SimFile { disk: self.clone(), data }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = lock(&self.0);
        inner.change()?;
        let data = inner.files.remove(from).ok_or(ErrorKind::NotFound)?;
        inner.files.insert(to.into(), Arc::clone(&data));
        // Both at once on disk too; that the old name stays behind is harmless.
        inner.pending.push(NameChange::Put(to.into(), data));
        inner.pending.push(NameChange::Remove(from.into()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = lock(&self.0);
        inner.change()?;
        inner.files.remove(name).ok_or(ErrorKind::NotFound)?;
        inner.pending.push(NameChange::Remove(name.into()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = lock(&self.0);
        inner.change()?;
        if inner.name_syncs_fail {
            return Err(io::Error::other("too many open files"));
        }
        inner.durable_names = inner.files.clone();
        inner.pending.clear();
        Ok(())
    }
}
