//! What a running instance notices about itself and tells those who follow it (`GET /v1/events`). Once a second, beside the
//! workers: they are asked nothing but whether they still answer.

mod links;
mod seen;

use super::instance::{Instance, WorkerState};
use crate::telemetry::journal::{Journal, Kind, Note};
pub use links::links;
pub use seen::{Look, Seen, WorkerLook};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at counters, states and peers.
const LOOK: Duration = Duration::from_secs(1);
/// Between two questions to each worker, and how long it may take to answer.
const ASK: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);
/// WireGuard peers that are looked at every second; with more of them it is done less often, so that it costs the same.
const PEERS: usize = 256;

/// Runs until it is dropped.
pub async fn run(instance: Arc<Instance>) {
    instance.tell_started();
    tokio::join!(look(&instance), ask(&instance));
}

async fn look(instance: &Instance) {
    let mut seen = Seen::default();
    // Rounds until peers are looked at again.
    let mut rest = 0;
    loop {
        let mut look = instance.look();
        if rest == 0 {
            look.peers = Some(instance.peers_now().await);
            rest = look.peers.as_ref().map_or(0, Vec::len) / PEERS + 1;
        }
        rest -= 1;
        seen.tell(instance.journal(), look);
        instance.journal().tell_left_out();
        tokio::time::sleep(LOOK).await;
    }
}

/// A worker that does not answer has stopped serving its queues, whatever its state says.
async fn ask(instance: &Instance) {
    let mut stuck = vec![false; instance.workers().len()];
    loop {
        tokio::time::sleep(ASK).await;
        for (at, (worker, was)) in instance.workers().iter().zip(&mut stuck).enumerate() {
            if worker.state.lock().is_ok_and(|state| *state != WorkerState::Running) {
                continue;
            }
            let (answer, answered) = tokio::sync::oneshot::channel();
            let asked = worker.ask.try_send(Box::new(move |_| answer.send(()).unwrap_or(())));
            worker.waker.wake();
            let answers = asked.is_ok() && matches!(tokio::time::timeout(PATIENCE, answered).await, Ok(Ok(())));
            // It may have ended while it was asked.
            let runs = worker.state.lock().is_ok_and(|state| *state == WorkerState::Running);
            if runs && answers == *was {
                tell_of_stuck(instance.journal(), at, !answers);
                *was = !answers;
            }
        }
    }
}

fn tell_of_stuck(journal: &Journal, worker: usize, stuck: bool) {
    let about = worker.to_string();
    journal.tell(if stuck {
        Note::new(Kind::WorkerStuck, about, format!("worker {worker} has not answered for {} s", PATIENCE.as_secs()))
    } else {
        Note::new(Kind::WorkerRecovered, about, format!("worker {worker} answers again"))
    });
}
