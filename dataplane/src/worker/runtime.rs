//! A running instance: from a checked policy to packets, and back to a host without a trace.
//!
//! Order matters. Rules are in force before a program is attached, a program is attached before its queues are counted
//! (attaching may change them), sockets are in the map before their worker runs. On the way out the program goes first, so
//! that no packet is steered to a socket that nobody reads.

use super::build::{Blueprint, wire_fib};
use super::clock;
use super::history::History;
use super::idle::{Idler, Waker};
use super::instance::{self, Instance, PortFacts, WorkerHandle, WorkerState};
use super::notices;
use super::turn::{Worker, WorkerPort};
use super::{name_watch, watch_files};
use crate::config::policy::{self, Cores, Policy, PortKind, TapPort as TapPolicy, XdpPort};
use crate::control::{ControlSource, PlanSource, Server};
use crate::crypto::secret::harden_process;
use crate::host::fib::Fib;
use crate::host::nic::Nic;
use crate::host::tap::Guards;
use crate::host::watch::Watch;
use crate::io::loopback::{LoopbackPort, Wire};
use crate::io::pcap::{PcapPort, ReplayClock};
use crate::io::pool::FramePool;
use crate::io::port::PortIo;
use crate::io::socket::{BindMode, SocketSpec, ZeroCopy};
use crate::io::steer::{AttachMode, LoadOptions, Steer};
use crate::io::tap::{TapPort, TapQueue, device};
use crate::io::umem::Umem;
use crate::io::xdp::{XdpSpec, open_ports};
use crate::offload::nic::{self, Nics};
use crate::offload::{Lanes, NicMode, Setting, Unparker};
use crate::telemetry::export::Exporter;
use crate::telemetry::journal::{Kind, Note};
use crate::tunnel;
use crate::tunnel::steering::Steering;
use crate::tunnel::wireguard::uapi_server;
use anyhow::{Context, Result, bail};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Bytes of a frame: one page, which holds any packet of an MTU up to 3,500 with its headroom.
const CHUNK: u32 = 4096;
/// Packets that a loopback port's wire holds.
const WIRE: usize = 4096;

/// Between the last event and the end of the control socket.
const GOODBYE: Duration = Duration::from_millis(20);

/// How an instance is run, besides its policy.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Where the policy came from, for `status`.
    pub policy_path: PathBuf,
    /// Compile the XDP program's debug log in and write it to the log.
    pub steer_log: bool,
    /// Where WireGuard tunnels have their configuration sockets; `None`: where `wg` looks.
    pub wireguard_folder: Option<PathBuf>,
    /// Take the policy up again when its file changes.
    pub watch: bool,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting: another instance on the socket, keys, interfaces, privileges. Nothing is left behind.
pub fn run(policy: Policy, options: &RunOptions) -> Result<()> {
    super::heap::settle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    runtime.block_on(serve(policy, options))
}

async fn serve(policy: Policy, options: &RunOptions) -> Result<()> {
    harden_process();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Bound first: its lock keeps two instances of one name apart before either touches an interface.
    let server = Server::bind(&policy.control)?;
    let mut host = Host::prepare(policy, options)?;
    let mut guards = Guards::default();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ended = go(&mut host, &mut guards, server, stop, options).await;
    guards.release(ended.is_ok()).await;
    ended
}

