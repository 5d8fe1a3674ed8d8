//! The small values a policy is written in: prefixes, port ranges, protocols, durations, host patterns and the like. Each is
//! parsed from its text, and what is wrong with a text is said with the remedy.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

pub use crate::wire::prefix::Prefix;

/// What is wrong with a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    pub message: String,
    pub help: String,
}

impl Bad {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.help)
    }
}

impl FromStr for Prefix {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let example = "write an address or a prefix, for example \"10.1.0.0/24\" or \"2001:db8::/32\"";
        let (addr, len) = match text.split_once('/') {
            Some((a, l)) => (a, Some(l)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| Bad::new(format!("`{text}` is not an address prefix"), example))?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let Some(len) = len else { return Ok(Self::host(addr)) };
        let len = len
            .parse::<u8>()
            .ok()
            .filter(|l| *l <= max && !text.contains("/+"))
            .ok_or_else(|| Bad::new(format!("`{text}` has an impossible prefix length"), format!("0 to {max}")))?;
        match Self::new(addr, len) {
            Some(p) if p.addr() == addr => Ok(p),
            Some(p) => Err(Bad::new(
                format!("`{text}` has bits set behind the prefix"),
                format!("write the network, \"{p}\", or the single address, \"{addr}\""),
            )),
            None => Err(Bad::new(format!("`{text}` is not an address prefix"), example)),
        }
    }
}

/// Layer-4 ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let one = |t: &str| -> Result<u16, Bad> {
            let n: u64 = t.trim().parse().map_err(|_| {
                Bad::new(
                    format!("`{text}` is not a port"),
                    "write a port or a range, for example \"443\" or \"8000-8099\"",
                )
            })?;
            u16::try_from(n).map_err(|_| Bad::new(format!("{n} is not a port number"), "ports are 0 to 65535"))
        };
        let (first, last) = match text.split_once('-') {
            Some((a, b)) => (one(a)?, one(b)?),
            None => (one(text)?, one(text)?),
        };
        if first > last {
            return Err(Bad::new(
                format!("the port range `{text}` is empty"),
                format!("the lower port comes first: \"{last}-{first}\""),
            ));
        }
        Ok(Self { first, last })
    }
}

/// An IP protocol, or any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protocol(pub Option<u8>);

/// Protocol names that a policy may use, with their IANA numbers.
pub const PROTOCOLS: &[(&str, u8)] = &[("icmp", 1), ("tcp", 6), ("udp", 17), ("esp", 50), ("icmpv6", 58)];

impl Protocol {
    pub const ANY: Self = Self(None);
    pub const TCP: Self = Self(Some(6));
    pub const UDP: Self = Self(Some(17));
    pub const ESP: Self = Self(Some(50));

    /// Whether packets of it have ports that a rule can look at. `any` does: such a rule means TCP and UDP.
    pub fn has_ports(self) -> bool {
        matches!(self.0, None | Some(6 | 17))
    }

    pub fn covers(self, other: Self) -> bool {
        self.0.is_none() || self == other
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("any"),
            Some(n) => match PROTOCOLS.iter().find(|(_, number)| *number == n) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "{n}"),
            },
        }
    }
}

impl FromStr for Protocol {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        if text == "any" {
            return Ok(Self::ANY);
        }
        if let Some((_, n)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
            return Ok(Self(Some(*n)));
        }
        let names = "one of any, tcp, udp, icmp, icmpv6, esp, or a number 0 to 255";
        match text.parse::<i64>() {
            Ok(n) => u8::try_from(n)
                .map(|n| Self(Some(n)))
                .map_err(|_| Bad::new(format!("{n} is not an IP protocol number"), names)),
            Err(_) => {
                let help = match super::suggest::nearest(text, PROTOCOLS.iter().map(|(n, _)| *n).chain(["any"])) {
                    Some(near) => format!("did you mean \"{near}\"? It is {names}"),
                    None => names.to_owned(),
                };
                Err(Bad::new(format!("`{text}` is not a protocol"), help))
            }
        }
    }
}

/// A time span: a whole number and `ms`, `s`, `m`, `h` or `d`. From 1 ms to 30 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms.is_multiple_of(1000) { write!(f, "{}s", ms / 1000) } else { write!(f, "{ms}ms") }
    }
}

impl FromStr for Span {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let bad = || {
            Bad::new(
                format!("`{text}` is not a time span"),
                "write a whole number and its unit (ms, s, m, h, d), for example \"300s\"",
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        match number.checked_mul(unit_ms) {
            Some(ms @ 1..=2_592_000_000) => Ok(Self(Duration::from_millis(ms))),
            _ => Err(Bad::new(format!("`{text}` is out of range"), "from \"1ms\" to \"30d\"")),
        }
    }
}

/// How often something is done: a [`Span`], or `0s` for never, which is zero here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(self.0).fmt(f)
    }
}

impl FromStr for Interval {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        if text == "0s" { Ok(Self(Duration::ZERO)) } else { text.parse().map(|span: Span| Self(span.0)) }
    }
}

/// A host name, or `*.` and a domain (any depth below it, not the domain itself), or `*`. Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(String);

impl HostPattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `host` in lower case, without a trailing dot.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some("") => !host.is_empty(),
            Some(dotted) => host.len() > dotted.len() && host.ends_with(dotted),
            None => self.0 == host,
        }
    }

    /// Whether every host that `other` matches is matched by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.0.strip_prefix('*'), other.0.strip_prefix('*')) {
            (Some(""), _) => true,
            (Some(mine), Some(theirs)) => theirs.ends_with(mine),
            (None, Some(_)) => false,
            (_, None) => self.matches(&other.0),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostPattern {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let help = "write a name (\"www.example.com\") or all names below a domain (\"*.example.com\")";
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let lower = text.to_ascii_lowercase();
        let rest = lower.strip_prefix("*.").unwrap_or(&lower);
        if rest.contains('*') {
            return Err(Bad::new(format!("`{text}` has a `*` that is not the whole first label"), help));
        }
        if rest.contains("://") || rest.contains('/') || rest.contains(':') {
            return Err(Bad::new(
                format!("`{text}` is more than a host name"),
                "write the name alone, no scheme, port or path",
            ));
        }
        let label = |l: &str| {
            !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // RFC 1035 section 2.3.4: 63 octets a label, 255 a name (253 as text).
        if rest.len() > 253 || !rest.split('.').all(label) {
            return Err(Bad::new(format!("`{text}` is not a host name"), help));
        }
        Ok(Self(lower))
    }
}
