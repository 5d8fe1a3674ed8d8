//! What the cores did during a turn: CPU seconds by user, kernel and softirq, for each core, from /proc/stat.

use crate::machine::core_times;
use crate::report::{Contender, CpuTime};

/// Of one turn.
#[derive(Clone, Debug, Default)]
pub struct Split(Vec<CpuTime>);

/// Looks from now on.
pub struct Watch(Vec<CpuTime>);

impl Watch {
    #[must_use]
    pub fn start() -> Self {
        Self(core_times())
    }

    #[must_use]
    pub fn finish(&self) -> Split {
        Split(self.0.iter().zip(core_times()).map(|(a, b)| between(a, &b)).collect())
    }
}

fn between(a: &CpuTime, b: &CpuTime) -> CpuTime {
    CpuTime {
        user: b.user - a.user,
        kernel: b.kernel - a.kernel,
        softirq: b.softirq - a.softirq,
        stolen: b.stolen - a.stolen,
        idle: b.idle - a.idle,
    }
}

impl Split {
    /// The same per unit of something.
    #[must_use]
    pub fn per(mut self, units: f64) -> Self {
        for c in &mut self.0 {
            for v in [&mut c.user, &mut c.kernel, &mut c.softirq, &mut c.stolen, &mut c.idle] {
                *v /= units;
            }
        }
        self
    }

    /// Seconds of work on all cores together.
    #[must_use]
    pub fn busy(&self) -> f64 {
        self.0.iter().map(|c| c.user + c.kernel + c.softirq).sum()
    }

    /// Puts it beside a round: `tested` and `generator` are cores; of others there is no work. `unit`: what the figures are in by now.
    pub fn beside(&self, line: &mut Contender, tested: usize, generator: usize, unit: &str) {
        let cores = [("tested core", tested), ("client's core", generator)];
        let all = if tested == generator { &cores[..1] } else { &cores[..] };
        for (title, core) in all {
            let Some(c) = self.0.get(*core) else { continue };
            for (part, seconds) in [("user", c.user), ("kernel", c.kernel), ("softirq", c.softirq)] {
                line.more.entry(format!("{title}, {part} {unit}")).or_default().push(seconds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Section;

    #[test]
    fn what_a_core_did_stands_beside_its_round() {
        let one = |user, kernel, softirq| CpuTime { user, kernel, softirq, stolen: 0.0, idle: 1.0 };
        let seen = between(&one(1.0, 2.0, 3.0), &one(1.5, 2.25, 3.0));
        assert_eq!((seen.user, seen.kernel, seen.softirq), (0.5, 0.25, 0.0));
        let mut section = Section::new("x", "X", "µs");
        let line = section.round("a", "A", 1.0);
        Split(vec![seen, one(4.0, 5.0, 6.0)]).per(0.5).beside(line, 0, 1, "s");
        assert_eq!((line.more["tested core, user s"][0], line.more["client's core, softirq s"][0]), (1.0, 12.0));
        let only = section.round("b", "B", 1.0);
        Split(vec![seen]).beside(only, 0, 0, "s");
        assert_eq!(only.more.len(), 3);
    }
}
