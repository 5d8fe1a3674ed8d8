//! XDP programs on interfaces, over rtnetlink.
//!
//! Not by a BPF link: that dies with the process that made it, and then rules that say drop would protect nothing. What is
//! set over netlink stays after a `kill -9`, until the next start replaces it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use super::error::{Result, SteerError};

// linux/if_link.h
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1 << 0;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
// linux/netlink.h
const NETLINK_EXT_ACK: libc::c_int = 11;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSG_HEADER: usize = 16;
const IFINFO: usize = 16;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the stack, on skbs: works everywhere, slower.
    Generic,
}

impl AttachedMode {
    pub const fn name(self) -> &'static str {
        match self {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
        }
    }

    fn flag(self) -> u32 {
        match self {
            AttachedMode::Native => XDP_FLAGS_DRV_MODE,
            AttachedMode::Generic => XDP_FLAGS_SKB_MODE,
        }
    }

    fn operation(self) -> &'static str {
        match self {
            AttachedMode::Native => "attach in native mode",
            AttachedMode::Generic => "attach in generic mode",
        }
    }
}

/// What the kernel has attached to one interface; program ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Attached {
    pub native: Option<u32>,
    pub generic: Option<u32>,
    pub hardware: Option<u32>,
}

impl Attached {
    pub fn any(&self) -> Option<(u32, AttachedMode)> {
        self.native
            .map(|id| (id, AttachedMode::Native))
            .or(self.generic.map(|id| (id, AttachedMode::Generic)))
            .or(self.hardware.map(|id| (id, AttachedMode::Native)))
    }
}

