//! SVG by hand: axes and marks. Colours are classes that the page's style sheet knows, for both schemes; lines differ by their dashes
//! too.

use std::fmt::Write as _;

use super::escaped;

/// Width of all drawings, in units: text stays readable where a phone shows them at 360 pixels.
pub const WIDTH: f64 = 440.0;
/// A drawing with a name and a description for those who do not see it.
pub struct Drawing {
    height: f64,
    title: String,
    says: String,
    body: String,
}

impl Drawing {
    pub fn new(height: f64, title: &str, says: &str) -> Self {
        Self { height, title: escaped(title), says: escaped(says), body: String::new() }
    }

    pub fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let _ = write!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", escaped(text));
    }

    pub fn rect(&mut self, x: f64, y: f64, size: (f64, f64), class: &str) {
        let (w, h) = (size.0.max(0.0), size.1.max(0.0));
        let _ =
            write!(self.body, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" class=\"{class}\"/>");
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ =
            write!(self.body, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>");
    }

    pub fn dot(&mut self, x: f64, y: f64, class: &str) {
        let _ = write!(self.body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" class=\"{class}\"/>");
    }

    /// A dot that is what the drawing is about.
    pub fn big_dot(&mut self, x: f64, y: f64, class: &str) {
        let _ = write!(self.body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" class=\"{class}\"/>");
    }

    /// A line through points.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let mut all = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(all, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        let _ = write!(self.body, "<path d=\"{all}\" class=\"{class}\"/>");
    }

    pub fn done(self) -> String {
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\"><title>{}</title><desc>{}</desc>{}</svg>",
            self.height, self.title, self.says, self.body
        )
    }
}

/// From values to places, linear or logarithmic.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// Of values from `low` to `high` onto `from` … `to`. On a logarithmic scale what is not positive has no place: `low` has to be.
    pub fn new((low, high): (f64, f64), (from, to): (f64, f64), log: bool) -> Self {
        let (low, high) = if log { (low.max(1e-9), high.max(low.max(1e-9) * 1.0001)) } else { (low, high) };
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to, log }
    }

    pub fn at(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values worth a mark: powers of ten, or four to eight round steps.
    pub fn marks(&self) -> Vec<f64> {
        if self.log {
            let (from, to) = (self.low.log10().ceil() as i32, self.high.log10().floor() as i32);
            let step = ((to - from) / 6 + 1).max(1) as usize;
            let mut marks: Vec<f64> = (from..=to).step_by(step).map(|e| 10f64.powi(e)).collect();
            if marks.len() < 3 {
                // Less than two decades: in between, too.
                let all = (from - 1..=to).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e)));
                marks = all.filter(|v| (self.low..=self.high).contains(v)).collect();
            }
            if marks.len() < 2 {
                marks = vec![self.low, (self.low * self.high).sqrt(), self.high];
            }
            return marks;
        }
        let raw = (self.high - self.low) / 5.0;
        let ten = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * ten).find(|s| *s >= raw).unwrap_or(raw);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|n| n as f64 * step).take_while(|v| *v <= self.high * 1.000_001).take(12).collect()
    }
}

/// A time of `ns` nanoseconds on an axis.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        v if v >= 1e9 => (v / 1e9, "s"),
        v if v >= 1e6 => (v / 1e6, "ms"),
        v if v >= 1e3 => (v / 1e3, "µs"),
        v => (v, "ns"),
    };
    format!("{} {unit}", short(value))
}

/// A figure on an axis: short.
pub fn short(v: f64) -> String {
    let plain = |v: f64| {
        let text = if v.abs() >= 100.0 { format!("{v:.0}") } else { format!("{v:.2}") };
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match v.abs() {
        a if a >= 1e9 => format!("{} G", plain(v / 1e9)),
        a if a >= 1e6 => format!("{} M", plain(v / 1e6)),
        a if a >= 1e4 => format!("{} k", plain(v / 1e3)),
        a if a > 0.0 && a < 0.01 => format!("{v:.0e}"),
        _ => plain(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_their_ends_and_middle() {
        let s = Scale::new((0.0, 10.0), (100.0, 200.0), false);
        assert_eq!((s.at(0.0), s.at(5.0), s.at(10.0), s.at(99.0)), (100.0, 150.0, 200.0, 200.0));
        let l = Scale::new((1.0, 100.0), (0.0, 2.0), true);
        assert!((l.at(10.0) - 1.0).abs() < 1e-9 && l.at(0.0) == 0.0);
        assert_eq!(l.marks(), [1.0, 10.0, 100.0]);
        assert_eq!(s.marks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        // Nothing to show is no reason for a division by zero.
        let none = Scale::new((0.0, 0.0), (0.0, 1.0), false);
        assert!(none.at(0.0) == 0.0 && !none.marks().is_empty());
        assert_eq!(Scale::new((400.0, 2135.0), (0.0, 1.0), true).marks(), [500.0, 1000.0, 2000.0]);
        assert!(Scale::new((3.0, 5.0), (0.0, 1.0), true).marks().len() == 3);
    }

    #[test]
    fn figures_are_short() {
        let seen: Vec<String> = [0.0, 0.004, 0.5, 12.25, 300.0, 12_500.0, 3e6, 2.5e9].map(short).into();
        assert_eq!([5.0, 1e4, 2e6, 5e9].map(time), ["5 ns", "10 µs", "2 ms", "5 s"]);
        assert_eq!(seen, ["0", "4e-3", "0.5", "12.25", "300", "12.5 k", "3 M", "2.5 G"]);
    }
}
