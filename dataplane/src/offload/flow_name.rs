//! How people name a flow: its id, or its ends in whatever form they have them.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// `1:4711` (worker and place, as `softdpu flows` shows it), or one or both ends: `10.0.0.1:5000 10.0.0.2:443`,
/// `tcp 10.0.0.1:5000 -> [2001:db8::1]:443`, `10.0.0.1:5000-10.0.0.2:443`, `10.0.0.2`. The order of the ends does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowName {
    id: Option<String>,
    l4: Option<String>,
    ends: Vec<(IpAddr, Option<u16>)>,
}

impl FromStr for FlowName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut name = Self { id: None, l4: None, ends: Vec::new() };
        let plain = text.replace("->", " ").replace("<>", " ").replace(['→', '↔', ',', ';', '>', '<', '=', '-'], " ");
        for word in plain.split_whitespace() {
            let lower = word.to_ascii_lowercase();
            if matches!(lower.as_str(), "tcp" | "udp") {
                name.l4 = Some(lower);
            } else if let Ok(end) = word.parse::<SocketAddr>() {
                name.ends.push((end.ip(), Some(end.port())));
            } else if let Ok(address) = word.trim_matches(['[', ']']).parse::<IpAddr>() {
                name.ends.push((address, None));
            } else if is_id(word) {
                name.id = Some(word.to_owned());
            } else if let (Some(last), Ok(port)) = (name.ends.last_mut().filter(|end| end.1.is_none()), word.parse()) {
                // "10.0.0.1 443"
                last.1 = Some(port);
            } else {
                return Err(format!("`{word}` is neither an address with a port nor a flow's id"));
            }
        }
        if name.id.is_none() && name.ends.is_empty() || name.ends.len() > 2 {
            return Err("name a flow by its id, or by one or both of its ends".into());
        }
        Ok(name)
    }
}

fn is_id(word: &str) -> bool {
    word.split_once(':').is_some_and(|(a, b)| a.parse::<u16>().is_ok() && b.parse::<u32>().is_ok())
}

impl FlowName {
    /// Whether a flow is meant. `a`, `b`: `ip:port`.
    pub fn is(&self, id: &str, l4: &str, a: &str, b: &str) -> bool {
        if self.id.as_deref().is_some_and(|wanted| wanted != id)
            || self.l4.as_deref().is_some_and(|wanted| wanted != l4)
        {
            return false;
        }
        let Ok([a, b]) =
            [a, b].map(str::parse::<SocketAddr>).into_iter().collect::<Result<Vec<_>, _>>().map(|v| [v[0], v[1]])
        else {
            return false;
        };
        let fits = |(address, port): &(IpAddr, Option<u16>), end: SocketAddr| {
            *address == end.ip() && port.is_none_or(|port| port == end.port())
        };
        match self.ends.as_slice() {
            [] => true,
            [one] => fits(one, a) || fits(one, b),
            [one, two, ..] => fits(one, a) && fits(two, b) || fits(one, b) && fits(two, a),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_ways_to_say_it() {
        for text in [
            "10.0.0.1:5000 10.0.0.2:443",
            "tcp 10.0.0.1:5000 -> 10.0.0.2:443",
            "10.0.0.2:443,10.0.0.1:5000",
            "TCP 10.0.0.1:5000→10.0.0.2:443",
            "10.0.0.1:5000-10.0.0.2:443",
            "10.0.0.1 5000 10.0.0.2 443",
            "10.0.0.1:5000",
            "10.0.0.2",
            "1:77",
        ] {
            let name: FlowName = text.parse().unwrap();
            assert!(name.is("1:77", "tcp", "10.0.0.1:5000", "10.0.0.2:443"), "{text}");
            assert!(!name.is("1:78", "tcp", "10.0.0.1:5001", "10.0.0.3:443"), "{text}");
        }
        let v6: FlowName = "udp [2001:db8::1]:53 > 2001:db8::2".parse().unwrap();
        assert!(v6.is("0:1", "udp", "[2001:db8::2]:999", "[2001:db8::1]:53"));
        for bad in ["", "tcp", "hello", "1.2.3.4 5.6.7.8 9.9.9.9", "10.0.0.1:99999"] {
            assert!(bad.parse::<FlowName>().is_err(), "{bad}");
        }
    }
}
