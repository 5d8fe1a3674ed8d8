//! Where a figure was measured, and how noisy it was there.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::clock;
use crate::net::cores;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// UTC, `YYYY-MM-DD HH:MM`.
    pub date: String,
    /// Ticks of the time stamp counter per nanosecond.
    pub ticks_per_ns: f64,
    /// The build: `release` or `debug`.
    pub build: &'static str,
    pub version: &'static str,
}

/// What else the machine did meanwhile.
#[derive(Debug, Default, Serialize)]
pub struct Noise {
    /// Share of the CPU time of all cores that the hypervisor kept for itself, in %.
    pub stolen_percent: f64,
    /// One-minute load averages.
    pub load_before: f64,
    pub load_after: f64,
}

/// Starts looking at the noise.
#[derive(Debug)]
pub struct NoiseWatch {
    ticks: (u64, u64, u64),
    load: f64,
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
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl NoiseWatch {
    pub fn start() -> Self {
        Self { ticks: cores::cpu_ticks().unwrap_or_default(), load: load() }
    }

    pub fn finish(&self) -> Noise {
        let (busy, idle, stolen) = cores::cpu_ticks().unwrap_or_default();
        let stolen = stolen.saturating_sub(self.ticks.2);
        let all = (busy + idle).saturating_sub(self.ticks.0 + self.ticks.1) + stolen;
        Noise { stolen_percent: 100.0 * stolen as f64 / all.max(1) as f64, load_before: self.load, load_after: load() }
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
    fn the_clock_ticks() {
        assert!(Machine::look().ticks_per_ns > 0.01);
    }
}
