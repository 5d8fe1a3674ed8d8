//! Where a figure was measured, and how noisy it was there.

use std::fs;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::energy::Meter;
use crate::net::cores;
use crate::report::CpuTime;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// UTC, `YYYY-MM-DD HH:MM`.
    pub date: String,
    /// Ticks of the time stamp counter per nanosecond.
    pub ticks_per_ns: f64,
    /// The build: `release` or `debug`.
    pub build: String,
    pub version: String,
    /// Of the bench's own binary, which has the library in it: two runs of the same build have the same.
    #[serde(default)]
    pub build_id: String,
    #[serde(default)]
    pub memory_bytes: u64,
    /// What the kernel scales frequencies by; empty where it does not say, as in most virtual machines.
    #[serde(default)]
    pub governor: String,
    /// Whether it is a virtual machine, as far as the CPU says.
    #[serde(default)]
    pub virtual_machine: bool,
}

/// What else the machine did meanwhile.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Noise {
    /// Share of the CPU time of all cores that the hypervisor kept for itself, in %.
    pub stolen_percent: f64,
    /// Share that went to neither this program nor programs that it ran, in %.
    pub others_percent: f64,
    /// One-minute load averages.
    pub load_before: f64,
    pub load_after: f64,
    /// Mean over the cores as the kernel says it, MHz, before and after; 0 where it does not.
    pub mhz_before: f64,
    pub mhz_after: f64,
    /// Seconds by the clock.
    pub seconds: f64,
    /// What CPU time went to, one per core.
    pub cores: Vec<CpuTime>,
    /// Of the CPU packages, J. `None`: the kernel does not count it (no RAPL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_j: Option<f64>,
}

impl Noise {
    /// Of both stretches of time together.
    #[must_use]
    pub fn with(&self, later: &Self) -> Self {
        let all = (self.seconds + later.seconds).max(f64::MIN_POSITIVE);
        let mean = |a: f64, b: f64| (a * self.seconds + b * later.seconds) / all;
        let cores = self.cores.iter().zip(&later.cores).map(|(a, b)| CpuTime {
            user: a.user + b.user,
            kernel: a.kernel + b.kernel,
            softirq: a.softirq + b.softirq,
            stolen: a.stolen + b.stolen,
            idle: a.idle + b.idle,
        });
        Self {
            stolen_percent: mean(self.stolen_percent, later.stolen_percent),
            others_percent: mean(self.others_percent, later.others_percent),
            load_before: self.load_before,
            load_after: later.load_after,
            mhz_before: self.mhz_before,
            mhz_after: later.mhz_after,
            seconds: self.seconds + later.seconds,
            cores: cores.collect(),
            energy_j: self.energy_j.zip(later.energy_j).map(|(a, b)| a + b),
        }
    }
}

/// Starts looking at the noise.
#[derive(Debug)]
pub struct NoiseWatch {
    ticks: (u64, u64, u64),
    cores: Vec<CpuTime>,
    own: f64,
    load: f64,
    mhz: f64,
    start: Instant,
    energy: Meter,
}

impl Machine {
    pub fn look() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = info
            .lines()
            .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
            .map_or_else(|| "unknown CPU".to_owned(), |(_, name)| name.trim().to_owned());
        Self {
            cpu,
            cores: cores::allowed().map_or(0, |c| c.len()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            date: date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())),
            ticks_per_ns: clock::ticks_per_ns(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            build_id: build_id(),
            memory_bytes: memory(),
            governor: fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .map_or_else(|_| String::new(), |s| s.trim().to_owned()),
            virtual_machine: info.lines().any(|l| l.starts_with("flags") && l.contains(" hypervisor")),
        }
    }

    /// Whether figures of both are of one and the same machine and kernel, as far as one can see.
    pub fn same_place(&self, other: &Self) -> bool {
        (&self.cpu, self.cores, &self.kernel) == (&other.cpu, other.cores, &other.kernel)
    }
}

