//! `bpf(2)`, as far as the rig needs it: load a program, run it, attach it, read an array map. Everything is a file
//! descriptor, so all of it is gone when the process is, however it ended.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::asm::Insn;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`: the verdict is carried out on real frames.
const TEST_LIVE_FRAMES: u32 = 2;
/// `BPF_F_XDP_HAS_FRAGS`: the program may be attached where packets span several buffers.
const HAS_FRAGS: u32 = 1 << 5;
/// `XDP_FLAGS_DRV_MODE`: in the driver or not at all.
const DRIVER_MODE: u32 = 1 << 2;
/// `XDP_FLAGS_SKB_MODE`.
const GENERIC_MODE: u32 = 1 << 1;

/// The kernel takes any attribute size up to its own and wants the rest to be zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    pad: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Element {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct TestRun {
    prog: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct LinkCreate {
    prog: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(cmd: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is one of the structures above, laid out as the kernel's union for this command; pointers inside it
    // refer to buffers that the callers below keep alive over the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just handed this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// An array map of `u64`, in which a program counts or finds what it needs. Its one element holds all the words.
#[derive(Debug)]
pub struct Words {
    fd: OwnedFd,
    words: usize,
}

impl Words {
    /// # Errors
    /// The kernel's refusal (`EPERM` without CAP_BPF).
    pub fn new(words: usize) -> io::Result<Self> {
        let mut attr = MapCreate {
            map_type: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: (words * 8) as u32,
            max_entries: 1,
            ..Default::default()
        };
        Ok(Self { fd: owned(bpf(MAP_CREATE, &mut attr)?), words })
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// # Errors
    /// The kernel's refusal.
    pub fn read(&self) -> io::Result<Vec<u64>> {
        let key = 0u32;
        let mut value = vec![0u64; self.words];
        let mut attr = Element {
            fd: self.fd() as u32,
            key: std::ptr::from_ref(&key) as u64,
            value: value.as_mut_ptr() as u64,
            ..Default::default()
        };
        bpf(MAP_LOOKUP_ELEM, &mut attr)?;
        Ok(value)
    }

    /// Writes all words.
    ///
    /// # Errors
    /// The kernel's refusal; `InvalidInput` where they are not as many as the map has.
    pub fn write(&self, words: &[u64]) -> io::Result<()> {
        if words.len() != self.words {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let key = 0u32;
        let mut attr = Element {
            fd: self.fd() as u32,
            key: std::ptr::from_ref(&key) as u64,
            value: words.as_ptr() as u64,
            ..Default::default()
        };
        bpf(MAP_UPDATE_ELEM, &mut attr).map(|_| ())
    }
}

/// Sockets by queue, for programs to put packets into.
#[derive(Debug)]
pub struct SocketMap {
    fd: OwnedFd,
}

impl SocketMap {
    /// # Errors
    /// The kernel's refusal.
    pub fn new(queues: u32) -> io::Result<Self> {
        let mut attr = MapCreate {
            map_type: MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: queues,
            ..Default::default()
        };
        Ok(Self { fd: owned(bpf(MAP_CREATE, &mut attr)?) })
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// # Errors
    /// The kernel's refusal (`EBADF`, `EINVAL` where it is no bound AF_XDP socket).
    pub fn set(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        let mut attr = Element {
            fd: self.fd() as u32,
            key: std::ptr::from_ref(&queue) as u64,
            value: std::ptr::from_ref(&socket) as u64,
            ..Default::default()
        };
        bpf(MAP_UPDATE_ELEM, &mut attr).map(|_| ())
    }
}

/// A loaded XDP program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
}

impl Program {
    /// Loads `code`. On refusal the verifier's log is in the error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn load(name: &str, code: &[Insn]) -> io::Result<Self> {
        let mut log = vec![0u8; 1 << 16];
        let mut short = [0u8; 16];
        let n = name.len().min(15);
        short[..n].copy_from_slice(&name.as_bytes()[..n]);
        let mut attr = ProgLoad {
            prog_type: PROG_TYPE_XDP,
            insn_cnt: code.len() as u32,
            insns: code.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log_buf: log.as_mut_ptr() as u64,
            flags: HAS_FRAGS,
            name: short,
            expected_attach: ATTACH_XDP,
            ..Default::default()
        };
        match bpf(PROG_LOAD, &mut attr) {
            Ok(fd) => Ok(Self { fd: owned(fd) }),
            Err(e) => {
                let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
                Err(io::Error::new(e.kind(), format!("loading {name}: {e}\n{}", String::from_utf8_lossy(&log[..end]))))
            }
        }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Attaches in the driver. The program leaves the interface when the link is dropped.
    ///
    /// # Errors
    /// The kernel's refusal (`EBUSY` where another program sits there).
    pub fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        let mut attr =
            LinkCreate { prog: self.fd() as u32, target: ifindex, attach_type: ATTACH_XDP, flags: DRIVER_MODE };
        bpf(LINK_CREATE, &mut attr).map(owned)
    }

    /// Attaches in the kernel's generic hook, likewise.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach_generic(&self, ifindex: u32) -> io::Result<OwnedFd> {
        let mut attr =
            LinkCreate { prog: self.fd() as u32, target: ifindex, attach_type: ATTACH_XDP, flags: GENERIC_MODE };
        bpf(LINK_CREATE, &mut attr).map(owned)
    }

    /// Runs on `repeat` live frames made of `packet` in batches of `batch` (at most 256). Blocks for as long as that
    /// takes. The namespace is the calling thread's.
    ///
    /// # Errors
    /// The kernel's refusal; `Interrupted` where a signal came.
    pub fn run_live(&self, packet: &[u8], repeat: u32, batch: u32) -> io::Result<()> {
        let mut attr = TestRun {
            prog: self.fd() as u32,
            data_size_in: packet.len() as u32,
            data_in: packet.as_ptr() as u64,
            repeat,
            flags: TEST_LIVE_FRAMES,
            batch,
            ..Default::default()
        };
        bpf(PROG_TEST_RUN, &mut attr).map(|_| ())
    }
}

/// What `BPF_PROG_TEST_RUN` says of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestResult {
    /// The program's return value in the last round.
    pub verdict: u32,
    /// Mean time of one round, ns, as the kernel measured it.
    pub nanoseconds: u32,
}

/// Runs the XDP program behind `prog` `repeat` times on `packet`, with nothing carried out.
///
/// # Errors
/// The kernel's refusal.
pub fn test_run(prog: RawFd, packet: &[u8], repeat: u32) -> io::Result<TestResult> {
    let mut out = vec![0u8; packet.len() + 256];
    let mut attr = TestRun {
        prog: prog as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_size_out: out.len() as u32,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ..Default::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(TestResult { verdict: attr.retval, nanoseconds: attr.duration })
}
