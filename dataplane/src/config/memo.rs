//! What is remembered of a policy and its intents from one time they are read to the next. Most of it has not changed then, and
//! reading it is most of the work of a reload.
//!
//! Files are read as ever, and their texts compared, so that nothing hangs on a clock. A text is cut before each line that begins
//! with `[[rule]]`. A piece that is, byte for byte, one of the last time is not parsed again: its rule is taken over, and where it
//! stands moved. A rule's piece means the same wherever it stands, as names are looked up later. Which rule hides which is looked
//! for where something changed (`check/again.rs`); all other checks are made on the whole, as ever. What is not plain (strings over several lines, any error) is left to whoever reads the whole: it knows what to say.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;
use toml::de::{DeTable, ValueDeserializer};

use super::check::{Checked, Edits, Named};
use super::intent::{Demand, Intent, IntentCompress};
use super::problem::Source;
use super::schema::{self, File, OnLoss};
use super::shape;
use super::terms::Terms;

/// With fewer rules the whole is read as fast.
const FEW: usize = 64;
/// A line that begins so begins a rule.
const RULE: &str = "[[rule]]";

/// Takes about as much memory as the texts and ten times that of their rules: some 10 MB for 10,000.
#[derive(Debug, Default)]
pub struct Memo {
    text: String,
    /// In their order, with their places in `text`. `None`: taken over.
    rules: Vec<(Range<usize>, Option<schema::Rule>)>,
    /// Sound ones, before the addresses of names were looked up, in the order of their files.
    intents: Vec<Intent>,
    defaults: Defaults,
    /// Of the rules of `text`.
    checked: Checked,
    /// Rules and intents that were parsed the last time.
    pub(super) parsed: usize,
}

/// What an intent takes from the policy when it is read.
type Defaults = (Option<Demand>, Option<IntentCompress>, Option<OnLoss>, Option<u32>);

impl Memo {
    /// What [`super::whole`] makes of a text that is sound. `None`: it is for [`super::whole`] to read.
    pub(super) fn file(&mut self, text: &str) -> Option<(File, Named)> {
        let (old, mut known) = (std::mem::take(&mut self.text), std::mem::take(&mut self.rules));
        // Known again when all of this has come to an end.
        let mut checked = std::mem::take(&mut self.checked);
        self.parsed = 0;
        let pieces = pieces(text)?;
        let mut problems = Vec::new();
        let (mut file, named) = super::whole(&without(text, &pieces), &mut problems)?;
        // `rule = []`, `[["rule"]]` and the like: what was not cut out.
        if !problems.is_empty() || named.rule {
            return None;
        }
        let came = origins(&old, &known, text, &pieces);
        let mut rules = take_over(&mut known, &pieces, &came);
        let mut at = 0;
        while at < rules.len() {
            let end = rules[at..].iter().position(Option::is_some).map_or(rules.len(), |n| at + n);
            // Those that stand one behind the other are parsed together.
            let gap = (at + 1..end).find(|n| pieces[*n].start != pieces[n - 1].end).unwrap_or(end);
            if gap > at {
                let made = parse(text, pieces[at].start..pieces[gap - 1].end)?;
                if made.len() != gap - at {
                    return None;
                }
                self.parsed += made.len();
                rules[at..gap].iter_mut().zip(made).for_each(|(place, rule)| *place = Some(rule));
            }
            at = gap.max(at + 1);
        }
        file.rule = rules.into_iter().collect::<Option<_>>()?;
        self.rules = pieces.into_iter().map(|piece| (piece, None)).collect();
        let left = known.into_iter().enumerate();
        let gone = left.filter(|(_, (_, rule))| rule.is_some()).map(|(at, _)| at as u32).collect();
        checked.edits = Some(Edits { came, gone });
        self.checked = checked;
        Some((file, named))
    }

    /// What was found of the rules the last time, and what [`Self::file`] made of them since.
    pub(super) fn checked(&mut self) -> &mut Checked {
        &mut self.checked
    }

    /// Keeps the rules of a file that [`Self::file`] made of `text`. `sound`: no check found an error in it.
    pub(super) fn keep(&mut self, text: &str, rules: Vec<schema::Rule>, sound: bool) {
        if !sound {
            self.checked.forget();
        }
        text.clone_into(&mut self.text);
        self.rules.iter_mut().zip(rules).for_each(|((_, place), rule)| *place = Some(rule));
    }

    /// The intents of these texts, as they were when they were read the last time, each under its index; with the memory that they
    /// have in common.
    pub(super) fn intents(&mut self, texts: &mut [Arc<Source>], terms: &Terms) -> Vec<Option<Intent>> {
        let defaults = (
            terms.encrypt.as_ref().map(|written| written.value),
            terms.compress.as_ref().map(|written| written.value),
            terms.on_loss.as_ref().map(|written| written.value),
            terms.priority,
        );
        if self.defaults != defaults {
            self.intents.clear();
            self.defaults = defaults;
        }
        let by_name: HashMap<&str, &Intent> = self.intents.iter().map(|i| (i.source.name.as_str(), i)).collect();
        let known = |text: &mut Arc<Source>| {
            let known = *by_name.get(text.name.as_str()).filter(|known| known.source.text == text.text)?;
            *text = known.source.clone();
            Some(known.clone())
        };
        texts.iter_mut().map(known).collect()
    }

