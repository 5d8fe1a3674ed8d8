//! The steer program from user space: rules to tables, load, attach, sockets, counters.
//!
//! ```text
//! rules ── compile ──► RuleTables ──┐
//!                                   ▼
//! Steer::load ──► set_rules ──► attach(interface) ──► set_socket(interface, queue)
//! ```
//!
//! Install the rules before attaching: until the first [`Steer::set_rules`] everything is passed to the kernel.

mod compile;
mod counters;
mod error;
mod flows;
mod judge;
mod link;
mod log;
mod maps;
mod object;
mod program;
mod rule;
#[cfg(test)]
mod tests;
mod watched;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use softdpu_ebpf_common::flows::{WINDOW, names as flow_names};
use softdpu_ebpf_common::maps::{
    ActiveFlags, GENERATIONS, MAX_PORTS, MAX_QUEUES, PROGRAM_NAME, Prefix, UNKNOWN_SLOT, names, socket_key,
};
pub use softdpu_ebpf_common::maps::{Counter, OnLoss, Reason, RuleAction};

use self::{
    compile::{PrefixClass, zeroed_tables},
    link::Netlink,
    maps::{Key, Maps},
};
pub use self::{
    compile::{RuleTables, compile},
    counters::RuleCounter,
    error::{Result, SteerError},
    flows::{Entries, EntryId, FlowCount, FlowKey, FlowRefused, FlowRule, FlowVerdict, Last, Meter, Progress},
    link::AttachedMode,
    log::DebugLog,
    object::object,
    program::{ExistingProgram, detach_stale, existing_program},
    rule::SteerRule,
    watched::Watched,
};

/// How to load the steer program.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Compile the debug log in; read it with [`Steer::take_debug_log`]. Costs nothing when off.
    pub debug: bool,
    /// Entries the flow table can hold, two per flow; about 400 bytes each. 0 where nothing is offloaded.
    pub flow_capacity: u32,
    /// Drop packets whose headers cannot be walked, instead of passing them. For policies that must not let anything out in
    /// clear: a malformed packet matches no rule.
    pub drop_malformed: bool,
}

/// Which mode to attach in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// Native, and generic where the driver refuses.
    #[default]
    Auto,
    Native,
    Generic,
}

/// How an attach went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub mode: AttachedMode,
    /// Why not native, where `Auto` fell back to generic.
    pub native_refused: Option<String>,
    /// Id of the program of a dead instance this one replaced.
    pub replaced: Option<u32>,
}

/// What one `BPF_PROG_TEST_RUN` gave.
#[derive(Clone, Debug)]
pub struct TestRunOutcome {
    /// `XDP_*`.
    pub action: u32,
    /// Mean over the repeats.
    pub time: std::time::Duration,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// A loaded steer program with its maps and attachments. Dropping it detaches it; ending without that (`kill -9`) leaves it
/// attached, with its rules in force and no sockets.
pub struct Steer {
    ebpf: Ebpf,
    maps: Maps,
    netlink: Netlink,
    id: u32,
    /// Of the program that says what it does; `None`: not loaded yet.
    watch_id: Option<u32>,
    /// It is in the place of the other.
    watching: bool,
    /// What `ACTIVE` holds.
    active: u32,
    /// Port slots by interface; never given back, so 63 interfaces in the life of a program.
    slots: BTreeMap<u32, u32>,
    attached: BTreeMap<u32, AttachedMode>,
    /// Prefixes in the tries, by generation: what to take out before the half is written again.
    prefixes: [Vec<Prefixed>; GENERATIONS],
    rules: Vec<String>,
    /// Counters of rules of earlier generations, by name.
    carried: std::collections::HashMap<String, Counter>,
    flows: Entries,
    /// Slots that are in `DEVICES`.
    devices: std::collections::HashSet<u32>,
}

#[derive(Clone, Copy)]
struct Prefixed {
    source: bool,
    key: Key,
}

impl Steer {
    /// Loads the program and makes its maps. Nothing is attached yet.
    ///
    /// # Errors
    /// Built without the object; no privilege; the kernel refuses it. The message says what to do.
    pub fn load(options: &LoadOptions) -> Result<Self> {
        let object = object()?;
        let debug = u8::from(options.debug);
        let places = flows::places(options.flow_capacity);
        let seed = seed();
        let mut ebpf = EbpfLoader::new()
            .override_global(names::DEBUG, &debug, true)
            .override_global(flow_names::MASK, &(places - 1), true)
            .override_global(flow_names::SEED[0], &seed[0], true)
            .override_global(flow_names::SEED[1], &seed[1], true)
            .map_max_entries(flow_names::FLOWS4, places + WINDOW as u32)
            .map_max_entries(flow_names::FLOWS6, places + WINDOW as u32)
            .map_max_entries(flow_names::EXTRAS, flows::extras(options.flow_capacity))
            .load(object)
            .map_err(|e| SteerError::load(&e))?;
        let program = xdp(&mut ebpf, PROGRAM_NAME)?;
        program.load().map_err(|e| SteerError::program(&e))?;
        let fd = program.fd().map_err(|e| SteerError::program(&e))?;
        let id = program::id(fd.as_fd())
            .map_err(|e| SteerError::Load { what: format!("no program id: {e}"), errno: e.raw_os_error() })?;
        let flows = flows::open(&mut ebpf, options.flow_capacity, seed)?;
        let maps = Maps::take(&mut ebpf)?;
        let netlink = Netlink::open()
            .map_err(|e| SteerError::Load { what: format!("no netlink socket: {e}"), errno: e.raw_os_error() })?;
        let mut steer = Steer {
            ebpf,
            maps,
            netlink,
            id,
            watch_id: None,
            watching: false,
            active: if options.drop_malformed { ActiveFlags::DROP_MALFORMED } else { 0 },
            slots: BTreeMap::new(),
            attached: BTreeMap::new(),
            prefixes: Default::default(),
            rules: Vec::new(),
            carried: Default::default(),
            flows,
            devices: Default::default(),
        };
        steer.activate(steer.active)?;
        Ok(steer)
    }

