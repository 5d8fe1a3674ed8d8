//! What becomes of raw rounds: median, spread, and ratios taken within each round.

use serde::{Deserialize, Serialize};

/// Rounds of one contender, summed up.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// First and third quartile.
    pub q1: f64,
    pub q3: f64,
}

/// Quantile `q` (0–1) with linear interpolation. `sorted` is not empty.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * part
}

/// `None` without rounds.
pub fn summary(rounds: &[f64]) -> Option<Summary> {
    if rounds.is_empty() {
        return None;
    }
    let mut v = rounds.to_vec();
    v.sort_by(f64::total_cmp);
    Some(Summary {
        median: quantile(&v, 0.5),
        min: v[0],
        max: v[v.len() - 1],
        q1: quantile(&v, 0.25),
        q3: quantile(&v, 0.75),
    })
}

/// `a / b` round by round: noise that lasts longer than a round hits both sides and cancels.
pub fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn median_and_quartiles() {
        let s = summary(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((s.median, s.min, s.max, s.q1, s.q3), (3.0, 1.0, 5.0, 2.0, 4.0));
        assert_eq!(summary(&[1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn ratios_pair_rounds() {
        assert_eq!(ratios(&[2.0, 9.0, 1.0], &[1.0, 3.0, 0.0]), [2.0, 3.0]);
    }
}
