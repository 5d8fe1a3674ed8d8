//! The operator's policy: read, checked as a whole, and handed on typed. Everything that is wrong with a file is reported at
//! once, each with file, line, column and remedy; nothing is used unless everything is valid.

pub(crate) mod at;
pub mod change;
mod check;
mod cover;
mod cover_index;
mod cover_meet;
mod format;
pub mod host_glob;
mod hosts_file;
pub mod intent;
mod intent_folder;
mod intent_join;
mod keyfiles;
mod memo;
pub mod names;
pub(crate) mod places;
pub mod policy;
mod problem;
pub mod rates;
pub(crate) mod reference;
mod schema;
mod shape;
pub(crate) mod shaped;
mod suggest;
mod syntax;
pub mod terms;
pub(crate) mod text;
pub mod values;

#[cfg(test)]
pub(crate) mod broken_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tunnel_tests;

use std::path::Path;
use std::sync::Arc;

pub use change::{Change, Changes, changes};
pub use cover::{covers, overlaps};
pub use cover_index::Index;
pub use cover_meet::{meet, meet_rules};
pub use intent_folder::files as intent_files;
pub use intent_join::check_intent;
pub use memo::Memo;
pub use policy::*;
pub use problem::{Code, ConfigErrors, Located, Problem, Source, use_colour};
pub use reference::markdown;
pub use schema::{intent_json_schema, json_schema, json_schema_of};
pub use suggest::nearest;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::l7::Class;
use crate::plan::site::Site;

/// Classes that a rule may name: what the classifier can say of a flow.
pub fn known_classes() -> impl Iterator<Item = &'static str> {
    Class::ALL.iter().map(|c| c.name())
}

/// Longest policy file that is read, in bytes.
const MAX_FILE: usize = 4 << 20;

/// Reads and checks a policy file, and that its key files are there and private. Relative paths in it start at its folder.
///
/// # Errors
/// Everything that is wrong with it, warnings included.
pub fn load(path: &Path) -> Result<Policy, ConfigErrors> {
    read(path, true, None, |_| Site::default())
}

/// The same, in a fraction of the time where little has changed since what `memo` knows; knows this the next time.
///
/// # Errors
/// As [`load`].
pub fn load_again(path: &Path, memo: &mut Memo) -> Result<Policy, ConfigErrors> {
    read(path, true, Some(memo), |_| Site::default())
}

/// The same, with its intents planned for the place that `site` says, and without looking at key files: whoever plans need not
/// have the keys.
///
/// # Errors
/// As [`load`].
pub fn load_for(path: &Path, site: impl FnOnce(&Policy) -> Site) -> Result<Policy, ConfigErrors> {
    read(path, false, None, site)
}

/// The same without looking at key files, for what needs no keys.
///
/// # Errors
/// As [`load`].
pub fn load_without_keys(path: &Path) -> Result<Policy, ConfigErrors> {
    read(path, false, None, |_| Site::default())
}

fn read(
    path: &Path,
    keys: bool,
    memo: Option<&mut Memo>,
    site: impl FnOnce(&Policy) -> Site,
) -> Result<Policy, ConfigErrors> {
    let text = text::read(path, MAX_FILE, "a policy").map_err(|wrong| {
        let (source, problem) = *wrong;
        ConfigErrors { source, problems: vec![problem], intents: Vec::new() }
    })?;
    load_text_with(&text, &path.display().to_string(), path, keys, None, memo, site)
}

/// A policy text as [`load`] would take it from `path`, with these intents in place of those in its folder. `name` stands for
/// it in messages.
///
/// # Errors
/// Everything that is wrong with it, warnings included.
pub fn load_text(
    text: &str,
    name: &str,
    path: &Path,
    intents: Vec<Arc<Source>>,
    memo: &mut Memo,
) -> Result<Policy, ConfigErrors> {
    load_text_with(text, name, path, true, Some(intents), Some(memo), |_| Site::default())
}

