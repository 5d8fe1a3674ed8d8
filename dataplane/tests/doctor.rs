//! `softdpu doctor` against planted faults, on a host made of namespaces:
//!
//! ```text
//!   client                edge                 far
//!   eth0 ─────────── apps      uplink ─────── eth1
//! ```
//!
//! Each test plants a fault, sees doctor find it, lets `--fix` or the very command that doctor gave put it right, and where it
//! was `--fix`, sees `--undo` restore what was there. What no machine can be made to have is in the unit tests of the checks.
#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use softdpu_testbed::cleanup::{RunDir, unique};
use softdpu_testbed::netns::NetNs;
use softdpu_testbed::process;

const BINARY: &str = env!("CARGO_BIN_EXE_softdpu");
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    edge: NetNs,
    client: NetNs,
    _far: NetNs,
    folder: RunDir,
}

/// The parts of a policy that faults are planted in.
#[derive(Default, Clone, Copy)]
struct Lines<'a> {
    workers: &'a str,
    apps: &'a str,
    steer: &'a str,
    rest: &'a str,
}

impl World {
    /// `None` without root.
    fn new(tag: &str, queues: u32) -> Option<Self> {
        if !softdpu_testbed::is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let make = |end: &str| NetNs::new(&unique(&format!("{tag}.{end}"))).unwrap();
        let (edge, client, far) = (make("edge"), make("client"), make("far"));
        for (port, peer, there) in [("apps", "eth0", &client), ("uplink", "eth1", &far)] {
            let q = format!("numrxqueues {queues} numtxqueues {queues}");
            edge.ip(&format!("link add {port} {q} type veth peer name {peer} {q} netns {}", there.name())).unwrap();
            edge.ip(&format!("link set dev {port} up")).unwrap();
            there.ip(&format!("link set dev {peer} up")).unwrap();
        }
        Some(Self { edge, client, _far: far, folder: RunDir::new(tag).unwrap() })
    }

    fn policy(&self, lines: Lines<'_>) -> PathBuf {
        let path = self.folder.file("policy.toml");
        let Lines { workers, apps, steer, rest } = lines;
        let steer = if steer.is_empty() { "to = [\"10.2.0.0/16\"]" } else { steer };
        let text = format!(
            "[workers]\n{workers}\n\n[[port]]\nname = \"apps\"\ninterface = \"apps\"\n{apps}\n\n[[port]]\nname = \"uplink\"\n\
             interface = \"uplink\"\n\n[[steer]]\nname = \"from-apps\"\n{steer}\n\n{rest}\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, words: &[&str], lines: Lines<'_>) -> Command {
        let mut command = self.edge.command(BINARY);
        command.arg("doctor").arg("--policy").arg(self.policy(lines));
        command.arg("--state").arg(self.state()).args(words);
        command
    }

    fn state(&self) -> PathBuf {
        self.folder.file("state/doctor.json")
    }

    fn doctor(&self, words: &[&str], lines: Lines<'_>) -> Value {
        report(&mut self.command(words, lines))
    }

    /// What doctor says of one thing now.
    fn look(&self, check: &str, subject: Option<&str>, lines: Lines<'_>) -> Value {
        find(&self.doctor(&[], lines), check, subject)
    }

    fn undo(&self) -> String {
        let mut command = self.edge.command(BINARY);
        command.args(["doctor", "--undo", "--yes"]).arg("--state").arg(self.state());
        process::run(&mut command, PATIENCE).unwrap().ok().unwrap()
    }

    /// Runs a command that doctor gave, as an operator would.
    fn obey(&self, finding: &Value) {
        let line = finding["commands"][0].as_str().unwrap();
        process::run(self.edge.command("sh").args(["-c", line]), PATIENCE).unwrap().ok().unwrap();
    }

    fn ethtool(&self, ns: &NetNs, words: &[&str]) -> String {
        process::run(ns.command("ethtool").args(words), PATIENCE).unwrap().ok().unwrap()
    }

    /// A feature as ethtool shows it: "on", "off".
    fn feature(&self, ns: &NetNs, link: &str, name: &str) -> String {
        let all = self.ethtool(ns, &["-k", link]);
        let line = all.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(": ")).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    }

