//! What figures allow to be said.

use super::Candidate;
use crate::rig::stats::{Summary, ratios, summary};

/// A gain below this is not worth a line in a policy.
const WORTH: f64 = 0.02;
/// CPU of an idle instance, in points of a core, that make a difference.
const IDLE_POINTS: f64 = 5.0;
/// Fewest rounds to conclude anything from.
const ROUNDS: usize = 3;

/// What a candidate is against the policy as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Forwards more, by this ratio.
    Faster(f64),
    /// Forwards less, by this ratio.
    Slower(f64),
    /// As fast within what is worth it.
    Alike,
    /// The rounds disagree by more than they differ.
    Noise,
    /// Too few rounds, or none.
    Unknown,
}

/// Holds `candidate` against `base`, round by round.
pub fn judge(base: &Candidate, candidate: &Candidate) -> (Verdict, Option<Summary>) {
    let rates = |c: &Candidate| c.turns.iter().map(|t| t.rate).collect::<Vec<_>>();
    let ratios = ratios(&rates(candidate), &rates(base));
    let Some(sum) = summary(&ratios).filter(|_| ratios.len() >= ROUNDS) else { return (Verdict::Unknown, None) };
    (of_ratios(&ratios, &sum), Some(sum))
}

fn of_ratios(ratios: &[f64], sum: &Summary) -> Verdict {
    let gain = sum.median - 1.0;
    let spread = sum.q3 - sum.q1;
    if gain.abs() < WORTH {
        return if spread < 2.0 * WORTH { Verdict::Alike } else { Verdict::Noise };
    }
    // Nearly all rounds must agree: of up to five all, then one in six may not.
    let agree = ratios.iter().filter(|r| (**r > 1.0) == (gain > 0.0)).count();
    if gain.abs() <= spread || agree < ratios.len() - ratios.len() / 6 {
        return Verdict::Noise;
    }
    if gain > 0.0 { Verdict::Faster(sum.median) } else { Verdict::Slower(sum.median) }
}

/// Whether `candidate` spends less on doing nothing, in every round and by more than a little.
pub(super) fn rests_better(base: &Candidate, candidate: &Candidate) -> bool {
    let pairs = base.turns.iter().zip(&candidate.turns);
    base.turns.len() >= ROUNDS
        && candidate.turns.len() == base.turns.len()
        && pairs.into_iter().all(|(b, c)| b.idle_cpu - c.idle_cpu > IDLE_POINTS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::policy::{Idle, ZeroCopy};
    use crate::tune::{Turn, Values};

    fn candidate(rates: &[f64]) -> Candidate {
        let values = Values { ring: 1, batch: 1, idle: Idle::Busy, zero_copy: ZeroCopy::Auto, busy_poll: false };
        let turns = rates.iter().map(|rate| Turn { rate: *rate, ..Turn::default() }).collect();
        Candidate { setting: None, values, turns, refused: None }
    }

    fn verdict(base: &[f64], other: &[f64]) -> Verdict {
        judge(&candidate(base), &candidate(other)).0
    }

    #[test]
    fn a_clear_difference_is_told_even_when_the_machine_drifts() {
        let base = [100.0, 60.0, 140.0, 80.0, 120.0];
        let faster = base.map(|b| b * 1.2);
        assert!(matches!(verdict(&base, &faster), Verdict::Faster(r) if (r - 1.2).abs() < 1e-9));
        assert!(matches!(verdict(&faster, &base), Verdict::Slower(_)));
        assert_eq!(verdict(&base, &base), Verdict::Alike);
    }

    #[test]
    fn noise_larger_than_the_difference_concludes_nothing() {
        assert_eq!(verdict(&[100.0; 5], &[90.0, 125.0, 110.0, 85.0, 130.0]), Verdict::Noise);
        // A median that gains, and one round of five that says otherwise.
        assert_eq!(verdict(&[100.0; 5], &[106.0, 107.0, 99.0, 106.0, 107.0]), Verdict::Noise);
        assert_eq!(verdict(&[100.0; 5], &[101.0, 90.0, 110.0, 100.0, 95.0]), Verdict::Noise);
        assert_eq!(verdict(&[100.0; 2], &[200.0; 2]), Verdict::Unknown);
        assert_eq!(verdict(&[0.0; 5], &[200.0; 5]), Verdict::Unknown, "nothing arrived to compare with");
    }

    #[test]
    fn doing_nothing_has_a_cost_of_its_own() {
        let with = |cpu: f64| {
            let mut c = candidate(&[1.0; 3]);
            c.turns.iter_mut().for_each(|t| t.idle_cpu = cpu);
            c
        };
        assert!(rests_better(&with(100.0), &with(1.0)) && !rests_better(&with(4.0), &with(1.0)));
    }
}
