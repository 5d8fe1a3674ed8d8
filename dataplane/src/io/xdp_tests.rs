//! On real veth pairs. Topology: `in`p ═ `in` (port A, redirect program) … `out` (port B) ═ `out`p.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::io::testbed::{Generator, Netns, RawSocket, Redirect, root, set_option};
use crate::io::umem::Umem;

const ETHERTYPE: [u8; 2] = [0x88, 0xb5]; // for experiments (IEEE 802)

fn packet(len: usize, n: u32) -> Vec<u8> {
    let mut p = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &ETHERTYPE].concat();
    p.extend(n.to_be_bytes());
    p.extend((p.len()..len).map(|i| (i as u32 * 7 + n) as u8));
    p
}

fn pool(chunks: u32) -> FramePool {
    FramePool::new(Umem::map(chunks, 2048, false).unwrap())
}

/// Bursts until `want` packets came or half a second passed without one.
fn receive(port: &mut XdpPort, pool: &mut FramePool, want: usize) -> Vec<Frame> {
    let mut out = Vec::with_capacity(want);
    let mut last = Instant::now();
    while out.len() < want && last.elapsed() < Duration::from_millis(500) {
        if port.rx_burst(pool, &mut out, 64) > 0 {
            last = Instant::now();
        }
        port.reap(pool);
    }
    out
}

fn give_back(pool: &mut FramePool, frames: Vec<Frame>) {
    frames.into_iter().for_each(|f| pool.free(f));
}

fn flat(pool: &FramePool, frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.total_len()];
    pool.linearise(frame, &mut bytes).unwrap();
    bytes
}

fn open(ns: &Netns, pool: &mut FramePool, names: &[&str]) -> Vec<XdpPort> {
    let specs: Vec<XdpSpec> = names.iter().map(|n| XdpSpec::new(n, 0)).collect();
    ns.run(|| open_ports(pool, &specs)).unwrap()
}

