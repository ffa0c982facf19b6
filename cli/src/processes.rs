//! The real processes of this machine, as heartbeats.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::Context;
use prom_protocol::Heartbeat;
use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessesToUpdate, System};

/// How long a process may be out of the busiest before it gives its place to another. Without this, places change with
/// every sample, and each change makes a process look stale that is alive.
const GRACE: Duration = Duration::from_secs(30);
/// Processes younger than this are left out, in seconds: most of them are over before anybody could look at them, and
/// each would leave a stale row behind.
const MIN_AGE_SECS: u64 = 3;

/// Takes samples, and chooses whose.
#[derive(Debug)]
pub(crate) struct Sampler {
    system: System,
    host: String,
    top: usize,
    /// The chosen, with the time since when they are not among the busiest.
    chosen: HashMap<Pid, Option<Instant>>,
    own: Pid,
}

impl Sampler {
    /// A sampler of the `top` busiest processes and its own.
    pub(crate) fn new(host: Option<String>, top: usize) -> anyhow::Result<Self> {
        let host = host.or_else(|| System::host_name().ok()).unwrap_or_else(|| "localhost".into());
        let own = Pid::from_u32(std::process::id());
        let system = System::new().context("cannot read this machine's processes")?;
        Ok(Self { system, host, top, chosen: HashMap::new(), own })
    }

    /// What the chosen processes do now. CPU is the average since the call before, so the first one says 0.
    pub(crate) fn sample(&mut self, now: Instant) -> Vec<Heartbeat> {
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let busiest = {
            let old_enough = |process: &Process| process.run_time() >= MIN_AGE_SECS || process.pid() == self.own;
            let processes = self.system.processes().iter();
            let processes = processes.filter(|(_, process)| process.thread_kind().is_none() && old_enough(process));
            let mut all: Vec<_> =
                processes.map(|(pid, process)| (*pid, process.cpu_usage(), process.memory())).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.cmp(&a.2)).then(a.0.cmp(&b.0)));
            all.into_iter().map(|(pid, ..)| pid).collect::<Vec<_>>()
        };
        choose(&mut self.chosen, &busiest, self.own, self.top, now);
        let mut beats: Vec<Heartbeat> = self.chosen.keys().filter_map(|pid| self.beat(*pid)).collect();
        beats.sort_by_key(|beat| beat.pid);
        beats
    }

    fn beat(&self, pid: Pid) -> Option<Heartbeat> {
        let process = self.system.process(pid)?;
        let round = |value: f64| (value * 10.0).round() / 10.0;
        Some(Heartbeat {
            pid: pid.as_u32(),
            name: process.name().to_string_lossy().chars().filter(|c| !c.is_control()).take(64).collect(),
            host: self.host.clone(),
            cpu_pct: round(f64::from(process.cpu_usage())),
            // Bytes to MiB; exact for any memory a machine has.
            mem_mb: round(process.memory() as f64 / (1024.0 * 1024.0)),
            sid: None,
        })
    }
}

/// Keeps `chosen` at most `top` strong, and `own` in it. `busiest` lists every live process, busiest first.
fn choose(chosen: &mut HashMap<Pid, Option<Instant>>, busiest: &[Pid], own: Pid, top: usize, now: Instant) {
    let alive: HashSet<Pid> = busiest.iter().copied().collect();
    chosen.retain(|pid, _| alive.contains(pid));
    let wanted: Vec<Pid> = busiest.iter().copied().filter(|pid| *pid != own).take(top.saturating_sub(1)).collect();
    let best: HashSet<Pid> = wanted.iter().copied().collect();
    for (pid, out_since) in chosen.iter_mut() {
        *out_since = if best.contains(pid) || *pid == own { None } else { out_since.or(Some(now)) };
    }
    if alive.contains(&own) {
        chosen.insert(own, None);
    }
    for pid in wanted {
        if chosen.contains_key(&pid) {
            continue;
        }
        if chosen.len() >= top {
            let oldest =
                chosen.iter().filter_map(|(pid, out)| out.map(|since| (since, *pid))).min_by_key(|(since, _)| *since);
            match oldest {
                Some((since, idle)) if now.duration_since(since) >= GRACE => chosen.remove(&idle),
                _ => break,
            };
        }
        chosen.insert(pid, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pids(numbers: impl IntoIterator<Item = u32>) -> Vec<Pid> {
        numbers.into_iter().map(Pid::from_u32).collect()
    }

    #[test]
    fn a_place_changes_hands_only_after_the_grace_or_a_death() {
        let own = Pid::from_u32(9);
        let start = Instant::now();
        let mut chosen = HashMap::new();
        choose(&mut chosen, &pids([1, 2, 3, 9]), own, 3, start);
        let has = |chosen: &HashMap<Pid, _>, n| chosen.contains_key(&Pid::from_u32(n));
        assert!(has(&chosen, 1) && has(&chosen, 2) && has(&chosen, 9) && chosen.len() == 3);
        choose(&mut chosen, &pids([3, 1, 2, 9]), own, 3, start + Duration::from_secs(1));
        assert!(has(&chosen, 2), "out of the busiest, still in its grace");
        choose(&mut chosen, &pids([3, 1, 2, 9]), own, 3, start + Duration::from_secs(40));
        assert!(has(&chosen, 3) && !has(&chosen, 2) && has(&chosen, 9));
        choose(&mut chosen, &pids([2, 1, 9]), own, 3, start + Duration::from_secs(41));
        assert!(has(&chosen, 2), "the place of a process that died is free at once");
    }

    #[test]
    fn the_sampler_sees_itself() {
        let mut sampler = Sampler::new(Some("here".into()), 5).unwrap();
        let beats = sampler.sample(Instant::now());
        assert!(beats.len() <= 5);
        let own = beats.iter().find(|beat| beat.pid == std::process::id()).expect("its own process");
        assert!(own.mem_mb > 0.0 && own.host == "here" && !own.name.is_empty());
    }
}
