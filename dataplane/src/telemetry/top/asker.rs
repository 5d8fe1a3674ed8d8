//! Asks the instance, at its own pace and on a thread of its own, so that keys are answered while it thinks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::sample::{Flows, Sample};
use super::{Find, Options};
use crate::control::client;
use crate::plan::contract::Contract;

/// How old a plan may be before it is asked for again: a thousand intents are a long answer.
const PLAN_AGE: Duration = Duration::from_secs(5);

/// What the asking came to.
pub enum Heard {
    Sample(Box<Sample>),
    /// It cannot be asked, and why.
    Away(String),
    /// A signal says that it is time to go.
    Stop,
}

/// The thread, from outside. It ends when this is dropped, at its next word.
pub struct Asker {
    heard: Receiver<Heard>,
    wishes: Arc<Wishes>,
}

#[derive(Default)]
struct Wishes {
    flows: AtomicBool,
    changed: Notify,
}

impl Asker {
    /// # Errors
    /// No thread, or no runtime.
    pub fn start(find: Find, options: &Options) -> Result<Self> {
        let (tell, heard) = sync_channel(4);
        let wishes = Arc::new(Wishes::default());
        let (theirs, options) = (wishes.clone(), options.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("top-asker".into())
            .spawn(move || runtime.block_on(ask_on(&find, &options, &theirs, &tell)))
            .context("cannot start a thread")?;
        Ok(Self { heard, wishes })
    }

    /// Whether flows are wanted from now on; where they are newly so, at once.
    pub fn want_flows(&self, wanted: bool) {
        if self.wishes.flows.swap(wanted, Ordering::Relaxed) != wanted && wanted {
            self.wishes.changed.notify_one();
        }
    }

    /// What was heard since the last call.
    pub fn heard(&self) -> impl Iterator<Item = Heard> + '_ {
        std::iter::from_fn(|| match self.heard.try_recv() {
            Ok(heard) => Some(heard),
            Err(std::sync::mpsc::TryRecvError::Empty) => None,
            Err(std::sync::mpsc::TryRecvError::Disconnected) => Some(Heard::Stop),
        })
    }
}

async fn ask_on(find: &Find, options: &Options, wishes: &Wishes, tell: &SyncSender<Heard>) {
    let mut asking = Asking::new(options.flows);
    let signals = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut hangup), Ok(mut interrupt)] = signals else {
        let _ = tell.send(Heard::Stop);
        return;
    };
    loop {
        let next = tokio::time::Instant::now() + options.interval;
        let look = async {
            let socket = find()?;
            asking.look(&socket, wishes.flows.load(Ordering::Relaxed)).await
        };
        let heard = tokio::select! {
            looked = look => match looked {
                Ok(sample) => Heard::Sample(Box::new(sample)),
                Err(error) => Heard::Away(format!("{error:#}")),
            },
            _ = terminate.recv() => Heard::Stop,
            _ = hangup.recv() => Heard::Stop,
            _ = interrupt.recv() => Heard::Stop,
        };
        let stop = matches!(heard, Heard::Stop);
        if tell.send(heard).is_err() || stop {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = wishes.changed.notified() => {}
            _ = terminate.recv() => { let _ = tell.send(Heard::Stop); }
            _ = hangup.recv() => { let _ = tell.send(Heard::Stop); }
            _ = interrupt.recv() => { let _ = tell.send(Heard::Stop); }
        }
    }
}

/// Looks, one after the other.
pub struct Asking {
    started: Instant,
    /// Most flows to ask for.
    flows: usize,
    /// The plan, when it was asked for, and of which run.
    plan: Option<(Arc<Contract>, Instant, u32)>,
}

impl Asking {
    pub fn new(flows: usize) -> Self {
        Self { started: Instant::now(), flows, plan: None }
    }

    /// # Errors
    /// What the client says.
    pub async fn look(&mut self, socket: &Path, with_flows: bool) -> Result<Sample> {
        let status = client::status(socket).await?;
        let counters = client::counters(socket).await?;
        let taken = self.started.elapsed().as_secs_f64();
        let contract = match &self.plan {
            Some((plan, when, pid)) if when.elapsed() < PLAN_AGE && *pid == status.pid => plan.clone(),
            _ => {
                let plan = Arc::new(client::plan(socket).await?);
                self.plan = Some((plan.clone(), Instant::now(), status.pid));
                plan
            }
        };
        let flows = if with_flows {
            let list = client::flows(socket, &[], self.flows).await?;
            let more = list.len() >= self.flows;
            Some(Flows { list, more, taken: self.started.elapsed().as_secs_f64() })
        } else {
            None
        };
        Ok(Sample { taken, status, counters, contract, flows })
    }
}