/// From interfaces that are taken to their release, until `stop`.
async fn go(
    host: &mut Host,
    guards: &mut Guards,
    server: Server,
    stop: impl Future<Output = ()> + Send + 'static,
    options: &RunOptions,
) -> Result<()> {
    if let Some((index, tap)) = host.tap() {
        guards.configure(index, tap).await?;
    }
    let hangup = signal(SignalKind::hangup())?;
    let history = History::open(host.blueprint.policy.apply.history.as_deref())?;
    let exporter = host.blueprint.exporter()?;
    let mut workers = host.workers()?;
    let wakers: Vec<Waker> = workers.iter().map(|worker| worker.waker.clone()).collect();
    let lanes = host.lanes(&mut workers)?;
    let watcher = host.watch(&wakers, lanes.as_ref().map(Lanes::unparker)).await?;
    let to_wake = wakers.clone();
    host.blueprint.on_new_keys(Box::new(move || to_wake.iter().for_each(Waker::wake)));
    let (handles, threads) = host.spawn(workers)?;
    let exporter = exporter.map(Exporter::start).transpose()?;
    let steering = Arc::new(host.steering());
    let blueprint = &host.blueprint;
    let offload = lanes.map(|lanes| {
        let with = (blueprint.asks.clone(), blueprint.journal.clone());
        lanes.start(&blueprint.shared, steering.clone(), wakers.clone(), with)
    });
    let offload = offload.transpose()?;
    if let (Some(offload), Ok(mut publisher)) = (&offload, blueprint.publisher.lock()) {
        let (gate, thread) = (offload.gate(), offload.waker());
        publisher.on_selection(Box::new(move |before| {
            if before {
                gate.close()
            } else {
                gate.open()
            }
            thread.unpark();
        }));
    }
    let (publisher, fib) = (blueprint.publisher.clone(), blueprint.shared.fib.clone());
    let events = (blueprint.events.clone(), blueprint.journal.clone());
    let start =
        |prepared: tunnel::control::Prepared| prepared.start(&blueprint.policy, publisher, events, &steering, &fib);
    let tunnels = host.tunnels.take().map(start).transpose()?;
    let instance =
        Instance::new(&host.blueprint, options, host.facts.clone(), handles, steering, offload, tunnels, history);
    let instance = Arc::new(instance);
    let reloader = tokio::spawn(reload_when_asked(instance.clone(), hangup, options.clone()));
    let noticing = tokio::spawn(notices::run(instance.clone()));
    let names = tokio::spawn(name_watch::run(instance.clone()));
    tracing::info!(socket = %server.socket().display(), ports = host.facts.len(), workers = threads.len(), "running");
    let journal = host.blueprint.journal.clone();
    let stop = async move {
        stop.await;
        journal.tell(Note::new(Kind::InstanceStopping, "", "the instance was told to end"));
        // Whoever follows should still hear it.
        tokio::time::sleep(GOODBYE).await;
    };
    server.serve(instance.clone(), stop).await;
    tracing::info!("stopping");
    watcher.abort();
    noticing.abort();
    names.abort();
    reloader.abort();
    instance.detach();
    host.blueprint.shared.stop.store(true, Ordering::Relaxed);
    wakers.iter().for_each(Waker::wake);
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a worker had panicked");
        }
    }
    if let Some(exporter) = exporter {
        exporter.stop();
    }
    Ok(())
}

/// Takes up the policy again with each SIGHUP and, where that was asked for, when a file that it is made from has changed.
async fn reload_when_asked(instance: Arc<Instance>, mut hangup: Signal, options: RunOptions) {
    /// From one look at the files to the next. They are taken up when two looks found the same: no half-written file.
    const LOOK: Duration = Duration::from_secs(1);
    let stamp = || watch_files::stamp(&options.policy_path, &instance.policy());
    let (mut taken, mut seen) = (stamp(), stamp());
    loop {
        let by = tokio::select! {
            heard = hangup.recv() => if heard.is_some() { "SIGHUP" } else { return },
            () = tokio::time::sleep(LOOK), if options.watch => {
                let now = stamp();
                let settled = now == seen && now != taken && watch_files::is_there(&now);
                seen = now;
                if !settled {
                    continue;
                }
                "watch"
            }
        };
        taken = stamp();
        match instance.reload(PlanSource::File(by), false).await {
            Ok(report) => match report.rolled_back {
                Some(why) => tracing::error!(by, "the policy was taken back: {why}"),
                None => {
                    tracing::info!(by, plan = report.plan, changes = report.changes.len(), "the policy is in force")
                }
            },
            Err(error) => tracing::error!(by, "the policy in force stays: {error:#}"),
        }
    }
}

/// The parts of an instance while it is being put together.
struct Host {
    blueprint: Blueprint,
    /// Per port of the policy; `None` for ports without an interface.
    nics: Vec<Option<Nic>>,
    /// The tap's first queue, until the first worker has it.
    queue: Option<TapQueue>,
    /// Held as long as the instance lives.
    _claims: Vec<UnixDatagram>,
    facts: Vec<PortFacts>,
    /// Until the instance has it.
    steer: Option<Steer>,
    /// Until they begin.
    tunnels: Option<tunnel::control::Prepared>,
    /// The program took over from one that a killed instance had left to protect its flows.
    took_over: bool,
}

