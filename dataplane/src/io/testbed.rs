//! For tests on real veth pairs: a network namespace without a name, which vanishes with its last descriptor; a redirect
//! program and a generator of a few instructions each, so that these tests need nothing but the kernel and `ip`.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;

/// Whether this test can run. Says so where not.
pub fn root(test: &str) -> bool {
    // SAFETY: no arguments, no effects.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: {test} needs root");
    }
    root
}

pub struct Netns(File);

impl Netns {
    pub fn new() -> Self {
        let ns = std::thread::spawn(|| {
            // SAFETY: only this thread, which ends here, changes its namespace.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
            // Router solicitations and the like would be packets nobody sent.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(ns.join().unwrap())
    }

    /// Runs `f` on a thread inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|s| {
            let inside = s.spawn(|| {
                // SAFETY: the descriptor is a network namespace's; the thread ends with `f`.
                assert_eq!(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
                f()
            });
            inside.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// Runs `ip` with the words of `args`.
    pub fn ip(&self, args: &str) {
        self.run(|| {
            let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
            assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
        });
    }

    /// A veth pair `name` – `name`p, both up.
    pub fn veth(&self, name: &str, mtu: u32) {
        self.ip(&format!("link add {name} mtu {mtu} type veth peer name {name}p mtu {mtu}"));
        self.ip(&format!("link set {name} up"));
        self.ip(&format!("link set {name}p up"));
    }

    pub fn ifindex(&self, name: &str) -> u32 {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: a terminated string.
        self.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) })
    }
}

fn bpf(command: libc::c_int, attr: &[u8]) -> OwnedFd {
    let fd = bpf_raw(command, attr).unwrap();
    // SAFETY: the command returned a new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

fn bpf_raw(command: libc::c_int, attr: &[u8]) -> io::Result<i64> {
    // SAFETY: the attribute is readable for its length; what it points to is alive in the callers.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), attr.len()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// Writes little fields into a `union bpf_attr`.
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, at: usize, v: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&v.to_ne_bytes());
        self
    }

    fn u64(mut self, at: usize, v: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&v.to_ne_bytes());
        self
    }
}

fn load(code: &[u64], frags: bool) -> OwnedFd {
    const XDP: u32 = 6;
    const HAS_FRAGS: u32 = 1 << 5;
    let attr = Attr::new()
        .u32(0, XDP)
        .u32(4, code.len() as u32)
        .u64(8, code.as_ptr() as u64)
        .u64(16, c"GPL".as_ptr() as u64)
        .u32(44, if frags { HAS_FRAGS } else { 0 })
        .u32(68, BPF_XDP);
    bpf(5, &attr.0)
}

const BPF_XDP: u32 = 37;

/// One instruction: opcode, registers (source in the high half), offset, immediate.
const fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    op as u64 | ((src << 4 | dst) as u64) << 8 | (off as u16 as u64) << 16 | (imm as u32 as u64) << 32
}

/// An XDP program on an interface that redirects each queue's packets to its socket, or passes them where there is none.
pub struct Redirect {
    map: OwnedFd,
    _link: OwnedFd,
}

impl Redirect {
    /// `frags`: attach even where packets are longer than a page.
    pub fn attach(ns: &Netns, interface: &str, frags: bool) -> Self {
        const XSKMAP: u32 = 17;
        let map = bpf(0, &Attr::new().u32(0, XSKMAP).u32(4, 4).u32(8, 4).u32(12, 64).0);
        let code = [
            insn(0x61, 2, 1, 16, 0),              // r2 = ctx->rx_queue_index
            insn(0x18, 1, 1, 0, map.as_raw_fd()), // r1 = map
            0,                                    // (second half)
            insn(0xb7, 3, 0, 0, 2),               // r3 = XDP_PASS
            insn(0x85, 0, 0, 0, 51),              // r0 = bpf_redirect_map(r1, r2, r3)
            insn(0x95, 0, 0, 0, 0),
        ];
        let prog = load(&code, frags);
        let attr = Attr::new().u32(0, prog.as_raw_fd() as u32).u32(4, ns.ifindex(interface)).u32(8, BPF_XDP);
        const DRIVER_MODE: u32 = 1 << 2;
        let attr = attr.u32(12, DRIVER_MODE);
        Self { map, _link: ns.run(|| bpf(28, &attr.0)) }
    }

    pub fn set(&self, queue: u32, socket: RawFd) {
        let attr = Attr::new().u32(0, self.map.as_raw_fd() as u32);
        let attr = attr.u64(8, (&raw const queue) as u64).u64(16, (&raw const socket) as u64);
        bpf_raw(2, &attr.0).unwrap();
    }
}

/// Sends copies of one packet out of an interface as fast as the kernel can (its peer needs an XDP program).
pub struct Generator {
    prog: OwnedFd,
}

impl Generator {
    pub fn new(ns: &Netns, interface: &str) -> Self {
        let code = [
            insn(0xb7, 1, 0, 0, ns.ifindex(interface) as i32),
            insn(0xb7, 2, 0, 0, 0),
            insn(0x85, 0, 0, 0, 23), // r0 = bpf_redirect(r1, r2)
            insn(0x95, 0, 0, 0, 0),
        ];
        Self { prog: load(&code, false) }
    }

    /// Call inside the namespace.
    pub fn send(&self, packet: &[u8], copies: u32) {
        const LIVE_FRAMES: u32 = 1 << 1;
        let attr = Attr::new()
            .u32(0, self.prog.as_raw_fd() as u32)
            .u32(8, packet.len() as u32)
            .u64(16, packet.as_ptr() as u64)
            .u32(32, copies)
            .u32(64, LIVE_FRAMES)
            .u32(72, copies.min(64));
        // EINTR only says that a signal came in between.
        bpf_raw(10, &attr.0).unwrap();
    }
}

/// A raw packet socket on one interface: sends and sees whole Ethernet frames.
pub struct RawSocket(OwnedFd);

impl RawSocket {
    pub fn open(ns: &Netns, interface: &str) -> Self {
        let ifindex = ns.ifindex(interface) as i32;
        ns.run(|| {
            const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: plain system call; the result is checked.
            let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ALL)) };
            assert!(fd >= 0);
            // SAFETY: a new descriptor.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: numbers only; zero is a valid value.
            let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            (addr.sll_family, addr.sll_protocol, addr.sll_ifindex) = (libc::AF_PACKET as u16, ALL, ifindex);
            let size = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: a whole address that lives over the call.
            assert_eq!(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), size) }, 0);
            let buffer = 64 << 20;
            set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer).unwrap();
            Self(fd)
        })
    }

    pub fn send(&self, packet: &[u8]) {
        // SAFETY: readable for its length.
        let n = unsafe { libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(n, packet.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that came in (not one that went out here), within half a second.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        for _ in 0..500 {
            // SAFETY: numbers only; zero is a valid value.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut size = size_of::<libc::sockaddr_ll>() as u32;
            let (at, len) = (buffer.as_mut_ptr().cast(), buffer.len());
            // SAFETY: buffer and address are writable for the sizes given.
            let n = unsafe { libc::recvfrom(self.0.as_raw_fd(), at, len, 0, (&raw mut from).cast(), &raw mut size) };
            if n >= 0 && from.sll_pkttype != libc::PACKET_OUTGOING as u8 {
                buffer.truncate(n as usize);
                return Some(buffer);
            }
            if n < 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        None
    }
}

pub fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as u32;
    // SAFETY: readable for its size.
    let r = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
