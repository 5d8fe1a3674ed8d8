//! Making an AF_XDP socket: the system calls, the mapping of its rings, and what their errors mean.
//!
//! Everything happens in the network namespace of the calling thread.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::error::IoError;
use super::frame::HEADROOM;
use super::ring::{Consumer, Producer, RingParts};
use super::umem::{Memory, Umem};

/// A descriptor of the receive and transmit rings (`struct xdp_desc`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Desc {
    /// Byte offset in the UMEM.
    pub addr: u64,
    pub len: u32,
    /// [`CONTD`] or 0.
    pub options: u32,
}

/// The packet goes on in the next descriptor.
pub const CONTD: u32 = libc::XDP_PKT_CONTD;

/// `setsockopt` of kernel 6.17: descriptors that one sendto takes in copy mode (default 32).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// In copy mode each packet sent is an skb charged to the socket until its receiver is done with it. The default (208 KiB)
/// stops at some 200 packets.
const SEND_BUFFER: libc::c_int = 64 << 20;
/// Microseconds that one busy-poll call spins in the driver, and packets it may take.
const BUSY_POLL_US: libc::c_int = 20;
const BUSY_POLL_BUDGET: libc::c_int = 64;
/// A queue's former socket is torn down after its close returned: wait for it 1, 2, 4 … ms, about 2 s in all.
const BUSY_RETRIES: u32 = 11;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    /// Whatever the driver offers.
    #[default]
    Auto,
    Never,
    /// Refuse to open in copy mode.
    Require,
}

/// What the kernel bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindMode {
    Copy,
    ZeroCopy,
}

#[derive(Debug, Clone)]
pub struct SocketSpec {
    pub interface: String,
    pub queue: u32,
    /// Slots of the receive and of the transmit ring; the fill and completion rings have twice as many. A power of two
    /// from 64 to 32768.
    pub ring: u32,
    pub zero_copy: ZeroCopy,
    pub busy_poll: bool,
}

impl SocketSpec {
    pub fn new(interface: &str, queue: u32) -> Self {
        Self { interface: interface.to_owned(), queue, ring: 2048, zero_copy: ZeroCopy::Auto, busy_poll: false }
    }

    fn error(&self, step: &'static str, source: io::Error) -> IoError {
        let hint = hint(step, &source);
        IoError::Socket { interface: self.interface.clone(), queue: self.queue, step, source, hint }
    }
}

/// What to do about an error, where that is known.
fn hint(step: &str, error: &io::Error) -> String {
    let text = match (step, error.raw_os_error()) {
        ("socket", Some(libc::EPERM | libc::EACCES)) => "needs CAP_NET_RAW",
        ("socket", Some(libc::EAFNOSUPPORT)) => "this kernel was built without XDP_SOCKETS",
        ("register UMEM", Some(libc::ENOBUFS | libc::ENOMEM)) => {
            "locked memory is limited: give CAP_IPC_LOCK or raise RLIMIT_MEMLOCK, or use fewer frames"
        }
        ("register UMEM", Some(libc::EPERM)) => "needs CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK",
        ("busy poll", Some(libc::EPERM)) => "needs CAP_NET_ADMIN",
        ("busy poll", Some(libc::ENOPROTOOPT)) => "needs kernel 5.11",
        ("bind", Some(libc::EBUSY)) => "another AF_XDP socket owns this queue",
        ("bind", Some(libc::EINVAL)) => "is there such a queue? `ethtool -l` shows how many there are",
        ("bind", Some(libc::EOPNOTSUPP)) => "the driver cannot do this: try zero_copy = \"never\"",
        ("bind", Some(libc::ENETDOWN)) => "the interface is down",
        ("bind", Some(libc::ENODEV)) => "the interface went away",
        ("bind", Some(libc::EPERM)) => "needs CAP_NET_RAW, and CAP_NET_ADMIN in the interface's network namespace",
        _ => return String::new(),
    };
    format!(" ({text})")
}

