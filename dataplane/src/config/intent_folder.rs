//! Reads the intents of a folder: each file's shape and meaning, then the addresses of names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::at::At;
use super::check::flow_terms;
use super::intent::{DataClass, Demand, File, Flow, Intent, IntentCompress, IntentFlow};
use super::memo::Memo;
use super::problem::{Code, Problem, Source};
use super::schema::OnLoss;
use super::terms::{Terms, Written};
use super::values::Prefix;
use super::{names, shape, syntax, text};

/// Longest intent file that is read, in bytes.
const MAX_FILE: usize = 1 << 20;
const ENDING: &str = ".intent.toml";

/// What a folder holds, and what is wrong with its files.
#[derive(Debug, Default)]
pub struct Folder {
    /// In the order of their file names.
    pub intents: Vec<Intent>,
    pub problems: Vec<(Source, Vec<Problem>)>,
}

/// The files of a folder that are intents, in the order of their names.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(ENDING)));
    // In one folder the order of paths is that of their bytes, which is found faster.
    paths.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(paths)
}

/// Reads all intents of a folder.
///
/// # Errors
/// The folder cannot be read.
pub fn read(folder: &Path, terms: &Terms, memo: Option<&mut Memo>) -> std::io::Result<Folder> {
    let (mut texts, mut problems) = (Vec::new(), Vec::new());
    for path in files(folder)? {
        let name = path.display().to_string();
        let text = match text::read(&path, MAX_FILE, "an intent") {
            Ok(text) => text,
            Err(wrong) => {
                let (source, problem) = *wrong;
                problems.push((source, vec![problem]));
                continue;
            }
        };
        texts.push(Arc::new(Source { name, text }));
    }
    let mut out = Folder { intents: Vec::new(), problems };
    add(&mut out, texts, terms, memo);
    Ok(out)
}

/// Intents as they were read before, in the order of their files.
pub fn of_texts(texts: Vec<Arc<Source>>, terms: &Terms, memo: Option<&mut Memo>) -> Folder {
    let mut out = Folder::default();
    add(&mut out, texts, terms, memo);
    out
}

fn add(out: &mut Folder, mut texts: Vec<Arc<Source>>, terms: &Terms, mut memo: Option<&mut Memo>) {
    let mut known = memo.as_deref_mut().map(|memo| memo.intents(&mut texts, terms)).unwrap_or_default().into_iter();
    let mut parsed = 0;
    let mut first: HashMap<String, (Arc<Source>, usize)> = HashMap::new();
    for source in texts {
        let (intent, mut problems) = match known.next().flatten() {
            Some(intent) => (Some(intent), Vec::new()),
            None => {
                parsed += 1;
                parse(&source, terms)
            }
        };
        if let Some(intent) = &intent {
            if let Some((other, at)) = first.get(&intent.name) {
                let (line, _) = other.position(*at);
                problems.push(
                    Problem::error(
                        Code::DuplicateName,
                        intent.name_span.clone(),
                        format!("two intents are called `{}`: the other is at {}:{line}", intent.name, other.name),
                        "give each application a name of its own",
                    )
                    .label("again"),
                );
            } else {
                first.insert(intent.name.clone(), (source.clone(), intent.name_span.start));
            }
        }
        match intent {
            Some(intent) if problems.is_empty() => out.intents.push(intent),
            _ => out.problems.push(((*source).clone(), problems)),
        }
    }
    if let Some(memo) = memo {
        memo.parsed += parsed;
        memo.keep_intents(out.intents.clone());
    }
    if out.problems.is_empty() {
        resolve(out);
    }
}

