//! Line and column of many places in one text.

/// Where the lines of a text begin.
#[derive(Debug)]
pub struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Self { text, starts }
    }

    /// Line and column, both from 1, of a byte offset. Columns count characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.starts[line - 1]..offset).unwrap_or("");
        (line, before.chars().count() + 1)
    }

    /// The text of a line, without what is around it, cut to what a page has room for. Empty where there is none.
    pub fn quote(&self, line: usize) -> &'a str {
        const LONGEST: usize = 160;
        let start = line.checked_sub(1).and_then(|at| self.starts.get(at));
        let text = start.and_then(|start| self.text.get(*start..)).and_then(|rest| rest.lines().next()).unwrap_or("");
        let text = text.trim();
        let cut = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
        &text[..cut]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    #[test]
    fn it_is_what_problems_say() {
        let text = "a = 1\nbü = \"x\"\n\nc";
        let source = Source { name: String::new(), text: text.to_owned() };
        let lines = Lines::new(text);
        for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            assert_eq!(lines.position(at), source.position(at), "{at}");
        }
        assert_eq!((lines.quote(2), lines.quote(4)), ("bü = \"x\"", "c"));
        assert_eq!((lines.quote(0), lines.quote(9)), ("", ""));
    }
}
