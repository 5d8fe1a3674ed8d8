//! Names of intents are asked for again and again; where one has other addresses, the policy in force is made anew with them.

use super::instance::Instance;
use crate::config::names::{self, Answers};
use crate::control::{ControlSource, PlanSource};
use crate::telemetry::journal::{Journal, Kind, Note};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From one look at what the policy wants to the next.
const LOOK: Duration = Duration::from_secs(1);
/// Names that are told of one by one.
const TOLD: usize = 3;

pub async fn run(instance: Arc<Instance>) {
    let (mut asked, mut silent) = (Instant::now(), Silent::default());
    loop {
        tokio::time::sleep(LOOK).await;
        let policy = instance.policy();
        let every = policy.apply.resolve;
        if every.is_zero() || asked.elapsed() < every {
            continue;
        }
        asked = Instant::now();
        let all = names::of(&policy.intents);
        // The resolver blocks; it has a thread of those that may.
        let Ok(answers) = tokio::task::spawn_blocking(move || names::look_up(all)).await else { continue };
        silent.tell(&answers, instance.journal());
        let news = names::news(&policy.intents, &answers);
        if news.is_empty() {
            continue;
        }
        let what = in_words(&news);
        match instance.reload(PlanSource::Names(what.clone()), false).await {
            Ok(report) => tracing::info!(plan = report.plan, changes = report.changes.len(), "other addresses: {what}"),
            Err(error) => tracing::error!("{what}, and the policy in force stays: {error:#}"),
        }
    }
}

/// Some of them, and how many more there are.
fn in_words(news: &[String]) -> String {
    let mut what = news.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
    if news.len() > TOLD {
        what.push_str(&format!("; and {} more names", news.len() - TOLD));
    }
    what
}

/// Names that nobody answers for.
#[derive(Default)]
struct Silent {
    now: HashSet<String>,
    failures: u64,
}

impl Silent {
    fn tell(&mut self, answers: &Answers, journal: &Journal) {
        self.failures += answers.failed.len() as u64;
        let now: HashSet<String> = answers.failed.iter().cloned().collect();
        for name in now.difference(&self.now) {
            let known = answers.known.get(name).map_or(0, Vec::len);
            let text = format!("no answer for this name; the {known} addresses that were known of it stay");
            journal.tell(Note::new(Kind::NameUnanswered, name, text).with("failures", self.failures));
        }
        self.now = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The policy as it was read, with the new address, and history says why.
    #[test]
    fn a_new_address_comes_into_the_plan() {
        use crate::config;
        use crate::tunnel::steering::Steering;
        use crate::worker::history::{History, Texts};
        use crate::worker::reload::Switch;
        use arc_swap::ArcSwap;
        use std::sync::Mutex;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.toml");
        let ports = "[[port]]\nname = \"a\"\nkind = \"loopback\"\nloop_to = \"b\"\n\
                     [[port]]\nname = \"b\"\nkind = \"loopback\"\nloop_to = \"a\"\n";
        std::fs::write(&path, format!("intents = \".\"\n{ports}")).unwrap();
        let intent = "name = \"pay\"\nowner = \"pay team\"\n[[flow]]\nname = [\"shop.watched.invalid\"]\n";
        std::fs::write(folder.path().join("pay.intent.toml"), intent).unwrap();
        names::heard("shop.watched.invalid", "10.9.0.1");
        let policy = config::load(&path).unwrap();
        let mut history = History::open(None).unwrap();
        history.begin("start", 0, Texts::new(&policy));
        let switch = Switch {
            policy: Arc::new(ArcSwap::from_pointee(policy.clone())),
            path: path.clone(),
            plan: Arc::new(ArcSwap::from_pointee(crate::plan::build(&policy, 1).unwrap())),
            steering: Arc::new(Steering::new(policy, vec![None, None], None)),
            gate: None,
            workers: Vec::new(),
            history: Mutex::new(history),
            journal: Journal::new(),
            turn: Arc::default(),
        };
        let look = || names::look_up(names::of(&switch.policy.load().intents));
        assert!(names::news(&switch.policy.load().intents, &look()).is_empty(), "nothing is new");
        names::heard("shop.watched.invalid", "10.9.0.2");
        // What was written meanwhile is not taken up by the way.
        std::fs::write(&path, "broken").unwrap();
        let news = names::news(&switch.policy.load().intents, &look());
        assert_eq!(news, ["shop.watched.invalid has 10.9.0.2 too"]);
        let report = switch.apply(&PlanSource::Names(in_words(&news)), false).unwrap();
        assert!(report.applied && report.plan == 2, "{report:?}");
        assert_eq!(switch.entries()[0].by, "names: shop.watched.invalid has 10.9.0.2 too");
        assert!(names::news(&switch.policy.load().intents, &look()).is_empty(), "it is in force");
        let to = &switch.policy.load().intents[0].flows[0].matches.to;
        assert_eq!(to.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.9.0.1/32", "10.9.0.2/32"]);
    }

    #[test]
    fn many_names_are_told_of_in_few_words() {
        let news: Vec<String> = (0..5).map(|n| format!("n{n} has 10.0.0.{n} too")).collect();
        assert_eq!(in_words(&news[..1]), "n0 has 10.0.0.0 too");
        assert!(in_words(&news).ends_with("n2 has 10.0.0.2 too; and 2 more names"), "{}", in_words(&news));
    }

    #[test]
    fn a_name_without_an_answer_is_told_of_once_and_counted_each_time() {
        let (mut silent, journal) = (Silent::default(), Journal::new());
        let failed = |names: &[&str]| Answers {
            failed: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Answers::default()
        };
        let told = |journal: &Journal| journal.figures().events;
        let before = told(&journal);
        for _ in 0..3 {
            silent.tell(&failed(&["a.example"]), &journal);
        }
        assert_eq!((told(&journal) - before, silent.failures), (1, 3));
        silent.tell(&failed(&[]), &journal);
        silent.tell(&failed(&["a.example", "b.example"]), &journal);
        assert_eq!((told(&journal) - before, silent.failures), (3, 5));
    }
}
