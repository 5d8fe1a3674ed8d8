//! Against this machine's kernel, in a network namespace. Policies can be had wherever there is XFRM; states with keys
//! need ESP in the kernel, so they are tested in the virtual machine (`tests/vm_xfrm.rs`). A larval state (`allocspi`) needs none.
#![allow(clippy::unwrap_used)]

use super::super::model::{Action, Direction};
use super::super::testing::ip;
use super::*;
use crate::io::testbed::{Netns, root};
use std::sync::mpsc::{Receiver, channel};

/// Starts a mirror inside, runs `f` with the views it publishes.
fn mirrored(ns: &Netns, f: impl FnOnce(&Receiver<Snapshot>) + Send) {
    ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, views) = channel();
        let sender = std::sync::Mutex::new(sender);
        let publish: Publish = Box::new(move |view| drop(sender.lock().unwrap().send(view)));
        let task = runtime.block_on(Mirror::start(publish)).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            let runtime = &runtime;
            // The thread keeps this one's namespace.
            let follower = scope.spawn(move || {
                runtime.block_on(async {
                    let _ = stopped.await;
                    task.abort();
                });
            });
            f(&views);
            drop(stop);
            follower.join().unwrap();
        });
    });
}

/// The first view that is as it should be.
fn wait(views: &Receiver<Snapshot>, what: &str, good: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let view = views.recv_timeout(left).unwrap_or_else(|_| panic!("never seen: {what}"));
        if good(&view) {
            return view;
        }
    }
}

const TEMPLATE: &str = "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 9 mode tunnel";

#[test]
fn policies_of_ip_xfrm() {
    if !root("policies_of_ip_xfrm") {
        return;
    }
    let ns = Netns::new();
    ns.ip(&format!("xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out priority 7 {TEMPLATE}"));
    mirrored(&ns, |views| {
        let first = wait(views, "the dump", |_| true);
        assert_eq!(first.policies.len(), 1, "what was there before is seen with the first view");
        let p = &first.policies[0];
        assert_eq!((p.key.direction, p.priority, p.action), (Direction::Out, 7, Action::Allow));
        assert_eq!(
            (p.selector.src.to_string(), p.selector.dst.to_string()),
            ("10.1.0.0/16".into(), "10.2.0.0/16".into())
        );
        assert_eq!(
            (p.templates[0].src, p.templates[0].dst, p.templates[0].reqid),
            (ip("192.0.2.1"), ip("192.0.2.2"), 9)
        );

        ns.ip("xfrm policy add src fd00:1::/64 dst fd00:2::/64 proto tcp sport 5 dport 443 dir fwd action block mark 3 mask 7 if_id 4");
        let view = wait(views, "the second policy", |v| v.policies.len() == 2);
        let p = view.policies.iter().find(|p| p.key.direction == Direction::Forward).unwrap();
        assert_eq!((p.action, p.mark.value, p.mark.mask, p.if_id), (Action::Block, 3, 7, 4));
        let s = &p.selector;
        assert_eq!((s.protocol, s.sport, s.sport_mask, s.dport, s.dport_mask), (6, 5, 0xffff, 443, 0xffff));
        assert!(p.templates.is_empty());

        ns.ip(&format!("xfrm policy update src 10.1.0.0/16 dst 10.2.0.0/16 dir out priority 3 {TEMPLATE}"));
        wait(views, "the update", |v| v.policies.len() == 2 && v.policies.iter().any(|p| p.priority == 3));
        ns.ip("xfrm policy delete src 10.1.0.0/16 dst 10.2.0.0/16 dir out");
        wait(views, "the deletion", |v| v.policies.len() == 1);
        ns.ip("xfrm policy flush");
        wait(views, "the flush", |v| v.policies.is_empty());
        ns.ip("xfrm policy setdefault out block");
        wait(views, "the default", |v| v.defaults.output == Action::Block && v.defaults.input == Action::Allow);
    });
}