    /// The kernel's id of the program.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Interfaces it is attached to, and how.
    pub fn attached(&self) -> impl Iterator<Item = (u32, AttachedMode)> + '_ {
        self.attached.iter().map(|(ifindex, mode)| (*ifindex, *mode))
    }

    /// Attaches to an interface. A steer program left behind there is replaced in one step, so its rules protect until ours
    /// do; it keeps its mode unless `mode` asks for the other. The caller makes sure that its instance is dead.
    ///
    /// # Errors
    /// Somebody else's program is there, no privilege, or the driver refuses.
    pub fn attach(&mut self, ifindex: u32, mode: AttachMode) -> Result<Attachment> {
        self.slot(ifindex)?;
        let found = program::find(&self.netlink, ifindex)?;
        let attachment = match found {
            Some((there, _)) if self.own(there.id)?.is_some() => {
                Attachment { mode: there.mode, native_refused: None, replaced: None }
            }
            Some((there, fd)) if there.is_steer() => self.replace(ifindex, mode, &there, fd.as_fd())?,
            Some((there, _)) => return Err(SteerError::Foreign { ifindex, id: there.id, name: there.name }),
            None => self.attach_fresh(ifindex, mode)?,
        };
        self.attached.insert(ifindex, attachment.mode);
        Ok(attachment)
    }

    fn replace(
        &mut self,
        ifindex: u32,
        mode: AttachMode,
        stale: &ExistingProgram,
        fd: BorrowedFd<'_>,
    ) -> Result<Attachment> {
        let wanted = match mode {
            AttachMode::Auto => stale.mode,
            AttachMode::Native => AttachedMode::Native,
            AttachMode::Generic => AttachedMode::Generic,
        };
        if wanted != stale.mode {
            // The kernel has no step from one mode to the other.
            self.netlink.detach(ifindex, fd, stale.mode)?;
            return Ok(Attachment { replaced: Some(stale.id), ..self.attach_fresh(ifindex, mode)? });
        }
        self.netlink.attach(ifindex, self.in_place()?, wanted, Some(fd))?;
        Ok(Attachment { mode: wanted, native_refused: None, replaced: Some(stale.id) })
    }

