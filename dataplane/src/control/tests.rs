//! The API over real sockets, with an instance made up for the test.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::oneshot;

use super::*;
use crate::config::Control;
use crate::telemetry::journal::Journal;
use crate::telemetry::snapshot::DropTraffic;

struct Fake {
    journal: Arc<Journal>,
}

fn fake() -> Fake {
    Fake { journal: Journal::new() }
}

fn flow(host: &str, class: &str) -> FlowInfo {
    FlowInfo { host: Some(host.into()), class: class.into(), a: "[2001:db8::1]:4000".into(), ..FlowInfo::default() }
}

impl ControlSource for Fake {
    fn events(&self) -> Arc<Journal> {
        self.journal.clone()
    }

    fn demote<'a>(&'a self, flow: Option<&'a FlowInfo>) -> anyhow::Result<usize> {
        Ok(if flow.is_some() { 1 } else { 3 })
    }

    fn rekey<'a>(&'a self, tunnel: &'a str, peer: Option<&'a str>) -> BoxFuture<'a, anyhow::Result<usize>> {
        Box::pin(async move {
            anyhow::ensure!(tunnel == "wg0", "no tunnel is called `{tunnel}`");
            Ok(if peer.is_some() { 1 } else { 3 })
        })
    }

    fn reload(&self, from: PlanSource, dry: bool) -> BoxFuture<'_, anyhow::Result<ReloadReport>> {
        Box::pin(async move {
            if dry && from == PlanSource::File("reload") {
                // Long enough to be met.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            anyhow::ensure!(from != PlanSource::History(2), "plan 2 is not valid any more");
            assert!(from != PlanSource::History(3), "this one breaks off");
            Ok(ReloadReport { applied: !dry, plan: 2, ..ReloadReport::default() })
        })
    }

    fn history(&self) -> Vec<PlanEntry> {
        let (by, outcome) = ("start".to_owned(), PlanOutcome::Running);
        let entry = |plan| PlanEntry { plan, since: 1_700_000_000, by: by.clone(), changes: 0, outcome, why: None };
        vec![entry(3), entry(2), entry(1)]
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        let workers = vec![WorkerStatus { state: "running".into(), ..WorkerStatus::default() }];
        let peers = vec![types::PeerStatus { name: "a peer/+=".into(), ..Default::default() }];
        let tunnel = |name: &str, kind: &str, peers| TunnelStatus {
            name: name.into(),
            kind: kind.into(),
            peers,
            ..TunnelStatus::default()
        };
        let tunnels = vec![tunnel("wg0", "wireguard", peers), tunnel("to-b", "esp", Vec::new())];
        let (name, version) = ("edge-a".to_owned(), "1.2.3".to_owned());
        let status = Status { name, version, uptime_s: 2.5, workers, tunnels, ..Status::default() };
        Box::pin(async move { status })
    }

    fn counters(&self) -> Snapshot {
        Snapshot { drops: vec![DropTraffic { reason: "no_route".into(), packets: 7 }], ..Snapshot::default() }
    }

    fn flows(&self, filter: FlowFilter) -> BoxFuture<'_, anyhow::Result<Vec<FlowInfo>>> {
        async move {
            if filter.limit == 666 {
                std::future::pending::<()>().await;
            }
            let all = [flow("www.example.com", "tls"), flow("example.org", "http"), flow("a.example.com", "http")];
            let wanted = |f: &FlowInfo| filter.wants(&f.class, f.host.as_deref());
            Ok(all.into_iter().filter(wanted).take(filter.limit).collect())
        }
        .boxed()
    }
}

