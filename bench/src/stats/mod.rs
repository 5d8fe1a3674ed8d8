//! What becomes of raw rounds and samples. Everything here is deterministic: the same figures give the same answer.

pub mod bootstrap;
pub mod break_even;
pub mod latency;
pub mod random;
pub mod usl;

pub use softdpu::rig::stats::{Summary, ratios, summary};

/// The median. `values` are put in order by the way.
///
/// # Panics
/// Where there are none.
pub fn median_of(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[half - 1], values[half]) } else { values[half] }
}

/// How far rounds are from each other, as a part of their median: the standard deviation of a normal distribution with the same
/// quartiles. What a single wild round does not change.
pub fn spread(summary: &Summary) -> f64 {
    /// Of a normal distribution: distance of the quartiles in standard deviations.
    const QUARTILES: f64 = 1.349;
    if summary.median == 0.0 {
        return f64::INFINITY;
    }
    (summary.q3 - summary.q1) / QUARTILES / summary.median.abs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn medians_of_odd_and_even() {
        assert_eq!(median_of(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median_of(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn spread_is_that_of_a_normal_distribution_and_deaf_to_one_wild_round() {
        let mut random = random::Random::new(7);
        let mut rounds: Vec<f64> = (0..4001).map(|_| 100.0 * (1.0 + 0.05 * random.normal())).collect();
        let seen = spread(&summary(&rounds).unwrap());
        assert!((seen - 0.05).abs() < 0.004, "{seen}");
        rounds[0] = 1e9;
        assert!((spread(&summary(&rounds).unwrap()) - seen).abs() < 1e-3);
    }
}
