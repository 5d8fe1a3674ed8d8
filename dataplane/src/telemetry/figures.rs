//! How figures look.

/// Host names come from packets: nothing in them may steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// With three figures and a decimal prefix: 1.23 M.
pub fn number(n: f64) -> String {
    const PREFIXES: [&str; 6] = ["", " k", " M", " G", " T", " P"];
    let mut value = n;
    let mut prefix = 0;
    // What would round up to 1000 belongs to the next prefix.
    while value >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let digits = match value {
        _ if prefix == 0 && value.fract() == 0.0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", PREFIXES[prefix])
}

/// Likewise with a unit: 1.23 Mpps, 12 pps.
pub fn unit(n: f64, unit: &str) -> String {
    let text = number(n);
    if text.contains(' ') { format!("{text}{unit}") } else { format!("{text} {unit}") }
}

/// Bytes: 1.23 MB.
pub fn bytes(n: u64) -> String {
    unit(n as f64, "B")
}

/// A count, exact while it is readable.
pub fn count(n: u64) -> String {
    if n < 100_000 { n.to_string() } else { number(n as f64) }
}

/// Time in the two largest units: 3m 20s.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0 => format!("{:.0}ms", seconds.max(0.0) * 1000.0),
        1..=59 => format!("{s}s"),
        60..=3599 => format!("{}m {}s", s / 60, s % 60),
        3600..=86_399 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// The text, or a dash for none.
pub fn or_dash(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or("-").to_owned()
}
