//! What an interface is: its index, driver and queues, from ethtool's ioctls (they follow the thread's network namespace,
//! which `/sys` does not).

use anyhow::{Context, Result, bail};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

// include/uapi/linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub name: String,
    pub index: u32,
    /// Empty where the kernel does not say.
    pub driver: String,
    /// Receive queues, at least 1.
    pub queues: u32,
}

impl Nic {
    /// # Errors
    /// No such interface in this network namespace.
    pub fn look_up(name: &str) -> Result<Self> {
        let c_name = CString::new(name).context("an interface name has no NUL")?;
        // SAFETY: a NUL-terminated string that lives across the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            let error = io::Error::last_os_error();
            bail!("interface `{name}`: {error}; `ip link` lists those of this network namespace");
        }
        let socket = socket()?;
        let driver = driver(&socket, name).unwrap_or_default();
        let queues = channels(&socket, name).unwrap_or(1).max(1);
        Ok(Self { name: name.to_owned(), index, driver, queues })
    }

    /// Claims the interface for this process, until the claim is dropped or the process ends, however it ends.
    ///
    /// Two instances on one interface would take its XDP program from each other, and with it the protection of the other's
    /// flows. The claim is an abstract Unix socket (unix(7)): like interface indices, its name is the network namespace's.
    ///
    /// # Errors
    /// Another instance has it.
    pub fn claim(&self) -> Result<UnixDatagram> {
        let name = format!("softdpu/interface/{}", self.index);
        let address = SocketAddr::from_abstract_name(&name).context("the claim's name")?;
        UnixDatagram::bind_addr(&address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                anyhow::anyhow!(
                    "interface `{}` belongs to a running softdpu instance; `softdpu status` lists them",
                    self.name
                )
            }
            _ => anyhow::Error::new(error).context(format!("cannot claim interface `{}`", self.name)),
        })
    }

    /// May packets from this interface have an L4 checksum that was left to offload? Only where no wire is in between: the
    /// sender's kernel hands its buffers over as they are.
    pub fn may_leave_checksums(&self) -> bool {
        matches!(
            self.driver.as_str(),
            "veth" | "tun" | "virtio_net" | "vmxnet3" | "xen_netfront" | "hv_netvsc" | "bridge"
        )
    }
}

pub(super) fn socket() -> Result<OwnedFd> {
    // SAFETY: no memory is handed over; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a socket to ask for interfaces");
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn driver(socket: &OwnedFd, name: &str) -> io::Result<String> {
    /// `struct ethtool_drvinfo`.
    #[repr(C)]
    struct DrvInfo {
        cmd: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    let mut info = DrvInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ethtool(socket, name, (&raw mut info).cast())?;
    let end = info.driver.iter().position(|b| *b == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

fn channels(socket: &OwnedFd, name: &str) -> io::Result<u32> {
    /// `struct ethtool_channels`: command, four maxima, four counts (rx, tx, other, combined).
    #[repr(C)]
    struct Channels {
        cmd: u32,
        max: [u32; 4],
        count: [u32; 4],
    }
    let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, max: [0; 4], count: [0; 4] };
    ethtool(socket, name, (&raw mut channels).cast())?;
    Ok(channels.count[0] + channels.count[3])
}

pub(super) fn ethtool(socket: &OwnedFd, name: &str, data: *mut libc::c_char) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data;
    // SAFETY: `data` points to the structure of the command in its first word, alive across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_interface_has_one_owner() {
        // An index that no interface has: other tests may run instances on real ones.
        let nic = Nic { name: "x0".to_owned(), index: u32::MAX - std::process::id(), driver: String::new(), queues: 1 };
        let claim = nic.claim().unwrap();
        assert!(nic.claim().unwrap_err().to_string().contains("x0"));
        drop(claim);
        nic.claim().unwrap();
    }

    #[test]
    fn loopback_is_there_and_a_wrong_name_is_explained() {
        let lo = Nic::look_up("lo").unwrap();
        assert!(lo.index > 0 && lo.queues >= 1 && !lo.may_leave_checksums());
        let error = Nic::look_up("no-such-if0").unwrap_err().to_string();
        assert!(error.contains("no-such-if0") && error.contains("ip link"), "{error}");
    }
}
