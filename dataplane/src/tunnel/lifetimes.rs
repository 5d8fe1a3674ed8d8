//! Tells when the keys of static ESP tunnels come to their end. Workers keep the limits themselves; nobody but the operator
//! can make new keys, so what is left to do is to say so in time.

use super::control::lock;
use super::keys::{Keys, Seal};
use super::publisher::Publisher;
use crate::config::policy::Policy;
use crate::crypto::lifetime::Expiry;
use crate::crypto::{InboundSa, OutboundSa};
use crate::worker::clock;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the tunnels are looked at. Limits are of hours; a short one in a test should still be told of.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until it is dropped; returns at once where the policy has no ESP tunnel.
pub async fn run(policy: Policy, publisher: Arc<Mutex<Publisher>>) {
    let tunnels: Vec<(u16, String)> =
        policy.esp_tunnels().map(|(at, _)| (at as u16, policy.tunnels[at].name.clone())).collect();
    if tunnels.is_empty() {
        return;
    }
    let keys = lock(&publisher).keys();
    loop {
        tokio::time::sleep(LOOK).await;
        let (keys, now) = (keys.load(), clock::now());
        for (at, tunnel) in &tunnels {
            let told = |direction: &str, reached: Option<Expiry>| match reached {
                Some(Expiry::Soft) => {
                    tracing::warn!(tunnel = %tunnel, direction, "{SOFT}");
                }
                Some(Expiry::Hard) => {
                    tracing::error!(tunnel = %tunnel, direction, "{HARD}");
                }
                None => {}
            };
            told("out", outbound(*at, &keys).and_then(|sa| sa.take_expiry(now)));
            told("in", inbound(*at, &keys).and_then(|sa| sa.take_expiry(now)));
        }
    }
}

const SOFT: &str = "nine tenths of the keys' lifetime are over: make new keys and restart both ends";
const HARD: &str = "the keys' lifetime is over: packets are dropped until both ends are restarted with new keys";

/// Which end of their lifetime a tunnel's keys have reached at `now`, by direction.
pub fn reached(tunnel: u16, keys: &Keys, now: u64) -> Vec<(&'static str, Expiry)> {
    let out = outbound(tunnel, keys).and_then(|sa| sa.expired(now)).map(|reached| ("out", reached));
    let inward = inbound(tunnel, keys).and_then(|sa| sa.expired(now)).map(|reached| ("in", reached));
    out.into_iter().chain(inward).collect()
}

/// What `softdpu status` says of a tunnel's keys at `now`.
pub fn notes(tunnel: u16, keys: &Keys, now: u64) -> Vec<String> {
    let note = |(direction, reached)| format!("{direction}: {}", if reached == Expiry::Soft { SOFT } else { HARD });
    reached(tunnel, keys, now).into_iter().map(note).collect()
}

fn outbound(tunnel: u16, keys: &Keys) -> Option<&OutboundSa> {
    match &keys.way(tunnel, 0)?.seal {
        Seal::Esp(out) => Some(&out.sa),
        Seal::Nothing | Seal::WireGuard(_) => None,
    }
}

fn inbound(tunnel: u16, keys: &Keys) -> Option<&InboundSa> {
    Some(&keys.inbound().iter().find(|esp| esp.tunnel == tunnel)?.sa)
}
