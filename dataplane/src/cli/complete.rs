//! What could come next, for shells that ask the program itself (`source <(COMPLETE=bash softdpu)`): names that the running
//! instance knows. An instance that does not answer at once has none.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap_complete::CompletionCandidate;

use super::ask::ask;
use crate::control::client;
use crate::control::types::FlowInfo;
use crate::plan::persona;
use crate::telemetry::journal::Kind;

/// Nobody waits longer for a key.
const PATIENCE: Duration = Duration::from_millis(800);
/// More nobody reads.
const MOST_FLOWS: usize = 200;

fn named(names: impl IntoIterator<Item = impl Into<String>>) -> Vec<CompletionCandidate> {
    names.into_iter().map(|name| CompletionCandidate::new(name.into())).collect()
}

/// The command line so far, without what precedes it in the shell's question.
fn words() -> Vec<String> {
    std::env::args().skip_while(|word| word != "--").skip(1).collect()
}

/// The instance that the line names, or the only one.
fn socket(words: &[String]) -> Option<PathBuf> {
    let value = |long: &str, short: Option<&str>| {
        words.iter().enumerate().find_map(|(at, word)| {
            let joined = word.strip_prefix(long).and_then(|rest| rest.strip_prefix('='));
            let apart = (word == long || short == Some(word)).then(|| words.get(at + 1).map(String::as_str)).flatten();
            // Bash takes `=` for a word of its own.
            let apart = if apart == Some("=") { words.get(at + 2).map(String::as_str) } else { apart };
            joined.or(apart).map(str::to_owned)
        })
    };
    let (socket, name) = (value("--socket", None), value("--name", Some("-n")));
    client::find_socket(socket.as_deref().map(Path::new), name.as_deref(), Path::new(client::SOCKET_FOLDER)).ok()
}

/// The instance's answer, where it comes soon enough.
fn answer<T, F: Future<Output = anyhow::Result<T>>>(question: impl FnOnce(PathBuf) -> F) -> Option<T> {
    let socket = socket(&words())?;
    ask(async { tokio::time::timeout(PATIENCE, question(socket)).await? }).ok()
}

/// Instances that have a socket.
pub fn instances() -> Vec<CompletionCandidate> {
    let sockets = std::fs::read_dir(client::SOCKET_FOLDER).into_iter().flatten().flatten();
    named(sockets.filter_map(|socket| socket.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned)))
}

/// Flows by their ids, with what they are for shells that show it.
pub fn flows() -> Vec<CompletionCandidate> {
    let flows = answer(|socket| async move { client::flows(&socket, &[], MOST_FLOWS).await }).unwrap_or_default();
    let words = words();
    let of = begun(&words);
    let candidate = |flow: FlowInfo| {
        let id = match of {
            None => flow.id.as_str(),
            Some(worker) => flow.id.strip_prefix(worker)?.strip_prefix(':')?,
        };
        let what = format!("{} {} {} {}", flow.l4, flow.a, flow.b, flow.class);
        Some(CompletionCandidate::new(id.to_owned()).help(Some(what.into())))
    };
    flows.into_iter().filter_map(candidate).collect()
}

/// The worker of a flow's id of which bash, for which `:` ends a word, wants the rest only: of `0:12` it says `0`, `:`, `12`, and of
/// `0:` it says `0` and nothing.
fn begun(words: &[String]) -> Option<&str> {
    if std::env::var("COMPLETE").is_ok_and(|shell| shell != "bash") {
        return None;
    }
    let number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    match words {
        [.., worker, colon, _] if colon == ":" && number(worker) => Some(worker),
        [.., worker, last] if last.is_empty() && number(worker) => Some(worker),
        _ => None,
    }
}

/// Intents of the running plan.
pub fn intents() -> Vec<CompletionCandidate> {
    let plan = answer(|socket| async move { client::plan(&socket).await });
    named(plan.into_iter().flat_map(|plan| plan.intents).map(|intent| intent.name))
}

/// The operator's applications that have had flows.
pub fn applications() -> Vec<CompletionCandidate> {
    let status = answer(|socket| async move { client::status(&socket).await });
    named(status.into_iter().flat_map(|status| status.applications).map(|application| application.name))
}

/// Tunnels that can be given new keys.
pub fn tunnels() -> Vec<CompletionCandidate> {
    let status = answer(|socket| async move { client::status(&socket).await });
    named(status.into_iter().flat_map(|status| status.tunnels).map(|tunnel| tunnel.name))
}

/// Peers of all tunnels.
pub fn peers() -> Vec<CompletionCandidate> {
    let status = answer(|socket| async move { client::status(&socket).await });
    let tunnels = status.into_iter().flat_map(|status| status.tunnels);
    named(tunnels.flat_map(|tunnel| tunnel.peers).map(|peer| peer.name))
}

/// Plans that can be gone back to.
pub fn plans() -> Vec<CompletionCandidate> {
    let history = answer(|socket| async move { client::history(&socket).await }).unwrap_or_default();
    let candidate =
        |number: u64, by: &str| CompletionCandidate::new(number.to_string()).help(Some(by.to_owned().into()));
    history.iter().map(|entry| candidate(entry.plan, &entry.by)).collect()
}

/// Classes of flows.
pub fn classes() -> Vec<CompletionCandidate> {
    named(crate::config::known_classes())
}

pub fn tiers() -> Vec<CompletionCandidate> {
    named(["worker", "xdp", "nic", "kernel"])
}

/// Kinds of events, and their families.
pub fn kinds() -> Vec<CompletionCandidate> {
    let mut all: Vec<&str> = Kind::ALL.iter().flat_map(|kind| [kind.family(), kind.code()]).collect();
    all.sort_unstable();
    all.dedup();
    named(all)
}

/// Personas that come with softdpu.
pub fn personas() -> Vec<CompletionCandidate> {
    named(persona::names())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_line_says_which_instance_is_asked() {
        let of = |line: &str| socket(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for line in [
            "softdpu explain --socket /x/y.sock ",
            "softdpu rekey --socket=/x/y.sock ",
            "softdpu rekey --socket = /x/y.sock ",
        ] {
            assert_eq!(of(line), Some(PathBuf::from("/x/y.sock")), "{line}");
        }
        assert_eq!(of("softdpu explain -n no-such-instance "), None);
    }

    #[test]
    fn a_flows_id_is_put_together_again() {
        let of = |line: &str| begun(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).map(str::to_owned);
        assert_eq!(of("softdpu explain "), None);
        assert_eq!(of("softdpu explain 0").as_deref(), None);
        assert_eq!(of("softdpu explain 0 ").as_deref(), Some("0"));
        assert_eq!(of("softdpu explain 1 : 4").as_deref(), Some("1"));
    }
}
