//! Makes a tap, or takes one that is there, and opens its queues.

use super::offload::VNET_LEN;
use crate::io::error::IoError;
use std::ffi::c_ulong;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const CLONE: &str = "/dev/net/tun";
/// Ethernet frames, no packet information, an offload header, and as many queues as there are workers.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
const TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// Since Linux 6.2.
const UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// One queue of a tap, not blocking. The tap goes with its last queue, unless it was made persistent by somebody.
#[derive(Debug)]
pub struct TapQueue {
    pub(super) file: File,
    interface: String,
    uso: bool,
}

impl TapQueue {
    /// Opens a queue of the tap of this name in the calling thread's network namespace, and makes the tap where there is none.
    ///
    /// # Errors
    /// No TUN/TAP in this kernel, no privileges, or an interface of this name that is something else.
    pub fn open(interface: &str) -> Result<Self, IoError> {
        let fail = |step, source: io::Error| IoError::Tap {
            interface: interface.to_owned(),
            step,
            hint: hint(&source),
            source,
        };
        let options =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).to_owned();
        let file = options.open(CLONE).map_err(|e| fail("open /dev/net/tun", e))?;
        let mut request = request(interface);
        request.ifr_ifru.ifru_flags = FLAGS as libc::c_short;
        ioctl(&file, libc::TUNSETIFF as c_ulong, (&raw mut request).cast()).map_err(|e| fail("TUNSETIFF", e))?;
        let mut length = VNET_LEN as libc::c_int;
        ioctl(&file, libc::TUNSETVNETHDRSZ as c_ulong, (&raw mut length).cast())
            .map_err(|e| fail("TUNSETVNETHDRSZ", e))?;
        let uso = offload(&file, TCP | UDP).is_ok();
        if !uso {
            offload(&file, TCP).map_err(|e| fail("TUNSETOFFLOAD", e))?;
        }
        Ok(Self { file, interface: interface.to_owned(), uso })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether the kernel leaves the cutting of UDP to us as well.
    pub fn has_uso(&self) -> bool {
        self.uso
    }
}

/// Readies a tap: its MTU, no ARP (there is nobody behind it but us, so that the kernel writes the tap's own address into
/// every frame), and up.
///
/// # Errors
/// The kernel's refusal, for example of the MTU.
pub fn set_up(interface: &str, mtu: u32) -> Result<(), IoError> {
    let fail =
        |step, source: io::Error| IoError::Tap { interface: interface.to_owned(), step, hint: hint(&source), source };
    let socket = socket().map_err(|e| fail("socket", e))?;
    let mut change = request(interface);
    change.ifr_ifru.ifru_mtu = mtu as libc::c_int;
    ioctl(&socket, libc::SIOCSIFMTU as c_ulong, (&raw mut change).cast()).map_err(|e| fail("set the MTU", e))?;
    // No link-local address, and with it no neighbour discovery into nowhere. Where /proc cannot be written, these are
    // dropped packets and no more.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/addr_gen_mode"), "1");
    let mut flags = request(interface);
    ioctl(&socket, libc::SIOCGIFFLAGS as c_ulong, (&raw mut flags).cast()).map_err(|e| fail("read the flags", e))?;
    // SAFETY: the call before filled in this member.
    let now = libc::c_int::from(unsafe { flags.ifr_ifru.ifru_flags });
    flags.ifr_ifru.ifru_flags = (now | libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
    ioctl(&socket, libc::SIOCSIFFLAGS as c_ulong, (&raw mut flags).cast()).map_err(|e| fail("bring it up", e))
}

fn offload(file: &File, features: libc::c_uint) -> io::Result<()> {
    // The features are the argument itself.
    ioctl(file, libc::TUNSETOFFLOAD as c_ulong, features as usize as *mut libc::c_void)
}

fn request(interface: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is handed over; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ioctl(fd: &impl AsRawFd, what: c_ulong, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: the argument is what this request takes: a pointer to its structure, alive across the call, or a plain number.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), what as _, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; needs CAP_NET_ADMIN",
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            "; the kernel has no TUN/TAP here: `modprobe tun`, or give the container the device /dev/net/tun"
        }
        Some(libc::EINVAL) => {
            "; is there another interface of this name? A tap made beforehand must be one of several queues: \
             ip tuntap add NAME mode tap multi_queue vnet_hdr"
        }
        Some(libc::EBUSY) => "; somebody else has this tap open",
        _ => "",
    }
}
