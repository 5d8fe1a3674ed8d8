//! The tunnels' control side at work: WireGuard devices, peers that move, keepalives, path MTUs, and what workers tell.

use super::esp::StaticEsp;
use super::events::{Event, Events};
use super::publisher::Publisher;
use super::steering::Steering;
use super::wg_part::WgParts;
use super::wireguard::device::Device;
use super::wireguard::load::Limits;
use super::wireguard::serve::{Handle, Options, Service};
use super::wireguard::uapi::{AllowedIp, SetDevice, SetPeer, State};
use super::{keepalive, lifetimes, pmtu, xfrm};
use crate::config::policy::{Policy, TunnelKind, WireGuardTunnel};
use crate::control::types::PeerStatus;
use crate::crypto::keyfile;
use crate::crypto::wg::PublicKey;
use crate::host::fib::Fib;
use crate::telemetry::journal::{Journal, Kind, Note};
use crate::worker::clock;
use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// Snapshots that nobody has any more are freed this often.
const SWEEP: Duration = Duration::from_secs(1);
/// Events passed on before others have their turn.
const TURN: usize = 256;

/// Devices that are bound and have not begun yet. Bound first, so that what cannot be had is known before anything runs.
pub struct Prepared {
    services: Vec<(usize, WgParts, Service)>,
}

/// The running control side. Dropping it ends its tasks.
pub struct Control {
    publisher: Arc<Mutex<Publisher>>,
    wireguard: Vec<(usize, Handle)>,
    xfrm: Option<xfrm::run::Handle>,
    tasks: Vec<JoinHandle<()>>,
}

impl Prepared {
    /// Takes the ports and configuration sockets of the WireGuard tunnels. `folder`: of the configuration sockets.
    ///
    /// # Errors
    /// Keys that cannot be read, a port or socket that another process has.
    pub fn new(policy: &Policy, folder: &std::path::Path) -> Result<Self> {
        if !policy.tunnels.is_empty() {
            // Measures, which must not come in the middle of a handshake.
            for choice in crate::crypto::aead::chosen() {
                tracing::info!(cipher = %choice.cipher, back_end = choice.back_end.name(), ns_1400 = choice.ns_1400, "cipher");
            }
        }
        let mut services = Vec::new();
        for (at, tunnel) in policy.tunnels.iter().enumerate() {
            let TunnelKind::WireGuard(wireguard) = &tunnel.kind else { continue };
            let name = &tunnel.name;
            let options = Options {
                name: name.clone(),
                folder: Some(PathBuf::from(folder)),
                limits: Limits::default(),
                set: first_settings(wireguard).with_context(|| format!("tunnel `{name}`"))?,
            };
            services.push((at, WgParts::new(at as u16, wireguard.local), Service::new(options)?));
        }
        Ok(Self { services })
    }

    /// Begins. Needs the runtime that it is to run on.
    pub fn start(
        self,
        policy: &Policy,
        publisher: Arc<Mutex<Publisher>>,
        (events, journal): (Arc<Events>, Arc<Journal>),
        steering: &Arc<Steering>,
        fib: &Arc<ArcSwap<Fib>>,
    ) -> Result<Control> {
        let mut control =
            Control { publisher: publisher.clone(), wireguard: Vec::new(), xfrm: None, tasks: Vec::new() };
        for (at, tunnel) in policy.tunnels.iter().enumerate() {
            let TunnelKind::Xfrm(policy) = &tunnel.kind else { continue };
            let setup = xfrm::run::Setup {
                tunnel: at,
                name: tunnel.name.clone(),
                fallback: policy.fallback,
                publisher: publisher.clone(),
                steering: steering.clone(),
                fib: fib.clone(),
            };
            let (handle, run) = xfrm::run::start(setup).with_context(|| format!("tunnel `{}`", tunnel.name))?;
            control.tasks.push(tokio::spawn(run));
            control.xfrm = Some(handle);
        }
        for (at, parts, service) in self.services {
            control.wireguard.push((at, service.handle()));
            let publish = publish(at, parts, publisher.clone(), steering.clone());
            control.tasks.push(tokio::spawn(service.run(publish)));
        }
        if !policy.tunnels.is_empty() {
            let keys = lock(&publisher).keys();
            control.tasks.push(tokio::spawn(pmtu::listen(keys, clock::now)));
        }
        control.tasks.push(tokio::spawn(keepalive::run(policy.clone(), publisher.clone())));
        control.tasks.push(tokio::spawn(lifetimes::run(policy.clone(), publisher.clone())));
        let listeners = (control.wireguard.clone(), control.xfrm.clone());
        let names = policy.tunnels.iter().map(|tunnel| tunnel.name.clone()).collect();
        control.tasks.push(tokio::spawn(dispatch(events, publisher.clone(), listeners, (journal, names))));
        control.tasks.push(tokio::spawn(sweep(publisher)));
        Ok(control)
    }
}