    /// Keeps these for the next time.
    pub(super) fn keep_intents(&mut self, intents: Vec<Intent>) {
        self.intents = intents;
    }
}

/// Where the pieces of rules are. `None`: there are few, or it is not said by a look at the beginnings of lines.
fn pieces(text: &str) -> Option<Vec<Range<usize>>> {
    let bytes = text.as_bytes();
    if [b"\"\"\"", b"'''"].iter().any(|quotes| memmem::find(bytes, *quotes).is_some()) {
        return None;
    }
    let first = text.starts_with('[').then_some(0);
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut open = None;
    for at in first.into_iter().chain(memmem::find_iter(bytes, b"\n[").map(|at| at + 1)) {
        out.extend(open.take().map(|start| start..at));
        open = text[at..].starts_with(RULE).then_some(at);
    }
    out.extend(open.map(|start| start..text.len()));
    (out.len() >= FEW).then_some(out)
}

/// The text without these pieces: what is left stands where it stood.
fn without(text: &str, pieces: &[Range<usize>]) -> String {
    let mut out = String::new();
    let mut at = 0;
    for piece in pieces {
        if at < piece.start {
            out.extend(std::iter::repeat_n(' ', at - out.len()));
            out.push_str(&text[at..piece.start]);
        }
        at = piece.end;
    }
    if at < text.len() {
        out.extend(std::iter::repeat_n(' ', at - out.len()));
        out.push_str(&text[at..]);
    }
    out
}

/// So many pieces one behind the other that are new are seen at a glance.
const AHEAD: usize = 4;

/// For each piece the place of one of the same text before, none twice.
fn origins(
    old: &str,
    known: &[(Range<usize>, Option<schema::Rule>)],
    text: &str,
    pieces: &[Range<usize>],
) -> Vec<Option<u32>> {
    let before = |at: usize| known.get(at).map(|(range, _)| &old[range.clone()]);
    let now = |n: usize| pieces.get(n).map(|piece| &text[piece.clone()]);
    // At the end of both lists nothing is the same as nothing.
    let same = |at: usize, n: usize| before(at) == now(n);
    let mut out: Vec<Option<u32>> = Vec::with_capacity(pieces.len());
    let mut taken = vec![false; known.len()];
    // Mostly it is the one behind the last. Where it is not a few are new or have gone, and the rest goes on behind them.
    let mut next = 0;
    // Where there is more to it they are all laid out, once.
    let mut all: Option<HashMap<&str, usize>> = None;
    let mut open = Vec::new();
    for n in 0..pieces.len() {
        let mut found = None;
        if same(next, n) {
            found = Some(next);
        } else if (1..=AHEAD).any(|k| same(next + k, n + k)) {
            next += 1;
        } else if let Some(k) = (1..=AHEAD).find(|k| next + k < known.len() && same(next + k, n)) {
            found = Some(next + k);
        } else if !(1..=AHEAD).any(|k| same(next, n + k)) {
            let all = all.get_or_insert_with(|| (0..known.len()).filter_map(|at| Some((before(at)?, at))).collect());
            found = now(n).and_then(|new| all.get(new)).copied();
            next += usize::from(found.is_none());
        }
        let found = found.filter(|at| taken.get(*at) == Some(&false));
        match found {
            Some(at) => {
                taken[at] = true;
                next = at + 1;
            }
            None => open.push(n),
        }
        out.push(found.map(|at| at as u32));
    }
    if !open.is_empty() {
        // Moved from somewhere else.
        let left = taken.iter().enumerate().filter(|(_, taken)| !**taken);
        let mut left: HashMap<&str, usize> = left.filter_map(|(at, _)| Some((before(at)?, at))).collect();
        for n in open {
            out[n] = now(n).and_then(|new| left.remove(new)).map(|at| at as u32);
        }
    }
    out
}

/// For each piece the rule that was made of the same text before.
fn take_over(
    known: &mut [(Range<usize>, Option<schema::Rule>)],
    pieces: &[Range<usize>],
    came: &[Option<u32>],
) -> Vec<Option<schema::Rule>> {
    let rule = |(piece, from): (&Range<usize>, &Option<u32>)| {
        let (range, rule) = known.get_mut(from.as_ref().copied()? as usize)?;
        let mut rule = rule.take()?;
        if piece.start != range.start {
            rule.shift(piece.start.wrapping_sub(range.start) as isize);
        }
        Some(rule)
    };
    pieces.iter().zip(came).map(rule).collect()
}

/// The rules of a part of a text that has nothing else.
fn parse(text: &str, part: Range<usize>) -> Option<Vec<schema::Rule>> {
    let (table, errors) = DeTable::parse_recoverable(&text[part.clone()]);
    let mut keys = table.into_inner().into_iter();
    let (key, mut value) = keys.next().filter(|_| errors.is_empty())?;
    if key.get_ref() != "rule" || keys.next().is_some() {
        return None;
    }
    let mut problems = Vec::new();
    if !shape::policy().key("rule")?.fits_value(&mut value, "rule", &mut problems) {
        return None;
    }
    let mut rules = Vec::<schema::Rule>::deserialize(ValueDeserializer::from(value)).ok()?;
    rules.iter_mut().for_each(|rule| rule.shift(part.start as isize));
    problems.is_empty().then_some(rules)
}

#[cfg(test)]
#[path = "memo_tests.rs"]
mod tests;