/// An rtnetlink socket. It keeps to the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        // SAFETY: plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK] {
            let one: libc::c_int = 1;
            // SAFETY: the kernel reads one int. Kernels that do not know the option only tell less.
            unsafe { libc::setsockopt(fd, libc::SOL_NETLINK, option, (&raw const one).cast(), 4) };
        }
        Ok(Netlink { socket })
    }

    /// Attaches `program`; in place of `instead_of` if given (atomically, and only if that is what is there), else only
    /// where nothing is.
    pub fn attach(
        &self,
        ifindex: u32,
        program: BorrowedFd<'_>,
        mode: AttachedMode,
        instead_of: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        self.set(ifindex, program.as_raw_fd(), mode, instead_of, mode.operation())
    }

    /// Detaches `program`, and nothing else that may be there by now.
    pub fn detach(&self, ifindex: u32, program: BorrowedFd<'_>, mode: AttachedMode) -> Result<()> {
        self.set(ifindex, -1, mode, Some(program), "detach")
    }

    fn set(
        &self,
        ifindex: u32,
        fd: RawFd,
        mode: AttachedMode,
        expected: Option<BorrowedFd<'_>>,
        operation: &'static str,
    ) -> Result<()> {
        let flags = mode.flag() | if expected.is_some() { XDP_FLAGS_REPLACE } else { XDP_FLAGS_UPDATE_IF_NOEXIST };
        let mut xdp = Vec::new();
        attribute(&mut xdp, IFLA_XDP_FD, &fd.to_ne_bytes());
        attribute(&mut xdp, IFLA_XDP_FLAGS, &flags.to_ne_bytes());
        if let Some(expected) = expected {
            attribute(&mut xdp, IFLA_XDP_EXPECTED_FD, &expected.as_raw_fd().to_ne_bytes());
        }
        let mut request = request(libc::RTM_SETLINK, libc::NLM_F_ACK as u16, ifindex);
        attribute(&mut request, IFLA_XDP | NLA_F_NESTED, &xdp);
        self.call(request).map(|_| ()).map_err(|(error, message)| SteerError::Link {
            ifindex,
            operation,
            error,
            message,
        })
    }

    pub fn query(&self, ifindex: u32) -> Result<Attached> {
        let answer = self.call(request(libc::RTM_GETLINK, 0, ifindex)).map_err(|(error, message)| {
            SteerError::Link { ifindex, operation: "read what is attached", error, message }
        })?;
        let mut attached = Attached::default();
        let mut only = None;
        for (kind, value) in attributes(answer.get(NLMSG_HEADER + IFINFO..).unwrap_or_default()) {
            if kind != IFLA_XDP {
                continue;
            }
            for (kind, value) in attributes(value) {
                let id = value.first_chunk().map(|b| u32::from_ne_bytes(*b)).filter(|id| *id != 0);
                match kind {
                    IFLA_XDP_PROG_ID => only = id,
                    IFLA_XDP_DRV_PROG_ID => attached.native = id,
                    IFLA_XDP_SKB_PROG_ID => attached.generic = id,
                    IFLA_XDP_HW_PROG_ID => attached.hardware = id,
                    _ => {}
                }
            }
        }
        // Before Linux 4.19 there was one id and no mode.
        if attached.any().is_none() {
            attached.native = only;
        }
        Ok(attached)
    }

    /// Sends one request and returns the first message of the answer that is no acknowledgement, or nothing.
    fn call(&self, mut request: Vec<u8>) -> std::result::Result<Vec<u8>, (io::Error, Option<String>)> {
        let length = request.len() as u32;
        request[..4].copy_from_slice(&length.to_ne_bytes());
        let fd = self.socket.as_raw_fd();
        // SAFETY: the buffer is valid for its length.
        if unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) } < 0 {
            return Err((io::Error::last_os_error(), None));
        }
        // An interface with many virtual functions says a lot about itself.
        let mut buffer = vec![0u8; 256 << 10];
        loop {
            // SAFETY: the buffer is valid for its length.
            let n = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if n < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err((error, None));
            }
            buffer.truncate(n as usize);
            let kind = buffer.get(4..6).and_then(<[u8]>::first_chunk).map(|b| u16::from_ne_bytes(*b));
            return match kind {
                Some(kind) if i32::from(kind) == libc::NLMSG_ERROR => match acknowledgement(&buffer) {
                    (0, _) => Ok(Vec::new()),
                    (errno, message) => Err((io::Error::from_raw_os_error(errno), message)),
                },
                Some(_) => Ok(buffer),
                None => Err((io::Error::from(io::ErrorKind::UnexpectedEof), None)),
            };
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `nlmsghdr` and `ifinfomsg`; the length is filled in when it is sent.
fn request(kind: u16, flags: u16, ifindex: u32) -> Vec<u8> {
    let mut message = vec![0u8; NLMSG_HEADER + IFINFO];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message[8..12].copy_from_slice(&1u32.to_ne_bytes());
    message[NLMSG_HEADER + 4..NLMSG_HEADER + 8].copy_from_slice(&ifindex.to_ne_bytes());
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((4 + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The positive errno (0: success) and the kernel's own words of an `NLMSG_ERROR`.
fn acknowledgement(message: &[u8]) -> (i32, Option<String>) {
    let word = |at: usize| message.get(at..).and_then(<[u8]>::first_chunk).map(|b| i32::from_ne_bytes(*b));
    let errno = word(NLMSG_HEADER).map_or(libc::EIO, |e| -e);
    let flags = message.get(6..8).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b));
    // With NETLINK_CAP_ACK only the header of the request is repeated.
    let tlvs = message.get(NLMSG_HEADER + 4 + NLMSG_HEADER..).unwrap_or_default();
    let text = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| attributes(tlvs).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .flatten()
        .map(|(_, value)| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
    (errno, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attributes_end_where_the_message_lies() {
        let mut m = Vec::new();
        attribute(&mut m, 7, b"abcde");
        attribute(&mut m, 8 | NLA_F_NESTED, &[1]);
        assert_eq!(m.len(), 12 + 8);
        assert_eq!(attributes(&m).collect::<Vec<_>>(), [(7, &b"abcde"[..]), (8, &[1][..])]);
        for bad in [&[3u8, 0, 1, 0][..], &[200, 0, 1, 0, 5], &[0; 4], &[1]] {
            assert_eq!(attributes(bad).count(), 0, "{bad:?}");
        }
    }

    #[test]
    fn a_missing_interface_says_so() {
        let netlink = Netlink::open().unwrap();
        let error = netlink.query(0x7fff_fffe).unwrap_err();
        assert!(error.to_string().contains("The interface is gone"), "{error}");
    }

    #[test]
    fn loopback_can_be_read() {
        let netlink = Netlink::open().unwrap();
        netlink.query(1).unwrap();
    }
}