    fn attach_fresh(&self, ifindex: u32, mode: AttachMode) -> Result<Attachment> {
        let program = self.in_place()?;
        let attach = |mode| self.netlink.attach(ifindex, program, mode, None);
        let (mode, native_refused) = match mode {
            AttachMode::Native => (AttachedMode::Native, attach(AttachedMode::Native).map(|()| None)?),
            AttachMode::Generic => (AttachedMode::Generic, attach(AttachedMode::Generic).map(|()| None)?),
            AttachMode::Auto => match attach(AttachedMode::Native) {
                Ok(()) => (AttachedMode::Native, None),
                // The second error is the better one only if generic is refused for a reason of its own.
                Err(refused) if may_fall_back(&refused) => {
                    (AttachedMode::Generic, attach(AttachedMode::Generic).map(|()| Some(refused.to_string()))?)
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Attachment { mode, native_refused, replaced: None })
    }

    /// Detaches from one interface. Nothing happens where it is not attached, or somebody else has replaced it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&mut self, ifindex: u32) -> Result<()> {
        let Some(mode) = self.attached.remove(&ifindex) else { return Ok(()) };
        if let Some((id, _)) = self.netlink.query(ifindex)?.any()
            && let Some(program) = self.own(id)?
        {
            self.netlink.detach(ifindex, program, mode)?;
        }
        Ok(())
    }

    /// Ends without detaching, as a `kill -9` would: the rules stay in force until the next start replaces them.
    pub fn leave_attached(mut self) {
        self.attached.clear();
    }

    /// Installs rules in place of those there are. A packet meets the old rules or the new ones, never a mixture. Counters
    /// of rules that keep their name go on.
    ///
    /// # Errors
    /// A map refuses. The rules in use are then still the old ones.
    pub fn set_rules(&mut self, rules: &RuleTables) -> Result<()> {
        let mut slots = Vec::with_capacity(rules.interfaces.len());
        for (&ifindex, &class) in &rules.interfaces {
            slots.push((self.slot(ifindex)?, class));
        }
        let next = (self.active & ActiveFlags::GENERATION) ^ 1;
        self.clear(next)?;
        self.fill(next, true, &rules.from)?;
        self.fill(next, false, &rules.to)?;

        let mut tables = zeroed_tables();
        // SAFETY: both are one `Tables`, which is plain data, and they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(&raw const *rules.tables, &raw mut *tables, 1) };
        tables.slots = [rules.other_interfaces; MAX_PORTS];
        for (slot, class) in slots {
            tables.slots[slot as usize] = class;
        }
        self.maps.tables.set(next, tables, 0).map_err(SteerError::map(names::TABLES))?;
        self.maps.zero_rule_counters(next, rules.names().len())?;

        let old = self.active & ActiveFlags::GENERATION;
        let rest = self.active & !(ActiveFlags::GENERATION | ActiveFlags::RULES);
        self.activate(rest | next | if rules.is_empty() { 0 } else { ActiveFlags::RULES })?;
        let old_rules = std::mem::replace(&mut self.rules, rules.names().to_vec());
        // No packet uses the old half from here on: its counters are final, and it may be written again.
        maps::grace_period();
        self.carry(old, &old_rules)
    }

    fn clear(&mut self, generation: u32) -> Result<()> {
        while let Some(Prefixed { source, key }) = self.prefixes[generation as usize].last().copied() {
            let (trie, name) = self.maps.trie(source);
            // Not there is as good as removed.
            match trie.remove(&key) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) if not_found(&error) => {}
                Err(error) => return Err(SteerError::map(name)(error)),
            }
            self.prefixes[generation as usize].pop();
        }
        Ok(())
    }

    fn fill(&mut self, generation: u32, source: bool, prefixes: &[PrefixClass]) -> Result<()> {
        for p in prefixes {
            let v6 = p.family == softdpu_ebpf_common::walk::L3::V6;
            let data = Prefix { tag: Prefix::tag(generation, v6), address: p.address };
            let key = Key::new(Prefix::TAG_BITS + u32::from(p.length), data);
            self.prefixes[generation as usize].push(Prefixed { source, key });
            let (trie, name) = self.maps.trie(source);
            trie.insert(&key, u32::from(p.class), 0).map_err(SteerError::map(name))?;
        }
        Ok(())
    }

    fn activate(&mut self, word: u32) -> Result<()> {
        self.maps.active.set(0, word, 0).map_err(SteerError::map(names::ACTIVE))?;
        self.active = word;
        Ok(())
    }

    /// The slot of an interface, given to it on first use.
    fn slot(&mut self, ifindex: u32) -> Result<u32> {
        if let Some(slot) = self.slots.get(&ifindex) {
            return Ok(*slot);
        }
        let slot = self.slots.len() as u32;
        if slot >= UNKNOWN_SLOT {
            return Err(SteerError::TooManyPorts);
        }
        self.maps.slots.insert(ifindex, slot, 0).map_err(SteerError::map(names::SLOTS))?;
        self.slots.insert(ifindex, slot);
        Ok(slot)
    }

    /// Sends the packets rules steer to the worker, of one queue of one interface, to this AF_XDP socket. The kernel takes
    /// the entry out when the socket closes; with the first socket that was set the flow table ends too.
    ///
    /// # Errors
    /// Queue number too large, or the descriptor is no AF_XDP socket.
    pub fn set_socket(&mut self, ifindex: u32, queue: u32, socket: impl AsFd) -> Result<()> {
        let slot = self.slot(ifindex)?;
        let key = socket_of(slot, queue)?;
        self.maps.sockets.set(key, socket.as_fd(), 0).map_err(SteerError::map(names::SOCKETS))?;
        if self.active & ActiveFlags::LEASE == 0 {
            self.activate(self.active | ActiveFlags::LEASE | key << ActiveFlags::LEASE_SHIFT)?;
        }
        Ok(())
    }

    /// Takes the socket of a queue out again: its packets then meet the rules' `on_loss`. Also where there is none.
    ///
    /// # Errors
    /// Queue number too large, or an interface that was never named.
    pub fn clear_socket(&mut self, ifindex: u32, queue: u32) -> Result<()> {
        let slot = *self.slots.get(&ifindex).ok_or(SteerError::UnknownPort { ifindex })?;
        match self.maps.sockets.unset(socket_of(slot, queue)?) {
            Err(error) if !not_found(&error) => Err(SteerError::map(names::SOCKETS)(error)),
            _ => Ok(()),
        }
    }

    /// Runs the program on a frame (`BPF_PROG_TEST_RUN`), as if it came in on a queue of an attached interface, or on
    /// loopback. For tests and benches.
    ///
    /// # Errors
    /// The kernel refuses: no privilege, a frame shorter than an Ethernet header, an interface with no XDP queues.
    pub fn test_run(&mut self, frame: &[u8], from: Option<(u32, u32)>, repeat: u32) -> Result<TestRunOutcome> {
        let mut out = vec![0; frame.len() + 256];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = from.map(|(ifindex, queue)| {
            let words = [0, frame.len() as u32, 0, ifindex, queue, 0];
            words.map(u32::to_ne_bytes).concat()
        });
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = context.as_deref();
        options.repeat = repeat;
        let name = self.name_in_place();
        let result = xdp(&mut self.ebpf, name)?.test_run(options).map_err(|e| SteerError::program(&e))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRunOutcome { action: result.return_value, time: result.duration, frame: out })
    }
}

