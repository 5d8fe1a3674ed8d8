//! The program, run by the host: in a device nothing of it can be seen. And devices that do not take it. Need root.
#![allow(clippy::unwrap_used)]

use super::*;

const DROP: u32 = 1;
const PASS: u32 = 2;
/// Loopback has no XDP of its own at all.
const LO: u32 = 1;
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn root(test: &str) -> bool {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

fn v4(sport: u16, dport: u16) -> Vec<u8> {
    let mut frame = [&STATION[..], &[2, 9, 9, 9, 9, 9, 8, 0]].concat();
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([sport, dport, 20, 0].map(u16::to_be_bytes).concat());
    frame.extend([0; 12]);
    frame
}

fn v6(sport: u16, dport: u16) -> Vec<u8> {
    let mut frame = [&STATION[..], &[2, 9, 9, 9, 9, 9, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]].concat();
    frame.extend([[0xfd; 16], [0xfc; 16]].concat());
    frame.extend([sport, dport].map(u16::to_be_bytes).concat());
    // SYN: what a rule drops is dropped from its first packet on.
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 1, 0, 0, 0, 0, 0]);
    frame
}

fn key(frame: &[u8]) -> FlowKey {
    FlowKey::of(&softdpu_ebpf_common::walk::walk(frame).unwrap(), STATION)
}

/// What the program makes of a frame.
fn run(device: &Device, frame: &[u8]) -> u32 {
    device.run(frame)
}

#[test]
fn what_is_in_the_table_is_dropped_and_counted_and_nothing_else_is() {
    if !root("nic") {
        return;
    }
    let mut device = Device::prepare(0, 16).unwrap_or_else(|refused| panic!("{refused}"));
    for frame in [v4(1000, 80), v6(1000, 80)] {
        assert_eq!(run(&device, &frame), PASS);
        let entry = device.insert(&key(&frame)).unwrap();
        let twice = device.insert(&key(&frame));
        assert!(matches!(twice, Err(NotTaken::Driver(ref error)) if error.raw_os_error() == Some(libc::EEXIST)));
        assert_eq!(device.len(), 1);
        for _ in 0..3 {
            assert_eq!(run(&device, &frame), DROP);
        }
        let size = frame.len() as u64 - 14;
        assert_eq!(device.count(&entry), FlowCount { packets: 3, bytes: 3 * size });
        assert_eq!(device.count(&entry), FlowCount::default());

        let changed = |at: usize, to: u8| {
            let mut frame = frame.clone();
            frame[at] = to;
            run(&device, &frame)
        };
        assert_eq!(changed(0, 6), PASS, "for another station");
        assert_eq!(changed(5, 6), PASS, "for another station");
        assert_eq!(changed(12, 0x81), PASS, "tagged");
        assert_eq!(changed(if frame.len() == 54 { 37 } else { 57 }, 81), PASS, "another port");
        assert_eq!(changed(if frame.len() == 54 { 14 } else { 20 }, 0x46), PASS, "other headers in between");
        assert_eq!(run(&device, &frame[..frame.len() - 1]), PASS, "cut short");
        if frame.len() == 54 {
            assert_eq!(changed(20, 0x20), PASS, "a fragment");
            assert_eq!(changed(21, 1), PASS, "a fragment");
            assert_eq!(changed(15, 0xb8), DROP, "whatever its class of service");
        }
        assert_eq!(run(&device, &frame), DROP);
        // The rest of the count is not lost with the entry.
        let served = 1 + u64::from(frame.len() == 54);
        assert_eq!(device.remove(&entry).unwrap(), FlowCount { packets: served, bytes: served * size });
        assert_eq!((run(&device, &frame), device.is_empty()), (PASS, true));
        assert_eq!(device.remove(&entry).unwrap(), FlowCount::default(), "gone already");
        device.free.pop();
    }
}

#[test]
fn a_full_table_says_so_and_places_are_used_again() {
    if !root("nic") {
        return;
    }
    let mut device = Device::prepare(0, 2).unwrap();
    let first = device.insert(&key(&v4(1, 80))).unwrap();
    device.insert(&key(&v4(2, 80))).unwrap();
    assert!(matches!(device.insert(&key(&v4(3, 80))), Err(NotTaken::Full)));
    assert_eq!(run(&device, &v4(1, 80)), DROP);
    assert_eq!(device.remove(&first).unwrap().packets, 1);
    let third = device.insert(&key(&v4(3, 80))).unwrap();
    assert_eq!(device.count(&third), FlowCount::default(), "not what the one before it counted");
    assert_eq!((device.len(), device.capacity()), (2, 2));
}

#[test]
fn a_device_without_it_says_at_which_step_and_why() {
    if !root("nic") {
        return;
    }
    let refused = Device::load(LO, 16).unwrap_err();
    assert_eq!(refused.step, Step::Map, "{refused}");
    assert!(matches!(refused.errno, Some(libc::EINVAL | libc::EOPNOTSUPP)), "{refused}");
    assert!(refused.to_string().starts_with("its table was refused: "), "{refused}");
    assert!(Device::load(0x7fff_fff0, 16).is_err(), "no such interface");
}

#[test]
fn the_verifiers_words_are_kept() {
    if !root("nic") {
        return;
    }
    // `exit` without a value for r0.
    let exit = Instruction { code: 0x95, _bitfield_align_1: [], _bitfield_1: Default::default(), off: 0, imm: 0 };
    let (error, words) = bpf::program("nothing", &[exit], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    assert!(words.contains("R0 !read_ok"), "{words}");
    let refused = Refused::new(Step::Program, &error, words);
    assert!(refused.to_string().contains("refused: Permission denied (os error 13): "), "{refused}");
}