    /// Finds the fault, has it fixed, sees that it is gone.
    fn fixes(&self, check: &str, subject: &str, state: &str, lines: Lines<'_>) {
        let before = self.look(check, Some(subject), lines);
        assert_eq!(before["state"], state, "{check}: {before}");
        assert!(!before["meaning"].as_str().unwrap().is_empty() && before["commands"][0].is_string(), "{before}");
        let report = self.doctor(&["--fix", "--yes"], lines);
        for fix in report["fixes"].as_array().unwrap() {
            assert!(fix["error"].is_null(), "{fix}");
        }
        let after = find(&report, check, Some(subject));
        assert_eq!(after["state"], "ok", "{check} after --fix: {after}");
        assert!(self.state().exists(), "what was changed is noted");
    }
}

fn report(command: &mut Command) -> Value {
    let said = process::run(command.arg("--json"), PATIENCE).unwrap();
    serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}{}", said.out, said.err))
}

fn find(report: &Value, check: &str, subject: Option<&str>) -> Value {
    let all = report["findings"].as_array().unwrap();
    let found = all.iter().find(|f| f["check"] == check && subject.is_none_or(|s| f["subject"] == s));
    found.unwrap_or_else(|| panic!("no {check} of {subject:?} in {report:#}")).clone()
}

#[test]
fn offloads_on_the_wrong_side() {
    let Some(w) = World::new("doctor.off", 1) else { return };
    // Frames redirected to `apps` are lost while its peer does not poll.
    w.ethtool(&w.client, &["-K", "eth0", "gro", "off"]);
    w.fixes("peer-gro", "apps", "warn", Lines::default());
    assert_eq!(w.feature(&w.client, "eth0", "generic-receive-offload"), "on");
    assert!(w.undo().contains("done"));
    assert_eq!(w.feature(&w.client, "eth0", "generic-receive-offload"), "off");
    assert!(!w.state().exists(), "nothing is left to undo");

    // In generic mode merged packets come to the worker.
    let generic = Lines { apps: "mode = \"generic\"", ..Lines::default() };
    w.ethtool(&w.edge, &["-K", "apps", "gro", "on"]);
    w.fixes("generic-gro", "apps", "warn", generic);
    assert_eq!(w.feature(&w.edge, "apps", "generic-receive-offload"), "off");
    assert_eq!(find(&w.doctor(&[], generic), "peer-tso", Some("apps"))["state"], "ok", "fixed in the same run");
    assert_eq!(w.feature(&w.client, "eth0", "tcp-segmentation-offload"), "off");
    w.undo();
    assert_eq!(w.feature(&w.edge, "apps", "generic-receive-offload"), "on");
    assert_eq!(w.look("peer-tso", Some("apps"), generic)["state"], "warn");

    // Senders that leave checksums out, and a policy that trusts them.
    let trust = Lines { apps: "checksum = \"trust\"", ..Lines::default() };
    w.fixes("peer-checksum", "apps", "fail", trust);
    assert_eq!(w.feature(&w.client, "eth0", "tx-checksumming"), "off");
    w.undo();
    assert_eq!(w.feature(&w.client, "eth0", "tx-checksumming"), "on");
}

#[test]
fn too_few_queues() {
    let Some(w) = World::new("doctor.queues", 2) else { return };
    let two = Lines { workers: "count = 2", ..Lines::default() };
    assert_eq!(w.look("queues", Some("apps"), two)["state"], "ok");
    w.ethtool(&w.edge, &["-L", "apps", "rx", "1", "tx", "1"]);
    w.fixes("queues", "apps", "fail", two);
    assert!(w.ethtool(&w.edge, &["-l", "apps"]).lines().rev().take(5).any(|l| l == "RX:\t\t2"));
    w.undo();
    assert_eq!(w.look("queues", Some("apps"), two)["found"], "1 queue for 2 workers");
    // More than the device can have: the policy must ask for less.
    let four = Lines { workers: "count = 4", ..Lines::default() };
    let finding = w.look("queues", Some("uplink"), four);
    assert_eq!(finding["state"], "fail");
    assert!(finding["commands"][0].as_str().unwrap().contains("count = 2"), "{finding}");
    assert!(finding["changes"].is_null(), "nothing that could be changed here");
    // A queue that packets come on and nobody serves.
    let one = Lines { apps: "queues = 1", ..Lines::default() };
    w.ethtool(&w.edge, &["-L", "apps", "rx", "2", "tx", "2"]);
    let finding = w.look("queues-unserved", Some("apps"), one);
    assert_eq!(finding["state"], "warn", "{finding}");
    w.obey(&finding);
    assert_eq!(w.look("queues-unserved", Some("apps"), one)["state"], "ok");
}