impl Drop for Host {
    /// A start that fails must not take away the protection that it found: the new program stays, without sockets, and the
    /// rules' `on_loss` hold as they did before.
    fn drop(&mut self) {
        if let Some(steer) = self.steer.take().filter(|_| self.took_over) {
            tracing::warn!("not started; the XDP program stays attached in place of the killed instance's");
            steer.leave_attached();
        }
    }
}

/// A worker that has not started yet.
struct Ready {
    worker: Worker,
    ask: crossbeam::channel::Sender<super::turn::Question>,
    waker: Waker,
    core: Option<usize>,
}

impl Host {
    fn prepare(policy: Policy, options: &RunOptions) -> Result<Self> {
        let mut nics = Vec::with_capacity(policy.ports.len());
        let mut queue = None;
        for port in &policy.ports {
            nics.push(match &port.kind {
                PortKind::Xdp(xdp) => {
                    Some(Nic::look_up(&xdp.interface).with_context(|| format!("port `{}`", port.name))?)
                }
                PortKind::Tap(tap) => {
                    let context = || format!("port `{}`", port.name);
                    queue = Some(TapQueue::open(&tap.interface).with_context(context)?);
                    device::set_up(&tap.interface, tap.mtu).with_context(context)?;
                    Some(Nic::look_up(&tap.interface).with_context(context)?)
                }
                PortKind::Pcap { .. } | PortKind::Loopback { .. } => None,
            });
        }
        let fib = if nics.iter().any(Option::is_some) { Fib::default() } else { wire_fib(&policy) };
        let blueprint = Blueprint::new(policy, fib, |at, _| nics[at].as_ref().is_none_or(Nic::may_leave_checksums))?;
        let claims = nics.iter().flatten().map(Nic::claim).collect::<Result<_>>()?;
        let folder = options.wireguard_folder.as_deref().unwrap_or(Path::new(uapi_server::FOLDER));
        let tunnels = Some(tunnel::control::Prepared::new(&blueprint.policy, folder)?);
        let mut host =
            Self { blueprint, nics, queue, _claims: claims, facts: Vec::new(), steer: None, tunnels, took_over: false };
        host.attach(options)?;
        Ok(host)
    }

    fn attach(&mut self, options: &RunOptions) -> Result<()> {
        let policy = &self.blueprint.policy;
        let interfaces = self.interfaces();
        if interfaces.iter().any(Option::is_some) {
            let load = LoadOptions {
                debug: options.steer_log,
                flow_capacity: table_of(policy),
                drop_malformed: instance::protects(policy),
            };
            let mut loaded = Steer::load(&load)?;
            loaded.set_rules(&Steering::first(policy, &interfaces)?)?;
            if options.steer_log {
                let log = loaded.take_debug_log()?;
                tokio::spawn(log.run());
            }
            self.steer = Some(loaded);
        }
        for (at, port) in policy.ports.iter().enumerate() {
            let mut facts =
                PortFacts { name: port.name.clone(), kind: port.kind.as_str().to_owned(), ..PortFacts::default() };
            if let (PortKind::Tap(tap), Some(queue)) = (&port.kind, &self.queue) {
                facts.interface = Some(tap.interface.clone());
                let also = if queue.has_uso() { " and UDP" } else { "" };
                facts.notes.push(format!(
                    "the kernel leaves cutting TCP{also} into segments to softdpu, and takes TCP joined"
                ));
            }
            if let (PortKind::Xdp(xdp), Some(nic), Some(steer)) = (&port.kind, &mut self.nics[at], &mut self.steer) {
                let mode = match xdp.mode {
                    policy::Mode::Auto => AttachMode::Auto,
                    policy::Mode::Native => AttachMode::Native,
                    policy::Mode::Generic => AttachMode::Generic,
                };
                let attached = steer.attach(nic.index, mode).with_context(|| format!("port `{}`", port.name))?;
                // Some drivers rearrange their queues for XDP.
                *nic = Nic::look_up(&xdp.interface)?;
                facts.interface = Some(xdp.interface.clone());
                facts.mode = Some(attached.mode.name().to_owned());
                facts.notes.extend(attached.native_refused.map(|why| format!("native XDP refused: {why}")));
                if let Some(id) = attached.replaced {
                    self.took_over = true;
                    facts.notes.push(format!("replaced program {id} of an instance that had died"));
                }
            }
            self.facts.push(facts);
        }
        Ok(())
    }

