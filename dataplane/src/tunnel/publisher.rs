//! Puts the tunnels' parts together and hands the whole to the workers.

use super::keys::{EspIn, Keys, Listen, TunnelKeys, WgIn};
use super::large_pages;
use crate::crypto::esp::SaError;
use arc_swap::ArcSwap;
use std::collections::HashSet;
use std::sync::Arc;

/// What one tunnel adds to the whole.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub inbound: Vec<EspIn>,
    pub sessions: Vec<WgIn>,
    pub listen: Option<Listen>,
    pub keys: TunnelKeys,
}

/// The control side's end of [`Keys`].
pub struct Publisher {
    parts: Vec<Part>,
    current: Arc<ArcSwap<Keys>>,
    /// Snapshots that a worker may still have. Kept here, so that it is never a worker that frees thousands of keys.
    old: Vec<Arc<Keys>>,
    generation: u32,
    selection: u32,
    /// Called before (`true`) and after a publication by which flows may come under other tunnels than before: what acts on
    /// flows besides the workers must not know any by then.
    selecting: Box<dyn Fn(bool) + Send + Sync>,
    /// Called after each publication: wakes workers whose packets wait.
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Publisher {
    /// One part per tunnel of the policy, in order.
    ///
    /// # Errors
    /// [`SaError::DuplicateSpi`].
    pub fn new(parts: Vec<Part>) -> Result<Self, SaError> {
        let keys = assemble((1, 1), &parts)?;
        let current = Arc::new(ArcSwap::from_pointee(keys));
        Ok(Self {
            parts,
            current,
            old: Vec::new(),
            generation: 1,
            selection: 1,
            selecting: Box::new(|_| {}),
            changed: Box::new(|| {}),
        })
    }

    /// What workers read from.
    pub fn keys(&self) -> Arc<ArcSwap<Keys>> {
        self.current.clone()
    }

    pub fn on_change(&mut self, changed: Box<dyn Fn() + Send + Sync>) {
        self.changed = changed;
    }

    pub fn on_selection(&mut self, selecting: Box<dyn Fn(bool) + Send + Sync>) {
        self.selecting = selecting;
    }

    /// One tunnel's part.
    pub fn part(&self, tunnel: usize) -> Option<&Part> {
        self.parts.get(tunnel)
    }

    /// SPIs that all tunnels but this one receive under.
    pub fn spis_of_others(&self, tunnel: usize) -> HashSet<u32> {
        let others = self.parts.iter().enumerate().filter(|(at, _)| *at != tunnel);
        others.flat_map(|(_, part)| &part.inbound).map(|esp| esp.sa.spi()).collect()
    }

    /// Replaces one tunnel's part. `selection`: flows may now belong to other ways of it.
    ///
    /// # Errors
    /// [`SaError::DuplicateSpi`]; what was there stays in force.
    pub fn set(&mut self, tunnel: usize, part: Part, selection: bool) -> Result<(), SaError> {
        let before = std::mem::replace(&mut self.parts[tunnel], part);
        let selects = selection;
        let selection = self.selection.wrapping_add(u32::from(selects));
        match assemble((self.generation.wrapping_add(1), selection), &self.parts) {
            Ok(keys) => {
                (self.generation, self.selection) = (keys.generation, keys.selection);
                if selects {
                    (self.selecting)(true);
                }
                self.old.push(self.current.swap(Arc::new(keys)));
                if selects {
                    (self.selecting)(false);
                }
                (self.changed)();
                self.sweep();
                Ok(())
            }
            Err(error) => {
                self.parts[tunnel] = before;
                Err(error)
            }
        }
    }

    /// Frees the snapshots that no worker has any more.
    pub fn sweep(&mut self) {
        self.old.retain(|keys| Arc::strong_count(keys) > 1);
    }
}

fn assemble(numbers: (u32, u32), parts: &[Part]) -> Result<Keys, SaError> {
    let count = |part: &Part| part.inbound.len() + part.sessions.len() + part.keys.ways.len();
    large_pages::for_heap_of(parts.iter().map(count).sum());
    let inbound = parts.iter().flat_map(|part| part.inbound.iter().cloned()).collect();
    let sessions = parts.iter().flat_map(|part| part.sessions.iter().cloned()).collect();
    let listen = parts.iter().filter_map(|part| part.listen).collect();
    Keys::new(numbers, inbound, sessions, listen, parts.iter().map(|part| part.keys.clone()).collect())
}
