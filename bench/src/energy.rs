//! Energy of the CPU packages while something ran, where the kernel counts it (RAPL, `/sys/class/powercap/intel-rapl:N`).
//! Most virtual machines have none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where the kernel keeps the zones.
const FOLDER: &str = "/sys/class/powercap";
/// How often counters are read. They wrap around after 65 kJ to 262 kJ, which a package of 500 W takes two minutes for.
const OFTEN: Duration = Duration::from_secs(20);

/// A package's counter, µJ.
#[derive(Debug)]
struct Zone {
    counter: PathBuf,
    /// Where it starts again.
    range: u64,
    last: u64,
}

impl Zone {
    /// µJ since the last time. `None`: it cannot be read any more.
    fn more(&mut self) -> Option<u64> {
        let now = number(&self.counter)?;
        let more = if now >= self.last { now - self.last } else { (self.range - self.last.min(self.range)) + now };
        self.last = now;
        Some(more)
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The packages' counters. Zones inside a package (cores, memory) are part of it, or counted nowhere, and left out.
fn zones(folder: &Path) -> Vec<Zone> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    found.sort();
    let zone = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("intel-rapl:")?;
        // `intel-rapl:0:1` is a part of `intel-rapl:0`; `psys` holds the packages.
        let whole = !name.contains(':') && fs::read_to_string(path.join("name")).ok()?.trim().starts_with("package");
        let counter = path.join("energy_uj");
        whole.then_some(())?;
        Some(Zone { last: number(&counter)?, range: number(&path.join("max_energy_range_uj"))?, counter })
    };
    found.into_iter().filter_map(zone).collect()
}

/// Whether this machine says what energy its packages take.
pub fn is_here() -> bool {
    !zones(Path::new(FOLDER)).is_empty()
}

/// Adds up energy from its start on.
#[derive(Debug)]
pub struct Meter(Option<Running>);

#[derive(Debug)]
struct Running {
    stop: Sender<Sender<Option<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Of this machine.
    pub fn start() -> Self {
        Self::of(zones(Path::new(FOLDER)), OFTEN)
    }

    /// Without zones there is no thread.
    fn of(mut zones: Vec<Zone>, often: Duration) -> Self {
        if zones.is_empty() {
            return Self(None);
        }
        let (stop, asked) = mpsc::channel::<Sender<Option<u64>>>();
        let thread = std::thread::Builder::new().name("energy".into()).spawn(move || {
            let mut all = Some(0u64);
            loop {
                let question = asked.recv_timeout(often);
                // All zones or none: a sum that lacks one would be wrong.
                let more = zones.iter_mut().map(Zone::more).sum::<Option<u64>>();
                all = all.zip(more).map(|(a, b)| a + b);
                match question {
                    Ok(answer) => drop(answer.send(all)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self(thread.ok().map(|thread| Running { stop, thread: Some(thread) }))
    }

    /// Joules since the start, of all packages. `None`: no RAPL, or it could not be read.
    pub fn joules(&self) -> Option<f64> {
        let (answer, is) = mpsc::channel();
        self.0.as_ref()?.stop.send(answer).ok()?;
        is.recv().ok()?.map(|uj| uj as f64 / 1e6)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The thread ends with the channel.
        self.stop = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn zone(folder: &Path, name: &str, what: &str, energy: u64) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("name"), format!("{what}\n")).unwrap();
        fs::write(path.join("max_energy_range_uj"), "262143328850\n").unwrap();
        let counter = path.join("energy_uj");
        fs::write(&counter, format!("{energy}\n")).unwrap();
        counter
    }

    #[test]
    fn packages_are_added_up_and_wrap_around() {
        let folder = tempfile::tempdir().unwrap();
        let first = zone(folder.path(), "intel-rapl:0", "package-0", 262_143_000_000);
        let second = zone(folder.path(), "intel-rapl:1", "package-1", 1_000_000);
        zone(folder.path(), "intel-rapl:0:0", "core", 5);
        zone(folder.path(), "intel-rapl:2", "psys", 5);
        zone(folder.path(), "dtpm", "package-9", 5);
        let meter = Meter::of(zones(folder.path()), Duration::from_secs(3600));
        assert_eq!(meter.joules(), Some(0.0));
        // From 0.32885 J before its end to 4 J behind it.
        fs::write(&first, "4000000\n").unwrap();
        fs::write(&second, "3500000\n").unwrap();
        assert!((meter.joules().unwrap() - (4.328_850 + 2.5)).abs() < 1e-9, "{:?}", meter.joules());
        fs::write(&second, "4500000\n").unwrap();
        assert!((meter.joules().unwrap() - 7.828_850).abs() < 1e-9);
        // A package that is gone: no sum rather than a wrong one.
        fs::remove_file(&second).unwrap();
        assert_eq!(meter.joules(), None);
    }

    #[test]
    fn several_wraps_are_seen_by_reading_often() {
        let folder = tempfile::tempdir().unwrap();
        let counter = zone(folder.path(), "intel-rapl:0", "package-0", 200_000_000_000);
        let mut zones = zones(folder.path());
        let mut all = 0;
        for at in ["100000000000", "50000000000", "0"] {
            fs::write(&counter, at).unwrap();
            all += zones[0].more().unwrap();
        }
        assert_eq!(all, 3 * 262_143_328_850 - 200_000_000_000);
    }

    #[test]
    fn no_rapl_is_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        assert!(zones(folder.path()).is_empty() && zones(&folder.path().join("not there")).is_empty());
        assert_eq!(Meter::of(Vec::new(), OFTEN).joules(), None);
    }
}
