//! Ends a set's nodes when this process cannot, because it was killed.
//!
//! The guard is a shell whose input is a pipe from this process. That nobody can write to the pipe any more is the sign
//! that this process is over, however it came about; then it kills the nodes it knows of, which also ends stopped
//! ones, and removes the folder if it is a temporary one. It is in a process group of its own and deaf to signals of the
//! terminal, as are the nodes: Ctrl+C is for this process, which ends them in its own time.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

/// Removing is tried again while something is still written there by a node that is dying.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
nodes=
while read -r verb pid; do
  case $verb in
    watch) nodes="$nodes $pid" ;;
    forget)
      rest=
      for node in $nodes; do [ "$node" = "$pid" ] || rest="$rest $node"; done
      nodes=$rest ;;
  esac
done
[ -z "$nodes" ] || kill -KILL $nodes 2>/dev/null
[ -n "$1" ] || exit 0
tries=100
until rm -rf "$1" || [ "$tries" = 0 ]; do
  tries=$((tries - 1))
  sleep 0.1 || sleep 1
done
"#;

#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts one that also removes `folder` in the end.
    pub(super) fn start(folder: Option<&Path>) -> io::Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "mongod-guard"])
            .arg(folder.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// From now on this process ends with us.
    pub(super) fn watch(&mut self, pid: u32) -> io::Result<()> {
        self.tell("watch", pid)
    }

    /// To be told before this process is waited for: afterwards its number may be another's.
    pub(super) fn forget(&mut self, pid: u32) -> io::Result<()> {
        self.tell("forget", pid)
    }

    /// What is in the pipe is read even if this process ends at once.
    fn tell(&mut self, verb: &str, pid: u32) -> io::Result<()> {
        let pipe = self.pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(format!("{verb} {pid}\n").as_bytes())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        // Until the folder is gone. That it cannot be waited for leaves nothing to do here.
        let _ = self.child.wait();
    }
}