    /// Per port the interface that has the XDP program.
    fn interfaces(&self) -> Vec<Option<u32>> {
        let ports = self.blueprint.policy.ports.iter().zip(&self.nics);
        ports
            .map(|(port, nic)| nic.as_ref().filter(|_| matches!(port.kind, PortKind::Xdp(_))).map(|nic| nic.index))
            .collect()
    }

    /// The tap to the kernel, and its interface's index.
    fn tap(&self) -> Option<(u32, &TapPolicy)> {
        let mut ports = self.blueprint.policy.ports.iter().zip(&self.nics);
        ports.find_map(|(port, nic)| match &port.kind {
            PortKind::Tap(tap) => Some((nic.as_ref()?.index, tap)),
            _ => None,
        })
    }

    /// The steering rules from here on: they change as tunnels do.
    fn steering(&mut self) -> Steering {
        let interfaces = self.interfaces();
        Steering::new(self.blueprint.policy.clone(), interfaces, self.steer.take())
    }

    fn workers(&mut self) -> Result<Vec<Ready>> {
        let wanted = self.blueprint.policy.workers.cores.workers();
        let ports = &self.blueprint.policy.ports;
        let queues: Vec<usize> = (0..ports.len()).map(|at| self.queues(at) as usize).collect();
        let count = worker_count(wanted, &queues);
        if count < wanted {
            let fewest =
                ports.iter().zip(&queues).min_by_key(|(_, queues)| **queues).map_or("", |(port, _)| &port.name);
            tracing::warn!(
                "{count} of {wanted} workers: port `{fewest}` has {count} queues, and a worker without one could not send there"
            );
        }
        let wires = self.wires();
        (0..count).map(|index| self.worker(index, count, &wires)).collect()
    }

    /// Queues of a port that are served. Files and wires have one.
    fn queues(&self, at: usize) -> u32 {
        match (&self.blueprint.policy.ports[at].kind, &self.nics[at]) {
            // As many as there are workers.
            (PortKind::Tap(_), _) => u32::MAX,
            (PortKind::Xdp(xdp), Some(nic)) => xdp.queues.map_or(nic.queues, |wanted| wanted.min(nic.queues)),
            _ => 1,
        }
    }

    /// One wire per loopback port: what is received there.
    fn wires(&self) -> Vec<Option<Wire>> {
        let ports = &self.blueprint.policy.ports;
        ports.iter().map(|port| matches!(port.kind, PortKind::Loopback { .. }).then(|| Wire::new(WIRE))).collect()
    }

    fn worker(&mut self, index: usize, count: usize, wires: &[Option<Wire>]) -> Result<Ready> {
        let policy = &self.blueprint.policy;
        let umem = Umem::map(policy.workers.frames, CHUNK, false)?;
        let mut pool = FramePool::new(umem);
        let mut ports = Vec::new();
        let (mut specs, mut of_port) = (Vec::new(), Vec::new());
        for (at, port) in policy.ports.iter().enumerate() {
            let id = at as u8;
            match &port.kind {
                PortKind::Xdp(xdp) => {
                    let Some(nic) = &self.nics[at] else { continue };
                    for queue in (0..self.queues(at)).filter(|queue| *queue as usize % count == index) {
                        specs.push(XdpSpec { socket: socket_spec(xdp, queue), fill: 0 });
                        of_port.push((at, nic.index, queue));
                    }
                }
                PortKind::Tap(tap) => {
                    let queue = match self.queue.take() {
                        Some(first) => first,
                        None => TapQueue::open(&tap.interface).with_context(|| format!("port `{}`", port.name))?,
                    };
                    self.facts[at].queues += 1;
                    ports.push(WorkerPort { id, io: PortIo::Tap(TapPort::new(queue)) });
                }
                // Files and wires have one end; the first worker has it.
                PortKind::Pcap { read, write, .. } if index == 0 => {
                    let clock = ReplayClock::new(&pool);
                    let io = PcapPort::open(read.as_deref(), write.as_deref(), clock)
                        .with_context(|| format!("port `{}`", port.name))?;
                    ports.push(WorkerPort { id, io: PortIo::Pcap(io) });
                }
                PortKind::Loopback { to, .. } if index == 0 => {
                    if let (Some(rx), Some(tx)) = (&wires[at], &wires[*to]) {
                        ports.push(WorkerPort { id, io: PortIo::Loopback(LoopbackPort::new(rx.clone(), tx.clone())) });
                    }
                }
                PortKind::Pcap { .. } | PortKind::Loopback { .. } => {}
            }
        }
        for ((at, interface, queue), io) in of_port.into_iter().zip(open_ports(&mut pool, &specs)?) {
            let facts = &mut self.facts[at];
            facts.queues += 1;
            facts.copy = Some(if io.mode() == BindMode::ZeroCopy { "zero-copy" } else { "copy" }.to_owned());
            if let Some(steer) = &mut self.steer {
                // SAFETY: the port owns the descriptor and lives across the call.
                steer.set_socket(interface, queue, unsafe { BorrowedFd::borrow_raw(io.fd()) })?;
            }
            ports.push(WorkerPort { id: at as u8, io: PortIo::Xdp(io) });
        }
        let (worker, ask) = self.blueprint.worker(pool, ports, clock::now());
        let core = match &policy.workers.cores {
            Cores::List(cores) => cores.get(index).copied(),
            Cores::Count(_) => allowed_cores().get(index).copied(),
        };
        Ok(Ready { worker, ask, waker: Waker::new()?, core })
    }

