//! Counters of flows that several CPUs see, at once or in turn: exact to the byte.

use super::flows::{dropping, key, v6_frame};
use super::*;
use crate::rig::{bpf::sys, net::cores};
use softdpu_ebpf_common::walk::proto;
use std::os::fd::{AsFd, RawFd};
use std::sync::{
    Barrier,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// CPUs to run on; `None`, said aloud, where one cannot be had beside another.
fn two_cpus(test: &str) -> Option<[usize; 2]> {
    // SAFETY: all bit patterns are valid; the kernel writes at most its size, and the CPUs asked for are below what it holds.
    let there: Vec<usize> = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), 0);
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    };
    if there.len() < 2 {
        eprintln!("{test}: skipped, needs two CPUs");
        return None;
    }
    Some([there[0], there[1]])
}

fn fd(steer: &mut Steer) -> RawFd {
    xdp(&mut steer.ebpf, PROGRAM_NAME).unwrap().fd().unwrap().as_fd().as_raw_fd()
}

/// A steer in force on loopback, where nothing comes: the kernel tests those that are in force without a grace period for each test.
fn within(job: impl FnOnce(Steer) + Send + 'static) {
    in_namespace(move || {
        let mut steer = dropping(16);
        steer.attach(LO, AttachMode::Generic).unwrap();
        job(steer);
    });
}

/// The packet meets the program so often. `false`: the kernel gave up, as it does when the thread has something pending, and
/// nobody knows after how many.
fn run(program: RawFd, frame: &[u8], times: u32) -> bool {
    match sys::test_run(program, frame, times) {
        Err(e) if times > 1 && e.kind() == std::io::ErrorKind::Interrupted => false,
        done => {
            assert_eq!(done.unwrap().verdict, XDP_PASS);
            true
        }
    }
}

fn on(cpu: usize, job: impl FnOnce() + Send) {
    std::thread::scope(|threads| {
        threads.spawn(|| {
            cores::pin(0, cpu).unwrap();
            job();
        });
    });
}

fn frames() -> [Vec<u8>; 2] {
    [to_port(80), v6_frame(proto::UDP, 64, &udp(1000, 80, &[0; 33]))]
}

/// Entry after entry is counted by both CPUs at once, and read all the while: nothing is missed, nothing twice.
#[test]
fn what_two_cpus_count_at_once_adds_up() {
    let Some(cpus) = root("what_two_cpus").then(|| two_cpus("what_two_cpus")).flatten() else { return };
    const ENTRIES: usize = 60;
    const TIMES: u32 = 1000;
    const RUNS: u32 = 10;
    within(move |mut steer| {
        let program = fd(&mut steer);
        for frame in frames() {
            let mut whole = 0;
            for n in 0..ENTRIES {
                let id = steer.flow_insert(&key(&frame), FlowVerdict::Pass).unwrap();
                let (start, left, cut) = (Barrier::new(2), AtomicUsize::new(2), AtomicBool::new(false));
                let mut counted = FlowCount::default();
                std::thread::scope(|threads| {
                    for cpu in cpus {
                        let (frame, start, left, cut) = (&frame, &start, &left, &cut);
                        threads.spawn(move || {
                            cores::pin(0, cpu).unwrap();
                            start.wait();
                            for _ in 0..RUNS {
                                if !run(program, frame, TIMES) {
                                    cut.store(true, Ordering::Relaxed);
                                }
                            }
                            left.fetch_sub(1, Ordering::Release);
                        });
                    }
                    while left.load(Ordering::Acquire) > 0 {
                        counted = sum(counted, steer.flows().count(id));
                        std::thread::yield_now();
                    }
                });
                // Removed with a part unread: the rest comes with the end.
                steer.flow_remove(id).unwrap();
                steer.flows().settle(|_, last| counted = sum(counted, last.count));
                let packets = u64::from(2 * RUNS * TIMES);
                let bytes = packets * (frame.len() as u64 - 14);
                if !cut.into_inner() {
                    whole += 1;
                    assert_eq!(counted, FlowCount { packets, bytes }, "entry {n}");
                }
            }
            assert!(whole > ENTRIES / 2, "{whole}");
        }
    });
}

fn sum(a: FlowCount, b: FlowCount) -> FlowCount {
    FlowCount { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}

/// A flow that moves to another CPU and back; and an entry that follows another at its place.
#[test]
fn a_flow_may_change_its_cpu_and_a_place_its_flow() {
    let Some(cpus) = root("a_flow_may_change").then(|| two_cpus("a_flow_may_change")).flatten() else { return };
    within(move |mut steer| {
        let program = fd(&mut steer);
        let some = |cpu: usize, frame: &[u8], times: u32| {
            on(cpu, || (0..times).for_each(|_| assert!(run(program, frame, 1))));
        };
        for frame in frames() {
            for first in [cpus[0], cpus[1]] {
                let id = steer.flow_insert(&key(&frame), FlowVerdict::Pass).unwrap();
                let mut counted = 0;
                for (turn, cpu) in [first, cpus[0], cpus[1], cpus[0], first].into_iter().enumerate() {
                    some(cpu, &frame, 7 + turn as u32);
                    let now = steer.flows().count(id);
                    assert_eq!((now.packets, now.bytes), (7 + turn as u64, now.packets * (frame.len() as u64 - 14)));
                    counted += now.packets;
                }
                assert_eq!(counted, 45);
                some(cpus[0], &frame, 3);
                steer.flow_remove(id).unwrap();
                steer.flows().settle(|_, last| assert_eq!(last.count.packets, 3));
            }
        }
    });
}
