//! The process types: a heartbeat, and the state that the hub derives from it.

use serde::{Deserialize, Serialize};

/// The topics of the process pipeline.
pub mod topics {
    /// Where heartbeats are published.
    pub const HEARTBEAT: &str = "heartbeat.received";
    /// Where the state of each process stands, keyed by [`super::Heartbeat::key`].
    pub const STATE: &str = "process.state";
}

/// A sign of life of one process: the payload of `heartbeat.received`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Process id on its host.
    pub pid: u32,
    /// Name of the program.
    pub name: String,
    /// Name of the host it runs on.
    pub host: String,
    /// Share of one CPU in percent, 0 and up; 250 is two and a half CPUs.
    pub cpu_pct: f64,
    /// Resident memory, in MiB.
    pub mem_mb: f64,
    /// Session of the publisher, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

impl Heartbeat {
    /// The key of the process on `process.state`: `host:name:pid`.
    pub fn key(&self) -> String {
        key(&self.host, &self.name, self.pid)
    }
}

fn key(host: &str, name: &str, pid: u32) -> String {
    format!("{host}:{name}:{pid}")
}

/// Whether heartbeats of a process still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessStatus {
    /// The last heartbeat is at most 15 seconds old.
    Alive,
    /// No heartbeat came for 15 seconds.
    Stale,
}

/// The latest known state of a process: the payload of `process.state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessState {
    /// The event's key: `host:name:pid`.
    #[serde(rename = "processId")]
    pub process_id: String,
    /// Name of the program.
    pub name: String,
    /// Name of the host it runs on.
    pub host: String,
    /// Process id on its host.
    pub pid: u32,
    /// Session of the publisher, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Share of one CPU in percent.
    pub cpu_pct: f64,
    /// Resident memory, in MiB.
    pub mem_mb: f64,
    /// When the last heartbeat was published, in milliseconds since the Unix epoch.
    pub last_seen_ts: u64,
    /// Whether heartbeats still come.
    pub status: ProcessStatus,
}

impl ProcessState {
    /// Whether `process_id` is what a hub makes of the other fields.
    pub fn is_named_after_its_process(&self) -> bool {
        self.process_id == key(&self.host, &self.name, self.pid)
    }

    /// The state that follows from a heartbeat published at `ts`.
    pub fn alive(beat: Heartbeat, ts: u64) -> Self {
        Self {
            process_id: beat.key(),
            name: beat.name,
            host: beat.host,
            pid: beat.pid,
            sid: beat.sid,
            cpu_pct: beat.cpu_pct,
            mem_mb: beat.mem_mb,
            last_seen_ts: ts,
            status: ProcessStatus::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_becomes_a_state_of_the_documented_shape() {
        let beat: Heartbeat =
            serde_json::from_str(r#"{"pid":7,"name":"hub","host":"h","cpu_pct":1.5,"mem_mb":20}"#).unwrap();
        let state = ProcessState::alive(beat, 5);
        assert_eq!(
            serde_json::to_string(&state).unwrap(),
            r#"{"processId":"h:hub:7","name":"hub","host":"h","pid":7,"cpu_pct":1.5,"mem_mb":20.0,"last_seen_ts":5,"status":"alive"}"#
        );
    }
}