impl Control {
    /// Makes new session keys with a peer, or with all of a tunnel's. Returns how many handshakes were begun.
    ///
    /// # Errors
    /// The tunnel is of another type, or has no such peer.
    pub async fn rekey(&self, policy: &Policy, tunnel: &str, peer: Option<&str>) -> Result<usize> {
        let at = policy.tunnel(tunnel).with_context(|| format!("no tunnel is called `{tunnel}`"))?;
        let Some((_, handle)) = self.wireguard.iter().find(|(of, _)| *of == at) else {
            bail!("tunnel `{tunnel}` has no keys of softdpu's making: only those of type wireguard have")
        };
        let state = handle.get().await?;
        let (mut begun, mut found) = (0, false);
        for status in peers(policy, at, &state) {
            let key = state.peers.iter().map(|peer| PublicKey::from_bytes(peer.public_key));
            let key = key.into_iter().find(|key| key.to_string() == status.public_key);
            if let Some(key) = key.filter(|_| peer.is_none_or(|p| p == status.name || p == status.public_key)) {
                found = true;
                begun += usize::from(handle.rekey(key).await?);
            }
        }
        if let Some(peer) = peer.filter(|_| !found) {
            bail!("tunnel `{tunnel}` has no peer `{peer}`; `softdpu status` lists them");
        }
        Ok(begun)
    }

    /// The WireGuard peers of each tunnel, by the tunnel's index.
    pub async fn peers(&self, policy: &Policy) -> Vec<(usize, Vec<PeerStatus>)> {
        let mut all = Vec::new();
        for (at, handle) in &self.wireguard {
            if let Ok(state) = handle.get().await {
                all.push((*at, peers(policy, *at, &state)));
            }
        }
        all
    }

    /// What there is to say of tunnels, by the tunnel's index.
    pub fn notes(&self) -> Vec<(usize, Vec<String>)> {
        self.xfrm.iter().map(|xfrm| (xfrm.tunnel, xfrm.notes())).collect()
    }

