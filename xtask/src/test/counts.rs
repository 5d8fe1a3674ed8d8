//! How many tests passed, read from what the test runners print.

/// Numbers of one step.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Counts {
    /// A step that is one check.
    pub fn one(ok: bool) -> Self {
        Self { passed: u64::from(ok), failed: u64::from(!ok), skipped: 0 }
    }

    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// The numbers in a summary line of libtest (`test result: ok. 3 passed; 0 failed; 1 ignored; …`) or of nextest
    /// (`Summary [ 0.4s] 4 tests run: 3 passed (1 slow), 1 timed out, 2 skipped`); `None` for other lines.
    pub fn of_line(line: &str) -> Option<Self> {
        let plain = without_colour(line);
        // Indented it is what nextest passes on of one test that failed, and counts itself.
        let rest = plain.strip_prefix("test result:").or_else(|| {
            let rest = plain.trim_start().strip_prefix("Summary [")?;
            rest.split_once("run:").map(|(_, counts)| counts)
        })?;
        let words: Vec<&str> = rest.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let mut counts = Self::default();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => counts.passed += number,
                "failed" | "timed" | "exec" => counts.failed += number,
                "skipped" | "ignored" => counts.skipped += number,
                _ => {}
            }
        }
        Some(counts)
    }
}

/// Binary and name of the test in a line of nextest's that says it failed (`FAIL [ 4.3s] (7/9) softdpu::e2e_nat a_test`).
pub fn failed_of_line(line: &str) -> Option<(String, String)> {
    let plain = without_colour(line);
    let words: Vec<&str> = plain.split_whitespace().collect();
    let (how, [.., binary, test]) = (words.first()?, &words[..]) else { return None };
    let failed = ["FAIL", "TIMEOUT", "ABORT"].contains(how) || how.starts_with("SIG");
    let is_line = failed && words.get(1)?.starts_with('[') && plain.starts_with(' ');
    is_line.then(|| ((*binary).to_owned(), (*test).to_owned()))
}

fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // CSI sequences end with a letter.
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_named() {
        let named = |binary: &str, test: &str| Some((binary.to_owned(), test.to_owned()));
        let line = "\u{1b}[31;1m        FAIL\u{1b}[0m [  12.135s] (1115/1516) softdpu::e2e_traffic a::jumbo";
        assert_eq!(failed_of_line(line), named("softdpu::e2e_traffic", "a::jumbo"));
        assert_eq!(
            failed_of_line("     TIMEOUT [ 180.004s] (   3/1516) softdpu tests::slow"),
            named("softdpu", "tests::slow")
        );
        assert_eq!(
            failed_of_line("     SIGABRT [   0.004s] (3/16) xtask::bin/xtask x"),
            named("xtask::bin/xtask", "x")
        );
        for line in ["        PASS [   1.477s] (1116/1516) softdpu::e2e_traffic x", "FAIL [", "", "   FAIL   "] {
            assert_eq!(failed_of_line(line), None, "{line}");
        }
    }

    #[test]
    fn libtest_and_nextest_are_read() {
        let counts = |passed, failed, skipped| Some(Counts { passed, failed, skipped });
        let line = "test result: FAILED. 9 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.22s";
        assert_eq!(Counts::of_line(line), counts(9, 2, 1));
        let line =
            "     Summary [   5.104s] 120 tests run: 117 passed (1 slow, 2 leaky), 1 failed, 2 timed out, 3 skipped";
        assert_eq!(Counts::of_line(line), counts(117, 3, 3));
        let line = "\u{1b}[32;1m     Summary\u{1b}[0m [   0.4s] \u{1b}[1m4/9\u{1b}[0m tests run: \u{1b}[1m4\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, 1 skipped";
        assert_eq!(Counts::of_line(line), counts(4, 0, 1));
        assert_eq!(Counts::of_line("    test result: FAILED. 0 passed; 1 failed; 0 ignored"), None);
        assert_eq!(Counts::of_line("test a_name ... ok"), None);
        assert_eq!(Counts::of_line("error: 3 failed"), None);
    }
}
