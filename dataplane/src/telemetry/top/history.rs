//! What each row was lately, for its sparkline.

use std::collections::{HashMap, VecDeque};

/// Looks that are remembered.
pub const LENGTH: usize = 240;
/// Rows that are remembered: lists of flows change with every look.
const MAX_ROWS: usize = 4096;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Default)]
pub struct History {
    rows: HashMap<String, VecDeque<f64>>,
    /// What was there at the last look.
    seen: Vec<String>,
}

impl History {
    /// Appends the values of one look; rows that it does not have are forgotten.
    pub fn push(&mut self, values: impl IntoIterator<Item = (String, f64)>) {
        self.seen.clear();
        for (key, value) in values {
            if self.seen.len() >= MAX_ROWS {
                break;
            }
            let row = self.rows.entry(key.clone()).or_default();
            if row.len() >= LENGTH {
                row.pop_front();
            }
            row.push_back(if value.is_finite() { value.max(0.0) } else { 0.0 });
            self.seen.push(key);
        }
        if self.rows.len() > self.seen.len() {
            let seen: std::collections::HashSet<&String> = self.seen.iter().collect();
            self.rows.retain(|key, _| seen.contains(key));
        }
    }

    /// The last `width` values, the newest last.
    pub fn last(&self, key: &str, width: usize) -> Vec<f64> {
        self.rows.get(key).map_or_else(Vec::new, |row| {
            let skip = row.len().saturating_sub(width);
            row.iter().skip(skip).copied().collect()
        })
    }

    /// The last `width` values as bars, against the largest of them.
    pub fn bars(&self, key: &str, width: usize) -> String {
        let values = self.last(key, width);
        let top = values.iter().copied().fold(0.0, f64::max);
        let bar = |value: &f64| match value {
            v if *v <= 0.0 || top <= 0.0 => BARS[0],
            v => BARS[((v / top * 7.0).round() as usize).min(7)],
        };
        values.iter().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_and_forgets_what_is_gone() {
        let mut history = History::default();
        for n in 0..1000 {
            history.push([("a".to_owned(), f64::from(n)), (format!("flow {n}"), 1.0)]);
        }
        assert_eq!(history.rows.len(), 2, "flows that ended are forgotten");
        assert_eq!(history.last("a", usize::MAX).len(), LENGTH);
        assert_eq!(history.last("a", 2), [998.0, 999.0]);
        assert!(history.last("b", 9).is_empty());
    }

    #[test]
    fn bars_are_against_the_largest() {
        let mut history = History::default();
        for value in [0.0, 50.0, 100.0, f64::NAN, -3.0] {
            history.push([("a".to_owned(), value)]);
        }
        assert_eq!(history.bars("a", 10), "▁▅█▁▁");
        assert_eq!(history.bars("a", 2), "▁▁", "nothing is no bar");
    }
}