/// A mapping of one ring.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address range; access goes through ring ends, which have their own rules.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives nothing out.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map_ring`; the ring ends that point into it hold this mapping, so none is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Our ends of a socket's rings. They hold the kernel's socket open, like the descriptor does.
pub struct Ends {
    pub rx: Consumer<Desc>,
    pub tx: Producer<Desc>,
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
}

/// A bound socket.
pub struct Socket {
    fd: Arc<OwnedFd>,
    mode: BindMode,
    /// Whether chains can be received and sent.
    multi_buffer: bool,
    /// Whether the UMEM was lent by another socket.
    shared: bool,
    /// Keeps the region for as long as the kernel may write into it.
    _umem: Arc<Umem>,
}

impl Socket {
    /// Opens, fills and binds. `fill` is called before bind with the fill ring, and commits what it puts: some drivers
    /// (ice, i40e) take buffers at bind and not again. The UMEM is registered with the first socket; later ones, of any
    /// interface and queue, share it (kernel 5.10) with rings of their own.
    ///
    /// Binds in one of the [`ways`]; for another, open anew. The kernel notes `XDP_USE_SG` in the UMEM's registration even
    /// where the bind then fails, and holds sockets that share it to that (`xp_assign_dev`): with the same registration bound
    /// without it, no second interface could join.
    pub fn open(
        umem: &Arc<Umem>,
        spec: &SocketSpec,
        way: Way,
        fill: impl FnOnce(&mut Producer<u64>),
    ) -> Result<(Self, Ends), IoError> {
        let SocketSpec { queue, ring, .. } = *spec;
        if !ring.is_power_of_two() || !(64..=32768).contains(&ring) {
            return Err(IoError::RingSize { interface: spec.interface.clone(), queue, size: ring });
        }
        if umem.memory() == Memory::Heap {
            return Err(IoError::Umem("memory from the allocator cannot be registered with a socket".into()));
        }
        let ifindex = ifindex(&spec.interface)?;
        let fail = |step| move |e: io::Error| spec.error(step, e);

        // SAFETY: plain system call; the number it returns is checked and then owned.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(fail("socket")(io::Error::last_os_error()));
        }
        // SAFETY: a new descriptor that nobody else has.
        let fd = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        let raw = fd.as_raw_fd();

        let lender = umem.lender();
        if lender.is_none() {
            let reg = libc::xdp_umem_reg {
                addr: umem.base().as_ptr() as u64,
                len: umem.chunk_bytes() as u64,
                chunk_size: umem.chunk_size(),
                // The kernel leaves 256 bytes (XDP_PACKET_HEADROOM = HEADROOM) in front by itself.
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            };
            set(raw, libc::SOL_XDP, libc::XDP_UMEM_REG, &reg).map_err(fail("register UMEM"))?;
        }
        for (name, slots) in [
            (libc::XDP_UMEM_FILL_RING, ring * 2),
            (libc::XDP_UMEM_COMPLETION_RING, ring * 2),
            (libc::XDP_RX_RING, ring),
            (libc::XDP_TX_RING, ring),
        ] {
            set(raw, libc::SOL_XDP, name, &slots).map_err(fail("size rings"))?;
        }
        // SAFETY: numbers only; zero is a valid value.
        let mut off: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        get(raw, libc::XDP_MMAP_OFFSETS, &mut off).map_err(fail("read ring offsets"))?;
        let map = fail("map rings");
        let (parts, memory) = map_ring::<Desc>(raw, libc::XDP_PGOFF_RX_RING, &off.rx, ring).map_err(map)?;
        // SAFETY: the kernel's own ring, mapped just now at the offsets it gave; this is its only consumer.
        let rx = unsafe { Consumer::from_raw(parts, memory) };
        let (parts, memory) = map_ring::<Desc>(raw, libc::XDP_PGOFF_TX_RING, &off.tx, ring).map_err(map)?;
        // SAFETY: as above, its only producer.
        let tx = unsafe { Producer::from_raw(parts, memory) };
        let at = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
        let (parts, memory) = map_ring::<u64>(raw, at, &off.fr, ring * 2).map_err(map)?;
        // SAFETY: as above, its only producer.
        let mut fill_ring = unsafe { Producer::from_raw(parts, memory) };
        let at = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
        let (parts, memory) = map_ring::<u64>(raw, at, &off.cr, ring * 2).map_err(map)?;
        // SAFETY: as above, its only consumer.
        let completion = unsafe { Consumer::from_raw(parts, memory) };

