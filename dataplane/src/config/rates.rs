//! Bandwidths and latencies as intents and policies write them.

use std::fmt;
use std::str::FromStr;

use super::values::Bad;

/// Bits per second, from 1 kbit/s to 1 Pbit/s. Written as a whole number and `kbit/s`, `Mbit/s`, `Gbit/s` or `Tbit/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth(pub u64);

const UNITS: [(&str, u64); 4] =
    [("Tbit/s", 1_000_000_000_000), ("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000)];

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in UNITS {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{} {unit}", self.0 / size);
            }
        }
        write!(f, "{} bit/s", self.0)
    }
}

impl FromStr for Bandwidth {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let bad = || {
            Bad::new(
                format!("`{text}` is not a bandwidth"),
                "write a whole number and its unit (kbit/s, Mbit/s, Gbit/s, Tbit/s), for example \"250 Mbit/s\"",
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(bad)?;
        match number.checked_mul(*size) {
            Some(bits @ 1_000..=1_000_000_000_000_000) => Ok(Self(bits)),
            _ => Err(Bad::new(format!("`{text}` is out of range"), "from \"1 kbit/s\" to \"1000 Tbit/s\"")),
        }
    }
}

/// Microseconds, from 1 µs to 60 s. Written as a whole number and `us`, `ms` or `s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latency(pub u64);

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us.is_multiple_of(1_000_000) => write!(f, "{}s", us / 1_000_000),
            us if us.is_multiple_of(1_000) => write!(f, "{}ms", us / 1_000),
            us => write!(f, "{us}us"),
        }
    }
}

impl FromStr for Latency {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let bad = || {
            Bad::new(
                format!("`{text}` is not a latency"),
                "write a whole number and its unit (us, ms, s), for example \"500us\"",
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let size = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            _ => return Err(bad()),
        };
        match number.checked_mul(size) {
            Some(us @ 1..=60_000_000) => Ok(Self(us)),
            _ => Err(Bad::new(format!("`{text}` is out of range"), "from \"1us\" to \"60s\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, bits) in [("1 Gbit/s", 1_000_000_000), ("250Mbit/s", 250_000_000), ("64 kbit/s", 64_000)] {
            let read: Bandwidth = text.parse().unwrap();
            assert_eq!(read.0, bits);
            assert_eq!(read.to_string().parse::<Bandwidth>().unwrap(), read);
        }
        for text in ["", "1", "1 GB/s", "-1 Mbit/s", "0 kbit/s", "99999999999999999999 Gbit/s", "2000000 Gbit/s"] {
            assert!(text.parse::<Bandwidth>().is_err(), "{text}");
        }
        for (text, us) in [("200us", 200), ("5ms", 5_000), ("1s", 1_000_000)] {
            let read: Latency = text.parse().unwrap();
            assert_eq!((read.0, read.to_string().as_str()), (us, text));
        }
        for text in ["", "5", "0us", "61s", "5 min"] {
            assert!(text.parse::<Latency>().is_err(), "{text}");
        }
    }
}
