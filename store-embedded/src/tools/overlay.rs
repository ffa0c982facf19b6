//! A disk of which nothing is changed: what is written is kept in memory, in front of what is there.

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

/// Bytes that are kept together.
const PAGE: u64 = 4096;

/// A disk that keeps in memory what is written to it.
#[derive(Debug)]
pub(super) struct Overlay {
    below: Arc<dyn Disk>,
    /// Files that were opened or made; none: removed.
    files: Mutex<BTreeMap<String, Option<Arc<OverlayFile>>>>,
}

impl Overlay {
    pub(super) fn new(below: Arc<dyn Disk>) -> Self {
        Self { below, files: Mutex::default() }
    }
}

#[derive(Debug)]
struct OverlayFile {
    below: Option<Arc<dyn DiskFile>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By number: what was written.
    pages: BTreeMap<u64, Box<[u8]>>,
    length: u64,
    /// From this byte on the file below counts for nothing: it was cut there.
    below_to: u64,
}

impl OverlayFile {
    /// The page with that number as it is now.
    fn page(&self, inner: &Inner, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(page) = inner.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize].into_boxed_slice();
        let at = number * PAGE;
        if let Some(below) = self.below.as_ref().filter(|_| at < inner.below_to) {
            let wanted = PAGE.min(inner.below_to - at) as usize;
            below.read(&mut page[..wanted], at)?;
        }
        Ok(page)
    }
}

impl DiskFile for OverlayFile {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let inner = lock(&self.inner);
        let length = buf.len().min(usize::try_from(inner.length.saturating_sub(at)).unwrap_or(usize::MAX));
        let buf = &mut buf[..length];
        buf.fill(0);
        if let Some(below) = self.below.as_ref().filter(|_| at < inner.below_to) {
            let wanted = (length as u64).min(inner.below_to - at) as usize;
            below.read(&mut buf[..wanted], at)?;
        }
        let end = at + length as u64;
        for (number, page) in inner.pages.range(at / PAGE..end.div_ceil(PAGE)) {
            let page_at = number * PAGE;
            let (from, to) = (at.max(page_at), end.min(page_at + PAGE));
            let part = &page[(from - page_at) as usize..(to - page_at) as usize];
            buf[(from - at) as usize..(to - at) as usize].copy_from_slice(part);
        }
        Ok(length)
    }

    fn write(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        let end = at + buf.len() as u64;
        for number in at / PAGE..end.div_ceil(PAGE) {
            let mut page = self.page(&inner, number)?;
            let page_at = number * PAGE;
            let (from, to) = (at.max(page_at), end.min(page_at + PAGE));
            page[(from - page_at) as usize..(to - page_at) as usize]
                .copy_from_slice(&buf[(from - at) as usize..(to - at) as usize]);
            inner.pages.insert(number, page);
        }
        inner.length = inner.length.max(end);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.inner).length)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.below_to = inner.below_to.min(len);
        inner.pages.retain(|number, _| number * PAGE < len);
        if let Some(mut last) = inner.pages.last_entry().filter(|last| last.key() * PAGE + PAGE > len) {
            let keep = (len - last.key() * PAGE) as usize;
            last.get_mut()[keep..].fill(0);
        }
        inner.length = len;
        Ok(())
    }

    fn zero_from(&self, at: u64, size: u64) -> io::Result<()> {
        self.set_len(at)?;
        self.set_len(size.max(at))
    }
}

impl Disk for Overlay {
    fn path(&self) -> &Path {
        self.below.path()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.below.list()?;
        let files = lock(&self.files);
        names.retain(|name| !files.contains_key(name));
        names.extend(files.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| name.clone()));
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.files);
        if let Some(file) = files.get(name) {
            return Ok(Arc::clone(file.as_ref().ok_or(ErrorKind::NotFound)?) as Arc<dyn DiskFile>);
        }
        let below = self.below.open(name)?;
        let length = below.len()?;
        let inner = Mutex::new(Inner { pages: BTreeMap::new(), length, below_to: length });
        let file = Arc::new(OverlayFile { below: Some(below), inner });
        files.insert(name.into(), Some(Arc::clone(&file)));
        Ok(file)
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let inner = Mutex::new(Inner { length: size, ..Inner::default() });
        let file = Arc::new(OverlayFile { below: None, inner });
        lock(&self.files).insert(name.into(), Some(Arc::clone(&file)));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.open(from)?;
        let mut files = lock(&self.files);
        let file = files.insert(from.into(), None).flatten();
        files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.open(name)?;
        lock(&self.files).insert(name.into(), None);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
