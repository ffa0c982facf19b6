//! Processor time and memory of a process, from Linux's `/proc`. Not known on other systems.

use std::{fs, time::Duration};

/// The processes whose cost is measured, where they are on this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// Process id of the hub.
    pub hub: Option<u32>,
    /// Process id of the MongoDB server that the hub keeps its events in.
    pub mongod: Option<u32>,
}

/// What `/proc` counts processor time in: a hundredth of a second on every machine a hub runs on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process so far, its own and the system's for it.
pub(crate) fn cpu(pid: u32) -> Option<Duration> {
    parse_cpu(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Memory of a process now, and at most so far, in kB.
pub(crate) fn memory(pid: u32) -> Option<(u64, u64)> {
    parse_memory(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_cpu(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15 of all.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

fn parse_memory(status: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 4 0 100 1 1";
        assert_eq!(parse_cpu(stat), Some(Duration::from_millis(1750)));
        let status = "Name:\tprom\nVmPeak:\t  9 kB\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\n";
        assert_eq!(parse_memory(status), Some((200, 300)));
        assert_eq!((parse_cpu("nonsense"), parse_memory("nonsense")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn knows_this_process() {
        let (now, peak) = memory(std::process::id()).unwrap();
        assert!(now > 0 && peak >= now);
        assert!(cpu(std::process::id()).is_some());
    }
}