/// A server in a runtime of its own; ends with the value.
pub(super) struct Running {
    dir: tempfile::TempDir,
    pub(super) journal: Arc<Journal>,
    metrics: Option<std::net::SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn control(dir: &Path, metrics: bool) -> Control {
    let metrics = metrics.then(|| "127.0.0.1:0".parse().unwrap());
    Control { socket: dir.join("run/edge-a.sock"), socket_mode: 0o600, socket_group: None, metrics }
}

impl Running {
    pub(super) fn start(metrics: bool) -> Self {
        let source = fake();
        let journal = source.journal.clone();
        let dir = tempfile::tempdir().unwrap();
        let control = control(dir.path(), metrics);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let server = Server::bind(&control).unwrap();
                ready.send(server.metrics()).unwrap();
                server.serve(Arc::new(source), async { drop(stopped.await) }).await;
            });
        });
        let metrics = is_ready.recv().unwrap();
        Self { dir, journal, metrics, stop: Some(stop), thread: Some(thread) }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/edge-a.sock")
    }

    /// Sends `bytes`, returns what comes back until the server closes or `wait` is over.
    pub(super) fn raw(&self, bytes: &[u8], wait: Duration) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(wait)).unwrap();
        // The server may cut garbage short.
        let _ = stream.write_all(bytes);
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out);
        out
    }

    pub(super) fn get(&self, target: &str) -> (u16, String) {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let text = String::from_utf8(self.raw(request.as_bytes(), Duration::from_secs(5))).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn the_client_reads_what_the_source_says() {
    let running = Running::start(false);
    let socket = running.socket();
    runtime().block_on(async {
        assert_eq!(client::status(&socket).await.unwrap(), fake().status().await);
        assert_eq!(client::rekey(&socket, "wg0", None).await.unwrap().begun, 3);
        assert_eq!(client::rekey(&socket, "wg0", Some("a peer/+=")).await.unwrap().begun, 1);
        let unknown = client::rekey(&socket, "wg1", None).await.unwrap_err().to_string();
        assert!(unknown.contains("no tunnel is called `wg1`") && unknown.contains("softdpu status"), "{unknown}");
        assert_eq!(client::counters(&socket).await.unwrap(), fake().counters());
        let all = client::flows(&socket, &[], 10).await.unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], flow("www.example.com", "tls"));
        assert_eq!(client::flows(&socket, &[("class", Some("http"))], 10).await.unwrap().len(), 2);
        let below =
            client::flows(&socket, &[("class", Some("http")), ("host", Some("*.example.com"))], 10).await.unwrap();
        assert_eq!(below, [flow("a.example.com", "http")]);
        assert_eq!(client::flows(&socket, &[], 1).await.unwrap().len(), 1);
    });
}

#[test]
fn a_change_of_policy_is_asked_for_and_answered() {
    let running = Running::start(false);
    let socket = running.socket();
    runtime().block_on(async {
        let done = client::reload(&socket, None, false).await.unwrap();
        assert_eq!((done.applied, done.plan), (true, 2));
        assert!(!client::reload(&socket, Some(1), true).await.unwrap().applied);
        let unknown = client::reload(&socket, Some(9), false).await.unwrap_err().to_string();
        assert!(unknown.contains("no plan 9") && unknown.contains("nothing was changed"), "{unknown}");
        assert_eq!(client::history(&socket).await.unwrap(), fake().history());
    });
}

/// Runs `task` as another user, in a thread of its own: the system call itself, which is per thread.
pub(super) fn as_user((uid, gid): (u32, u32), task: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: they change this thread's credentials; the list of groups has no entries, so nothing is read.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>())
                | libc::syscall(libc::SYS_setresgid, u32::MAX, gid, u32::MAX)
                | libc::syscall(libc::SYS_setresuid, u32::MAX, uid, u32::MAX)
        };
        assert_eq!(done, 0);
        task();
    });
    thread.join().unwrap();
}

#[test]
fn others_may_ask_and_not_change() {
    // SAFETY: it cannot fail and touches nothing.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: it takes root to be somebody else");
        return;
    }
    let running = Running::start(false);
    // The folder of the test, and the socket in it, let nobody in but root.
    for (path, mode) in
        [(running.dir.path().to_owned(), 0o755), (running.dir.path().join("run"), 0o755), (running.socket(), 0o666)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let socket = running.socket();
    as_user((12_345, 12_345), move || {
        runtime().block_on(async {
            assert_eq!(client::status(&socket).await.unwrap().name, "edge-a");
            for refused in [
                client::reload(&socket, None, false).await.unwrap_err(),
                client::rekey(&socket, "wg0", None).await.unwrap_err(),
                client::demote(&socket, None).await.unwrap_err(),
                client::reload(&socket, Some(1), false).await.unwrap_err(),
            ] {
                assert!(refused.to_string().contains("only root"), "{refused}");
            }
        });
    });
}

