//! A tunnel of type xfrm at work: the mirror's views become keys and steering rules, what was carried goes back to the kernel.

use super::mirror::Mirror;
use super::model::{Direction, Flow};
use super::parts::XfrmParts;
use super::tables::Snapshot;
use crate::config::policy::Fallback;
use crate::crypto::esp::PROTO_ESP;
use crate::host::fib::Fib;
use crate::io::steer::SteerRule;
use crate::tunnel::control::lock;
use crate::tunnel::publisher::Publisher;
use crate::tunnel::steering::Steering;
use crate::worker::clock;
use anyhow::Result;
use arc_swap::ArcSwap;
use softdpu_ebpf_common::maps;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two looks at the leases: a lease lasts seconds.
const LOOK: Duration = Duration::from_millis(100);
/// After a first dump that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Looks between two reports to the kernel.
const REPORT: u32 = 10;
/// Steering rules of this tunnel beyond which one does for all its policies.
const MAX_STEERING: usize = 400;
/// Flows without an association that wait to be asked for.
const ACQUIRES: usize = 64;

/// What the tunnel's part of the control side needs.
pub struct Setup {
    pub tunnel: usize,
    pub name: String,
    pub fallback: Fallback,
    pub publisher: Arc<Mutex<Publisher>>,
    pub steering: Arc<Steering>,
    pub fib: Arc<ArcSwap<Fib>>,
}

/// What others hold of it.
#[derive(Clone)]
pub struct Handle {
    pub tunnel: usize,
    acquires: mpsc::Sender<Flow>,
    parts: Arc<Mutex<XfrmParts>>,
}

impl Handle {
    /// Asks the key daemon for an association for this flow, sooner or later.
    pub fn acquire(&self, flow: Flow) {
        // A full queue: the flow's next packet asks again.
        let _ = self.acquires.try_send(flow);
    }

    /// For status: what is mirrored, and what stays with the kernel.
    pub fn notes(&self) -> Vec<String> {
        let parts = lock(&self.parts);
        let (inbound, outbound) = parts.counts();
        let policies = parts.snapshot().policies.len();
        let mut notes = vec![format!("{inbound} associations in, {outbound} out, {policies} policies")];
        notes.extend(parts.left.iter().map(|(why, count)| format!("{count} left to the kernel: {why}")));
        notes
    }
}

/// Makes the tunnel ready; the future runs it.
///
/// # Errors
/// Without `CAP_NET_ADMIN`, or XFRM in the kernel.
pub fn start(setup: Setup) -> Result<(Handle, impl Future<Output = ()> + Send)> {
    let parts = Arc::new(Mutex::new(XfrmParts::new(setup.tunnel as u16)?));
    let (acquires, asked) = mpsc::channel(ACQUIRES);
    let handle = Handle { tunnel: setup.tunnel, acquires, parts: parts.clone() };
    Ok((handle, run(setup, parts, asked)))
}

async fn run(setup: Setup, parts: Arc<Mutex<XfrmParts>>, mut asked: mpsc::Receiver<Flow>) {
    let setup = Arc::new(setup);
    let begin = || {
        let (follow, taken) = (setup.clone(), parts.clone());
        Mirror::start(Box::new(move |snapshot: Snapshot| take(&follow, &taken, snapshot)))
    };
    let mirror = AbortOnDrop(until_begun(&setup.name, AGAIN, begin).await);
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {
                looks = looks.wrapping_add(1);
                let mut parts = lock(&parts);
                parts.renew();
                if looks.is_multiple_of(REPORT) {
                    parts.report(clock::now());
                }
            }
            Some(flow) = asked.recv() => lock(&parts).acquire(&flow, clock::now()),
        }
        if mirror.0.is_finished() {
            return tracing::error!("tunnel `{}`: the kernel's IPsec tables are not followed any more", setup.name);
        }
    }
}

