//! The mirror of the kernel's IPsec tables against a kernel that has ESP: what `ip xfrm` adds is seen with the right keys, what is
//! reported is what `ip -s xfrm` shows, and key daemons hear of limits.
//!
//! Made for the virtual machine (`cargo xtask vm`); says so and passes where the kernel has no ESP.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use softdpu::crypto::aead::{Cipher, KeyMaterial};
use softdpu::tunnel::xfrm::mirror::Mirror;
use softdpu::tunnel::xfrm::model::{Encap, Flow, Mark, State, Unsupported};
use softdpu::tunnel::xfrm::replay::Received;
use softdpu::tunnel::xfrm::report::{GUARD, Report, Reporter, Usage};
use softdpu::tunnel::xfrm::spd::{Out, Spd};
use softdpu::tunnel::xfrm::tables::Snapshot;

const PATIENCE: Duration = Duration::from_secs(20);
const KEY_128: &str = "0x000102030405060708090a0b0c0d0e0f10111213";
const KEY_256: &str = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223";
const ENDS: &str = "src 192.0.2.1 dst 192.0.2.2 proto esp";

/// Runs `f` on a thread in a network namespace of its own, which ends with the thread. Not where there is no root or no ESP.
fn inside(test: &str, f: impl FnOnce() + Send) {
    if !softdpu_testbed::is_root() {
        eprintln!("SKIPPED: {test} needs root for network namespaces");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread, which ends here, changes its namespace.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            let probe = format!("xfrm state add {ENDS} spi 0x99 aead rfc4106(gcm(aes)) {KEY_128} 128");
            if let Err(why) = try_ip(&probe) {
                eprintln!("SKIPPED: {test} needs ESP in the kernel: {}", why.trim());
                return;
            }
            ip("xfrm state flush");
            f();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn try_ip(words: &str) -> Result<String, String> {
    let out = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    if out.status.success() {
        Ok(String::from_utf8(out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

fn ip(words: &str) -> String {
    try_ip(words).unwrap_or_else(|error| panic!("ip {words}: {error}"))
}

fn add(spi: u32, rest: &str) {
    ip(&format!("xfrm state add {ENDS} spi {spi:#x} {rest}"));
}

fn gcm() -> String {
    format!("aead rfc4106(gcm(aes)) {KEY_128} 128")
}

/// A mirror of this thread's namespace, on a thread of its own in the same one.
fn mirrored(f: impl FnOnce(&Receiver<Snapshot>)) {
    let (sender, views) = channel();
    let sender = Mutex::new(sender);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let task = runtime.block_on(Mirror::start(Box::new(move |view| drop(sender.lock().unwrap().send(view))))).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let runtime = &runtime;
        scope.spawn(move || {
            let _ = runtime.block_on(stopped);
            task.abort();
        });
        // A panic in `f` must end the other thread too.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&views)));
        drop(stop);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn wait(views: &Receiver<Snapshot>, what: &str, good: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let view = views.recv_timeout(left).unwrap_or_else(|_| panic!("never seen: {what}"));
        if good(&view) {
            return view;
        }
    }
}

fn state(view: &Snapshot, spi: u32) -> &State {
    view.states.iter().find(|s| s.spi() == spi).unwrap_or_else(|| panic!("no state {spi:#x}"))
}

/// One view of now.
fn view() -> Snapshot {
    let mut now = None;
    mirrored(|views| now = Some(wait(views, "the dump", |_| true)));
    now.unwrap()
}

fn has_key(state: &State, cipher: Cipher) -> bool {
    let bytes: Vec<u8> = (0..cipher.material_len() as u8).collect();
    let want = KeyMaterial::new(cipher, &bytes).unwrap().id();
    state.material.as_ref().is_some_and(|material| material.cipher() == cipher && material.id() == want)
}

#[test]
fn states_are_seen_with_their_keys() {
    inside("states_are_seen_with_their_keys", || {
        add(0x1001, &format!("reqid 1 mode tunnel {} replay-window 32 flag af-unspec", gcm()));
        mirrored(|views| {
            let first = wait(views, "the dump", |_| true);
            let s = state(&first, 0x1001);
            assert!(has_key(s, Cipher::Aes128Gcm) && s.supported());
            assert_eq!((s.reqid, s.replay.window, s.selector, s.encap), (1, 32, None, None));

            add(
                0x1002,
                &format!("reqid 2 mode transport aead rfc4106(gcm(aes)) {KEY_256} 128 flag esn replay-window 128"),
            );
            let seen = wait(views, "AES-256 with ESN", |v| v.states.len() == 2);
            let s = state(&seen, 0x1002);
            assert!(has_key(s, Cipher::Aes256Gcm) && s.flags.esn);
            assert_eq!((s.replay.window, s.replay.bitmap_words), (128, Some(4)));

            add(
                0x1003,
                &format!(
                    "reqid 3 mode tunnel aead rfc7539esp(chacha20,poly1305) {KEY_256} 128 encap espinudp 4500 61234 0.0.0.0 \
                     mark 0x42 mask 0xff output-mark 0x7 mask 0xf if_id 31 flag decap-dscp \
                     limit byte-soft 1000 limit byte-hard 2000 limit packet-hard 30 limit time-soft 500"
                ),
            );
            let seen = wait(views, "ChaCha20-Poly1305", |v| v.states.len() == 3);
            let s = state(&seen, 0x1003);
            assert!(has_key(s, Cipher::ChaCha20Poly1305) && s.supported());
            assert_eq!(s.encap, Some(Encap { sport: 4500, dport: 61234 }));
            assert_eq!(
                (s.key.mark, s.output_mark),
                (Mark { value: 0x42, mask: 0xff }, Some(Mark { value: 7, mask: 15 }))
            );
            assert_eq!((s.if_id, s.flags.decap_dscp), (31, true));
            assert_eq!((s.lifetimes.soft.bytes, s.lifetimes.hard.bytes), (Some(1000), Some(2000)));
            assert_eq!((s.lifetimes.hard.packets, s.lifetimes.soft.since_added), (Some(30), Some(500)));

            add(
                0x1004,
                &format!(
                    "mode tunnel enc cbc(aes) 0x{0} auth-trunc hmac(sha256) 0x{0}{0} 128",
                    "0123456789abcdef".repeat(2)
                ),
            );
            let seen = wait(views, "AES-CBC", |v| v.states.len() == 4);
            assert_eq!(state(&seen, 0x1004).unsupported, Some(Unsupported::Cipher("cbc(aes)".into())));

            ip(&format!("xfrm state delete {ENDS} spi 0x1001"));
            wait(views, "a deletion", |v| v.states.iter().all(|s| s.spi() != 0x1001));
            ip("xfrm state deleteall proto esp spi 0x1003");
            wait(views, "the deletion of one with a mark", |v| v.states.iter().all(|s| s.spi() != 0x1003));
            ip("xfrm state flush");
            wait(views, "the flush", |v| v.states.is_empty());
        });
    });
}

#[test]
fn an_acquired_state_grows_up() {
    inside("an_acquired_state_grows_up", || {
        // As charon does: take an SPI, then fill the state.
        ip(&format!("xfrm state allocspi {ENDS} reqid 5 mode tunnel min 0x5000 max 0x5000"));
        mirrored(|views| {
            let first = wait(views, "the dump", |_| true);
            assert_eq!(state(&first, 0x5000).unsupported, Some(Unsupported::Larval));
            ip(&format!("xfrm state update {ENDS} spi 0x5000 reqid 5 mode tunnel {} limit byte-soft 77", gcm()));
            let seen = wait(views, "the keys", |v| v.states.iter().any(|s| s.supported()));
            assert!(has_key(state(&seen, 0x5000), Cipher::Aes128Gcm));
            ip(&format!("xfrm state update {ENDS} spi 0x5000 reqid 5 mode tunnel {} limit byte-soft 99", gcm()));
            let seen = wait(views, "the new limit", |v| state(v, 0x5000).lifetimes.soft.bytes == Some(99));
            assert!(has_key(state(&seen, 0x5000), Cipher::Aes128Gcm));
        });
    });
}

#[test]
fn a_rekey_moves_over_and_a_dying_state_is_last() {
    inside("a_rekey_moves_over_and_a_dying_state_is_last", || {
        let sealed = |view: &Snapshot| {
            let flow = Flow::new("10.1.0.1".parse().unwrap(), "10.2.0.1".parse().unwrap(), 17, 5, 6);
            match Spd::new(view).out(&flow) {
                Out::Seal { state, .. } => state.spi(),
                other => panic!("{other:?}"),
            }
        };
        let sa = |spi| add(spi, &format!("reqid 7 mode tunnel {} flag af-unspec", gcm()));
        ip(
            "xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel",
        );
        sa(0x7001);
        mirrored(|views| {
            assert_eq!(sealed(&wait(views, "the first", |v| v.states.len() == 1)), 0x7001);
            sa(0x7002);
            let both = wait(views, "both", |v| v.states.len() == 2);
            assert_eq!(sealed(&both), 0x7002, "the younger, though of the same second");
            let mut reporter = Reporter::open().unwrap();
            let younger = state(&both, 0x7002).clone();
            assert!(reporter.expire(&younger, &younger.used, false).unwrap());
            assert_eq!(sealed(&wait(views, "its soft end", |v| state(v, 0x7002).dying)), 0x7001);
            ip(&format!("xfrm state delete {ENDS} spi 0x7001"));
            assert_eq!(sealed(&wait(views, "the end of the old one", |v| v.states.len() == 1)), 0x7002);
        });
        // Another process sees the ages the same way.
        ip("xfrm state flush");
        sa(0x7003);
        sa(0x7002);
        sa(0x7004);
        assert_eq!(sealed(&view()), 0x7004);
    });
}

#[test]
fn sequence_numbers_are_leased() {
    inside("sequence_numbers_are_leased", || {
        add(0x2001, &format!("mode tunnel {} replay-window 32", gcm()));
        add(0x2002, &format!("mode tunnel {} replay-window 128 flag esn", gcm()));
        let now = view();
        let mut reporter = Reporter::open().unwrap();
        let lease = reporter.lease(state(&now, 0x2001), 5000).unwrap();
        assert_eq!((lease.first, lease.last), (1 + GUARD, GUARD + 5000));
        let shown = ip("xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x2001");
        assert!(shown.contains(&format!("oseq {:#x}", lease.last)), "{shown}");
        let next = reporter.lease(state(&now, 0x2001), 100).unwrap();
        assert_eq!((next.first, next.last), (lease.last + 1, lease.last + 100), "without a gap: nobody else sends");
        let other = Reporter::open().unwrap().lease(state(&now, 0x2001), 100).unwrap();
        assert!(other.first > next.last, "another process begins above");

        let esn = reporter.lease(state(&now, 0x2002), 5_000_000_000).unwrap();
        let shown = ip("xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x2002");
        assert!(shown.contains(&format!("oseq-hi {:#x}, oseq {:#x}", esn.last >> 32, esn.last as u32)), "{shown}");
        let mut gone = state(&now, 0x2001).clone();
        gone.key.spi = 0x2222;
        assert!(reporter.lease(&gone, 1).unwrap_err().to_string().contains("no such state"));
    });
}

#[test]
fn usage_and_windows_are_told() {
    inside("usage_and_windows_are_told", || {
        add(0x3001, &format!("mode tunnel {} replay-window 32", gcm()));
        add(0x3002, &format!("mode tunnel {} replay-window 256 flag esn", gcm()));
        let now = view();
        let mut reporter = Reporter::open().unwrap();
        let received = Received { highest: 0x1_0000_0123, seen: vec![0b1101, 0, 0, 1 << 63] };
        let short = Received { highest: 0x123, seen: vec![0b1101] };
        let usage = Usage { bytes: 123_456, packets: 789, last_use: 1_700_000_000 };
        let report = |spi, received| Report { state: state(&now, spi), usage, received: Some(received) };
        let outcome = reporter.report(&[report(0x3001, &short), report(0x3002, &received)]).unwrap();
        assert!(outcome.gone.is_empty() && outcome.soft.is_empty() && outcome.hard.is_empty(), "{outcome:?}");
        for spi in ["0x3001", "0x3002"] {
            let shown = ip(&format!("-s xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi {spi}"));
            assert!(shown.contains("123456(bytes), 789(packets)"), "{shown}");
        }
        let again = view();
        let seen = |spi, window| {
            let received = &state(&again, spi).replay.received;
            (received.highest, (0..window).filter(|before| received.was_seen(*before)).collect::<Vec<u32>>())
        };
        assert_eq!(seen(0x3001, 32), (0x123, vec![0, 2, 3]));
        assert_eq!(seen(0x3002, 256), (0x1_0000_0123, vec![0, 2, 3, 255]));
        assert!(state(&again, 0x3001).used.first_use == 1_700_000_000);

        ip(&format!("xfrm state delete {ENDS} spi 0x3001"));
        let later = Usage { bytes: 200_000, ..usage };
        let reports = [0x3001, 0x3002].map(|spi| Report { state: state(&now, spi), usage: later, received: None });
        let outcome = reporter.report(&reports).unwrap();
        assert_eq!(outcome.gone, [state(&now, 0x3001).key]);
        assert!(ip("-s xfrm state").contains("200000(bytes)"));
    });
}

/// `ip xfrm monitor`: what a key daemon hears.
struct Monitor {
    child: Child,
    lines: Receiver<String>,
}

impl Monitor {
    fn new(what: &str) -> Self {
        let mut child = Command::new("ip").args(["xfrm", "monitor", what]).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        // It says nothing when it listens.
        std::thread::sleep(Duration::from_millis(500));
        Self { child, lines }
    }

    fn hears(&self, part: &str) -> bool {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(part) {
                return true;
            }
        }
        false
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn limits_are_told_to_daemons() {
    inside("limits_are_told_to_daemons", || {
        add(0x4001, &format!("mode tunnel {} limit byte-soft 1000 limit byte-hard 2000", gcm()));
        mirrored(|views| {
            let now = wait(views, "the dump", |_| true);
            let monitor = Monitor::new("expire");
            let mut reporter = Reporter::open().unwrap();
            let mut used = |bytes| {
                let usage = Usage { bytes, packets: 1, last_use: 1_700_000_000 };
                reporter.report(&[Report { state: state(&now, 0x4001), usage, received: None }]).unwrap()
            };
            let key = state(&now, 0x4001).key;
            assert!(used(999).soft.is_empty());
            assert_eq!(used(1000).soft, [key]);
            assert!(monitor.hears("hard 0"), "soft");
            wait(views, "a dying state", |v| state(v, 0x4001).dying);
            assert!(used(1500).soft.is_empty(), "once");
            assert_eq!(used(2000).hard, [key]);
            assert!(monitor.hears("hard 1"), "hard");
            wait(views, "its end", |v| v.states.is_empty());
            assert_eq!(ip("xfrm state"), "", "the kernel has removed it");
        });
    });
}

#[test]
fn missing_states_are_asked_for() {
    inside("missing_states_are_asked_for", || {
        ip(
            "xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel",
        );
        let now = view();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let flow = Flow::new(address("10.1.0.1"), address("10.2.0.9"), 6, 1025, 443);
        let db = Spd::new(&now);
        let Out::NoState(policy) = db.out(&flow) else { panic!() };
        let mut reporter = Reporter::open().unwrap();
        let monitor = Monitor::new("acquire");
        assert!(reporter.acquire(policy, &flow).unwrap());
        assert!(monitor.hears("acquire"));
        assert!(monitor.hears("10.2.0.9"), "for the packet's own addresses");
    });
}
