//! The files of a data folder, behind a trait: the real ones, and in tests ones that lose what was not synced.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder of files. Names are plain file names.
pub(crate) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// The folder's path, for messages.
    fn path(&self) -> &Path;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a file of `size` zero bytes whose space is reserved; one that is there is replaced. Its name is durable
    /// after [`Disk::sync`].
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Replaces `to` by `from`; durable after [`Disk::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; durable after [`Disk::sync`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    fn sync(&self) -> io::Result<()>;
}

/// One open file. Reads and writes say at which byte, so that any number of threads may share it.
pub(crate) trait DiskFile: Send + Sync + fmt::Debug + 'static {
    /// Fills `buf` from `at`, as far as the file goes; returns how many bytes that were.
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `buf` at `at`.
    fn write(&self, buf: &[u8], at: u64) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;

    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Cuts it or fills it up with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes everything from `at` to `size` zeros whose space is reserved.
    fn zero_from(&self, at: u64, size: u64) -> io::Result<()>;
}

/// Reads exactly `buf` from `at`.
pub(crate) fn read_exact(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<()> {
    if file.read(buf, at)? == buf.len() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// Writes a whole file under a temporary name, makes it durable, and renames it: it is there whole or not at all.
pub(crate) fn write_whole(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary, bytes.len() as u64)?;
    file.write(bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    disk.sync()?;
    Ok(file)
}

/// A folder of the machine's file system, held by a lock for as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: fs::File,
}

/// The file that is locked while a store is open.
pub(crate) const LOCK: &str = "lock";

/// Why a folder could not be taken.
#[derive(Debug)]
pub(crate) enum TakeError {
    /// Another process has it.
    Taken,
    /// It cannot be made or opened.
    Io(io::Error),
}

impl Folder {
    /// Takes a folder, which is made if it is not there.
    pub(crate) fn take(path: &Path) -> Result<Self, TakeError> {
        // For this user alone: events may be read only with a token.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(TakeError::Io)?;
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let lock = options.open(path.join(LOCK)).map_err(TakeError::Io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(TakeError::Taken),
            Err(fs::TryLockError::Error(error)) => Err(TakeError::Io(error)),
        }
    }
}

impl Disk for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // What is not UTF-8 is not ours.
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(fs::OpenOptions::new().read(true).write(true).open(self.path.join(name))?)))
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let file = RealFile(file);
        if let Err(error) = file.reserve(0, size) {
            // Give back what was reserved: the disk is full.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl RealFile {
    /// Reserves space, so that a full disk is met here and not by a commit.
    fn reserve(&self, from: u64, size: u64) -> io::Result<()> {
        if size <= from {
            return Ok(());
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), from, size - from) {
            Ok(()) => return Ok(()),
            // Some file systems cannot reserve space. There, a commit may meet a full disk.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        self.0.set_len(size)
    }
}

impl DiskFile for RealFile {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(buf, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn zero_from(&self, at: u64, size: u64) -> io::Result<()> {
        self.0.set_len(at)?;
        self.reserve(at, size)
    }
}