/// Checks the text of one intent. Names are not resolved.
pub fn parse(source: &Arc<Source>, terms: &Terms) -> (Option<Intent>, Vec<Problem>) {
    let text = &source.text;
    if text.len() > MAX_FILE {
        let message = format!("{} has {} bytes", source.name, text.len());
        return (
            None,
            vec![Problem::error(Code::Unreadable, 0..0, message, format!("an intent has at most {MAX_FILE}"))],
        );
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut problems = syntax::problems(text, &errors);
    if !problems.is_empty() {
        return (None, problems);
    }
    let span = table.span();
    let mut table = table.into_inner();
    let intent = shape::intent().fits(&mut table, &span, &mut problems).then_some(table).and_then(|table| {
        let value = toml::Spanned::new(span, DeValue::Table(table));
        match <File as serde::Deserialize>::deserialize(ValueDeserializer::from(value)) {
            Ok(file) => Some(check(&file, terms, source, &mut problems)),
            Err(e) => {
                problems.push(syntax::problem(&e));
                None
            }
        }
    });
    problems.sort_by_key(|p| (p.span.start, p.code));
    (intent, problems)
}

fn check(file: &File, terms: &Terms, source: &Arc<Source>, problems: &mut Vec<Problem>) -> Intent {
    let encrypt =
        file.encrypt.as_ref().map_or(terms.encrypt.as_ref().map_or_else(Default::default, |d| d.value), |d| **d);
    let required = encrypt == Demand::Required;
    // What must be encrypted never passes in clear, whatever the default of all others is.
    let or_default = || terms.on_loss.as_ref().filter(|_| !required).map(|on_loss| on_loss.value);
    let plain = if required { OnLoss::Drop } else { OnLoss::Pass };
    let on_loss = file.on_loss.as_ref().map(|on_loss| **on_loss).or_else(or_default).unwrap_or(plain);
    let default_compress = || terms.compress.as_ref().map_or(IntentCompress::Never, |compress| compress.value);
    let data_span = file.data.first().map(At::span).or_else(|| file.compress.as_ref().map(At::span));
    contradictions(file, encrypt, on_loss, problems);
    if file.flow.is_empty() && !problems.iter().any(|p| p.key.starts_with("flow")) {
        problems.push(Problem::error(
            Code::MissingKey,
            file.name.span(),
            format!("intent `{}` has no [[flow]]", *file.name),
            "add one, with `to`, `name`, `ports` or `host`: what is its traffic?",
        ));
    }
    let flows = file.flow.iter().map(|flow| flow_of(flow, file, problems)).collect();
    Intent {
        name: file.name.as_str().to_owned(),
        owner: file.owner.as_str().into(),
        encrypt,
        encrypt_span: file.encrypt.as_ref().map(At::span),
        peers: file.peers.iter().map(|peer| Written { value: peer.as_str().to_owned(), span: peer.span() }).collect(),
        compress: file.compress.as_ref().map_or_else(default_compress, |compress| **compress),
        data: file.data.iter().map(|class| **class).collect(),
        data_span: data_span.unwrap_or_else(|| file.name.span()),
        latency_p99: file.latency_p99.as_ref().map(|l| Written { value: l.0, span: l.span() }),
        floor: file.bandwidth.floor.as_ref().map(|b| Written { value: b.0, span: b.span() }),
        ceiling: file.bandwidth.ceiling.as_ref().map(|b| Written { value: b.0, span: b.span() }),
        connections: file.connections.as_ref().map(|n| Written { value: u64::from(**n), span: n.span() }),
        priority: file.priority.as_ref().map_or(terms.priority.unwrap_or(500), |priority| **priority),
        on_loss,
        flows,
        source: source.clone(),
        name_span: file.name.span(),
    }
}

/// What an intent says against itself.
fn contradictions(file: &File, encrypt: Demand, on_loss: OnLoss, problems: &mut Vec<Problem>) {
    if file.owner.trim().is_empty() {
        let help = "write who answers for this application: a team, a name, an address";
        problems.push(Problem::error(Code::ImpossibleValue, file.owner.span(), "`owner` is empty", help));
    }
    if let (Some(written), OnLoss::Pass, Demand::Required) = (&file.on_loss, on_loss, encrypt) {
        let problem = Problem::error(
            Code::Conflict,
            written.span(),
            "what must be encrypted cannot pass in clear when a worker is lost",
            "write on_loss = \"drop\", or encrypt = \"preferred\"",
        );
        let other = file.encrypt.as_ref().map(At::span);
        problems.push(match other {
            Some(span) => problem.other(span, "required"),
            None => problem,
        });
    }
    if let (Some(peer), Some(never), Demand::Never) = (file.peers.first(), &file.encrypt, encrypt) {
        problems.push(
            Problem::error(
                Code::Conflict,
                peer.span(),
                format!("`peers` names tunnels for `{}`, which is never encrypted", *file.name),
                "leave `peers` out, or write encrypt = \"preferred\"",
            )
            .other(never.span(), "never"),
        );
    }
    if let (Some(floor), Some(ceiling)) = (&file.bandwidth.floor, &file.bandwidth.ceiling)
        && floor.0 > ceiling.0
    {
        problems.push(
            Problem::error(
                Code::Conflict,
                floor.span(),
                format!("the floor of {} is above the ceiling of {}", **floor, **ceiling),
                "write a floor that the ceiling holds",
            )
            .other(ceiling.span(), "ceiling"),
        );
    }
    twice("peers", file.peers.iter().map(|peer| (peer.as_str(), peer.span())), problems);
    let word = |class: DataClass| if class == DataClass::Secrets { "secrets" } else { "attacker-input" };
    twice("data", file.data.iter().map(|class| (word(**class), class.span())), problems);
}

fn twice<'n>(key: &str, names: impl Iterator<Item = (&'n str, std::ops::Range<usize>)>, problems: &mut Vec<Problem>) {
    let mut first: HashMap<&str, std::ops::Range<usize>> = HashMap::new();
    for (name, span) in names {
        if let Some(earlier) = first.get(name) {
            let message = format!("`{key}` has `{name}` twice");
            let problem = Problem::error(Code::DuplicateName, span, message, "write it once").label("again");
            problems.push(problem.other(earlier.clone(), "first here"));
        } else {
            first.insert(name, span);
        }
    }
}

