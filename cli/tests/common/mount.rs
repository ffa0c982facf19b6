//! A file system of its own size, to be full or read-only.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A tmpfs; it is gone when this is dropped.
pub struct Mount(pub PathBuf);

impl Mount {
    /// None where this test run may not mount, and why.
    pub fn new(path: &Path, options: &str) -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("there is no tmpfs on this system".into());
        }
        std::fs::create_dir_all(path).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output();
        let mount = mount.map_err(|error| format!("mount: {error}"))?;
        if mount.status.success() { Ok(Self(path.into())) } else { Err(String::from_utf8_lossy(&mount.stderr).into()) }
    }

    pub fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Says that a test was not run, and why.
pub fn skipped(test: &str, why: &str) {
    let why = why.trim();
    super::say(&format!("SKIPPED {test}: a tmpfs cannot be mounted here ({why}); run it as root on Linux"));
}