#[test]
fn older_policies_have_lower_numbers() {
    if !root("older_policies_have_lower_numbers") {
        return;
    }
    let ns = Netns::new();
    for third in [3, 1, 2] {
        ns.ip(&format!("xfrm policy add src 10.1.0.0/16 dst 10.2.{third}.0/24 dir out priority 7 {TEMPLATE}"));
    }
    mirrored(&ns, |views| {
        let view = wait(views, "the dump", |v| v.policies.len() == 3);
        let order: Vec<String> = view.policies.iter().map(|p| p.selector.dst.to_string()).collect();
        assert_eq!(order, ["10.2.3.0/24", "10.2.1.0/24", "10.2.2.0/24"]);
    });
}

#[test]
fn larval_states_are_seen_youngest_last() {
    if !root("larval_states_are_seen_youngest_last") {
        return;
    }
    let ns = Netns::new();
    let allocate = |reqid, min, max| {
        ns.ip(&format!(
            "xfrm state allocspi src 192.0.2.1 dst 192.0.2.2 proto esp reqid {reqid} mode tunnel min {min} max {max}"
        ));
    };
    allocate(1, 0x2000, 0x2000);
    allocate(2, 0x1000, 0x1000);
    mirrored(&ns, |views| {
        let view = wait(views, "both", |v| v.states.len() == 2);
        let at = |spi| view.states.iter().find(|s| s.spi() == spi).unwrap();
        assert!(view.states.iter().all(|s| !s.supported()));
        assert!(at(0x2000).age < at(0x1000).age, "a dump begins with the youngest");
        ns.ip("xfrm state delete src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000");
        wait(views, "one", |v| v.states.len() == 1);
        ns.ip("xfrm state flush");
        wait(views, "none", |v| v.states.is_empty());
    });
}

/// More changes than a socket holds: what is lost is read again.
#[test]
fn a_storm_of_policies_ends_in_the_truth() {
    if !root("a_storm_of_policies_ends_in_the_truth") {
        return;
    }
    let ns = Netns::new();
    let batch = |verb: &str, range: std::ops::Range<u32>| -> String {
        let line = |i: u32| {
            let tail = if verb == "add" { TEMPLATE } else { "" };
            format!("xfrm policy {verb} src 10.1.0.0/16 dst 10.{}.{}.0/24 dir out {tail}\n", 2 + i / 256, i % 256)
        };
        range.map(line).collect()
    };
    let run = |text: String| {
        ns.run(|| {
            use std::io::Write;
            let mut ip = std::process::Command::new("ip")
                .args(["-batch", "-"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            ip.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success());
        });
    };
    mirrored(&ns, |views| {
        run(batch("add", 0..3000));
        run(batch("delete", 0..1000));
        let view = wait(views, "the last state of things", |v| {
            v.policies.len() == 2000 && v.policies.iter().all(|p| p.selector.dst.addr() >= ip("10.5.0.0"))
        });
        let mut seen = 1;
        while views.try_recv().is_ok() {
            seen += 1;
        }
        assert_eq!(view.policies.len(), 2000);
        assert!(seen < 4000, "views come by bursts, not by message");
    });
}

#[test]
fn a_small_socket_overflows_and_recovers() {
    if !root("a_small_socket_overflows_and_recovers") {
        return;
    }
    let ns = Netns::new();
    ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, views) = channel();
        let publish: Publish = Box::new(move |view| drop(sender.send(view)));
        // `channel`'s sender is Sync since 1.72.
        runtime.block_on(async {
            let mut mirror = Mirror { publish, tables: Tables::default() };
            let mut kernel = Kernel::with_buffer(4096).unwrap();
            mirror.read_all(&mut kernel).await.unwrap();
            // Nobody reads meanwhile.
            let text: String = (0..400)
                .map(|i| format!("xfrm policy add src 10.1.0.0/16 dst 10.{}.{}.0/24 dir out\n", i / 256, i % 256))
                .collect();
            let file = std::env::temp_dir().join(format!("softdpu-xfrm-{}-batch", std::process::id()));
            std::fs::write(&file, text).unwrap();
            let done = std::process::Command::new("ip").arg("-batch").arg(&file).status().unwrap();
            std::fs::remove_file(&file).unwrap();
            assert!(done.success());
            let task = tokio::spawn(mirror.run(Some(kernel)));
            let good = async {
                loop {
                    if views.try_iter().any(|view| view.policies.len() == 400) {
                        break;
                    }
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(20), good).await.expect("all 400 are seen though most notifications were lost");
            task.abort();
        });
    });
}
