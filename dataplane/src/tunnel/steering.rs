//! The steering rules in force: the policy's, and what tunnels need at the moment.

use super::control::lock;
use crate::config::policy::Policy;
use crate::io::steer::{self, Steer, SteerRule};
use crate::plan::steering;
use anyhow::{Context, Result};
use std::sync::{Arc, Mutex};

/// The XDP program and what its rules are made from.
pub struct Steering {
    /// Interface index per port, `None` for ports that XDP has no part in.
    interfaces: Vec<Option<u32>>,
    inner: Mutex<Inner>,
}

struct Inner {
    policy: Arc<Policy>,
    /// Until it is detached; `None` where no port has one.
    steer: Option<Steer>,
    /// By tunnel of the policy.
    tunnels: Vec<Vec<SteerRule>>,
}

impl Steering {
    /// `steer` has the rules that [`Self::first`] gave.
    pub fn new(policy: Policy, interfaces: Vec<Option<u32>>, steer: Option<Steer>) -> Self {
        let tunnels = steering::of_tunnels(&policy);
        Self { interfaces, inner: Mutex::new(Inner { policy: Arc::new(policy), steer, tunnels }) }
    }

    /// The rules to begin with.
    ///
    /// # Errors
    /// More rules or prefixes than the program has room for.
    pub fn first(policy: &Policy, interfaces: &[Option<u32>]) -> Result<steer::RuleTables> {
        let tunnels = steering::of_tunnels(policy);
        Ok(steer::compile(&steering::rules(policy, interfaces, tunnels.into_iter().flatten().collect()))?)
    }

    /// Takes the XDP program off the interfaces.
    pub fn detach(&self) {
        drop(lock(&self.inner).steer.take());
    }

    /// All rules in force, in their order.
    pub fn rules(&self) -> Vec<SteerRule> {
        let inner = lock(&self.inner);
        steering::rules(&inner.policy, &self.interfaces, inner.tunnels.iter().flatten().cloned().collect())
    }

    /// The interface of each port, `None` for ports that XDP has no part in.
    pub fn interfaces(&self) -> &[Option<u32>] {
        &self.interfaces
    }

    /// Asks the program something. `None`: there is none.
    pub fn ask<T>(&self, question: impl FnOnce(&Steer) -> T) -> Option<T> {
        lock(&self.inner).steer.as_ref().map(question)
    }

    /// Has the program do something. `None`: there is none.
    pub fn ask_mut<T>(&self, task: impl FnOnce(&mut Steer) -> T) -> Option<T> {
        lock(&self.inner).steer.as_mut().map(task)
    }

    /// A WireGuard tunnel listens on another port now.
    pub fn set_wireguard_port(&self, tunnel: usize, port: u16) {
        let rules = steering::of_wireguard(&lock(&self.inner).policy, tunnel, port);
        if let Err(error) = self.set(tunnel, rules) {
            tracing::error!("the tunnel's new port is not steered to the workers: {error:#}");
        }
    }

    /// Replaces one tunnel's rules, in one step for the packets.
    ///
    /// # Errors
    /// More rules or prefixes than there is room for; what was in force stays so.
    pub fn set(&self, tunnel: usize, rules: Vec<SteerRule>) -> Result<()> {
        let mut inner = lock(&self.inner);
        let before = std::mem::replace(&mut inner.tunnels[tunnel], rules);
        let done = self.put(&mut inner, None);
        if done.is_err() {
            inner.tunnels[tunnel] = before;
        }
        done
    }

    /// Whether [`Self::set_policy`] would do.
    ///
    /// # Errors
    /// More rules or prefixes than there is room for.
    pub fn try_policy(&self, policy: &Policy) -> Result<()> {
        self.compile(&lock(&self.inner), policy).map(drop)
    }

    /// Takes up another policy's steering rules, in one step for the packets. Its tunnels are those of the one before.
    ///
    /// # Errors
    /// More rules or prefixes than there is room for; what was in force stays so.
    pub fn set_policy(&self, policy: Arc<Policy>) -> Result<()> {
        let mut inner = lock(&self.inner);
        self.put(&mut inner, Some(&policy))?;
        inner.policy = policy;
        Ok(())
    }

    fn compile(&self, inner: &Inner, policy: &Policy) -> Result<steer::RuleTables> {
        let tunnels = inner.tunnels.iter().flatten().cloned().collect();
        steer::compile(&steering::rules(policy, &self.interfaces, tunnels)).context("the steering rules")
    }

    /// `policy`: in place of the one in force.
    fn put(&self, inner: &mut Inner, policy: Option<&Policy>) -> Result<()> {
        let tables = self.compile(inner, policy.unwrap_or(&inner.policy))?;
        match &mut inner.steer {
            Some(steer) => Ok(steer.set_rules(&tables)?),
            None => Ok(()),
        }
    }
}