/// Begins until it succeeds. Until then nothing that the policies may be for leaves: giving up would make that last.
async fn until_begun<T, F>(name: &str, pause: Duration, mut begin: impl FnMut() -> F) -> T
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        match begin().await {
            Ok(begun) => return begun,
            Err(error) => {
                tracing::error!("tunnel `{name}`: the kernel's IPsec tables cannot be read, trying again: {error}");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn take(setup: &Setup, parts: &Mutex<XfrmParts>, snapshot: Snapshot) {
    let fib = setup.fib.load();
    let mut parts = lock(parts);
    parts.leave_to_others(lock(&setup.publisher).spis_of_others(setup.tunnel));
    parts.take(snapshot, |address| fib.is_local(address), clock::now());
    let part = parts.part();
    let locals: BTreeSet<IpAddr> = part.inbound.iter().map(|esp| esp.local).collect();
    let rules = steering(setup, parts.snapshot(), &locals);
    // Keys first: a worker that does not know of a new policy yet would forward its flows in clear, the kernel, which has them
    // until they are steered, seals them itself.
    if let Err(error) = lock(&setup.publisher).set(setup.tunnel, part, true) {
        return tracing::error!(%error, "tunnel `{}`: its associations cannot be published", setup.name);
    }
    if let Err(error) = setup.steering.set(setup.tunnel, rules) {
        tracing::error!("tunnel `{}`: what its policies are for is not steered: {error:#}", setup.name);
    }
}

/// What must go to the worker: flows that policies seal, and ESP for the addresses where an association receives.
fn steering(setup: &Setup, snapshot: &Snapshot, locals: &BTreeSet<IpAddr>) -> Vec<SteerRule> {
    let on_loss = match setup.fallback {
        Fallback::Drop => maps::OnLoss::Drop,
        Fallback::Kernel => maps::OnLoss::Pass,
    };
    let rule = |name: String| {
        let mut rule = SteerRule::any(name, maps::RuleAction::Worker);
        rule.on_loss = on_loss;
        rule
    };
    let name = &setup.name;
    let mut rules = Vec::new();
    for (at, local) in locals.iter().enumerate() {
        let mut esp = rule(format!("xfrm:{name}:esp:{at}"));
        esp.to = vec![(*local, if local.is_ipv4() { 32 } else { 128 })];
        esp.protocol = Some(PROTO_ESP);
        esp.fragments = true;
        rules.push(esp);
    }
    let mut pairs = BTreeSet::new();
    for policy in snapshot.policies.iter().filter(|policy| policy.key.direction == Direction::Out) {
        // Workers' packets have no mark and are on no XFRM interface: policies for such are for other packets.
        let ours = policy.if_id == 0 && policy.mark.matches(0);
        if ours && !policy.templates.is_empty() && !kernel_only(snapshot, policy) {
            let pair = |prefix: &crate::wire::prefix::Prefix| (prefix.addr(), prefix.prefix_len());
            pairs.insert((pair(&policy.selector.src), pair(&policy.selector.dst)));
        }
    }
    for (at, (from, to)) in grouped(&pairs).into_iter().enumerate() {
        let mut flows = rule(format!("xfrm:{name}:{at}"));
        (flows.from, flows.to, flows.fragments) = (from, to, true);
        rules.push(flows);
    }
    rules
}

/// An address and a prefix length.
type Net = (IpAddr, u8);

/// As few rules as there are sources, or destinations. Where both are many: all sources to all destinations, which takes flows
/// along that no policy is for, but never the host's own.
fn grouped(pairs: &BTreeSet<(Net, Net)>) -> Vec<(Vec<Net>, Vec<Net>)> {
    let (mut by_source, mut by_destination) = (BTreeMap::<Net, Vec<Net>>::new(), BTreeMap::<Net, Vec<Net>>::new());
    for (from, to) in pairs {
        by_source.entry(*from).or_default().push(*to);
        by_destination.entry(*to).or_default().push(*from);
    }
    if by_source.len().min(by_destination.len()) > MAX_STEERING {
        return vec![(by_source.into_keys().collect(), by_destination.into_keys().collect())];
    }
    if by_source.len() <= by_destination.len() {
        by_source.into_iter().map(|(from, to)| (vec![from], to)).collect()
    } else {
        by_destination.into_iter().map(|(to, from)| (from, vec![to])).collect()
    }
}

/// Whether all states of a policy are ones that only the kernel can run: then its flows stay there.
fn kernel_only(snapshot: &Snapshot, policy: &super::model::Policy) -> bool {
    let of = |state: &&Arc<super::model::State>| {
        policy.templates.iter().any(|template| template.accepts(state, policy.if_id))
    };
    let mut states = snapshot
        .states
        .iter()
        .filter(of)
        .filter(|state| !matches!(state.unsupported, Some(super::model::Unsupported::Larval)))
        .peekable();
    states.peek().is_some() && states.all(|state| !state.supported())
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_first_dump_that_fails_is_made_again() {
        let mut tries = 0;
        let begin = || {
            tries += 1;
            let now = tries;
            async move { if now < 3 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(now) } }
        };
        assert_eq!(until_begun("ike", Duration::from_millis(1), begin).await, 3);
    }

    #[test]
    fn thousands_of_policies_are_a_few_rules_and_never_one_for_everything() {
        let net = |a: usize, b: usize| (IpAddr::from([10, a as u8, (b >> 8) as u8, b as u8]), 32);
        let spokes: BTreeSet<_> = (0..5000).map(|peer| (net(1, 0), net(2, peer))).collect();
        let rules = grouped(&spokes);
        assert_eq!((rules.len(), rules[0].1.len()), (1, 5000));
        let back: BTreeSet<_> = spokes.iter().map(|(from, to)| (*to, *from)).collect();
        assert_eq!(grouped(&back).len(), 1);
        let hosts: BTreeSet<_> = (0..500).map(|peer| (net(1, peer), net(2, peer))).collect();
        let rules = grouped(&hosts);
        assert_eq!((rules.len(), rules[0].0.len(), rules[0].1.len()), (1, 500, 500));
        assert!(grouped(&BTreeSet::new()).is_empty());
    }
}