/// FNV-1a (64 bits) of this program's file, which no library's next version changes.
fn build_id() -> String {
    let bytes = fs::read("/proc/self/exe").unwrap_or_default();
    if bytes.is_empty() {
        return String::new();
    }
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

fn memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = info.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Mean frequency of all cores, MHz; 0 where the kernel does not say.
fn mhz() -> f64 {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let each = info.lines().filter_map(|l| l.strip_prefix("cpu MHz")?.split_once(':')?.1.trim().parse::<f64>().ok());
    let (sum, n) = each.fold((0.0, 0), |(sum, n), mhz| (sum + mhz, n + 1));
    if n == 0 { 0.0 } else { sum / f64::from(n) }
}

/// CPU time so far by core, seconds (`/proc/stat`, in ticks of 10 ms).
pub fn core_times() -> Vec<CpuTime> {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let cores = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "));
    let times = cores.map(|line| {
        let fields: Vec<f64> = line.split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0.0) / 100.0).collect();
        let at = |i: usize| fields.get(i).copied().unwrap_or(0.0);
        CpuTime { user: at(0) + at(1), kernel: at(2) + at(5), softirq: at(6), stolen: at(7), idle: at(3) + at(4) }
    });
    times.collect()
}

/// CPU seconds of this process and of its children that have ended.
fn own_seconds() -> f64 {
    let of = |who| {
        // SAFETY: an all-zero rusage is a value of it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one `rusage`, which `usage` is.
        unsafe { libc::getrusage(who, &raw mut usage) };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl NoiseWatch {
    pub fn start() -> Self {
        Self {
            ticks: cores::cpu_ticks().unwrap_or_default(),
            cores: core_times(),
            own: own_seconds(),
            load: load(),
            mhz: mhz(),
            start: Instant::now(),
            energy: Meter::start(),
        }
    }

    pub fn finish(&self) -> Noise {
        let (busy, idle, stolen) = cores::cpu_ticks().unwrap_or_default();
        let stolen = stolen.saturating_sub(self.ticks.2);
        let all = (busy + idle).saturating_sub(self.ticks.0 + self.ticks.1) + stolen;
        let others = busy.saturating_sub(self.ticks.0) as f64 / 100.0 - (own_seconds() - self.own);
        let cores = self.cores.iter().zip(core_times()).map(|(a, b)| CpuTime {
            user: b.user - a.user,
            kernel: b.kernel - a.kernel,
            softirq: b.softirq - a.softirq,
            stolen: b.stolen - a.stolen,
            idle: b.idle - a.idle,
        });
        Noise {
            stolen_percent: 100.0 * stolen as f64 / all.max(1) as f64,
            others_percent: (10_000.0 * others / all.max(1) as f64).clamp(0.0, 100.0),
            load_before: self.load,
            load_after: load(),
            mhz_before: self.mhz,
            mhz_after: mhz(),
            seconds: self.start.elapsed().as_secs_f64(),
            cores: cores.collect(),
            energy_j: self.energy.joules(),
        }
    }
}

fn load() -> f64 {
    fs::read_to_string("/proc/loadavg").ok().and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// Seconds since the epoch as a date. The calendar arithmetic is Howard Hinnant's `civil_from_days`.
fn date(seconds: u64) -> String {
    let days = (seconds / 86400) as i64 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_part = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_part + 2) / 5 + 1;
    let month = if month_part < 10 { month_part + 3 } else { month_part - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_827_696), "2000-02-29 12:34");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59");
    }

    #[test]
    fn noise_is_looked_at() {
        let watch = NoiseWatch::start();
        let begun = Instant::now();
        while begun.elapsed().as_millis() < 60 {
            std::hint::spin_loop();
        }
        let n = watch.finish();
        assert!(n.seconds >= 0.06 && !n.cores.is_empty());
        assert!((0.0..=100.0).contains(&n.stolen_percent) && (0.0..=100.0).contains(&n.others_percent), "{n:?}");
        let both = n.with(&n);
        assert!((both.stolen_percent - n.stolen_percent).abs() < 1e-9 && both.cores.len() == n.cores.len());
    }

    #[test]
    fn this_build_has_a_name() {
        let machine = Machine::look();
        assert_eq!(machine.build_id.len(), 16);
        assert!(machine.memory_bytes > 1 << 26 && machine.same_place(&Machine::look()));
    }

    #[test]
    fn the_clock_ticks() {
        assert!(Machine::look().ticks_per_ns > 0.01);
    }
}
