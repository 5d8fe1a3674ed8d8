//! What is wrong with a policy file: where, why, and what to write instead.

use std::fmt;
use std::io::IsTerminal;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, Severity, SourceCode};
use serde::Serialize;

/// Stable code of a problem, for scripts and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The file cannot be read.
    Unreadable,
    /// Not TOML.
    Syntax,
    /// A key the schema does not have.
    UnknownKey,
    /// A key that must be there is not.
    MissingKey,
    /// A string where a number belongs, and the like.
    WrongType,
    /// A word that is not one of the choices.
    UnknownWord,
    /// Well-formed, but not possible.
    ImpossibleValue,
    /// Two keys that exclude each other.
    Conflict,
    /// A name given twice.
    DuplicateName,
    /// A name that nothing has.
    UnknownName,
    /// One key for two security associations: nonces would repeat.
    KeyReuse,
    /// A key file that is missing or that others may read.
    KeyFile,
    /// A rule that an earlier one hides.
    Shadowed,
    /// The stricter of two statements was taken.
    StricterWins,
    /// Something asked for that can never come about as the policy stands.
    NoEffect,
}

impl Code {
    /// The code as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::UnknownKey => "unknown-key",
            Self::MissingKey => "missing-key",
            Self::WrongType => "wrong-type",
            Self::UnknownWord => "unknown-word",
            Self::ImpossibleValue => "impossible-value",
            Self::Conflict => "conflict",
            Self::DuplicateName => "duplicate-name",
            Self::UnknownName => "unknown-name",
            Self::KeyReuse => "key-reuse",
            Self::KeyFile => "key-file",
            Self::Shadowed => "shadowed",
            Self::StricterWins => "stricter-wins",
            Self::NoEffect => "no-effect",
        }
    }
}

/// One problem, with its place in the source.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    /// A warning does not keep the policy from being used.
    pub warning: bool,
    pub message: String,
    /// Short text at the place itself.
    pub label: String,
    /// What to do about it.
    pub help: String,
    /// Bytes of the source.
    pub span: Range<usize>,
    /// Path of the key whose value does not fit the schema, as in `port.interface`; else empty.
    pub key: String,
    /// A second place that belongs to it.
    pub other: Option<(Range<usize>, String)>,
}

impl Problem {
    pub fn error(code: Code, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            code,
            warning: false,
            message: message.into(),
            label: "here".to_owned(),
            help: help.into(),
            span,
            key: String::new(),
            other: None,
        }
    }

    pub fn warning(code: Code, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { warning: true, ..Self::error(code, span, message, help) }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn other(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.other = Some((span, label.into()));
        self
    }
}

/// A problem as `softdpu check --json` prints it. Line and column count from 1; columns are characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Located {
    pub code: Code,
    pub message: String,
    pub help: String,
    pub file: String,
    pub line: usize,
    pub column: usize,
}

/// The text a policy came from, and what it is called in messages.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    /// Line and column, both from 1, of a byte offset. Columns count characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    pub fn locate(&self, problem: &Problem) -> Located {
        let (line, column) = self.position(problem.span.start);
        Located {
            code: problem.code,
            message: problem.message.clone(),
            help: problem.help.clone(),
            file: self.name.clone(),
            line,
            column,
        }
    }

    /// The problems as a person reads them: file, line, column, the lines concerned, the remedy.
    pub fn render(&self, problems: &[Problem], colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(110).with_context_lines(1);
        let mut out = String::new();
        let source = Source { name: visible(&self.name), text: visible(&self.text) };
        for problem in problems {
            if !out.is_empty() {
                out.push('\n');
            }
            let mut problem = Problem { message: visible(&problem.message), ..problem.clone() };
            if self.text.is_empty() && !problem.message.contains(&source.name) {
                // There is nothing to point at.
                problem.message = format!("{}:1:1: {}", source.name, problem.message);
            }
            let view = View { source: &source, problem: &problem };
            // Writing to a String fails only when miette finds a span outside of the source; say it plainly then.
            if handler.render_report(&mut out, &view).is_err() {
                let (line, column) = self.position(problem.span.start);
                out.push_str(&format!(
                    "{}:{line}:{column}: {}\n  help: {}\n",
                    self.name, problem.message, problem.help
                ));
            }
        }
        out
    }
}

/// Without what could move a terminal's cursor or colour its text, and as long as before.
fn visible(text: &str) -> String {
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    if !text.contains(control) {
        return text.to_owned();
    }
    text.chars().map(|c| if control(c) { "?".repeat(c.len_utf8()) } else { c.to_string() }).collect()
}

/// One problem beside its source, in the form miette draws.
struct View<'a> {
    source: &'a Source,
    problem: &'a Problem,
}

impl View<'_> {
    fn label(&self, span: &Range<usize>, text: &str) -> (Option<String>, (usize, usize)) {
        // A label over several lines hides what it points at: keep to the first.
        let len = self.source.text.get(span.clone()).map_or(0, |t| t.lines().next().unwrap_or("").len());
        (Some(text.to_owned()), (span.start.min(self.source.text.len()), len))
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl fmt::Display for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for View<'_> {}

impl SourceCode for View<'_> {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let inner = self.source.text.read_span(span, before, after)?;
        Ok(Box::new(miette::MietteSpanContents::new_named(
            self.source.name.clone(),
            inner.data(),
            *inner.span(),
            inner.line(),
            inner.column(),
            inner.line_count(),
        )))
    }
}

impl Diagnostic for View<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.problem.code.as_str()))
    }
    fn severity(&self) -> Option<Severity> {
        Some(if self.problem.warning { Severity::Warning } else { Severity::Error })
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.problem.help))
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        if self.source.text.is_empty() { None } else { Some(self) }
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        // The primary one gives the line and column in the header.
        let (text, at) = self.label(&self.problem.span, &self.problem.label);
        let first = LabeledSpan::new_primary_with_span(text, at);
        let second = self.problem.other.as_ref().map(|(span, text)| {
            let (text, at) = self.label(span, text);
            LabeledSpan::new_with_span(text, at)
        });
        Some(Box::new(std::iter::once(first).chain(second)))
    }
}

/// Everything that is wrong with a policy, errors and warnings, in the order of the file.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    pub source: Source,
    pub problems: Vec<Problem>,
    /// The same of the intents' files.
    pub intents: Vec<(Source, Vec<Problem>)>,
}

impl ConfigErrors {
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| !p.warning)
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.warning)
    }

    pub fn render(&self, colour: bool) -> String {
        let mut out = self.source.render(&self.problems, colour);
        for (source, problems) in &self.intents {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&source.render(problems, colour));
        }
        out
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(use_colour(&std::io::stderr())).trim_end())
    }
}

impl std::error::Error for ConfigErrors {}

/// Colour only for a person at a terminal who has not said no (<https://no-color.org>).
pub fn use_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}