        if spec.busy_poll {
            busy_poll(raw).map_err(fail("busy poll"))?;
        }
        // Both only raise limits: where they are refused, packets go out in smaller portions.
        let _ = set(raw, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)
            .or_else(|_| set(raw, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER));
        let _ = set(raw, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &ring);

        fill(&mut fill_ring);
        let shared = lender.is_some();
        let multi_buffer = match &lender {
            // The kernel takes no other flag here.
            Some(lender) => {
                bind(raw, ifindex, queue, libc::XDP_SHARED_UMEM, lender.as_raw_fd()).map(|()| umem.multi_buffer())
            }
            None => {
                let flags = libc::XDP_USE_NEED_WAKEUP | way.0;
                bind(raw, ifindex, queue, flags, 0).map(|()| way.0 & libc::XDP_USE_SG != 0)
            }
        }
        .map_err(fail("bind"))?;
        umem.registered_with(&fd, multi_buffer);
        let mut options = libc::xdp_options { flags: 0 };
        get(raw, libc::XDP_OPTIONS, &mut options).map_err(fail("read XDP_OPTIONS"))?;
        let mode = match options.flags & libc::XDP_OPTIONS_ZEROCOPY {
            0 => BindMode::Copy,
            _ => BindMode::ZeroCopy,
        };
        if spec.zero_copy == ZeroCopy::Require && mode == BindMode::Copy {
            return Err(IoError::NotZeroCopy { interface: spec.interface.clone(), queue });
        }
        let socket = Self { fd, mode, multi_buffer, shared, _umem: umem.clone() };
        Ok((socket, Ends { rx, tx, fill: fill_ring, completion }))
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn mode(&self) -> BindMode {
        self.mode
    }

    pub fn multi_buffer(&self) -> bool {
        self.multi_buffer
    }

    pub fn shared(&self) -> bool {
        self.shared
    }

    /// The kernel's counters of this socket (XDP_STATISTICS). A system call.
    pub fn kernel_stats(&self) -> io::Result<KernelStats> {
        // SAFETY: numbers only; zero is a valid value.
        let mut s: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        get(self.fd(), libc::XDP_STATISTICS, &mut s)?;
        Ok(KernelStats {
            rx_dropped: s.rx_dropped,
            rx_invalid: s.rx_invalid_descs,
            tx_invalid: s.tx_invalid_descs,
            rx_ring_full: s.rx_ring_full,
            fill_empty: s.rx_fill_ring_empty_descs,
            tx_empty: s.tx_ring_empty_descs,
        })
    }
}

/// XDP_STATISTICS: packets and descriptors since the socket was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelStats {
    /// Not received: larger than a chunk without multi-buffer, or other trouble.
    pub rx_dropped: u64,
    pub rx_invalid: u64,
    pub tx_invalid: u64,
    /// Not received: the receive ring was full.
    pub rx_ring_full: u64,
    /// Not received: the fill ring was empty.
    pub fill_empty: u64,
    /// Looks at an empty transmit ring.
    pub tx_empty: u64,
}

fn ifindex(interface: &str) -> Result<u32, IoError> {
    let missing = || IoError::NoInterface(interface.to_owned());
    let name = std::ffi::CString::new(interface).map_err(|_| missing())?;
    // SAFETY: a terminated string that lives over the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(missing()),
        index => Ok(index),
    }
}

/// One way to bind: flags of `XDP_ZEROCOPY`, `XDP_COPY` and `XDP_USE_SG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way(u16);

