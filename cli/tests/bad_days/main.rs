//! Real hubs that are killed under load, run out of disk, and lose their database. Apart from the other tests, because
//! these take all of a machine and measure how long hub and database take to come back.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "../common/mod.rs"]
mod common;
mod full_disk;
mod kill;
#[cfg(unix)]
mod mongo;