/// The group of the policy may ask and not change; others do not even get in.
#[test]
fn the_group_may_ask_and_strangers_may_not() {
    // SAFETY: it cannot fail and touches nothing.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: it takes root to be somebody else");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let control = Control { socket_mode: 0o660, socket_group: Some("54321".into()), ..control(dir.path(), false) };
    let socket = control.socket.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async {
            let server = Server::bind(&control).unwrap();
            ready.send(()).unwrap();
            server.serve(Arc::new(fake()), async { drop(stopped.await) }).await;
        });
    });
    is_ready.recv().unwrap();
    let asks = |who: (u32, u32)| {
        let socket = socket.clone();
        let (said, answer) = std::sync::mpsc::channel();
        as_user(who, move || {
            let asked = runtime().block_on(async {
                let status = client::status(&socket).await.map(|status| status.name).map_err(|e| e.to_string());
                let events = follow::follow(&socket, &follow::Ask::default(), |_| anyhow::bail!("enough")).await;
                let changed = client::reload(&socket, None, false).await.map(|_| ()).map_err(|e| e.to_string());
                (status, matches!(events, follow::Ended::Enough(_)), changed)
            });
            said.send(asked).unwrap();
        });
        answer.recv().unwrap()
    };
    let (status, events, changed) = asks((12_345, 54_321));
    assert_eq!((status.as_deref(), events), (Ok("edge-a"), true));
    assert!(changed.unwrap_err().contains("only root"));
    let (status, events, _) = asks((12_345, 12_345));
    assert!(status.unwrap_err().contains("not allowed to use") && !events);
    assert_eq!(asks((0, 0)).2, Ok(()));
    drop(stop);
    thread.join().unwrap();
    let unknown = Control { socket_group: Some("no-such-group".into()), ..self::control(dir.path(), false) };
    let error = runtime().block_on(async { Server::bind(&unknown).unwrap_err().to_string() });
    assert!(error.contains("no group `no-such-group`") && error.contains("groupadd"), "{error}");
}

#[test]
fn wrong_questions_get_an_answer_with_help() {
    let running = Running::start(false);
    for (target, code, part) in [
        ("/v1/flows?class=htpp", 400, "did you mean `http`?"),
        ("/v1/flows?host=a*b", 400, "whole first label"),
        ("/v1/flows?limit=0", 400, "from 1 to"),
        ("/v1/flows?limit=-1", 400, "prefix, flow and limit"),
        ("/v1/flows?colour=red", 400, "prefix, flow and limit"),
        ("/v2/flows", 404, "/v1/status"),
        ("/v1/flows?limit=666", 504, "did not answer in time"),
    ] {
        let (got, body) = running.get(target);
        assert_eq!(got, code, "{target}: {body}");
        assert!(body.contains(part), "{target}: {body}");
        serde_json::from_str::<types::ApiError>(&body).unwrap();
    }
    let post = running.raw(
        b"POST /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
        Duration::from_secs(5),
    );
    assert!(post.starts_with(b"HTTP/1.1 405"), "{}", String::from_utf8_lossy(&post));
    assert_eq!(running.get("/v1/healthz"), (200, "ok\n".into()));
    let error =
        runtime().block_on(client::flows(&running.socket(), &[("class", Some("htpp"))], 5)).unwrap_err().to_string();
    assert!(error.contains("did you mean `http`?"), "{error}");
}

