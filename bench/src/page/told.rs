//! What rounds allow to say, in words: nothing where the noise is larger than the difference.

use crate::machine::Noise;
use crate::report::{Bound, Ratio, Report, Target};
use crate::stats::Summary;

/// Fewer rounds all on one side are chance more often than once in twenty (2 · 2⁻⁵ = 1/16).
const ENOUGH: usize = 6;

/// What a ratio says.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// Beyond the noise, in rounds enough.
    Sure(String),
    /// Beyond the noise, in few rounds.
    Likely(String),
    /// The noise is larger than the difference, or nothing is known of it.
    Cannot(String),
}

impl Told {
    pub fn words(&self) -> &str {
        match self {
            Self::Sure(s) | Self::Likely(s) | Self::Cannot(s) => s,
        }
    }

    /// Of a ratio, measured while the machine was so noisy.
    pub fn of(ratio: &Ratio, noise: Option<&Noise>) -> Self {
        let (n, Some(s)) = (ratio.rounds.len(), &ratio.summary) else {
            return Self::Cannot("not measured".into());
        };
        if n < 2 {
            return Self::Cannot("cannot tell: one round, so nothing is known of its spread".into());
        }
        if s.min <= 1.0 && s.max >= 1.0 {
            return Self::Cannot("cannot tell: rounds are on both sides of 1".into());
        }
        // How much more the larger one is, so that 2 and 1/2 are the same difference.
        let difference = percent(s.median);
        let spread = 100.0 * (s.max - s.min) / s.median;
        if spread > difference {
            return Self::Cannot(format!(
                "cannot tell: rounds are {spread:.0} % apart, the difference is {difference:.0} %"
            ));
        }
        for (from, much) in noise.map(outside).into_iter().flatten() {
            if much > difference {
                return Self::Cannot(format!("cannot tell: {from} {much:.0} %, the difference is {difference:.0} %"));
            }
        }
        let which = if s.median > 1.0 { "more" } else { "less" };
        if n < ENOUGH {
            return Self::Likely(format!("{which} in all {n} rounds, which are too few to be sure"));
        }
        Self::Sure(format!("{which} in all {n} rounds, and beyond the noise"))
    }
}

/// Distance of a ratio from 1, %; without end where it has none.
fn percent(ratio: f64) -> f64 {
    if ratio <= 0.0 { f64::INFINITY } else { 100.0 * (ratio.max(1.0 / ratio) - 1.0) }
}

/// Noise that did not come from what was measured: what it is, and how much of the CPU's time or speed, in %.
fn outside(noise: &Noise) -> [(&'static str, f64); 3] {
    let clock = if noise.mhz_before > 0.0 { percent(noise.mhz_after / noise.mhz_before) } else { 0.0 };
    [
        ("the hypervisor kept", noise.stolen_percent),
        ("other programs took", noise.others_percent),
        ("the CPU's frequency changed by", clock),
    ]
}

/// The noise in a sentence. `reference`: ns of the fixed piece of work, by round.
pub fn noise(noise: &Noise, reference: &[f64]) -> String {
    let mut out = format!(
        "Noise meanwhile: the hypervisor kept {:.1} % of the CPU time, other programs took {:.0} %, load {} to {}",
        noise.stolen_percent, noise.others_percent, noise.load_before, noise.load_after
    );
    if noise.mhz_before > 0.0 {
        out += &format!(", {:.0} to {:.0} MHz", noise.mhz_before, noise.mhz_after);
    }
    let (low, high) = reference.iter().fold((f64::INFINITY, 0.0f64), |(l, h), r| (l.min(*r), h.max(*r)));
    if reference.len() > 1 && low > 0.0 {
        out += &format!(
            "; a fixed piece of work took up to {:.0} % longer in one round than in another",
            percent(high / low)
        );
    }
    if let Some(joules) = noise.energy_j {
        out += &format!("; the CPU packages took {joules:.0} J");
    }
    out + "."
}

/// The section that a target was judged by and the rounds behind it: that of a figure or ratio with exactly this median.
pub fn evidence<'a>(report: &'a Report, target: &Target) -> Option<(usize, &'a Summary)> {
    let seen = target.seen?;
    let same = |s: &&Summary| s.median.to_bits() == seen.to_bits();
    report.sections.iter().enumerate().find_map(|(n, s)| {
        let ratios = s.ratios.iter().filter_map(|r| r.summary.as_ref());
        let figures = s.contenders.iter().filter_map(|c| c.summary.as_ref());
        ratios.chain(figures).find(same).map(|sum| (n, sum))
    })
}

/// Whether some rounds would have met the target and others not.
pub fn on_both_sides(target: &Target, rounds: &Summary) -> bool {
    let meets = |v: f64| match target.bound {
        Bound::AtLeast => v >= target.wanted,
        Bound::AtMost => v <= target.wanted,
    };
    meets(rounds.min) != meets(rounds.max)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::Machine;
    use crate::report::Section;

    fn ratio(rounds: &[f64]) -> Ratio {
        let summary = crate::stats::summary(rounds);
        Ratio { over: "a".into(), under: "b".into(), rounds: rounds.to_vec(), summary }
    }

    #[test]
    fn noise_larger_than_the_difference_is_no_conclusion() {
        let of = |rounds: &[f64], noise: &Noise| Told::of(&ratio(rounds), Some(noise));
        let quiet = Noise::default();
        let sure = [1.31, 1.3, 1.32, 1.29, 1.3, 1.3];
        assert!(matches!(of(&sure, &quiet), Told::Sure(_)));
        assert!(matches!(of(&sure[..3], &quiet), Told::Likely(_)));
        for few in [&sure[..1], &[0.9, 1.1, 1.2], &[1.05, 1.4, 1.1]] {
            assert!(matches!(of(few, &quiet), Told::Cannot(_)), "{few:?}");
        }
        let busy = Noise { others_percent: 51.0, ..Noise::default() };
        let said = of(&sure, &busy);
        assert!(said.words().contains("other programs took 51 %, the difference is 30 %"), "{said:?}");
        let slower = Noise { mhz_before: 3000.0, mhz_after: 2000.0, ..Noise::default() };
        assert!(matches!(of(&sure, &slower), Told::Cannot(_)));
        // A half is as far from 1 as a double.
        assert!(matches!(of(&[0.5; 6], &busy), Told::Sure(s) if s.starts_with("less")));
        assert!(matches!(Told::of(&ratio(&[]), None), Told::Cannot(_)));
    }

    #[test]
    fn a_target_finds_its_rounds() {
        let mut s = Section::new("x", "X", "Mpps");
        for v in [0.8, 0.95, 1.0] {
            s.round("a", "A", v);
            s.round("b", "B", 1.0);
        }
        let seen = s.ratio("a", "b");
        let target = Target::new("a / b", Bound::AtLeast, 0.9, seen);
        let report = Report { sections: vec![s], ..Report::new(Machine::look()) };
        let (section, rounds) = evidence(&report, &target).unwrap();
        assert_eq!(section, 0);
        assert!(on_both_sides(&target, rounds));
        assert!(evidence(&report, &Target::new("other", Bound::AtLeast, 0.9, Some(7.0))).is_none());
    }

    #[test]
    fn noise_is_told_in_words() {
        let seen = Noise { stolen_percent: 0.25, others_percent: 51.0, mhz_before: 2600.0, ..Noise::default() };
        let words = noise(&seen, &[100.0, 109.0]);
        assert!(words.contains("other programs took 51 %") && words.contains("up to 9 % longer"), "{words}");
        assert!(!noise(&Noise::default(), &[]).contains("MHz"));
    }
}
