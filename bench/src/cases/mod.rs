//! The packet path's parts, one case each: nodes, rings, tables, ciphers, codecs, recognisers. One list, measured in two ways:
//! by the clock (`softdpu-bench micro`) and by instructions (`cargo xtask instructions`).
//!
//! A case repeats itself: seeds are fixed, time is set by hand, and how much is done depends on nothing but the number asked for.

mod ciphers;
mod nodes;
mod parts;
mod recognisers;
mod scene;
mod tables;

use anyhow::Result;

use crate::micro::{Case, Effort, alternate};
use crate::report::Section;
use crate::stop;

/// A case that is not made yet.
pub struct Entry {
    /// `family/what`, as in the kept list.
    pub name: String,
    /// One operation, in words.
    pub title: String,
    /// Operations that are counted; those by the clock are as many as fit.
    pub count: usize,
    make: Box<dyn Fn() -> Result<Case<'static>>>,
}

impl Entry {
    fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        count: usize,
        make: impl Fn() -> Result<Case<'static>> + 'static,
    ) -> Self {
        Self { name: name.into(), title: title.into(), count, make: Box::new(make) }
    }

    /// Makes what the case works with. Memory that cases lend each other stays until the process ends.
    ///
    /// # Errors
    /// Where memory, keys or a policy cannot be had, or packets do not come through as they should.
    pub fn make(&self) -> Result<Case<'static>> {
        let mut case = (self.make)()?;
        (case.name, case.title) = (self.name.clone(), self.title.clone());
        Ok(case)
    }
}

/// All of them, family by family.
pub fn all() -> Vec<Entry> {
    let mut all = nodes::entries();
    all.extend(parts::entries());
    all.extend(tables::entries());
    all.extend(ciphers::entries());
    all.extend(recognisers::entries());
    all
}

/// Those whose name contains one of `only`; all of them where that is empty.
pub fn selected(only: &[String]) -> Vec<Entry> {
    let mut all = all();
    all.retain(|entry| only.is_empty() || only.iter().any(|part| entry.name.contains(part.as_str())));
    all
}

/// Times all of them, family by family in turn.
///
/// # Errors
/// As [`Entry::make`].
pub fn run(effort: Effort, only: &[String]) -> Result<Vec<Section>> {
    let mut entries = selected(only);
    anyhow::ensure!(!entries.is_empty(), "no case has {} in its name", only.join(" or "));
    let mut sections = Vec::new();
    while let Some(first) = entries.first() {
        let family = first.name.split('/').next().unwrap_or_default().to_owned();
        let (own, rest): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.name.split('/').next() == Some(&family));
        entries = rest;
        if stop::asked() {
            break;
        }
        let title = format!("{family}, per operation, one core");
        let mut section = Section::new(&format!("micro-{family}"), &title, "ns");
        let mut cases = own.iter().map(Entry::make).collect::<Result<Vec<_>>>()?;
        alternate(&mut section, &mut cases, effort);
        sections.push(section);
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_unique_and_sorted_by_family() {
        let all = all();
        let names: std::collections::BTreeSet<_> = all.iter().map(|entry| &entry.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.len() > 90 && all.iter().all(|entry| entry.name.contains('/') && entry.count > 0));
    }

    #[test]
    fn every_case_runs() {
        for entry in all() {
            // Small tables are enough to see that it runs.
            if entry.name.contains("10k") {
                continue;
            }
            let (done, spent) = entry.make().unwrap_or_else(|e| panic!("{}: {e:#}", entry.name)).run(1);
            assert!(done >= 1 && spent.ns > 0.0, "{}", entry.name);
        }
    }
}