    /// What became of WireGuard messages on the control side, by reason, over all tunnels.
    pub fn counts(&self) -> std::collections::BTreeMap<&'static str, u64> {
        let mut all = std::collections::BTreeMap::new();
        for (_, handle) in &self.wireguard {
            let lost = Some(("queue_full", handle.events.lost())).filter(|(_, count)| *count > 0);
            for (reason, count) in handle.counts.read().into_iter().chain(lost) {
                *all.entry(reason).or_default() += count;
            }
        }
        all
    }

    pub fn publisher(&self) -> &Arc<Mutex<Publisher>> {
        &self.publisher
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a device's task calls when workers are to know something new.
fn publish(
    at: usize,
    mut parts: WgParts,
    publisher: Arc<Mutex<Publisher>>,
    steering: Arc<Steering>,
) -> impl FnMut(&mut Device) + Send {
    let mut port = None;
    move |device| {
        let (part, selection) = parts.build(device);
        if let Err(error) = lock(&publisher).set(at, part, selection) {
            // The device never gives an index twice, so this says that something is broken.
            tracing::error!(%error, "the sessions of a WireGuard tunnel cannot be published");
        }
        let listens = device.listen_port();
        if port.replace(listens).is_some_and(|before| before != listens) {
            steering.set_wireguard_port(at, listens);
        }
    }
}

fn first_settings(tunnel: &WireGuardTunnel) -> Result<SetDevice> {
    let mut peers = Vec::with_capacity(tunnel.peers.len());
    for peer in &tunnel.peers {
        peers.push(SetPeer {
            public_key: peer.public_key,
            preshared_key: peer.preshared_key_file.as_deref().map(keyfile::read_wireguard).transpose()?,
            endpoint: peer.endpoint,
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: peer.allowed_ips.iter().map(|prefix| AllowedIp { prefix: *prefix, remove: false }).collect(),
            ..SetPeer::default()
        });
    }
    Ok(SetDevice {
        private_key: tunnel.private_key_file.as_deref().map(keyfile::read_wireguard).transpose()?,
        listen_port: Some(tunnel.listen_port),
        peers,
        ..SetDevice::default()
    })
}

/// Hands what workers tell to whom it concerns.
async fn dispatch(
    events: Arc<Events>,
    publisher: Arc<Mutex<Publisher>>,
    (wireguard, xfrm): (Vec<(usize, Handle)>, Option<xfrm::run::Handle>),
    (journal, names): (Arc<Journal>, Vec<String>),
) {
    loop {
        let mut taken = 0;
        while taken < TURN
            && let Some(event) = events.pop()
        {
            taken += 1;
            let tunnel = usize::from(event.tunnel());
            if let Event::Moved { from, .. } = event {
                if let Some(before) = esp_moved(&publisher, tunnel, from) {
                    let name = names.get(tunnel).map_or("?", String::as_str);
                    let note = Note::new(Kind::TunnelMoved, name, format!("the peer moved from {before} to {from}"));
                    journal.tell(note.with("from", before.to_string()).with("to", from.to_string()));
                }
            } else if let Event::Acquire { flow, .. } = event {
                if let Some(xfrm) = &xfrm {
                    xfrm.acquire(flow);
                }
            } else if let Some((_, handle)) = wireguard.iter().find(|(at, _)| *at == tunnel) {
                handle.events.pass(&event);
            }
        }
        // Under a flood there is always one more: the devices must have their turns.
        if taken == TURN { tokio::task::yield_now().await } else { events.wait().await }
    }
}

/// The address that it moved from; `None`: it has not moved, or cannot.
fn esp_moved(publisher: &Mutex<Publisher>, tunnel: usize, from: std::net::SocketAddr) -> Option<std::net::SocketAddr> {
    let mut publisher = lock(publisher);
    let part = publisher.part(tunnel)?;
    let before = part.keys.ways.first()?.as_deref()?.remote;
    let mut esp = StaticEsp::of(part)?;
    let moved = esp.move_to(from);
    if moved {
        tracing::info!(tunnel, %from, "the tunnel's peer has moved");
        if let Err(error) = publisher.set(tunnel, esp.part(), false) {
            tracing::error!(%error, "the tunnel's new peer address cannot be published");
        }
    }
    moved.then_some(before)
}

async fn sweep(publisher: Arc<Mutex<Publisher>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        lock(&publisher).sweep();
    }
}

fn peers(policy: &Policy, at: usize, state: &State) -> Vec<PeerStatus> {
    let named = match &policy.tunnels[at].kind {
        TunnelKind::WireGuard(wireguard) => wireguard.peers.as_slice(),
        TunnelKind::Esp(_) | TunnelKind::Xfrm(_) => &[],
    };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let status = |peer: &super::wireguard::uapi::PeerState| {
        let key = PublicKey::from_bytes(peer.public_key).to_string();
        let name = named.iter().find(|named| named.public_key == peer.public_key).and_then(|named| named.name.clone());
        PeerStatus {
            name: name.unwrap_or_else(|| key.chars().take(8).collect()),
            endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
            allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
            last_handshake_s: (!peer.last_handshake.is_zero())
                .then(|| since_1970.saturating_sub(peer.last_handshake).as_secs_f64()),
            sent_bytes: peer.tx_bytes,
            received_bytes: peer.rx_bytes,
            public_key: key,
        }
    };
    state.peers.iter().map(status).collect()
}
