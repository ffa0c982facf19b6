//! Remembers what a step read when it last succeeded, so that it runs again only when that has changed.
//!
//! Cargo does this for itself; stamps are for the steps it knows nothing of. A stamp is a file with a hash of names
//! and contents, never of times: a fresh checkout of the same files, or going back to a branch, is not a change.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Folders and files that are no sources, wherever they stand.
const NOT_SOURCES: [&str; 6] = ["node_modules", "dist", "target", "test-results", ".vite", ".DS_Store"];

/// What a step reads, gathered before it runs.
pub(crate) struct Inputs {
    hasher: DefaultHasher,
}

impl Inputs {
    /// `root` is part of the hash: checkouts that share a target folder do not take each other's work for their own.
    pub(crate) fn new(root: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        root.hash(&mut hasher);
        Self { hasher }
    }

    /// A setting, such as a tool's arguments.
    pub(crate) fn value(mut self, value: &str) -> Self {
        value.hash(&mut self.hasher);
        self
    }

    /// A file; that it is absent counts as well.
    pub(crate) fn file(mut self, path: &Path) -> Result<Self> {
        path.hash(&mut self.hasher);
        match fs::read(path) {
            Ok(bytes) => bytes.hash(&mut self.hasher),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "absent".hash(&mut self.hasher),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        Ok(self)
    }

    /// Every source in a folder and those below it.
    pub(crate) fn folder(mut self, path: &Path) -> Result<Self> {
        let mut entries = fs::read_dir(path)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("cannot list {}", path.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let not_source = NOT_SOURCES.iter().any(|other| name == *other)
                || Path::new(&name).extension().is_some_and(|extension| extension == "tsbuildinfo");
            if not_source {
                continue;
            }
            let kind = entry.file_type().with_context(|| format!("cannot read {}", entry.path().display()))?;
            if kind.is_dir() {
                self = self.folder(&entry.path())?;
            } else if kind.is_file() {
                self = self.file(&entry.path())?;
            }
        }
        Ok(self)
    }
}

/// A step's memory of its last success.
pub(crate) struct Stamp {
    path: PathBuf,
    hash: String,
}

impl Stamp {
    pub(crate) fn new(folder: &Path, step: &str, inputs: &Inputs) -> Self {
        Self { path: folder.join("stamps").join(step), hash: format!("{:016x}", inputs.hasher.finish()) }
    }

    /// Whether the step succeeded with these very inputs and what it made is still there.
    pub(crate) fn is_fresh(&self, outputs: &[PathBuf]) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|stored| stored == self.hash)
            && outputs.iter().all(|output| output.exists())
    }

    /// Must come before the step changes anything: one that fails half-way leaves no stamp.
    pub(crate) fn clear(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The step succeeded. Stores the hash of what it found when it began: a change made meanwhile is seen next time.
    pub(crate) fn save(&self) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&self.path, &self.hash).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, gone with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("xtask-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("src/sub")).unwrap();
            fs::write(path.join("src/a.ts"), "a").unwrap();
            fs::write(path.join("src/sub/b.ts"), "b").unwrap();
            Self(path)
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn stamp(&self) -> Stamp {
            let inputs = Inputs::new(&self.0).value("-Oz").folder(&self.0.join("src")).unwrap();
            Stamp::new(&self.0, "step", &inputs)
        }

        fn is_fresh(&self) -> bool {
            self.stamp().is_fresh(&[])
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_step_that_never_succeeded_is_not_fresh() {
        assert!(!Folder::new("never").is_fresh());
    }

    #[test]
    fn stays_fresh_while_contents_stay() {
        let folder = Folder::new("stays");
        folder.stamp().save().unwrap();
        folder.write("src/a.ts", "a"); // a new time, the same contents
        assert!(folder.is_fresh());
    }

    #[test]
    fn sees_files_changed_added_renamed_and_removed() {
        let folder = Folder::new("changes");
        folder.stamp().save().unwrap();

        folder.write("src/sub/b.ts", "changed");
        assert!(!folder.is_fresh());
        folder.write("src/sub/b.ts", "b");
        assert!(folder.is_fresh());

        folder.write("src/c.ts", "");
        assert!(!folder.is_fresh());
        fs::remove_file(folder.0.join("src/c.ts")).unwrap();
        assert!(folder.is_fresh());

        fs::rename(folder.0.join("src/a.ts"), folder.0.join("src/d.ts")).unwrap();
        assert!(!folder.is_fresh());
        fs::remove_file(folder.0.join("src/d.ts")).unwrap();
        assert!(!folder.is_fresh());
    }

    #[test]
    fn sees_a_changed_setting() {
        let folder = Folder::new("setting");
        folder.stamp().save().unwrap();
        let inputs = Inputs::new(&folder.0).value("-O2").folder(&folder.0.join("src")).unwrap();
        assert!(!Stamp::new(&folder.0, "step", &inputs).is_fresh(&[]));
    }

    #[test]
    fn text_moved_from_one_file_to_the_next_is_a_change() {
        let folder = Folder::new("moved");
        folder.write("src/x", "12");
        folder.write("src/y", "3");
        folder.stamp().save().unwrap();
        folder.write("src/x", "1");
        folder.write("src/y", "23");
        assert!(!folder.is_fresh());
    }

    #[test]
    fn an_absent_file_differs_from_an_empty_one() {
        let folder = Folder::new("absent");
        let path = folder.0.join("package-lock.json");
        let hash = |path: &Path| Inputs::new(&folder.0).file(path).unwrap().hasher.finish();
        let absent = hash(&path);
        fs::write(&path, "").unwrap();
        assert_ne!(absent, hash(&path));
    }

    #[test]
    fn installed_packages_and_built_files_are_no_sources() {
        let folder = Folder::new("built");
        folder.stamp().save().unwrap();
        folder.write("src/node_modules/left-pad/index.js", "");
        folder.write("src/dist/index.html", "");
        folder.write("src/tsconfig.tsbuildinfo", "");
        assert!(folder.is_fresh());
    }

    #[test]
    fn a_missing_output_makes_it_stale() {
        let folder = Folder::new("output");
        let output = folder.0.join("out.js");
        folder.stamp().save().unwrap();
        assert!(!folder.stamp().is_fresh(std::slice::from_ref(&output)));
        fs::write(&output, "").unwrap();
        assert!(folder.stamp().is_fresh(&[output]));
    }

    #[test]
    fn a_step_that_fails_after_clearing_runs_again() {
        let folder = Folder::new("fails");
        folder.stamp().save().unwrap();
        folder.stamp().clear().unwrap();
        assert!(!folder.is_fresh());
        folder.stamp().clear().unwrap(); // twice is no error
    }
}