#[test]
fn sizes_that_do_not_fit() {
    let Some(w) = World::new("doctor.mtu", 1) else { return };
    w.client.ip("link set dev eth0 mtu 1400").unwrap();
    w.fixes("mtu-peer", "apps", "fail", Lines::default());
    assert!(w.edge.ip("link show dev apps").unwrap().contains("mtu 1400"));
    w.undo();
    assert!(w.edge.ip("link show dev apps").unwrap().contains("mtu 1500"));

    let keys = ["one", "two"].map(|name| w.folder.file(name));
    for (n, key) in keys.iter().enumerate() {
        std::fs::write(key, format!("0{n}").repeat(36)).unwrap();
        std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let tunnel = |clamp: bool| {
        format!(
            "[[tunnel]]\nname = \"peer\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.2\"\nmss_clamp = {clamp}\nout = {{ spi = 4097, \
             key_file = \"{0}\" }}\nin = {{ spi = 4098, key_file = \"{1}\" }}\n",
            keys[0].display(),
            keys[1].display()
        )
    };
    w.client.ip("link set dev eth0 mtu 1500").unwrap();
    let (plain, clamped) = (tunnel(false), tunnel(true));
    let finding = w.look("mtu-tunnel", Some("peer"), Lines { rest: &plain, ..Lines::default() });
    assert_eq!(
        (&finding["state"], &finding["found"]),
        (&"warn".into(), &"carries 1443 bytes whole, and apps has an MTU of 1500".into())
    );
    assert_eq!(w.look("mtu-tunnel", Some("peer"), Lines { rest: &clamped, ..Lines::default() })["state"], "ok");
    w.edge.ip("link set dev apps mtu 1400").unwrap();
    assert_eq!(w.look("mtu-tunnel", Some("peer"), Lines { rest: &plain, ..Lines::default() })["state"], "ok");

    let v6 = Lines { steer: "to = [\"2001:db8::/32\"]", ..Lines::default() };
    w.edge.ip("link set dev uplink mtu 1200").unwrap();
    assert_eq!(w.look("least-mtu", Some("uplink"), v6)["state"], "warn");
}

#[test]
fn rings_too_small() {
    let Some(w) = World::new("doctor.ring", 1) else { return };
    let small = Lines { apps: "ring = 64", ..Lines::default() };
    let finding = w.look("socket-ring", Some("apps"), small);
    assert_eq!(finding["state"], "warn");
    // The remedy is a line of the policy: do what it says.
    let line = finding["commands"][0].as_str().unwrap();
    assert_eq!(line, "ring = 256 for the port, in the policy");
    let larger = Lines { apps: "ring = 256", ..Lines::default() };
    assert_eq!(w.look("socket-ring", Some("apps"), larger)["state"], "ok");
    let few = Lines { workers: "frames = 256", apps: "ring = 256", ..Lines::default() };
    let finding = w.look("socket-ring", Some("apps"), few);
    assert!(finding["commands"][0].as_str().unwrap().starts_with("frames = 2048"), "{finding}");
    let more = Lines { workers: "frames = 2048", ..few };
    assert_eq!(w.look("socket-ring", Some("apps"), more)["state"], "ok");
}

#[test]
fn settings_of_the_kernel() {
    let Some(w) = World::new("doctor.sysctl", 1) else { return };
    w.edge.sysctl("net/ipv4/conf/apps/rp_filter", "1").unwrap();
    w.edge.sysctl("net/ipv4/conf/all/rp_filter", "1").unwrap();
    w.fixes("rp-filter", "apps", "warn", Lines::default());
    let read =
        |path: &str| process::run(w.edge.command("cat").arg(path), PATIENCE).unwrap().ok().unwrap().trim().to_owned();
    assert_eq!(read("/proc/sys/net/ipv4/conf/apps/rp_filter"), "2");
    // Somebody sets it since: that is left alone.
    w.edge.sysctl("net/ipv4/conf/apps/rp_filter", "0").unwrap();
    assert!(w.undo().contains("somebody has set it to 0"));
    assert_eq!(read("/proc/sys/net/ipv4/conf/apps/rp_filter"), "0");
    assert_ne!(read("/proc/sys/net/ipv4/conf/uplink/rp_filter"), "2", "the other is put back");

    w.edge.sysctl("net/ipv4/ip_forward", "0").unwrap();
    let pass = Lines { steer: "to = [\"10.2.0.0/16\"]\non_loss = \"pass\"", ..Lines::default() };
    let finding = w.look("forwarding", Some("IPv4"), pass);
    assert_eq!(finding["state"], "warn");
    assert!(finding["changes"].is_null(), "to be a router is for the operator to decide");
    w.obey(&finding);
    assert_eq!(w.look("forwarding", Some("IPv4"), pass)["state"], "ok");

    let polling = Lines { apps: "busy_poll = true", ..Lines::default() };
    w.fixes("busy-poll", "apps", "warn", polling);
    let inside =
        |path: &str| process::run(w.edge.exec("cat").arg(path), PATIENCE).unwrap().ok().unwrap().trim().to_owned();
    assert_eq!(inside("/sys/class/net/apps/napi_defer_hard_irqs"), "2");
    w.undo();
    assert_eq!(inside("/sys/class/net/apps/napi_defer_hard_irqs"), "0");
}

/// Runs between fork and exec: takes a capability away for good, and sets a limit.
fn cripple(command: &mut Command, capability: Option<i32>, limit: Option<(u32, u64)>) {
    // SAFETY: two system calls between fork and exec, nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if let Some(capability) = capability {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            if let Some((what, bytes)) = limit {
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                libc::setrlimit(what as _, &raw const limit);
            }
            Ok(())
        });
    }
}

