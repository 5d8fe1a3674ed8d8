//! Host patterns of applications: as those of rules, and `*` within labels too.

use std::fmt;
use std::str::FromStr;

use super::values::Bad;

/// Most `*` in a pattern.
const MAX_STARS: usize = 4;

/// A host name (`www.example.com`); all names below a domain at any depth (`*.example.com`, not the domain itself); any name (`*`);
/// or labels with `*` in them for any number of characters of that label (`api-*.example.com`). Lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostGlob(Box<str>);

/// What a pattern asks of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape<'a> {
    /// Any name.
    Any,
    /// This name.
    Exact(&'a str),
    /// At least one label before this one.
    Below(&'a str),
    /// As [`HostGlob::matches`] says; in any case it ends with these labels, behind a dot. Empty: any ending.
    Glob(&'a str),
}

impl HostGlob {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn shape(&self) -> Shape<'_> {
        let text = self.as_str();
        match text.rfind('*') {
            None => Shape::Exact(text),
            Some(0) if text.len() == 1 => Shape::Any,
            Some(0) if text.as_bytes()[1] == b'.' => Shape::Below(&text[2..]),
            Some(star) => Shape::Glob(text[star..].find('.').map_or("", |dot| &text[star + dot + 1..])),
        }
    }

    /// How specific it is: more for each character other than `*`, and a name more than a pattern of as many characters. 1 to 508.
    pub fn rank(&self) -> u16 {
        let stars = self.0.bytes().filter(|b| *b == b'*').count();
        2 * (self.0.len() - stars) as u16 + if stars == 0 { 2 } else { 1 }
    }

    /// `host` in lower case, without a trailing dot.
    pub fn matches(&self, host: &str) -> bool {
        match self.shape() {
            Shape::Any => !host.is_empty(),
            Shape::Exact(name) => host == name,
            Shape::Below(domain) => {
                host.strip_suffix(domain).is_some_and(|before| before.len() > 1 && before.ends_with('.'))
            }
            Shape::Glob(_) => labels_match(&self.0, host),
        }
    }
}

/// From the right, label by label; `*.` in front stands for one label or more.
fn labels_match(pattern: &str, host: &str) -> bool {
    let (deep, pattern) = pattern.strip_prefix("*.").map_or((false, pattern), |rest| (true, rest));
    let (mut wanted, mut given) = (pattern.rsplit('.'), host.rsplit('.'));
    loop {
        match (wanted.next(), given.next()) {
            (Some(w), Some(g)) if label_matches(w.as_bytes(), g.as_bytes()) => {}
            (None, Some(g)) => return deep && (!g.is_empty() || given.next().is_some()),
            (None, None) => return !deep,
            _ => return false,
        }
    }
}

/// `*` stands for any number of characters. Goes back to the last `*` only, so it takes at most the product of the lengths.
fn label_matches(pattern: &[u8], label: &[u8]) -> bool {
    let (mut p, mut l, mut back) = (0, 0, None);
    while l < label.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, l));
                p += 1;
            }
            Some(c) if *c == label[l] => (p, l) = (p + 1, l + 1),
            _ => match back {
                Some((after, taken)) => {
                    (p, l) = (after, taken + 1);
                    back = Some((after, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

impl fmt::Debug for HostGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for HostGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostGlob {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let help = "write a name (\"www.example.com\"), all names below a domain (\"*.example.com\"), or `*` within labels (\"api-*.example.com\")";
        let bad = |message: String, help: &str| Err(Bad::new(message, help));
        if !text.is_ascii() {
            return bad(format!("`{text}` is not ASCII"), "write the name as it is on the wire (xn--…, RFC 5890)");
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if name.contains("://") || name.contains('/') || name.contains(':') {
            return bad(format!("`{text}` is more than a host name"), "write the name alone, no scheme, port or path");
        }
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*'))
        };
        // RFC 1035 section 2.3.4: 63 octets a label, 255 a name (253 as text).
        if name.len() > 253 || !name.split('.').all(label) {
            return bad(format!("`{text}` is not a host name or pattern"), help);
        }
        if name.bytes().filter(|b| *b == b'*').count() > MAX_STARS {
            return bad(format!("`{text}` has more than {MAX_STARS} `*`"), help);
        }
        if name.contains("**") {
            return bad(format!("`{text}` has `*` twice in a row"), "once is enough");
        }
        Ok(Self(name.into()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pattern(text: &str) -> HostGlob {
        text.parse().unwrap()
    }

    #[test]
    fn shapes_and_what_they_match() {
        for (text, yes, no) in [
            ("Shop.Example.", &["shop.example"][..], &["a.shop.example", "shop.example2", "xshop.example", ""][..]),
            ("*.pay.example", &["a.pay.example", "a.b.pay.example"], &["pay.example", ".pay.example", "xpay.example"]),
            ("*", &["a", "a.b"], &[""]),
            (
                "api-*.pay.example",
                &["api-.pay.example", "api-eu1.pay.example"],
                &["api-a.b.pay.example", "xapi-a.pay.example"],
            ),
            ("*cdn*.example", &["cdn.example", "a-cdn-b.example"], &["a.cdn.example", "cd.example"]),
            ("www.*.example", &["www.a.example"], &["www.example", "www.a.b.example"]),
            ("*.a*.example", &["x.ab.example", "y.x.a.example"], &["ab.example", "x.b.example"]),
            ("foo.*", &["foo.com"], &["foo", "foo.co.uk"]),
            ("a*b*c.d", &["abc.d", "axbxbc.d"], &["ab.d", "acb.d"]),
        ] {
            let pattern = pattern(text);
            for host in yes {
                assert!(pattern.matches(host), "{text} should match {host}");
            }
            for host in no {
                assert!(!pattern.matches(host), "{text} should not match {host}");
            }
        }
    }

    #[test]
    fn the_fixed_ending_of_a_glob() {
        assert_eq!(pattern("api-*.pay.example").shape(), Shape::Glob("pay.example"));
        assert_eq!(pattern("www.*.example").shape(), Shape::Glob("example"));
        assert_eq!(pattern("foo.*").shape(), Shape::Glob(""));
        assert_eq!(pattern("*.a*.example").shape(), Shape::Glob("example"));
        assert_eq!(pattern("*.example").shape(), Shape::Below("example"));
    }

    #[test]
    fn more_letters_are_more_specific_and_a_name_most_of_all() {
        let order = ["*", "*.example", "*.a.example", "a*.a.example", "a.a.example"];
        assert!(order.windows(2).all(|two| pattern(two[0]).rank() < pattern(two[1]).rank()));
        assert_eq!(pattern("*").rank(), 1);
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        for (text, cause) in [
            ("https://a.example/", "more than a host name"),
            ("a..b", "not a host name"),
            ("", "not a host name"),
            ("a b", "not a host name"),
            ("münchen.example", "not ASCII"),
            ("**.example", "twice in a row"),
            ("a*b*c*d*e*f", "more than 4"),
        ] {
            assert!(text.parse::<HostGlob>().unwrap_err().message.contains(cause), "{text}");
        }
    }
}