/// What may be bound with what was asked, the best first.
///
/// Zero-copy is named rather than left to the kernel (no flag): asked for both, the kernel gives multi-buffer in copy mode
/// where the driver has zero-copy without multi-buffer, and some drivers fail hard instead of falling back.
///
/// # Errors
/// When the interface's MTU cannot be read.
pub fn ways(umem: &Umem, spec: &SocketSpec) -> Result<Vec<Way>, IoError> {
    const SG: u16 = libc::XDP_USE_SG;
    if umem.lender().is_some() {
        // Modes are the lender's.
        return Ok(vec![Way(0)]);
    }
    let mut ways = Vec::with_capacity(4);
    if spec.zero_copy != ZeroCopy::Never {
        ways.push(Way(libc::XDP_ZEROCOPY | SG));
        // Whether a packet of the interface's MTU, with two VLAN tags, fits one chunk.
        ifindex(&spec.interface)?;
        let longest = mtu(&spec.interface).map_err(|e| spec.error("read MTU", e))? + 22;
        if longest <= umem.chunk_size() - HEADROOM as u32 {
            ways.push(Way(libc::XDP_ZEROCOPY));
        }
    }
    if spec.zero_copy != ZeroCopy::Require {
        // The second for kernels before 6.6, which have no multi-buffer.
        ways.extend([Way(libc::XDP_COPY | SG), Way(libc::XDP_COPY)]);
    }
    Ok(ways)
}

/// Whether another way may do where this one failed.
pub fn may_do_otherwise(error: &IoError) -> bool {
    let hopeless = [libc::EBUSY, libc::EPERM, libc::ENODEV, libc::ENETDOWN];
    matches!(error, IoError::Socket { step: "bind", .. }) && error.errno().is_some_and(|n| !hopeless.contains(&n))
}

/// The interface's MTU in bytes.
fn mtu(interface: &str) -> io::Result<u32> {
    // SAFETY: plain system call; the number it returns is checked and then owned. (AF_XDP sockets answer no ioctl.)
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: numbers and bytes only; zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0. A longer name was refused by `ifindex`.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is a whole ifreq with a terminated name; the kernel writes the MTU into it.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFMTU succeeded, so this is the member that was written.
    Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
}

fn bind(fd: RawFd, ifindex: u32, queue: u32, flags: u16, lender: RawFd) -> io::Result<()> {
    let addr = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: lender as u32,
    };
    let mut wait = Duration::from_millis(1);
    for left in (0..=BUSY_RETRIES).rev() {
        let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        // SAFETY: `addr` is a whole sockaddr_xdp that lives over the call.
        if unsafe { libc::bind(fd, (&raw const addr).cast(), len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || left == 0 {
            return Err(error);
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(Duration::from_millis(400));
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// Lets this thread's system calls drive the driver, in place of its interrupts.
fn busy_poll(fd: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    set(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &on)?;
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &BUSY_POLL_US)?;
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &BUSY_POLL_BUDGET)
}

fn set<T>(fd: RawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for its size over the call.
    let r = unsafe { libc::setsockopt(fd, level, name, (&raw const *value).cast(), size_of::<T>() as u32) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get<T>(fd: RawFd, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for the size given; only structs of plain numbers are asked for here.
    let r = unsafe { libc::getsockopt(fd, libc::SOL_XDP, name, (&raw mut *value).cast(), &raw mut len) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

type Mapped<T> = (RingParts<T>, Arc<dyn std::any::Any + Send + Sync>);

fn map_ring<T: Copy>(fd: RawFd, at: libc::off_t, off: &libc::xdp_ring_offset, slots: u32) -> io::Result<Mapped<T>> {
    let bytes = off.desc as usize + slots as usize * size_of::<T>();
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, fd, at) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    let mapping = Mapping { base, bytes };
    // SAFETY: the kernel's offsets lie inside the mapping and are aligned for what is there.
    let parts = unsafe {
        RingParts {
            producer: base.add(off.producer as usize).cast(),
            consumer: base.add(off.consumer as usize).cast(),
            flags: base.add(off.flags as usize).cast(),
            slots: base.add(off.desc as usize).cast(),
            size: slots,
        }
    };
    Ok((parts, Arc::new(mapping)))
}