#[test]
fn a_process_that_may_too_little() {
    let Some(w) = World::new("doctor.caps", 1) else { return };
    // include/uapi/linux/capability.h
    for (number, name) in [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")] {
        assert_eq!(w.look("capabilities", Some(name), Lines::default())["state"], "ok");
        let mut command = w.command(&[], Lines::default());
        cripple(&mut command, Some(number), None);
        let finding = find(&report(&mut command), "capabilities", Some(name));
        assert_eq!(finding["state"], "fail", "{finding}");
        assert!(finding["commands"][0].as_str().unwrap().contains(&name[4..]), "{finding}");
    }
    // Locked memory is limited only without CAP_IPC_LOCK.
    let (lock, low) = (14, (libc::RLIMIT_MEMLOCK, 65536));
    let mut command = w.command(&[], Lines::default());
    cripple(&mut command, Some(lock), Some(low));
    let report_low = report(&mut command);
    let finding = find(&report_low, "memlock", None);
    assert_eq!((&finding["state"], &finding["found"]), (&"fail".into(), &"64 KiB, and frames take 32 MiB".into()));
    assert_eq!(find(&report_low, "capabilities", Some("CAP_IPC_LOCK"))["state"], "warn");
    // A limit that suffices for the policy, as the remedy says: raised, or with fewer frames.
    let few = Lines { workers: "frames = 256", ..Lines::default() };
    let mut command = w.command(&[], few);
    cripple(&mut command, Some(lock), Some((libc::RLIMIT_MEMLOCK, 2 << 20)));
    assert_eq!(find(&report(&mut command), "memlock", None)["state"], "ok");
    let mut command = w.command(&[], Lines::default());
    cripple(&mut command, None, Some((libc::RLIMIT_NOFILE, 64)));
    assert_eq!(find(&report(&mut command), "open-files", None)["state"], "fail");
}

