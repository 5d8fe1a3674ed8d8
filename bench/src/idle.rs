//! What an instance costs that has nothing to do.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::instance;
use crate::net::cores;
use crate::net::topology::{Napi, Topology};
use crate::report::{Bound, Section, Target};
use crate::stop;
use crate::veth::worker;

/// How long a started instance gets to settle.
const SETTLE: Duration = Duration::from_secs(1);

/// CPU of `softdpu run` on two veths without traffic, over `time`, in % of one core.
///
/// # Errors
/// Without root or where the links cannot be made. An instance that does not start is named as missing.
pub fn run(binary: &std::path::Path, core: usize, rounds: usize, time: Duration) -> Result<(Section, Vec<Target>)> {
    let title = "softdpu run, two ports, no traffic";
    let mut section = Section::new("idle", "CPU without traffic", "% of a core");
    section.declare("idle", title);
    let topology = Topology::new('c', Napi::Inline)?;
    match worker::start(&topology, binary, core) {
        Ok(instance) => {
            stop::sleep(SETTLE);
            for _ in 0..rounds {
                if stop::asked() {
                    break;
                }
                let pid = instance.pid();
                let (before, start) = (cores::process_cpu(pid)?, Instant::now());
                let woken = instance::wake_ups(pid);
                stop::sleep(time);
                let (used, seconds) = (cores::process_cpu(pid)? - before, start.elapsed().as_secs_f64());
                let line = section.round("idle", title, 100.0 * used / seconds);
                let woken = woken.zip(instance::wake_ups(pid)).map(|(a, b)| b.saturating_sub(a) as f64 / seconds);
                for (name, value) in [("wake-ups per s", woken), ("RSS MiB", instance::rss_mib(pid))] {
                    line.more.entry(name.into()).or_default().extend(value);
                }
            }
        }
        Err(e) => section.missing("idle", title, format!("{e:#}")),
    }
    section.notes.push(format!(
        "All threads, from /proc, over {} s each; memory as it is in RAM, frames of the ports included.",
        time.as_secs_f64()
    ));
    let targets = vec![Target::new("idle CPU, % of a core", Bound::AtMost, 1.0, section.median("idle"))];
    Ok((section, targets))
}