fn load_text_with(
    text: &str,
    name: &str,
    path: &Path,
    keys: bool,
    given: Option<Vec<Arc<Source>>>,
    mut memo: Option<&mut Memo>,
    site: impl FnOnce(&Policy) -> Site,
) -> Result<Policy, ConfigErrors> {
    let (mut policy, mut problems) = parse_all(text, name, path.parent().unwrap_or(Path::new("")), memo.as_deref_mut());
    let mut intents = Vec::new();
    if let Some(policy) = &mut policy {
        if keys {
            problems.extend(keyfiles::check(policy));
        }
        problems.extend(hosts_file::read_all(&mut policy.applications));
        problems.extend(check::applications(&policy.applications));
        let source = Source { name: name.to_owned(), text: text.to_owned() };
        let site = site(policy);
        intents = intent_join::join(policy, &source, given, memo, &site, &mut problems);
    }
    finish(policy, problems, intents, text, name)
}

/// Checks a policy text without looking at the file system. `name` stands for the file in messages.
///
/// # Errors
/// Everything that is wrong with it, warnings included.
pub fn parse(text: &str, name: &str) -> Result<Policy, ConfigErrors> {
    let (policy, mut problems) = parse_all(text, name, Path::new(""), None);
    if let Some(policy) = &policy {
        problems.extend(check::applications(&policy.applications));
    }
    finish(policy, problems, Vec::new(), text, name)
}

fn finish(
    policy: Option<Policy>,
    mut problems: Vec<Problem>,
    intents: Vec<(Source, Vec<Problem>)>,
    text: &str,
    name: &str,
) -> Result<Policy, ConfigErrors> {
    problems.sort_by_key(|p| (p.span.start, p.code));
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    match policy {
        Some(policy) if problems.iter().all(|p| p.warning) && intents.is_empty() => {
            Ok(Policy { warnings: problems, source, ..policy })
        }
        _ => Err(ConfigErrors { source, problems, intents }),
    }
}

/// The policy as far as it can be made out, and all that is wrong with it.
fn parse_all(text: &str, name: &str, base: &Path, memo: Option<&mut Memo>) -> (Option<Policy>, Vec<Problem>) {
    if text.len() > MAX_FILE {
        let message = format!("{name} has {} bytes", text.len());
        return (
            None,
            vec![Problem::error(Code::Unreadable, 0..0, message, format!("a policy has at most {MAX_FILE}"))],
        );
    }
    let mut problems = Vec::new();
    if let Some(memo) = memo
        && let Some((file, named)) = memo.file(text)
    {
        let policy = check::policy(&file, &named, base, Some(memo.checked()), &mut problems);
        memo.keep(text, file.rule, problems.iter().all(|problem| problem.warning));
        return (policy, problems);
    }
    let Some((file, named)) = whole(text, &mut problems) else { return (None, problems) };
    let misfits = problems.len();
    let policy = check::policy(&file, &named, base, None, &mut problems);
    if misfits > 0 {
        // Without the misfits a list may have become empty, which means any: warnings would be about another policy.
        problems.retain(|p| !p.warning);
    }
    (policy, problems)
}

/// A text, read as a whole: what of it fits, and what does not in `problems`.
fn whole(text: &str, problems: &mut Vec<Problem>) -> Option<(schema::File, check::Named)> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    problems.extend(syntax::problems(text, &syntax));
    if !problems.is_empty() {
        // What a broken line might have meant is guesswork: no further checks on it.
        return None;
    }
    let span = table.span();
    let mut table = table.into_inner();
    let named = check::Named::collect(&table);
    if !shape::policy().fits(&mut table, &span, problems) {
        return None;
    }
    let value = toml::Spanned::new(span, DeValue::Table(table));
    match <schema::File as serde::Deserialize>::deserialize(ValueDeserializer::from(value)) {
        Ok(file) => Some((file, named)),
        Err(e) => {
            problems.push(syntax::problem(&e));
            None
        }
    }
}