#[test]
fn ports_that_cannot_be_had() {
    let Some(w) = World::new("doctor.ports", 1) else { return };
    w.edge.ip("link set dev apps down").unwrap();
    let finding = w.look("interface", Some("apps"), Lines::default());
    assert_eq!(finding["state"], "fail");
    w.obey(&finding);
    // The carrier takes a moment.
    let up = || (w.look("interface", Some("apps"), Lines::default())["state"] == "ok").then_some(());
    process::eventually(PATIENCE, up).unwrap();

    let require = Lines { apps: "zero_copy = \"require\"", ..Lines::default() };
    assert_eq!(w.look("zero-copy", Some("apps"), require)["state"], "fail");
    let all = Lines { steer: "action = \"worker\"", ..Lines::default() };
    assert_eq!(w.look("host-reachable", None, all)["state"], "warn");
    assert_eq!(w.look("host-reachable", None, Lines::default())["state"], "ok");
    let far_core = Lines { workers: "cores = [1000]", ..Lines::default() };
    assert_eq!(w.look("cores", Some("core 1000"), far_core)["state"], "fail");

    // The trial on the port itself leaves nothing behind.
    let report = w.doctor(&["--probe"], Lines::default());
    let trial = find(&report, "port-trial", Some("apps"));
    assert_eq!((&trial["state"], &trial["found"]), (&"ok".into(), &"native XDP attaches".into()));
    assert!(!softdpu_testbed::bpf::xdp_attached(&w.edge, "apps").unwrap());

    // Somebody runs on it.
    let claimed = w.edge.within(|| softdpu::host::nic::Nic::look_up("apps")?.claim()).unwrap();
    assert_eq!(w.look("port-owner", Some("apps"), Lines::default())["state"], "warn");
    drop(claimed);
    assert_eq!(w.look("port-owner", Some("apps"), Lines::default())["state"], "ok");

    // A bridge has no XDP in its driver.
    w.edge.ip("link add br0 type bridge").unwrap();
    w.edge.ip("link del apps").unwrap();
    w.edge.ip("link set dev br0 name apps").unwrap();
    let native = Lines { apps: "mode = \"native\"", ..Lines::default() };
    assert_eq!(w.look("driver-xdp", Some("apps"), native)["state"], "fail");
    assert_eq!(w.look("driver-xdp", Some("apps"), Lines::default())["state"], "warn");
    w.edge.ip("link del apps").unwrap();
    assert_eq!(w.look("interface", Some("apps"), Lines::default())["state"], "fail");
}

#[test]
fn a_program_of_somebody_else() {
    let Some(w) = World::new("doctor.foreign", 1) else { return };
    let program = softdpu::rig::bpf::sys::Program::load("other", &softdpu::rig::bpf::programs::pass()).unwrap();
    let path = format!("/proc/self/fdinfo/{}", program.fd());
    let info = std::fs::read_to_string(path).unwrap();
    let id = info.lines().find_map(|l| l.strip_prefix("prog_id:")).unwrap().trim().to_owned();
    let mut attach = w.edge.command("bpftool");
    attach.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    process::run(attach.args(["net", "attach", "xdp", "id", &id, "dev", "apps"]), PATIENCE).unwrap().ok().unwrap();
    let finding = w.look("foreign-program", Some("apps"), Lines::default());
    assert_eq!(finding["state"], "fail");
    assert!(finding["found"].as_str().unwrap().contains("other"), "{finding}");
    w.obey(&finding);
    assert_eq!(w.look("foreign-program", Some("apps"), Lines::default())["state"], "ok");
}

#[test]
fn nothing_is_changed_without_a_yes_and_other_hosts_are_judged_by_their_file() {
    let Some(w) = World::new("doctor.ask", 1) else { return };
    w.client.ip("link set dev eth0 mtu 1400").unwrap();
    let said = process::run(&mut w.command(&["--fix"], Lines::default()), PATIENCE).unwrap();
    assert!(!said.status.success() && said.err.contains("--yes"), "{}", said.err);
    assert!(said.out.contains("ip link set dev apps mtu 1400"), "printed first:\n{}", said.out);
    assert!(!said.out.contains('\x1b'), "no colour into a pipe");
    assert!(w.edge.ip("link show dev apps").unwrap().contains("mtu 1500"));

    let file = w.folder.file("host.json");
    let json = process::run(w.edge.command(BINARY).args(["inventory", "--json"]), PATIENCE).unwrap().ok().unwrap();
    std::fs::write(&file, &json).unwrap();
    let host = softdpu::host::inventory::Inventory::read(&file).unwrap();
    let apps = host.interface("apps").unwrap();
    let peer = apps.peer.as_ref().unwrap();
    assert_eq!((apps.driver.as_str(), apps.mtu, peer.name.as_str(), peer.mtu), ("veth", 1500, "eth0", 1400));
    assert_eq!(peer.namespace.as_deref(), Some(format!("/run/netns/{}", w.client.name()).as_str()));
    assert_eq!(apps.napi.defer_hard_irqs, Some(0), "/sys is the namespace's");
    let mut elsewhere = Command::new(BINARY);
    elsewhere.arg("doctor").arg("-c").arg(w.policy(Lines::default())).arg("--host").arg(&file);
    assert_eq!(find(&report(&mut elsewhere), "mtu-peer", Some("apps"))["state"], "fail");
}