    /// The queues between the workers and the thread that offloads; each worker gets its end.
    fn lanes(&mut self, workers: &mut [Ready]) -> Result<Option<Lanes>> {
        let setting = self.blueprint.policy.offload;
        let nics = self.devices(setting)?;
        if !setting.enabled || self.steer.is_none() {
            return Ok(None);
        }
        let interfaces: Vec<Option<u32>> = self.nics.iter().map(|nic| nic.as_ref().map(|nic| nic.index)).collect();
        let lanes = Lanes::new(setting, &interfaces, workers.len(), nics);
        for (at, ready) in workers.iter_mut().enumerate() {
            ready.worker.offload = lanes.client(at);
        }
        Ok(Some(lanes))
    }

    /// Asks the devices of the ports to take flows; the ports' facts say how it went.
    fn devices(&mut self, setting: Setting) -> Result<Nics> {
        let mut devices = Vec::new();
        for (interface, facts) in self.interfaces().into_iter().zip(&mut self.facts) {
            let (device, state) = match interface {
                None => (None, None),
                Some(_) if !setting.enabled || setting.nic == NicMode::Off => (None, Some(nic::State::Off)),
                Some(index) => {
                    let (device, state) = nic::open(index, setting.capacity);
                    (device, Some(state))
                }
            };
            match &state {
                Some(nic::State::Refused(reason, refused)) if setting.nic == NicMode::Require => bail!(
                    "port `{}`: {refused} ({}). `nic = \"require\"` in [offload] needs a device that takes it; with \"auto\" \
                     softdpu goes on without",
                    facts.name,
                    reason.code()
                ),
                Some(nic::State::Refused(reason, refused)) => {
                    tracing::debug!(port = facts.name, reason = reason.code(), "the device takes no flows: {refused}");
                }
                Some(nic::State::Loaded(capacity)) => {
                    tracing::info!(port = facts.name, flows = capacity, "the device takes flows that rules drop");
                }
                Some(nic::State::Off) | None => {}
            }
            facts.nic = state;
            devices.push(device);
        }
        Ok(Nics::new(devices))
    }

    /// Publishes the first forwarding table and keeps it true. `offload`: who else wants to know of a new one.
    async fn watch(&self, wakers: &[Waker], offload: Option<Unparker>) -> Result<tokio::task::JoinHandle<()>> {
        if self.nics.iter().all(Option::is_none) {
            return Ok(tokio::spawn(std::future::pending()));
        }
        let wakers = wakers.to_vec();
        let (journal, names) = (self.blueprint.journal.clone(), self.blueprint.names.clone());
        let watch = Watch {
            ports: self.nics.iter().map(|nic| nic.as_ref().map(|nic| nic.index)).collect(),
            host: self
                .blueprint
                .policy
                .ports
                .iter()
                .position(|p| matches!(p.kind, PortKind::Tap(_)))
                .map(|at| at as u8),
            peers: self.blueprint.policy.esp_tunnels().map(|(_, esp)| esp.remote).collect(),
            fib: self.blueprint.shared.fib.clone(),
            asks: self.blueprint.asks.clone(),
            changed: Box::new(move |old, new| {
                notices::links(&journal, &names, old, new);
                if let Some(thread) = offload.as_ref().and_then(|thread| thread.get()) {
                    thread.unpark();
                }
                wakers.iter().for_each(Waker::wake);
            }),
        };
        Ok(tokio::spawn(watch.start().await?))
    }

