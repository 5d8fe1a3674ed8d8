//! What can go wrong with the steer program, said so that an operator knows what to do.

use std::io;

use aya::{EbpfError, programs::ProgramError};
use softdpu_ebpf_common::maps::{MAX_CLASSES, MAX_PORTS, MAX_PREFIXES, MAX_QUEUES, MAX_RULES};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    #[error("{0}")]
    Flow(super::flows::FlowRefused),
    #[error("this softdpu was built without its steer program: run `cargo xtask ebpf`, then build again")]
    NoObject,
    #[error("the steer program does not load: {what}{}", hint(.errno))]
    Load { what: String, errno: Option<i32> },
    #[error("steer map {map}: {what}{}", hint(.errno))]
    Map { map: &'static str, what: String, errno: Option<i32> },
    #[error("interface {ifindex}: cannot {operation}: {error}{}{}", kernel_says(.message), link_hint(.error, .operation))]
    Link {
        ifindex: u32,
        operation: &'static str,
        #[source]
        error: io::Error,
        /// What the kernel's extended acknowledgement says.
        message: Option<String>,
    },
    #[error(
        "interface {ifindex} has an XDP program of somebody else: `{name}` (id {id}). softdpu does not replace it; remove it \
         with `ip link set dev … xdp off` (or stop its owner) first"
    )]
    Foreign { ifindex: u32, id: u32, name: String },
    #[error("{count} steering rules, at most {MAX_RULES}")]
    TooManyRules { count: usize },
    #[error("two steering rules are named `{name}`")]
    DuplicateName { name: String },
    #[error("steering rule `{rule}`: prefix length {length} is longer than the address {address}")]
    BadPrefix { rule: String, address: std::net::IpAddr, length: u8 },
    #[error("steering rule `{rule}`: port range {first}-{last} is empty")]
    BadRange { rule: String, first: u16, last: u16 },
    #[error(
        "the steering rules need more than {MAX_CLASSES} different rule sets; use fewer or coarser prefixes and port ranges"
    )]
    TooManyClasses,
    #[error("the steering rules name {count} prefixes in one direction, at most {}", MAX_PREFIXES / 2)]
    TooManyPrefixes { count: usize },
    #[error("more than {} ports", MAX_PORTS - 1)]
    TooManyPorts,
    #[error("queue {queue}: at most {MAX_QUEUES} queues per port can be steered to")]
    QueueOutOfRange { queue: u32 },
    #[error("interface {ifindex} is not registered with the steer program")]
    UnknownPort { ifindex: u32 },
    #[error("the debug log: {0}")]
    Log(String),
}

pub type Result<T> = std::result::Result<T, SteerError>;

impl SteerError {
    pub(super) fn load(error: &EbpfError) -> Self {
        SteerError::Load { what: chain(error), errno: errno(error) }
    }

    pub(super) fn program(error: &ProgramError) -> Self {
        SteerError::Load { what: chain(error), errno: errno(error) }
    }

    pub(super) fn map<E: std::error::Error + 'static>(map: &'static str) -> impl FnOnce(E) -> Self {
        move |error| SteerError::Map { map, what: chain(&error), errno: errno(&error) }
    }

    pub(super) fn no_map(map: &'static str) -> Self {
        SteerError::Map { map, what: "the embedded program has no such map: build it again".into(), errno: None }
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

fn kernel_says(message: &Option<String>) -> String {
    message.as_ref().map(|m| format!(" (kernel: {m})")).unwrap_or_default()
}

fn hint(errno: &Option<i32>) -> &'static str {
    match errno {
        Some(libc::EPERM | libc::EACCES) => {
            ". Missing privilege: CAP_BPF and CAP_NET_ADMIN (CAP_SYS_ADMIN before Linux 5.8, or where \
             kernel.unprivileged_bpf_disabled or the container's seccomp profile says so); before Linux 5.11 also a higher \
             memlock limit (`ulimit -l unlimited`)"
        }
        Some(libc::ENOMEM) => {
            ". Not enough memory for the rule tables (about 6 MiB plus the flow table), or the cgroup's limit"
        }
        Some(libc::ENOSYS) => ". This kernel was built without BPF",
        _ => "",
    }
}

fn link_hint(error: &io::Error, operation: &str) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) if operation.starts_with("look at") => {
            ". Missing privilege: CAP_SYS_ADMIN, to open a program by its id"
        }
        Some(libc::EPERM) => ". Missing privilege: CAP_NET_ADMIN, in the network namespace of the interface",
        Some(libc::EOPNOTSUPP) if operation.contains("native") => {
            ". The driver has no native XDP, or not with the interface's settings (LRO, MTU, queues): use mode = \"auto\" or \
             \"generic\""
        }
        Some(libc::EINVAL | libc::ERANGE | libc::EMSGSIZE) if operation.contains("native") => {
            ". Often the MTU is larger than the driver's native XDP takes: lower it (`ip link set dev … mtu 1500`), or use \
             mode = \"generic\""
        }
        Some(libc::EBUSY) => {
            ". Another program holds the interface through a BPF link (`bpftool net` names it), or its XDP queues are in use"
        }
        Some(libc::EEXIST) => {
            ". A program is attached already, or one in the other mode (native and generic exclude each other)"
        }
        Some(libc::ENODEV) => ". The interface is gone",
        _ => "",
    }
}
