//! When a commit counts as done. What each level means exactly is for the backend to say: see
//! [`Store::durability`](crate::Store::durability).

use std::time::Duration;

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is on disk, with several machines on the disks of a majority: nothing that was acknowledged is lost.
    #[default]
    Commit,
    /// When the operating system has it; it is on disk at most so much later. A power loss may take that much.
    Interval(Duration),
    /// When the operating system has it; it is on disk when the system likes, or the index is brought forward.
    Os,
}