#[test]
fn ten_thousand_frames_are_received_whole() {
    if !root("ten_thousand_frames_are_received_whole") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    let mut pool = pool(4096);
    let mut port = open(&ns, &mut pool, &["in"]).remove(0);
    assert_eq!(port.mode(), BindMode::Copy, "veth has no zero-copy");
    let redirect = Redirect::attach(&ns, "in", false);
    redirect.set(0, port.fd());
    let generator = Generator::new(&ns, "inp");
    for round in 0..50 {
        let sent = packet(64 + round * 7, round as u32);
        ns.run(|| generator.send(&sent, 200));
        let got = receive(&mut port, &mut pool, 200);
        assert_eq!(got.len(), 200, "round {round}: {:?} {:?}", port.stats(), port.kernel_stats());
        for frame in &got {
            assert_eq!(frame.bytes(), sent);
            assert!(frame.headroom() >= super::super::frame::HEADROOM && frame.tailroom() >= 64);
        }
        assert!(pool.account().balanced());
        give_back(&mut pool, got);
    }
    assert_eq!((port.stats().rx_packets, port.stats().rx_bad), (10_000, 0));
    let rings = port.rings(&pool);
    assert_eq!(rings.fill + rings.kernel_rx + rings.rx, pool.held(port.id).fill);
    port.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn frames_go_from_port_to_port_uncopied() {
    if !root("frames_go_from_port_to_port_uncopied") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    ns.veth("out", 1500);
    let mut pool = pool(2048);
    let mut ports = open(&ns, &mut pool, &["in", "out"]);
    let (mut b, mut a) = (ports.remove(1), ports.remove(0));
    assert!(b.socket.shared() && !a.socket.shared());
    let redirect = Redirect::attach(&ns, "in", false);
    redirect.set(0, a.fd());
    let generator = Generator::new(&ns, "inp");
    let sink = RawSocket::open(&ns, "outp");
    for round in 0..20u32 {
        let sent = packet(60 + round as usize, round);
        ns.run(|| generator.send(&sent, 128));
        let mut got = receive(&mut a, &mut pool, 128);
        assert_eq!(got.len(), 128);
        let chunks: Vec<u32> = got.iter().map(Frame::index).collect();
        assert_eq!(b.tx_burst(&mut pool, &mut got), 128);
        for index in chunks {
            let place = b.socket.tx.unconsumed();
            assert_eq!((place, pool.held(b.id).tx), (128, 128), "chunk {index} itself is in the other port's ring");
        }
        b.flush(&mut pool);
        (0..128).for_each(|_| assert_eq!(sink.receive().as_deref(), Some(&sent[..])));
        b.reap(&mut pool);
    }
    assert_eq!(b.stats().tx_packets, 2560);
    assert!(b.stats().kicks <= 20 * 5, "one kick per batch, not per packet: {:?}", b.stats());
    assert_eq!(b.kernel_stats().unwrap().tx_invalid, 0);
    assert_eq!(b.close(&mut pool), pool.total() / 8 * 3, "only what was in the fill ring");
    a.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn jumbo_packets_are_chains_both_ways() {
    if !root("jumbo_packets_are_chains_both_ways") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 9000);
    ns.veth("out", 9000);
    let mut pool = pool(512);
    let mut ports = open(&ns, &mut pool, &["in", "out"]);
    let (mut b, mut a) = (ports.remove(1), ports.remove(0));
    assert!(a.multi_buffer());
    let redirect = Redirect::attach(&ns, "in", true);
    redirect.set(0, a.fd());
    let (source, sink) = (RawSocket::open(&ns, "inp"), RawSocket::open(&ns, "outp"));
    for (i, len) in [9014, 60, 4000, 1792, 1793, 8999].into_iter().enumerate() {
        let sent = packet(len, i as u32);
        source.send(&sent);
        let mut got = receive(&mut a, &mut pool, 1);
        assert_eq!(got.len(), 1, "{len} bytes: {:?} {:?}", a.stats(), a.kernel_stats());
        assert_eq!(got[0].is_chain(), len > 1792);
        assert_eq!(pool.part_count(&got[0]), len.div_ceil(1792));
        assert!(flat(&pool, &got[0]) == sent, "{len} bytes arrive as they were sent");
        assert_eq!(b.tx_burst(&mut pool, &mut got), 1);
        b.flush(&mut pool);
        assert!(sink.receive().as_deref() == Some(&sent[..]), "{len} bytes leave as they came: {:?}", b.stats());
        b.reap(&mut pool);
        assert!(pool.account().balanced());
    }
    assert_eq!((a.stats().rx_chains, b.stats().tx_chains, b.stats().tx_bad), (4, 4, 0));
    b.close(&mut pool);
    a.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn a_packet_of_too_many_parts_is_counted_and_the_next_arrives() {
    if !root("a_packet_of_too_many_parts_is_counted_and_the_next_arrives") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 40_000);
    let mut pool = pool(512);
    let mut port = open(&ns, &mut pool, &["in"]).remove(0);
    let redirect = Redirect::attach(&ns, "in", true);
    redirect.set(0, port.fd());
    let source = RawSocket::open(&ns, "inp");
    let (fits, over, small) = (packet(MAX_PARTS * 1792, 1), packet(MAX_PARTS * 1792 + 1, 2), packet(60, 3));
    for p in [&fits, &over, &small] {
        source.send(p);
    }
    let got = receive(&mut port, &mut pool, 2);
    assert_eq!(got.len(), 2);
    assert!(flat(&pool, &got[0]) == fits && flat(&pool, &got[1]) == small);
    assert_eq!((port.stats().rx_truncated, port.stats().rx_bad), (1, 0));
    // A chain of too many parts cannot be sent either, and must not block the ring.
    let mut frames = got;
    let more = pool.scatter(&packet(60, 4)).unwrap();
    pool.append(&mut frames[0], more);
    assert_eq!(port.tx_burst(&mut pool, &mut frames), 2);
    assert_eq!((port.stats().tx_bad, port.stats().tx_packets), (1, 1));
    port.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn a_queue_can_be_bound_again_right_after_close() {
    if !root("a_queue_can_be_bound_again_right_after_close") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    ns.veth("out", 1500);
    let mut pool = pool(512);
    for _ in 0..5 {
        for port in open(&ns, &mut pool, &["in", "out"]) {
            port.close(&mut pool);
        }
        pool.assert_no_leak();
    }
    // The port that lent the UMEM goes first; the other can still lend it on.
    let mut ports = open(&ns, &mut pool, &["in", "out"]);
    ports.remove(0).close(&mut pool);
    let mut again = open(&ns, &mut pool, &["in"]);
    assert!(again[0].socket.shared());
    ports.remove(0).close(&mut pool);
    again.remove(0).close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn a_queue_without_a_socket_passes_to_the_kernel() {
    if !root("a_queue_without_a_socket_passes_to_the_kernel") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    let mut pool = pool(256);
    let mut port = open(&ns, &mut pool, &["in"]).remove(0);
    let redirect = Redirect::attach(&ns, "in", false);
    let (source, kernel) = (RawSocket::open(&ns, "inp"), RawSocket::open(&ns, "in"));
    source.send(&packet(60, 1));
    assert_eq!(kernel.receive(), Some(packet(60, 1)), "no socket in the map yet");
    redirect.set(0, port.fd());
    source.send(&packet(60, 2));
    let got = receive(&mut port, &mut pool, 1);
    assert_eq!(got[0].bytes(), packet(60, 2));
    give_back(&mut pool, got);
    port.close(&mut pool);
    source.send(&packet(60, 3));
    assert_eq!(kernel.receive(), Some(packet(60, 3)), "the socket left the map when it was closed");
    pool.assert_no_leak();
}

#[test]
fn receiving_goes_on_after_the_fill_ring_ran_dry() {
    if !root("receiving_goes_on_after_the_fill_ring_ran_dry") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    let mut pool = pool(128);
    let mut port = open(&ns, &mut pool, &["in"]).remove(0);
    let redirect = Redirect::attach(&ns, "in", false);
    redirect.set(0, port.fd());
    let generator = Generator::new(&ns, "inp");
    let mut hoard = Vec::with_capacity(256);
    for _ in 0..4 {
        ns.run(|| generator.send(&packet(60, 1), 64));
        std::thread::sleep(Duration::from_millis(5));
        port.rx_burst(&mut pool, &mut hoard, 256);
        port.reap(&mut pool);
    }
    assert!(hoard.len() < 256 && hoard.len() >= 64, "{}", hoard.len());
    assert!(port.stats().fill_short > 0);
    let kernel = port.kernel_stats().unwrap();
    assert!(kernel.rx_dropped + kernel.fill_empty + kernel.rx_ring_full > 0, "{kernel:?}");
    give_back(&mut pool, hoard);
    port.reap(&mut pool);
    ns.run(|| generator.send(&packet(60, 2), 64));
    let got = receive(&mut port, &mut pool, 64);
    assert_eq!(got.len(), 64, "{:?} {:?}", port.stats(), port.kernel_stats());
    give_back(&mut pool, got);
    port.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn sending_in_portions_ends_with_everything_sent() {
    if !root("sending_in_portions_ends_with_everything_sent") {
        return;
    }
    let ns = Netns::new();
    ns.veth("out", 1500);
    let mut pool = pool(1024);
    let mut port = open(&ns, &mut pool, &["out"]).remove(0);
    // As on kernels before 6.17, which take 32 descriptors per call and have no such option.
    let _ = set_option(port.fd(), libc::SOL_XDP, 9, 32);
    let sink = RawSocket::open(&ns, "outp");
    let mut frames: Vec<Frame> = (0..200).map(|n| pool.scatter(&packet(60, n)).unwrap()).collect();
    assert_eq!(port.tx_burst(&mut pool, &mut frames), 200);
    port.flush(&mut pool);
    assert_eq!(port.socket.tx.unconsumed(), 0);
    assert!(port.stats().kick_again >= 6 && port.stats().kicks <= 9, "{:?}", port.stats());
    (0..200).for_each(|n| assert_eq!(sink.receive(), Some(packet(60, n))));
    port.reap(&mut pool);
    // A send buffer of a few packets: bounded tries, and nothing lost but time.
    set_option(port.fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 4608).unwrap();
    let mut frames: Vec<Frame> = (0..100).map(|n| pool.scatter(&packet(60, n)).unwrap()).collect();
    port.tx_burst(&mut pool, &mut frames);
    let until = Instant::now() + Duration::from_secs(2);
    while pool.held(port.id).tx > 0 && Instant::now() < until {
        port.flush(&mut pool);
        port.reap(&mut pool);
    }
    (0..100).for_each(|n| assert_eq!(sink.receive(), Some(packet(60, n))));
    port.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn a_dead_link_fills_the_ring_and_costs_only_counted_packets() {
    if !root("a_dead_link_fills_the_ring_and_costs_only_counted_packets") {
        return;
    }
    let ns = Netns::new();
    ns.veth("out", 1500);
    let mut pool = pool(512);
    let mut spec = XdpSpec::new("out", 0);
    spec.socket.ring = 64;
    let port = ns.run(|| XdpPort::open(&mut pool, &spec)).unwrap();
    ns.ip("link set out down");
    let mut port = super::super::port::PortIo::Xdp(port);
    let mut frames: Vec<Frame> = (0..100).map(|n| pool.scatter(&packet(60, n)).unwrap()).collect();
    assert_eq!(port.send(&mut pool, &mut frames), 36, "{:?}", port.stats());
    assert!(frames.is_empty());
    assert_eq!(port.stats().tx_full, 36);
    assert!(port.stats().kick_errors > 0);
    assert!(pool.account().balanced());
    port.close(&mut pool).unwrap();
    pool.assert_no_leak();
}

#[test]
fn a_sleeper_on_the_descriptor_wakes_with_a_packet() {
    if !root("a_sleeper_on_the_descriptor_wakes_with_a_packet") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    let mut pool = pool(256);
    let mut port = open(&ns, &mut pool, &["in"]).remove(0);
    let redirect = Redirect::attach(&ns, "in", false);
    redirect.set(0, port.fd());
    let source = RawSocket::open(&ns, "inp");
    let poll = |ms| {
        let mut p = libc::pollfd { fd: port.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, as said.
        unsafe { libc::poll(&raw mut p, 1, ms) }
    };
    assert_eq!(poll(10), 0, "nothing yet");
    source.send(&packet(60, 1));
    assert_eq!(poll(1000), 1);
    let got = receive(&mut port, &mut pool, 1);
    assert_eq!(got.len(), 1);
    give_back(&mut pool, got);
    // Idle turns make no system calls in copy mode.
    let before = *port.stats();
    let mut out = Vec::with_capacity(1);
    for _ in 0..10_000 {
        port.rx_burst(&mut pool, &mut out, 64);
        port.flush(&mut pool);
        port.reap(&mut pool);
    }
    assert_eq!(*port.stats(), before);
    port.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn busy_poll_receives_and_sends() {
    if !root("busy_poll_receives_and_sends") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    let mut pool = pool(512);
    let mut spec = XdpSpec::new("in", 0);
    spec.socket.busy_poll = true;
    let mut port = ns.run(|| XdpPort::open(&mut pool, &spec)).unwrap();
    let redirect = Redirect::attach(&ns, "in", false);
    redirect.set(0, port.fd());
    let peer = RawSocket::open(&ns, "inp");
    let mut none = Vec::with_capacity(1);
    for n in 0..50 {
        assert_eq!(port.rx_burst(&mut pool, &mut none, 1), 0, "an empty burst drives the driver");
        peer.send(&packet(60, n));
        let mut got = receive(&mut port, &mut pool, 1);
        assert_eq!(got[0].bytes(), packet(60, n));
        port.tx_burst(&mut pool, &mut got);
        port.flush(&mut pool);
        assert_eq!(peer.receive(), Some(packet(60, n)));
        port.reap(&mut pool);
    }
    assert!(port.stats().rx_wakeups >= 50);
    port.close(&mut pool);
    pool.assert_no_leak();
}

#[test]
fn errors_say_what_to_do() {
    if !root("errors_say_what_to_do") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    let mut pool = pool(256);
    let mut failing = |spec: &XdpSpec| {
        let e = ns.run(|| XdpPort::open(&mut pool, spec)).err().unwrap().to_string();
        pool.assert_no_leak();
        e
    };
    assert!(failing(&XdpSpec::new("nowhere", 0)).contains("no interface `nowhere`"));
    let e = failing(&XdpSpec::new("in", 7));
    assert!(e.contains("in queue 7: bind") && e.contains("ethtool -l"), "{e}");
    let mut spec = XdpSpec::new("in", 0);
    spec.socket.ring = 100;
    assert!(failing(&spec).contains("power of two"));
    spec.socket.ring = 64;
    spec.socket.zero_copy = ZeroCopy::Require;
    let e = failing(&spec);
    assert!(e.contains("zero_copy = \"never\""), "{e}");
    // Another socket has the queue: asked again for about a second, then named.
    let mut other = FramePool::new(Umem::map(256, 2048, false).unwrap());
    let holder = open(&ns, &mut other, &["in"]).remove(0);
    let e = failing(&XdpSpec::new("in", 0));
    assert!(e.contains("another AF_XDP socket owns this queue"), "{e}");
    holder.close(&mut other);
    // Without capabilities (which are per thread).
    let e = ns.run(|| {
        let header: [u32; 2] = [0x2008_0522, 0];
        let none = [0u32; 6];
        // SAFETY: version 3 of the header and two blocks of three words, as the call takes.
        assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }, 0);
        XdpPort::open(&mut pool, &XdpSpec::new("in", 0)).err().unwrap().to_string()
    });
    assert!(e.contains("CAP_NET_RAW"), "{e}");
    pool.assert_no_leak();
}

#[test]
fn the_bare_loop_forwards_both_ways_until_told_to_stop() {
    use crate::io::bare::{Touch, forward_loop};
    use crate::io::port::PortIo;
    use std::sync::atomic::{AtomicBool, Ordering};
    if !root("the_bare_loop_forwards_both_ways_until_told_to_stop") {
        return;
    }
    let ns = Netns::new();
    ns.veth("in", 1500);
    ns.veth("out", 1500);
    let mut pool = pool(1024);
    let mut ports = open(&ns, &mut pool, &["in", "out"]);
    let (b, a) = (ports.remove(1), ports.remove(0));
    let redirects = [Redirect::attach(&ns, "in", false), Redirect::attach(&ns, "out", false)];
    redirects[0].set(0, a.fd());
    redirects[1].set(0, b.fd());
    let (near, far) = (RawSocket::open(&ns, "inp"), RawSocket::open(&ns, "outp"));
    let (mut a, mut b) = (PortIo::Xdp(a), PortIo::Xdp(b));
    let stop = AtomicBool::new(false);
    let moved = std::thread::scope(|s| {
        let worker = s.spawn(|| forward_loop(&mut a, &mut b, &mut pool, 64, Touch::SwapMacs, &stop));
        for n in 0..100 {
            near.send(&packet(60, n));
            far.send(&packet(61, n));
            let swapped = |len| [&[2, 0, 0, 0, 0, 1][..], &[0xff; 6], &packet(len, n)[12..]].concat();
            assert_eq!(far.receive(), Some(swapped(60)));
            assert_eq!(near.receive(), Some(swapped(61)));
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap()
    });
    assert_eq!(moved, 200);
    a.close(&mut pool).unwrap();
    b.close(&mut pool).unwrap();
    pool.assert_no_leak();
}

/// A measurement, not a test: `cargo test --release -p softdpu --lib io::xdp::tests::limit -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn limit() {
    use crate::io::bare::{Touch, forward_loop};
    use crate::io::port::PortIo;
    use std::sync::atomic::{AtomicBool, Ordering};
    let pin = |core: usize| {
        // SAFETY: a set of plain bits, written before it is read.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    };
    let knob = |name: &str, default: i32| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (budget, sndbuf, ring, batch, fill) =
        (knob("BUDGET", 0), knob("SNDBUF", 0), knob("RING", 2048), knob("BATCH", 64), knob("FILL", 0));
    let ns = Netns::new();
    ns.veth("in", 1500);
    ns.veth("out", 1500);
    let mut pool = FramePool::new(Umem::map(8192, 2048, true).unwrap());
    let mut spec = XdpSpec::new("in", 0);
    spec.socket.ring = ring as u32;
    spec.fill = fill as u32;
    spec.socket.busy_poll = knob("BUSY", 0) > 0;
    let mut other = spec.clone();
    other.socket.interface = "out".into();
    let mut ports = ns.run(|| open_ports(&mut pool, &[spec, other])).unwrap();
    let (b, a) = (ports.remove(1), ports.remove(0));
    if budget > 0 {
        set_option(b.fd(), libc::SOL_XDP, 9, budget).unwrap();
    }
    if sndbuf > 0 {
        set_option(b.fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, sndbuf).unwrap();
    }
    if knob("GRO", 0) > 0 {
        ns.run(|| std::process::Command::new("ethtool").args(["-K", "outp", "gro", "on"]).status()).unwrap();
    }
    if knob("THREADED", 0) > 0 {
        ns.run(|| std::fs::write("/sys/class/net/outp/threaded", "1")).unwrap();
    }
    let redirects = [Redirect::attach(&ns, "in", false), Redirect::attach(&ns, "out", false)];
    redirects[0].set(0, a.fd());
    redirects[1].set(0, b.fd());
    let _far = (knob("PEER", 0) > 0).then(|| Redirect::attach(&ns, "outp", false));
    let generator = Generator::new(&ns, "inp");
    let (mut a, mut b) = (PortIo::Xdp(a), PortIo::Xdp(b));
    let (stop, end) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            ns.run(|| {
                pin(1);
                let p = packet(64, 1);
                while !end.load(Ordering::Relaxed) {
                    generator.send(&p, 100_000);
                }
            })
        });
        s.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            stop.store(true, Ordering::Relaxed);
        });
        pin(0);
        let start = Instant::now();
        let before = cpu();
        let moved = forward_loop(&mut a, &mut b, &mut pool, batch as usize, Touch::SwapMacs, &stop);
        let used = cpu() - before;
        println!(
            "{:.3} Mpps {:.2} of a core; kicks {} again {} err {} full {} batch {:.1} kernel {:?}",
            moved as f64 / start.elapsed().as_secs_f64() / 1e6,
            used / start.elapsed().as_secs_f64(),
            b.stats().kicks,
            b.stats().kick_again,
            b.stats().kick_errors,
            b.stats().tx_full,
            moved as f64 / b.stats().kicks.max(1) as f64,
            match &a {
                PortIo::Xdp(p) => p.kernel_stats().unwrap(),
                _ => unreachable!(),
            }
        );
        end.store(true, Ordering::Relaxed);
    });
    println!("{}", ns.run(|| std::fs::read_to_string("/proc/net/dev").unwrap()));
    a.close(&mut pool).unwrap();
    b.close(&mut pool).unwrap();
    pool.assert_no_leak();
}

fn cpu() -> f64 {
    // SAFETY: writes one struct of plain numbers.
    let u = unsafe {
        let mut u: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut u);
        u
    };
    (u.ru_utime.tv_sec + u.ru_stime.tv_sec) as f64 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) as f64 / 1e6
}