impl Drop for Steer {
    fn drop(&mut self) {
        let interfaces: Vec<u32> = self.attached.keys().copied().collect();
        for ifindex in interfaces {
            match self.detach(ifindex) {
                // An interface that is gone took its attachment along.
                Err(SteerError::Link { error, .. }) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => tracing::warn!(ifindex, %error, "the steer program could not be detached"),
                Ok(()) => {}
            }
        }
    }
}

/// The secret of the flow table's hash, so that nobody outside can aim flows at one place.
fn seed() -> [u64; 2] {
    use std::hash::{BuildHasher as _, Hasher as _};
    let state = std::collections::hash_map::RandomState::new();
    [1u64, 2].map(|n| {
        let mut hasher = state.build_hasher();
        hasher.write_u64(n);
        hasher.finish()
    })
}

fn missing(name: &str) -> SteerError {
    SteerError::Load { what: format!("no program `{name}` in the object"), errno: None }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|e| SteerError::program(&e))
}

fn xdp_fd<'a>(ebpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>> {
    let program = ebpf.program(name).ok_or_else(|| missing(name))?;
    program.fd().map(|fd| fd.as_fd()).map_err(|e| SteerError::program(&e))
}

fn socket_of(slot: u32, queue: u32) -> Result<u32> {
    if queue >= MAX_QUEUES as u32 {
        return Err(SteerError::QueueOutOfRange { queue });
    }
    Ok(socket_key(slot, queue))
}

/// Not for want of privilege, and not because something else is there: generic would end the same way.
fn may_fall_back(error: &SteerError) -> bool {
    let SteerError::Link { error, .. } = error else { return false };
    !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EBUSY | libc::EEXIST | libc::ENODEV))
}

fn not_found(error: &aya::maps::MapError) -> bool {
    match error {
        aya::maps::MapError::KeyNotFound | aya::maps::MapError::ElementNotFound => true,
        aya::maps::MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

// The control thread may hand it on.
const _: fn() = || {
    fn send<T: Send>() {}
    send::<Steer>();
};
