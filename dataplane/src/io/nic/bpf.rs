//! The few system calls that a device's program and maps need. aya makes them too, but never for a device.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
#[cfg(test)]
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_ATTACH_TYPE_XDP: u32 = 37;
const BPF_NOEXIST: u64 = 1;
/// include/uapi/linux/if_link.h
const XDP_FLAGS_HW_MODE: u32 = 1 << 3;
/// Bytes for the verifier's words.
const LOG: usize = 256 << 10;

pub use aya_obj::generated::bpf_insn as Instruction;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapType {
    Hash = 1,
    Array = 2,
}

/// As `union bpf_attr` begins for each command; the kernel takes what is missing for zero.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
}

#[repr(C)]
struct MapElement {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    instructions: u32,
    instructions_at: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `attr` begins as the kernel's union does for `command`, and what it points to is as large as that says.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is valid for its size; the rest the caller vouches for.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a descriptor just made by the kernel, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn short(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    short
}

/// Makes a map; in the memory of the device `ifindex`, or with 0 in the host's.
///
/// # Errors
/// The kernel's or the driver's: ENOMEM is what drivers say where it is too large for them.
pub fn map<K, V>(kind: MapType, name: &str, entries: u32, ifindex: u32) -> io::Result<OwnedFd> {
    let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
    let (map_type, name) = (kind as u32, short(name));
    let mut attr = MapCreate {
        map_type,
        key_size,
        value_size,
        max_entries: entries,
        flags: 0,
        inner: 0,
        numa_node: 0,
        name,
        ifindex,
    };
    // SAFETY: no pointers in it.
    unsafe { bpf(BPF_MAP_CREATE, &mut attr) }.map(owned)
}

/// Loads a program, for a device or with 0 for the host.
///
/// # Errors
/// The kernel's, with the verifier's last words.
pub fn program(name: &str, code: &[Instruction], ifindex: u32) -> Result<OwnedFd, (io::Error, String)> {
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        instructions: code.len() as u32,
        instructions_at: code.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: short(name),
        ifindex,
        attach_type: BPF_ATTACH_TYPE_XDP,
    };
    // SAFETY: instructions and license are valid for as long as they say.
    let error = match unsafe { bpf(BPF_PROG_LOAD, &mut attr) } {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    // Once more for the verifier's words: they cost time, and nobody reads them when it says yes.
    let mut log = vec![0u8; LOG];
    (attr.log_level, attr.log_size, attr.log) = (1, LOG as u32, log.as_mut_ptr() as u64);
    // SAFETY: as above, and the log is valid for its size.
    match unsafe { bpf(BPF_PROG_LOAD, &mut attr) } {
        Ok(fd) => Ok(owned(fd)),
        Err(_) => Err((error, last_words(&log))),
    }
}

/// The last lines of a verifier's log that say something: statistics are left out.
fn last_words(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let said = |line: &&str| !line.trim().is_empty() && !line.starts_with("processed ");
    let mut lines: Vec<&str> = text.lines().filter(said).rev().take(3).collect();
    lines.reverse();
    lines.join("; ")
}

/// Puts a program to work in a device, until the descriptor is closed: also by the end of the process, however it ends.
/// (Over netlink it would stay, with entries that nobody keeps true.)
///
/// # Errors
/// The kernel's or the driver's; somebody else's program is there (EBUSY); links are as of Linux 5.9.
pub fn attach_to_device(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    let mut attr = LinkCreate { program, ifindex, attach_type: BPF_ATTACH_TYPE_XDP, flags: XDP_FLAGS_HW_MODE };
    // SAFETY: no pointers in it.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.map(owned)
}

/// The interface that a link is about; 0 when it is gone.
///
/// # Errors
/// Not a link.
pub fn link_interface(link: BorrowedFd<'_>) -> io::Result<u32> {
    /// `struct bpf_link_info`; what is about XDP is the interface alone.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        reserved: u32,
        ifindex: u32,
    }
    #[repr(C)]
    struct Query {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    let (length, at) = (size_of::<Info>() as u32, std::ptr::from_mut(&mut info) as u64);
    let mut attr = Query { fd: link.as_raw_fd() as u32, length, info: at };
    // SAFETY: `info` is valid for `length`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(|_| info.ifindex)
}

/// Runs a program of the host's on a frame; its verdict.
#[cfg(test)]
pub fn run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    struct Run {
        program: u32,
        verdict: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    let (program, size_in) = (program.as_raw_fd() as u32, frame.len() as u32);
    let data_in = frame.as_ptr() as u64;
    let mut attr = Run { program, verdict: 0, size_in, size_out: 0, data_in, data_out: 0, repeat: 1, duration: 0 };
    // SAFETY: the frame is valid for its size, and nothing is written out.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }.map(|_| attr.verdict)
}

/// Adds an element that is not there yet.
///
/// # Errors
/// It is there (EEXIST), the map is full (E2BIG), or whatever a driver says.
pub fn add<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let (key, value) = (std::ptr::from_ref(key) as u64, std::ptr::from_ref(value) as u64);
    let mut attr = MapElement { map: map.as_raw_fd() as u32, reserved: 0, key, value, flags: BPF_NOEXIST };
    // SAFETY: key and value are as large as `map` was told for these types.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(|_| ())
}

/// # Errors
/// It is not there, or whatever a driver says.
pub fn remove<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let key = std::ptr::from_ref(key) as u64;
    let mut attr = MapElement { map: map.as_raw_fd() as u32, reserved: 0, key, value: 0, flags: 0 };
    // SAFETY: the key is as large as `map` was told for this type.
    unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) }.map(|_| ())
}

/// # Errors
/// It is not there, or whatever a driver says.
pub fn read<K, V: Default>(map: BorrowedFd<'_>, key: &K) -> io::Result<V> {
    let mut found = V::default();
    let (key, value) = (std::ptr::from_ref(key) as u64, std::ptr::from_mut(&mut found) as u64);
    let mut attr = MapElement { map: map.as_raw_fd() as u32, reserved: 0, key, value, flags: 0 };
    // SAFETY: key and value are as large as `map` was told for these types, which are integers only.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) }.map(|_| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_words_are_its_last() {
        let log = b"0: R1=ctx()\n1: (85) call bpf_x#1\n\nunknown func\nprocessed 1 insns (limit 1000000)\n\0\0junk";
        assert_eq!(last_words(log), "0: R1=ctx(); 1: (85) call bpf_x#1; unknown func");
        assert_eq!(last_words(b""), "");
    }
}
