//! What a batch costs on a veth pair, step by step: a measurement, not a test. Medians, so that it says the same on a busy
//! machine. Run: `cargo test --release -p softdpu --lib io::xdp::tests::limit -- --ignored --nocapture`.
use super::*;
use crate::io::port::PortIo;
use std::sync::atomic::{AtomicBool, Ordering};

/// A measurement, not a test: `cargo test --release -p softdpu --lib io::xdp::tests::limit -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn limit() {
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
            std::thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
        });
        pin(0);
        // Medians over batches: what a batch costs while nobody takes the core away.
        let mut times: [Vec<f64>; 4] = Default::default();
        let mut frames = Vec::with_capacity(batch as usize);
        let (mut moved, mut turns) = (0, 0u32);
        while !stop.load(Ordering::Relaxed) {
            turns += 1;
            let t0 = Instant::now();
            let n = a.rx_burst(&mut pool, &mut frames, batch as usize);
            let t1 = Instant::now();
            if n == 0 {
                b.flush(&mut pool);
                b.reap(&mut pool);
                a.reap(&mut pool);
                continue;
            }
            b.tx_burst(&mut pool, &mut frames);
            let t2 = Instant::now();
            b.send(&mut pool, &mut frames);
            b.flush(&mut pool);
            let t3 = Instant::now();
            b.reap(&mut pool);
            a.reap(&mut pool);
            let t4 = Instant::now();
            moved += n;
            if n == batch as usize {
                for (v, d) in times.iter_mut().zip([t1 - t0, t2 - t1, t3 - t2, t4 - t3]) {
                    v.push(d.as_nanos() as f64 / n as f64);
                }
            }
        }
        let med = |v: &mut Vec<f64>, q: f64| {
            v.sort_by(f64::total_cmp);
            v[(v.len() as f64 * q) as usize]
        };
        let t: Vec<f64> = times.iter_mut().map(|v| med(v, 0.5)).collect();
        let low: Vec<f64> = times.iter_mut().map(|v| med(v, 0.1)).collect();
        println!(
            "median ns/packet: rx {:.1} tx {:.1} kick {:.1} reap {:.1} = {:.2} Mpps; p10 kick {:.1} sum {:.2} Mpps; moved {moved} turns {turns} kicks {} again {} {:?}",
            t[0],
            t[1],
            t[2],
            t[3],
            1e3 / t.iter().sum::<f64>(),
            low[2],
            1e3 / low.iter().sum::<f64>(),
            b.stats().kicks,
            b.stats().kick_again,
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
