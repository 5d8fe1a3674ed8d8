//! The universal scalability law (Gunther, "Guerrilla Capacity Planning", 2007, ch. 4 and 5): what n workers do,
//! X(n) = λn / (1 + σ(n−1) + κn(n−1)); λ is what one does, σ what waits for shared things, κ what keeping each other informed costs.

/// A fitted law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usl {
    /// Rate of one worker, in the unit of the rates.
    pub lambda: f64,
    /// Contention, 0 or more.
    pub sigma: f64,
    /// Coherency, 0 or more.
    pub kappa: f64,
    /// Root mean square of the relative error over the points it was fitted to.
    pub error: f64,
}

impl Usl {
    /// The rate of `n` workers.
    pub fn rate(&self, n: f64) -> f64 {
        self.lambda * n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }

    /// The number of workers beyond which more do less. `None`: there is none.
    pub fn peak(&self) -> Option<f64> {
        (self.kappa > 0.0).then(|| ((1.0 - self.sigma).max(0.0) / self.kappa).sqrt().max(1.0))
    }

    /// Fits the law to (workers, rate) by least squares of the relative error. `None` with fewer than two different numbers of
    /// workers, or where a figure is not positive. With two numbers κ is not to be told, and 0.
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        if points.iter().any(|(n, x)| *n < 1.0 || *x <= 0.0 || !n.is_finite() || !x.is_finite()) {
            return None;
        }
        let mut numbers: Vec<f64> = points.iter().map(|p| p.0).collect();
        numbers.sort_unstable_by(f64::total_cmp);
        numbers.dedup();
        // n / X(n) = c0 + c1 (n−1) + c2 n(n−1), with c0 = 1/λ, c1 = σ/λ, c2 = κ/λ. Neither c1 nor c2 is negative: of the fits
        // with and without each, the best that is sound.
        let ways: &[&[usize]] = match numbers.len() {
            0 | 1 => return None,
            2 => &[&[0, 1], &[0]],
            _ => &[&[0, 1, 2], &[0, 1], &[0, 2], &[0]],
        };
        let fits = ways.iter().filter_map(|terms| Self::with_terms(points, terms));
        fits.min_by(|a, b| a.error.total_cmp(&b.error))
    }

    fn with_terms(points: &[(f64, f64)], terms: &[usize]) -> Option<Self> {
        let basis = |n: f64| [1.0, n - 1.0, n * (n - 1.0)];
        // Normal equations, each row divided by its left side: relative errors.
        let mut matrix = [[0.0; 4]; 3];
        for (n, x) in points {
            let (row, weight) = (basis(*n), x / n);
            for (i, a) in terms.iter().enumerate() {
                for (j, b) in terms.iter().enumerate() {
                    matrix[i][j] += row[*a] * row[*b] * weight * weight;
                }
                matrix[i][3] += row[*a] * weight;
            }
        }
        let solved = solve(&mut matrix, terms.len())?;
        let mut c = [0.0; 3];
        terms.iter().zip(solved).for_each(|(at, value)| c[*at] = value);
        if c[0] <= 0.0 || c[1] < 0.0 || c[2] < 0.0 {
            return None;
        }
        let mut law = Self { lambda: 1.0 / c[0], sigma: c[1] / c[0], kappa: c[2] / c[0], error: 0.0 };
        let squares: f64 = points.iter().map(|(n, x)| (law.rate(*n) / x - 1.0).powi(2)).sum();
        law.error = (squares / points.len() as f64).sqrt();
        Some(law)
    }
}

/// Gauss' elimination of the first `n` rows, right side in the last column. `None`: no single answer.
fn solve(m: &mut [[f64; 4]; 3], n: usize) -> Option<Vec<f64>> {
    for at in 0..n {
        let pivot = (at..n).max_by(|a, b| m[*a][at].abs().total_cmp(&m[*b][at].abs()))?;
        m.swap(at, pivot);
        if m[at][at].abs() < 1e-12 {
            return None;
        }
        for row in 0..n {
            if row != at {
                let factor = m[row][at] / m[at][at];
                let from = m[at];
                m[row].iter_mut().zip(from).for_each(|(to, from)| *to -= factor * from);
            }
        }
    }
    Some((0..n).map(|i| m[i][3] / m[i][i]).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn points(law: Usl, numbers: &[f64]) -> Vec<(f64, f64)> {
        numbers.iter().map(|n| (*n, law.rate(*n))).collect()
    }

    #[test]
    fn a_known_law_is_found_again() {
        let law = Usl { lambda: 995.65, sigma: 0.02671, kappa: 0.000_769, error: 0.0 };
        let seen = Usl::fit(&points(law, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0])).unwrap();
        assert!((seen.lambda / law.lambda - 1.0).abs() < 1e-6);
        assert!((seen.sigma - law.sigma).abs() < 1e-6 && (seen.kappa - law.kappa).abs() < 1e-8, "{seen:?}");
        // √((1 − 0.02671) / 0.000769)
        assert!((seen.peak().unwrap() - 35.576).abs() < 0.01);
    }

    #[test]
    fn straight_lines_and_better_have_neither() {
        let line = Usl::fit(&[(1.0, 10.0), (2.0, 20.0), (3.0, 30.0), (4.0, 40.0)]).unwrap();
        assert!((line.lambda - 10.0).abs() < 1e-9 && line.sigma < 1e-9 && line.kappa < 1e-9);
        let better = Usl::fit(&[(1.0, 10.0), (2.0, 21.0), (4.0, 44.0)]).unwrap();
        assert!(better.sigma >= 0.0 && better.kappa >= 0.0 && better.peak().is_none());
    }

    #[test]
    fn noise_does_not_move_it_far() {
        let law = Usl { lambda: 100.0, sigma: 0.05, kappa: 0.001, error: 0.0 };
        let mut random = crate::stats::random::Random::new(5);
        let noisy: Vec<_> = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0]
            .iter()
            .map(|n| (*n, law.rate(*n) * (1.0 + 0.01 * random.normal())))
            .collect();
        let seen = Usl::fit(&noisy).unwrap();
        assert!((seen.sigma - 0.05).abs() < 0.02 && seen.error < 0.03, "{seen:?}");
    }

    #[test]
    fn too_little_to_fit() {
        assert_eq!(Usl::fit(&[]), None);
        assert_eq!(Usl::fit(&[(1.0, 5.0), (1.0, 6.0)]), None);
        assert_eq!(Usl::fit(&[(1.0, 5.0), (2.0, 0.0)]), None);
        let two = Usl::fit(&[(1.0, 10.0), (2.0, 18.0)]).unwrap();
        assert!(two.kappa == 0.0 && (two.sigma - 1.0 / 9.0).abs() < 1e-9);
    }
}
