//! Kills a set's nodes when this process cannot do it because it was killed itself.
//!
//! The guard is a shell that reads from a pipe. This process holds the only other end, so the pipe is closed when this
//! process ends, in whatever way. Then the guard kills the nodes it was told of with SIGKILL, which also ends stopped
//! ones, and removes the folder if that is a temporary one. The guard has a process group of its own and ignores the
//! signals of a terminal, as do the nodes: Ctrl+C goes to this process only, and this process ends the nodes.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

/// A node that is being killed may still write to the folder, so removing it is tried up to 100 times.
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
pub(crate) struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard. If there is a `folder`, the guard removes it in the end.
    pub(crate) fn start(folder: Option<&Path>) -> io::Result<Self> {
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

    /// From now on the guard kills this process when we end.
    pub(crate) fn watch(&mut self, pid: u32) -> io::Result<()> {
        self.tell("watch", pid)
    }

    /// The guard must no longer kill this process. Call it before the process is waited for: afterwards the system may
    /// give its number to another one.
    pub(crate) fn forget(&mut self, pid: u32) -> io::Result<()> {
        self.tell("forget", pid)
    }

    /// The guard reads what is in the pipe even if this process ends right after.
    fn tell(&mut self, verb: &str, pid: u32) -> io::Result<()> {
        let pipe = self.pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(format!("{verb} {pid}\n").as_bytes())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        // The guard ends when the folder is gone. If it cannot be waited for, nothing more can be done here.
        let _ = self.child.wait();
    }
}