fn flow_of(flow: &Flow, file: &File, problems: &mut Vec<Problem>) -> IntentFlow {
    let before = problems.len();
    let (matches, classes) = flow_terms(flow, problems);
    for name in flow.name.iter().filter(|name| name.as_str().starts_with('*')) {
        problems.push(Problem::error(
            Code::ImpossibleValue,
            name.span(),
            format!("`{}` stands for many names, which have no addresses", **name),
            "write whole names here, or use `host`, which looks into the traffic",
        ));
    }
    let empty = flow.from.is_empty()
        && flow.to.is_empty()
        && flow.name.is_empty()
        && flow.ports.is_empty()
        && flow.source_ports.is_empty()
        && flow.protocol.is_none()
        && flow.class.is_empty()
        && flow.host.is_empty();
    if empty && before == problems.len() && !problems.iter().any(|p| p.key.starts_with("flow")) {
        problems.push(Problem::error(
            Code::MissingKey,
            file.name.span(),
            format!("a [[flow]] of `{}` says nothing: it would be all traffic of the host", *file.name),
            "add `to`, `name`, `ports` or `host`",
        ));
    }
    IntentFlow {
        matches,
        classes: classes.into(),
        hosts: flow.host.iter().map(|host| (**host).clone()).collect(),
        names: flow.name.iter().map(|name| Written { value: name.as_str().to_owned(), span: name.span() }).collect(),
        addresses: Vec::new(),
        unresolved: Vec::new(),
    }
}

/// Puts the addresses of names into the flows. A name without one is an error where encryption is required: nobody could say
/// which packets must not leave.
fn resolve(folder: &mut Folder) {
    let known = names::look_up(names::of(&folder.intents)).known;
    for intent in &mut folder.intents {
        let mut problems = Vec::new();
        for flow in &mut intent.flows {
            let mut to = flow.matches.to.to_vec();
            for name in &flow.names {
                let found = known.get(&name.value).cloned().unwrap_or_default();
                if found.is_empty() {
                    flow.unresolved.push(name.clone());
                }
                to.extend(found.iter().map(|address| Prefix::host(*address)));
                flow.addresses.push((name.value.clone(), found));
            }
            if !to.is_sorted_by(|a, b| a < b) {
                to.sort();
                to.dedup();
            }
            if *to != *flow.matches.to {
                flow.matches.to = to.into();
            }
            if intent.encrypt == Demand::Required {
                problems.extend(flow.unresolved.iter().map(|name| {
                    Problem::error(
                        Code::UnknownName,
                        name.span.clone(),
                        format!(
                            "`{}` has no address, so what must be encrypted cannot be told from the rest",
                            name.value
                        ),
                        "check the name with `getent hosts`, or write the prefixes in `to`",
                    )
                }));
            }
        }
        if !problems.is_empty() {
            folder.problems.push(((*intent.source).clone(), problems));
        }
    }
}