#[test]
fn garbage_neither_stops_nor_fills_the_server() {
    let running = Running::start(false);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let short = Duration::from_millis(20);
    for round in 0..60_usize {
        let bytes: Vec<u8> = (0..round * 37)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        running.raw(&bytes, short);
    }
    let long = [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let answer = running.raw(&long, Duration::from_secs(5));
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    running.raw(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nx: \0\xff\r\n\r\n", short);
    assert_eq!(running.get("/v1/healthz").0, 200);
}

/// More silent clients than there are seats: they are shown out, and whoever has a question gets in.
#[test]
fn silent_clients_do_not_keep_others_out() {
    let running = Running::start(false);
    let mut silent: Vec<UnixStream> = (0..80).map(|_| UnixStream::connect(running.socket()).unwrap()).collect();
    for (i, stream) in silent.iter_mut().enumerate().filter(|(i, _)| i % 2 == 0) {
        // Half of them have begun to speak.
        stream.write_all(&b"GET /v1/he"[..i % 10]).unwrap();
    }
    assert_eq!(running.get("/v1/healthz").0, 200);
    drop(silent);
}

#[test]
fn metrics_are_on_the_socket_and_on_loopback_and_nothing_else_is() {
    let running = Running::start(true);
    let (code, on_socket) = running.get("/metrics");
    assert_eq!(code, 200);
    assert!(on_socket.contains("softdpu_drop_packets_total{reason=\"no_route\"} 7"), "{on_socket}");
    let ask = |target: &str| {
        let mut tcp = std::net::TcpStream::connect(running.metrics.unwrap()).unwrap();
        write!(tcp, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).unwrap();
        text
    };
    let text = ask("/metrics");
    assert!(text.contains("application/openmetrics-text") && text.ends_with("# EOF\n"), "{text}");
    assert!(ask("/v1/flows").starts_with("HTTP/1.1 404"));
}

#[test]
fn metrics_refuse_an_open_address() {
    let dir = tempfile::tempdir().unwrap();
    let open = Control { metrics: Some("0.0.0.0:0".parse().unwrap()), ..control(dir.path(), false) };
    let error = runtime().block_on(async { Server::bind(&open).unwrap_err().to_string() });
    assert!(error.contains("loopback only"), "{error}");
    assert!(!open.socket.exists(), "a failed start leaves no socket");
}

#[test]
fn the_socket_has_its_mode_and_goes_with_the_server() {
    let running = Running::start(false);
    let socket = running.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = running.dir.path().to_owned();
    let names = |dir: &Path| std::fs::read_dir(dir.join("run")).unwrap().count();
    assert_eq!(names(&folder), 2, "socket and lock");
    // Answered once, so surely accepted; then kept open.
    let mut open = UnixStream::connect(&socket).unwrap();
    open.write_all(b"GET /v1/healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        let mut byte = [0];
        assert_eq!(open.read(&mut byte).unwrap(), 1, "the answer breaks off");
        answer.push(byte[0]);
    }
    let mut running = running;
    drop(running.stop.take());
    running.thread.take().unwrap().join().unwrap();
    assert_eq!(names(&folder), 0);
    assert_eq!(open.read(&mut [0; 1]).unwrap(), 0, "open connections are cut");
}

#[test]
fn a_living_instance_is_not_pushed_aside() {
    let running = Running::start(false);
    let error =
        runtime().block_on(async { Server::bind(&control(running.dir.path(), false)).unwrap_err().to_string() });
    assert!(error.contains(&format!("already running as pid {}", std::process::id())), "{error}");
    assert_eq!(running.get("/v1/healthz").0, 200);
}

#[test]
fn a_dead_instances_socket_is_replaced_and_a_file_in_the_way_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let control = control(dir.path(), false);
    std::fs::create_dir(control.socket.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&control.socket).unwrap());
    std::fs::write(socket::lock_path(&control.socket), "4194305\n").unwrap();
    let error = runtime().block_on(client::status(&control.socket)).unwrap_err().to_string();
    assert!(error.contains("died without cleaning up"), "{error}");
    runtime().block_on(async { drop(Server::bind(&control).unwrap()) });
    std::fs::write(&control.socket, "precious").unwrap();
    let error = runtime().block_on(async { Server::bind(&control).unwrap_err().to_string() });
    assert!(error.contains("in the way"), "{error}");
    assert_eq!(std::fs::read_to_string(&control.socket).unwrap(), "precious");
}

#[test]
fn the_client_finds_the_only_instance_and_names_the_choices() {
    let dir = tempfile::tempdir().unwrap();
    let find = |socket: Option<&Path>, name: Option<&str>| client::find_socket(socket, name, dir.path());
    assert!(find(None, None).unwrap_err().to_string().contains("no instance is running"));
    let bind = |name: &str| std::os::unix::net::UnixListener::bind(dir.path().join(name)).unwrap();
    let _a = bind("edge-a.sock");
    assert_eq!(find(None, None).unwrap(), dir.path().join("edge-a.sock"));
    let _b = bind("edge-b.sock");
    std::fs::write(dir.path().join("edge-b.sock.lock"), "1").unwrap();
    let error = find(None, None).unwrap_err().to_string();
    assert!(error.ends_with("edge-a, edge-b"), "{error}");
    assert_eq!(find(None, Some("edge-b")).unwrap(), dir.path().join("edge-b.sock"));
    assert!(find(None, Some("edge-c")).unwrap_err().to_string().contains("running: edge-a, edge-b"));
    assert_eq!(find(Some(Path::new("/x")), None).unwrap(), Path::new("/x"));
}

#[test]
fn the_client_says_why_it_cannot_connect() {
    let dir = tempfile::tempdir().unwrap();
    let error = runtime().block_on(client::status(&dir.path().join("none.sock"))).unwrap_err().to_string();
    assert!(error.contains("is the instance running?"), "{error}");
}
