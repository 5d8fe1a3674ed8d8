//! Attaching, replacing, detaching, and what outlives a `kill -9`.

use super::*;
use std::{os::unix::process::ExitStatusExt as _, time::Duration};

#[test]
fn attaches_natively_and_leaves_nothing() {
    if !root("attaches_natively") {
        return;
    }
    in_namespace(|| {
        let port = veth("sdn0", "sdn1");
        ip("link set sdn0 mtu 9000");
        ip("link set sdn1 mtu 9000");
        let mut steer = load();
        let attachment = steer.attach(port, AttachMode::Auto).unwrap();
        assert_eq!(attachment, Attachment { mode: AttachedMode::Native, native_refused: None, replaced: None });
        let there = existing_program(port).unwrap().unwrap();
        assert_eq!((there.id, there.name.as_str(), there.mode), (steer.id(), PROGRAM_NAME, AttachedMode::Native));
        assert!(there.is_steer());
        drop(steer);
        assert_eq!(existing_program(port).unwrap(), None);

        let mut steer = load();
        assert_eq!(steer.attach(port, AttachMode::Generic).unwrap().mode, AttachedMode::Generic);
        assert_eq!(existing_program(port).unwrap().unwrap().mode, AttachedMode::Generic);
        steer.detach(port).unwrap();
        assert_eq!(existing_program(port).unwrap(), None);

        // Loopback's driver knows no XDP: generic is the fallback, and says why.
        let attachment = steer.attach(LO, AttachMode::Auto).unwrap();
        assert_eq!(attachment.mode, AttachedMode::Generic);
        assert!(attachment.native_refused.unwrap().contains("native"));
        let refused = load().attach(index("sdn1"), AttachMode::Native);
        assert!(refused.is_ok());
        drop(steer);
        assert_eq!(existing_program(LO).unwrap(), None);
        let error = load().attach(LO, AttachMode::Native).unwrap_err().to_string();
        assert!(error.contains("no native XDP"), "{error}");
    });
}

#[test]
fn a_dead_instance_is_replaced_and_its_rules_hold_till_then() {
    if !root("a_dead_instance") {
        return;
    }
    in_namespace(|| {
        let port = veth("sds0", "sds1");
        let mut first = load();
        first.attach(port, AttachMode::Auto).unwrap();
        let dead = first.id();
        first.leave_attached();
        assert_eq!(existing_program(port).unwrap().unwrap().id, dead, "it outlives its process");

        let mut second = load();
        let attachment = second.attach(port, AttachMode::Auto).unwrap();
        assert_eq!((attachment.replaced, attachment.mode), (Some(dead), AttachedMode::Native));
        assert_eq!(existing_program(port).unwrap().unwrap().id, second.id());
        assert_eq!(second.attach(port, AttachMode::Auto).unwrap().replaced, None, "attached already");

        second.leave_attached();
        let mut third = load();
        assert_eq!(third.attach(port, AttachMode::Generic).unwrap().mode, AttachedMode::Generic, "the other mode");
        third.leave_attached();
        assert!(detach_stale(port).unwrap());
        assert!(!detach_stale(port).unwrap());
        assert_eq!(existing_program(port).unwrap(), None);
    });
}

#[test]
fn a_replaced_instance_does_not_detach_its_successor() {
    if !root("a_replaced_instance") {
        return;
    }
    in_namespace(|| {
        let port = veth("sdr0", "sdr1");
        let mut old = load();
        old.attach(port, AttachMode::Auto).unwrap();
        let mut new = load();
        new.attach(port, AttachMode::Auto).unwrap();
        drop(old);
        assert_eq!(existing_program(port).unwrap().unwrap().id, new.id());
    });
}

#[test]
fn somebody_elses_program_is_named_and_stays() {
    if !root("somebody_elses") {
        return;
    }
    in_namespace(|| {
        let port = veth("sdx0", "sdx1");
        let (id, _program) = foreign_program(port);
        let error = load().attach(port, AttachMode::Auto).unwrap_err();
        assert!(matches!(&error, SteerError::Foreign { name, .. } if name == "other_xdp"), "{error}");
        assert!(error.to_string().contains("`other_xdp`"), "{error}");
        assert!(!detach_stale(port).unwrap());
        assert_eq!(existing_program(port).unwrap().unwrap().id, id);
    });
}

/// Loads `return XDP_PASS` under another name and attaches it.
fn foreign_program(ifindex: u32) -> (u32, OwnedFd) {
    // mov r0, 2; exit
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let license = c"MIT";
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        version: u32,
        flags: u32,
        name: [u8; 16],
    }
    let attr = Attr {
        kind: 6,
        count: 2,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        version: 0,
        flags: 0,
        name: *b"other_xdp\0\0\0\0\0\0\0",
    };
    // SAFETY: the attribute and what it points to are valid during the call; the descriptor is owned here alone.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, 5, &raw const attr, size_of::<Attr>());
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    Netlink::open().unwrap().attach(ifindex, fd.as_fd(), AttachedMode::Native, None).unwrap();
    (program::id(fd.as_fd()).unwrap(), fd)
}

/// ```text
///   sdk1 ── veth ── sdk0 [steer: UDP 80 to the worker, on_loss drop] ── stack
/// ```
/// Real frames, a real SIGKILL of the process that attached: what is to be dropped without a worker stays dropped, the rest
/// passes, and the next start takes over.
#[test]
fn rules_outlive_the_process_that_is_killed() {
    if !root("rules_outlive") {
        return;
    }
    in_namespace(|| {
        let port = veth("sdk0", "sdk1");
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "io::steer::tests::attach::the_process_that_is_killed", "--ignored"])
            .env("SOFTDPU_TEST_KILLED", port.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
        assert!(existing_program(port).unwrap().unwrap().is_steer());

        let (to, from) = (Packets::on(index("sdk1")), Packets::on(port));
        let arrived = |ports: [u16; 4]| {
            for dport in ports {
                to.send(&to_port(dport));
            }
            from.destination_ports()
        };
        assert_eq!(arrived([80, 81, 80, 82]), [81, 82], "port 80 is the worker's, and there is none");

        let mut next = load();
        assert!(next.attach(port, AttachMode::Auto).unwrap().replaced.is_some());
        assert_eq!(arrived([80, 81, 80, 82]), [80, 81, 80, 82], "the next instance has no rules yet");
        // And what fresh interfaces say to their multicast groups.
        assert!(reason(&next, Reason::NoRule).packets >= 4);
        drop(next);
        assert_eq!(existing_program(port).unwrap(), None);
    });
}

/// The other process of the test above.
#[test]
#[ignore = "run by rules_outlive_the_process_that_is_killed"]
fn the_process_that_is_killed() {
    let Ok(port) = std::env::var("SOFTDPU_TEST_KILLED") else { return };
    let mut steer = load();
    let protect = SteerRule { on_loss: OnLoss::Drop, ..rule("protect", 80, RuleAction::Worker) };
    steer.set_rules(&compile(&[protect]).unwrap()).unwrap();
    steer.attach(port.parse().unwrap(), AttachMode::Native).unwrap();
    // SAFETY: ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    std::thread::sleep(Duration::from_secs(10));
}