    fn spawn(&self, workers: Vec<Ready>) -> Result<(Vec<WorkerHandle>, Vec<JoinHandle<()>>)> {
        let mut handles = Vec::new();
        let mut threads = Vec::new();
        let idle = self.blueprint.policy.workers.idle;
        for (index, Ready { mut worker, ask, waker, core }) in workers.into_iter().enumerate() {
            let state = Arc::new(Mutex::new(WorkerState::Running));
            handles.push(WorkerHandle {
                counters: worker.counters.clone(),
                ask,
                waker: waker.clone(),
                core,
                state: state.clone(),
            });
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || {
                if let Some(core) = core {
                    pin(core);
                }
                let fds: Vec<_> = worker.ports.iter().filter_map(|port| port.io.fd()).collect();
                let mut idler = Idler::new(idle, waker, fds);
                // A worker that panics takes its sockets along: its packets then meet their rules' `on_loss`, and the
                // other workers go on.
                let run = std::panic::AssertUnwindSafe(|| worker.run(&mut idler));
                let ended =
                    if std::panic::catch_unwind(run).is_ok() { WorkerState::Stopped } else { WorkerState::Failed };
                if ended == WorkerState::Failed {
                    tracing::error!(worker = index, "the worker panicked; its queues are no longer served");
                }
                if let Ok(mut state) = state.lock() {
                    *state = ended;
                }
                close(worker, index);
            })?);
        }
        Ok((handles, threads))
    }
}

/// Entries of the driver's flow table: two per flow.
fn table_of(policy: &Policy) -> u32 {
    if policy.offload.enabled { policy.offload.capacity.saturating_mul(2) } else { 0 }
}

/// Closes the ports, and says so if a frame is missing.
fn close(mut worker: Worker, index: usize) {
    worker.finish();
    for port in std::mem::take(&mut worker.ports) {
        if let Err(error) = port.io.close(&mut worker.pool) {
            tracing::warn!(worker = index, "{error}");
        }
    }
    worker.publish();
    let account = worker.pool.account();
    if !account.all_free() {
        tracing::error!(worker = index, ?account, "frames are missing");
    }
}

fn socket_spec(xdp: &XdpPort, queue: u32) -> SocketSpec {
    SocketSpec {
        ring: xdp.ring,
        zero_copy: match xdp.zero_copy {
            policy::ZeroCopy::Auto => ZeroCopy::Auto,
            policy::ZeroCopy::Never => ZeroCopy::Never,
            policy::ZeroCopy::Require => ZeroCopy::Require,
        },
        busy_poll: xdp.busy_poll,
        ..SocketSpec::new(&xdp.interface, queue)
    }
}

/// How many workers there can be: a packet leaves by its worker's own queues, so each worker needs one of every port.
fn worker_count(wanted: usize, queues: &[usize]) -> usize {
    queues.iter().fold(wanted, |count, queues| count.min(*queues)).max(1)
}

/// The cores that this process may use, in order.
pub(super) fn allowed_cores() -> Vec<usize> {
    // SAFETY: an all-zero set is valid, and the call fills at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        set
    };
    // SAFETY: the index is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

fn pin(core: usize) {
    // SAFETY: an all-zero set is valid; the index was checked against the set's size by configuration or came from one.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result != 0 {
        tracing::warn!(core, "cannot pin the worker: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_a_queue_of_every_port() {
        assert_eq!(worker_count(4, &[4, 8]), 4);
        assert_eq!(worker_count(4, &[8, 1]), 1);
        assert_eq!(worker_count(2, &[4, 3]), 2);
        assert_eq!(worker_count(1, &[0, 1]), 1);
    }
}
