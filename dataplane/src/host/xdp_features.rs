//! What a device can do with XDP, as the kernel says it over generic netlink (family `netdev`, Linux 6.3).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// include/uapi/linux/netlink.h, genetlink.h, netdev.h
const NETLINK_GENERIC: libc::c_int = 16;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `nlmsghdr` and `genlmsghdr`.
const HEADERS: usize = 20;

/// `NETDEV_XDP_ACT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Takes frames that other devices redirect to it. A veth does only while its peer polls (`ethtool -K PEER gro on`, or a
    /// program there); what is redirected to it otherwise is lost.
    pub fn transmits(self) -> bool {
        self.0 & 4 != 0
    }

    /// Takes redirected frames of several buffers too; others lose them.
    pub fn transmits_fragments(self) -> bool {
        self.transmits() && self.0 & 64 != 0
    }

    /// Runs programs in the device itself.
    pub fn offloads(self) -> bool {
        self.0 & 16 != 0
    }
}

/// Asks the kernel.
///
/// # Errors
/// Kernels before 6.3 do not say (`ENOENT`); no such device.
pub fn of(ifindex: u32) -> io::Result<XdpFeatures> {
    // SAFETY: plain system call; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_GENERIC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let family = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0")?;
    let family = attribute(&family, CTRL_ATTR_FAMILY_ID).and_then(|id| id.first_chunk()).ok_or_else(missing)?;
    let family = u16::from_ne_bytes(*family);
    let device = ask(&socket, family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes())?;
    let features = attribute(&device, NETDEV_A_DEV_XDP_FEATURES).and_then(|f| f.first_chunk()).ok_or_else(missing)?;
    Ok(XdpFeatures(u64::from_ne_bytes(*features)))
}

/// One request with one attribute, and its answer.
fn ask(socket: &OwnedFd, family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut request = vec![0u8; HEADERS];
    request[4..6].copy_from_slice(&family.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    (request[16], request[17]) = (command, 1);
    request.extend(((4 + value.len()) as u16).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(value);
    request.resize(request.len().next_multiple_of(4), 0);
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    // SAFETY: the buffer is valid for its length.
    if unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0u8; 16 << 10];
    // SAFETY: the buffer is valid for its length. The kernel answers a generic netlink request before `send` returns.
    let n = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), libc::MSG_DONTWAIT) };
    if n < HEADERS as isize {
        return Err(io::Error::last_os_error());
    }
    answer.truncate(n as usize);
    if i32::from(u16::from_ne_bytes([answer[4], answer[5]])) == libc::NLMSG_ERROR {
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(answer)
}

fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut bytes = message.get(HEADERS..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_driver_to_redirect_to() {
        match of(1) {
            Ok(features) => assert!(!features.transmits() && !features.offloads(), "{features:?}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
        }
        assert!(of(0x7fff_fffe).is_err());
    }

    #[test]
    fn attributes_end_where_the_message_lies() {
        for bad in [&[0u8; HEADERS + 4][..], &[0xff; HEADERS + 8], &[0; 3]] {
            assert_eq!(attribute(bad, 9), None);
        }
    }
}
