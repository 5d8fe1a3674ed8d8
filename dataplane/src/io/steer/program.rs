//! Programs the kernel has: which is ours, which is somebody else's.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use softdpu_ebpf_common::{maps::PROGRAM_NAME, watch};

use super::{
    error::{Result, SteerError},
    link::{AttachedMode, Netlink},
};

const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// An XDP program found on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingProgram {
    pub id: u32,
    /// As the kernel has it: at most 15 bytes.
    pub name: String,
    pub mode: AttachedMode,
}

impl ExistingProgram {
    /// Whether it is a steer program, of this instance or another; also while it says what it does.
    pub fn is_steer(&self) -> bool {
        self.name == PROGRAM_NAME || self.name == watch::names::PROGRAM
    }
}

/// What is attached to an interface. Whether a steer program's instance still lives is for the caller to know.
///
/// # Errors
/// The interface does not exist, or the program may not be looked at (CAP_SYS_ADMIN).
pub fn existing_program(ifindex: u32) -> Result<Option<ExistingProgram>> {
    let netlink = open(ifindex)?;
    Ok(find(&netlink, ifindex)?.map(|(program, _)| program))
}

/// Detaches a steer program left behind on an interface. True if there was one. Others' programs stay.
///
/// # Errors
/// The interface does not exist, or the privilege is missing.
pub fn detach_stale(ifindex: u32) -> Result<bool> {
    let netlink = open(ifindex)?;
    match find(&netlink, ifindex)? {
        Some((program, fd)) if program.is_steer() => {
            netlink.detach(ifindex, fd.as_fd(), program.mode)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn open(ifindex: u32) -> Result<Netlink> {
    Netlink::open().map_err(|error| SteerError::Link {
        ifindex,
        operation: "open a netlink socket",
        error,
        message: None,
    })
}

/// The program on an interface and a descriptor of it. None also where it went away meanwhile.
pub(super) fn find(netlink: &Netlink, ifindex: u32) -> Result<Option<(ExistingProgram, OwnedFd)>> {
    let Some((id, mode)) = netlink.query(ifindex)?.any() else { return Ok(None) };
    let fail = |error| SteerError::Link { ifindex, operation: "look at the XDP program there", error, message: None };
    let fd = match by_id(id) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fail)?,
    };
    let name = name(fd.as_fd()).map_err(fail)?;
    Ok(Some((ExistingProgram { id, name, mode }, fd)))
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let attr = [id, 0, 0, 0];
    // SAFETY: the attribute is valid for its size, and the kernel only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, attr.as_ptr(), size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The beginning of `struct bpf_prog_info`, all that is needed of it; the kernel fills as much as it is given.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    created_by: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

fn info(fd: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    let mut info = ProgInfo::default();
    let mut attr =
        InfoAttr { fd: fd.as_raw_fd() as u32, length: size_of::<ProgInfo>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: `attr` is valid for its size and points to `info`, valid for `length`. Its pointers are null and their counts
    // 0, so the kernel writes nowhere else.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<InfoAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

fn name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let info = info(fd)?;
    let end = info.name.iter().position(|b| *b == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}

/// Bytes of a program's instructions after the verifier removed what cannot run.
#[cfg(test)]
pub(super) fn size(fd: BorrowedFd<'_>) -> io::Result<u32> {
    info(fd).map(|i| i.lengths[1])
}

/// The kernel's id of a program.
pub(super) fn id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    info(fd).map(|i| i.id)
}
