//! What the VM says on its second serial line: lines of `init.sh`, which begin with `@@vm`, and what the tests print.

use std::time::Duration;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// The kernel cannot load a module.
    Lack(String),
    /// It is up: release, time since power on.
    Boot(String, Duration),
    /// A test begins: file, name.
    Begin(String, String),
    /// It ended: code, time.
    End(i32, Duration),
    /// The kernel complained during it.
    Kernel(String),
    /// It left a namespace.
    Left(String),
    /// A row of the table of peers, as JSON.
    Row(String),
    /// All are done.
    Done,
    /// Printed by a test.
    Text(String),
}

impl Word {
    /// Reads a line. What `init.sh` would not say is text.
    pub fn read(line: &str) -> Self {
        let line = line.trim_end_matches(['\r', '\n']);
        Self::said(line).unwrap_or_else(|| Self::Text(line.to_owned()))
    }

    fn said(line: &str) -> Option<Self> {
        let (verb, rest) = line.strip_prefix("@@vm ")?.split_once(' ').unwrap_or((line.strip_prefix("@@vm ")?, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let seconds = |at: usize| words.get(at)?.parse::<f64>().ok();
        Some(match verb {
            "lack" => Self::Lack(rest.to_owned()),
            "boot" => Self::Boot(words.first()?.to_string(), Duration::try_from_secs_f64(seconds(1)?).ok()?),
            "begin" => Self::Begin(words.first()?.to_string(), words.get(1)?.to_string()),
            "end" => {
                let took = Duration::try_from_secs_f64(seconds(2)? - seconds(1)?).ok()?;
                Self::End(words.first()?.parse().ok()?, took)
            }
            "kernel" => Self::Kernel(rest.to_owned()),
            "row" => Self::Row(rest.to_owned()),
            "left" => Self::Left(rest.to_owned()),
            "done" => Self::Done,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_init_are_read_and_others_are_text() {
        assert_eq!(Word::read("@@vm boot 7.2.12 9.50\r\n"), Word::Boot("7.2.12".into(), Duration::from_millis(9500)));
        assert_eq!(Word::read("@@vm begin vm_esp a::b"), Word::Begin("vm_esp".into(), "a::b".into()));
        assert_eq!(Word::read("@@vm end 101 10.00 12.25"), Word::End(101, Duration::from_millis(2250)));
        assert_eq!(Word::read("@@vm done"), Word::Done);
        assert_eq!(Word::read("@@vm kernel WARNING: CPU: 0 x"), Word::Kernel("WARNING: CPU: 0 x".into()));
        assert_eq!(Word::read("@@vm row {\"peer\": \"x y\"}"), Word::Row("{\"peer\": \"x y\"}".into()));
        for odd in ["", "@@vm", "@@vm end", "@@vm end 1 9.0 8.0", "@@vm boot 7 nan", "running 1 test", "x @@vm done"] {
            assert_eq!(Word::read(odd), Word::Text(odd.to_owned()));
        }
    }
}
