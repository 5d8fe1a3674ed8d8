//! The bootstrap (Efron 1979): how sure the ratio of two medians is, by drawing rounds anew from those that there are.
//! Percentile intervals: few rounds make them a little too narrow, which is why [`crate::compare`] asks for more than that.

use super::median_of;
use super::random::Random;

/// Whether round n of one side was measured beside round n of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Each side's rounds are drawn by themselves.
    Apart,
    /// Rounds of both sides are drawn together: noise that hit both stays with both.
    Paired,
}

/// A ratio and where it lies with `confidence` (0–1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
    pub confidence: f64,
}

impl Interval {
    /// Whether it is sure that the ratio is not `value`.
    pub fn excludes(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }
}

/// Ratios of medians of resampled rounds, in order.
#[derive(Clone, Debug)]
pub struct Resampled {
    estimate: f64,
    sorted: Vec<f64>,
}

impl Resampled {
    /// Of `median(b) / median(a)`. `None` where a side has no rounds or one that is not positive, or where rounds are to be
    /// paired and their numbers differ.
    pub fn ratio_of_medians(a: &[f64], b: &[f64], pairing: Pairing, resamples: usize, seed: u64) -> Option<Self> {
        let sound = |rounds: &[f64]| !rounds.is_empty() && rounds.iter().all(|r| r.is_finite() && *r > 0.0);
        if !sound(a) || !sound(b) || (pairing == Pairing::Paired && a.len() != b.len()) {
            return None;
        }
        let estimate = median_of(&mut b.to_vec()) / median_of(&mut a.to_vec());
        let mut random = Random::new(seed);
        let (mut of_a, mut of_b) = (vec![0.0; a.len()], vec![0.0; b.len()]);
        let mut sorted = Vec::with_capacity(resamples);
        for _ in 0..resamples {
            match pairing {
                Pairing::Paired => {
                    for (x, y) in of_a.iter_mut().zip(&mut of_b) {
                        let at = random.below(a.len());
                        (*x, *y) = (a[at], b[at]);
                    }
                }
                Pairing::Apart => {
                    of_a.iter_mut().for_each(|x| *x = a[random.below(a.len())]);
                    of_b.iter_mut().for_each(|y| *y = b[random.below(b.len())]);
                }
            }
            sorted.push(median_of(&mut of_b) / median_of(&mut of_a));
        }
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self { estimate, sorted })
    }

    pub fn interval(&self, confidence: f64) -> Interval {
        let tail = (1.0 - confidence) / 2.0;
        let last = self.sorted.len() - 1;
        // Outwards: rather too wide than too narrow.
        let low = (tail * last as f64).floor() as usize;
        let high = ((1.0 - tail) * last as f64).ceil() as usize;
        Interval { estimate: self.estimate, low: self.sorted[low], high: self.sorted[high.min(last)], confidence }
    }
}

/// The smallest probability that chance alone puts all rounds of one side beyond all of the other (`Apart`), or one side in
/// front in every round (`Paired`); both directions counted. No distribution is assumed. What is concluded at a smaller level
/// than this would be more than so few rounds can tell.
pub fn attainable(a: usize, b: usize, pairing: Pairing) -> f64 {
    match pairing {
        Pairing::Apart => {
            // 2 / (a + b over a)
            (1..=a.min(b)).map(|i| i as f64 / (a.max(b) + i) as f64).product::<f64>() * 2.0
        }
        Pairing::Paired => 2.0 * 0.5f64.powi(a.min(b) as i32),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn chance_of_seven_against_seven() {
        assert!((attainable(7, 7, Pairing::Apart) - 2.0 / 3432.0).abs() < 1e-12);
        assert!((attainable(3, 5, Pairing::Apart) - 2.0 / 56.0).abs() < 1e-12);
        assert_eq!(attainable(5, 5, Pairing::Paired), 0.0625);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let (a, b) = ([1.0, 1.1, 0.9, 1.05, 0.97], [2.0, 2.1, 1.9, 2.2, 1.95]);
        let one = |seed| Resampled::ratio_of_medians(&a, &b, Pairing::Apart, 2000, seed).unwrap().interval(0.95);
        assert_eq!(one(3), one(3));
        let i = one(3);
        assert_eq!(i.estimate, 2.0);
        assert!(i.low > 1.7 && i.high < 2.5 && i.low < 2.0 && i.high > 2.0 && i.excludes(1.0), "{i:?}");
    }

    #[test]
    fn pairing_takes_common_noise_out() {
        let drift = [1.0, 3.0, 1.5, 2.5, 2.0, 1.2, 2.8];
        let b: Vec<f64> = drift.iter().map(|d| d * 1.1).collect();
        let apart = Resampled::ratio_of_medians(&drift, &b, Pairing::Apart, 2000, 1).unwrap().interval(0.95);
        let paired = Resampled::ratio_of_medians(&drift, &b, Pairing::Paired, 2000, 1).unwrap().interval(0.95);
        assert!(!apart.excludes(1.0));
        assert!(paired.low > 1.09 && paired.high < 1.11, "{paired:?}");
    }

    #[test]
    fn nonsense_has_no_interval() {
        let ratio = |a: &[f64], b: &[f64], p| Resampled::ratio_of_medians(a, b, p, 10, 1).is_none();
        assert!(ratio(&[], &[1.0], Pairing::Apart));
        assert!(ratio(&[1.0], &[0.0], Pairing::Apart));
        assert!(ratio(&[1.0], &[f64::NAN], Pairing::Apart));
        assert!(ratio(&[1.0, 2.0], &[1.0], Pairing::Paired));
    }

    /// Of a hundred intervals of 95 % about that many hold the true ratio.
    #[test]
    fn coverage() {
        for (rounds, skewed) in [(9, false), (15, false), (15, true)] {
            let mut random = Random::new(42 + rounds as u64);
            let trials = 400;
            let mut held = 0;
            for trial in 0..trials {
                let mut draw = |middle: f64| -> Vec<f64> {
                    let shape = |x: f64| if skewed { (0.1 * x).exp() } else { 1.0 + 0.05 * x };
                    (0..rounds).map(|_| middle * shape(random.normal())).collect()
                };
                let (a, b) = (draw(50.0), draw(60.0));
                let interval = Resampled::ratio_of_medians(&a, &b, Pairing::Apart, 800, trial).unwrap().interval(0.95);
                held += u32::from(!interval.excludes(1.2));
            }
            let share = f64::from(held) / trials as f64;
            println!("{rounds} rounds, skewed {skewed}: {share}");
            assert!(share >= 0.92, "{rounds} rounds: {share}");
        }
    }
}
