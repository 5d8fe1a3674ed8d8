//! The intents of a policy's folder: read, compiled with the policy, their rules put in front of the operator's.

use std::io::ErrorKind;
use std::sync::Arc;

use super::intent_folder::{self, Folder};
use super::memo::Memo;
use super::policy::Policy;
use super::problem::{Code, Problem, Source};
use crate::plan::compile;
use crate::plan::rules::MAX_RULES;
use crate::plan::site::Site;

/// Adds the intents to a policy that has none yet: `given`, or those of its folder. `problems` are the policy's; what is wrong with intents is returned.
pub fn join(
    policy: &mut Policy,
    source: &Source,
    given: Option<Vec<Arc<Source>>>,
    memo: Option<&mut Memo>,
    site: &Site,
    problems: &mut Vec<Problem>,
) -> Vec<(Source, Vec<Problem>)> {
    let folder = match &policy.terms.intents {
        Some(_) if given.is_some() => intent_folder::of_texts(given.unwrap_or_default(), &policy.terms, memo),
        Some(written) => match intent_folder::read(&written.value, &policy.terms, memo) {
            Ok(folder) => folder,
            Err(e) => {
                let path = written.value.display();
                let help = match e.kind() {
                    ErrorKind::NotFound => format!("mkdir {path}, or leave `intents` out where there are none"),
                    ErrorKind::NotADirectory => "name the folder that holds the files NAME.intent.toml".to_owned(),
                    _ => "run as a user who may read it".to_owned(),
                };
                let message = format!("the intents' folder {path} cannot be read: {e}");
                problems.push(Problem::error(Code::Unreadable, written.span.clone(), message, help));
                return Vec::new();
            }
        },
        None => Folder::default(),
    };
    if !folder.problems.is_empty() || problems.iter().any(|problem| !problem.warning) {
        return folder.problems;
    }
    compile::join(policy, source, folder.intents, site);
    too_many(policy, problems);
    Vec::new()
}

/// More than there is room for.
fn too_many(policy: &Policy, problems: &mut Vec<Problem>) {
    let Some(written) = &policy.terms.intents else { return };
    let steering = softdpu_ebpf_common::maps::MAX_RULES.saturating_sub(policy.tunnels.len());
    for (what, count, most) in
        [("rules", policy.rules.len(), MAX_RULES), ("steering rules", policy.steer.len(), steering)]
    {
        if count > most {
            problems.push(Problem::error(
                Code::ImpossibleValue,
                written.span.clone(),
                format!("policy and intents together make {count} {what}, and there can be {most}"),
                "steer whole prefixes of applications by rules of the policy, and join flows of intents: `to` and `ports` take lists",
            ));
        }
    }
}

/// Checks one intent by itself, as in a folder without others. Names are not resolved.
pub fn check_intent(text: &str, name: &str) -> Vec<Problem> {
    let source = std::sync::Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
    intent_folder::parse(&source, &super::terms::Terms::default()).1
}
