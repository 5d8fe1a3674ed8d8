//! The control API of real instances against its document: by a stranger (schemathesis), as a stranger (another user), and
//! each example asked for. `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu --test api_schemathesis examples` writes the answers
//! that docs/api.md shows.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{At, PATIENCE, World, binary};
use serde_json::Value;
use softdpu::control::openapi::{self, routes};
use softdpu_testbed::peers::wireguard::KeyPair;
use softdpu_testbed::process::{self, eventually};
use softdpu_testbed::topology::{EDGE_A, EDGE_B, SERVER};

/// Two edges with an ESP tunnel, a WireGuard tunnel and three applications' intents.
struct Api {
    world: World,
    /// Of the WireGuard tunnel of edge A, and so of its socket in /var/run/wireguard: no other's.
    tunnel: String,
}

impl Api {
    fn running(tag: &str) -> Option<Self> {
        let mut world = World::idle(tag, |setup| {
            setup.policy.head = "owner = \"netops <netops@example.com>\"\nintents = \"intents\"".into();
        })?;
        let intents = world.folder.file("intents");
        std::fs::create_dir(&intents).unwrap();
        for (name, text) in [
            ("payments", include_str!("../../configs/intents/payments.intent.toml")),
            ("backups", include_str!("../../configs/intents/backups.intent.toml")),
            ("video", include_str!("../../configs/intents/video.intent.toml")),
        ] {
            let text = text.replace("\"to-b\"", "\"peer\"");
            std::fs::write(intents.join(format!("{name}.intent.toml")), text).unwrap();
        }
        let keys = [KeyPair::new().unwrap(), KeyPair::new().unwrap()];
        // Tests may share a process.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |at: usize| format!("w{}{}{n}", std::process::id(), ['a', 'b'][at]);
        for (at, side) in [At::A, At::B].into_iter().enumerate() {
            let key = world.folder.file(format!("wg{at}.key"));
            std::fs::write(&key, &keys[at].private).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
            let mut text = std::fs::read_to_string(&world.files(side).policy).unwrap();
            text += &format!(
                "\n[[tunnel]]\nname = \"{}\"\ntype = \"wireguard\"\nlisten_port = 51820\nprivate_key_file = \"{}\"\n[[tunnel.peer]]\n\
                 name = \"branch\"\npublic_key = \"{}\"\nendpoint = \"{}:51820\"\nallowed_ips = [\"10.9.0.0/24\"]\n",
                name(at),
                key.display(),
                keys[1 - at].public,
                [EDGE_B, EDGE_A][at][0],
            );
            std::fs::write(&world.files(side).policy, text).unwrap();
        }
        world.start(At::A);
        world.start(At::B);
        world.topology.reachable(SERVER[0], PATIENCE).unwrap();
        Some(Self { world, tunnel: name(0) })
    }

    fn socket(&self) -> PathBuf {
        self.world.files(At::A).socket.clone()
    }

    /// Flows of HTTP through the tunnel, and a drop.
    fn traffic(&self) {
        let listener = self.world.topology.server.within(|| Ok(TcpListener::bind((SERVER[0], 8080))?)).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nserver: shop\r\ncontent-length: 2\r\n\r\nok").unwrap();
        });
        let mut client = self.world.topology.client.within(|| Ok(TcpStream::connect((SERVER[0], 8080))?)).unwrap();
        client.write_all(b"GET /catalogue.html HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
        server.join().unwrap();
        let _ = self.world.ping(&["-c", "2", "-i", "0.2", "-W", "1", SERVER[0]]);
        let _ = self.world.ping(&["-c", "1", "-W", "1", "10.2.0.77"]);
    }

    /// `curl --unix-socket`: code and body.
    fn curl(&self, words: &[&str], target: &str) -> (u16, String) {
        let mut command = Command::new("curl");
        command.args(["-s", "-m", "20", "-w", "\n%{http_code}"]).args(words).arg("--unix-socket").arg(self.socket());
        command.arg(format!("http://localhost{target}"));
        let text = process::run(&mut command, Duration::from_secs(30)).unwrap().ok().unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }
}

/// curl's words for an example.
fn words(route: &routes::Route) -> Vec<&'static str> {
    match (&route.body, route.method) {
        (Some(body), _) => vec!["--json", body.example],
        (None, "post") => vec!["-X", "POST"],
        _ => Vec::new(),
    }
}

/// What is heard on a port of loopback goes to the control socket, as the user who asks for it.
fn bridge(socket: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = UnixStream::connect(&socket) else { return };
            let (mut up, mut down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up.0, &mut up.1);
                let _ = up.1.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut down.0, &mut down.1);
                let _ = down.1.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    port
}

/// Ends every trace and capture soon after it has begun: by themselves they go on until there are packets enough.
struct Stopper(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Stopper {
    fn start(socket: PathBuf) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let stop = move || {
            while !seen.load(Ordering::Relaxed) {
                if let Ok(mut stream) = UnixStream::connect(&socket) {
                    let asked =
                        stream.write_all(b"POST /v1/watch/stop HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
                    let _ = asked.and_then(|()| stream.read_to_end(&mut Vec::new()));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        Self(over, Some(std::thread::spawn(stop)))
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().map(JoinHandle::join);
    }
}

/// Where `cargo xtask setup` puts it, or on PATH.
fn schemathesis() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    [built].into_iter().chain(std::env::split_paths(&path)).map(|at| at.join("schemathesis")).find(|at| at.is_file())
}

/// 15 requests a second and more, for at most a minute and a half.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn schemathesis_finds_nothing() {
    let Some(program) = schemathesis() else {
        eprintln!("SKIPPED: schemathesis_finds_nothing needs schemathesis: `cargo xtask setup` installs it from PyPI");
        return;
    };
    let Some(mut api) = Api::running("e2e-api-st") else { return };
    api.traffic();
    let port = bridge(api.socket());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api");
    let work = api.world.folder.file("schemathesis");
    std::fs::create_dir(&work).unwrap();
    let mut command = Command::new(program);
    command.arg("--config-file").arg(folder.join("schemathesis.toml")).arg("run");
    command.arg(format!("http://127.0.0.1:{port}/v1/openapi.json"));
    command.args(["--max-examples", "50", "--seed", "1", "--request-timeout", "15", "--no-color"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]);
    let _stopper = Stopper::start(api.socket());
    // A connection for each: one that is kept is closed after 5 s of silence.
    command.args(["-H", "connection: close", "--report", "ndjson", "--report-dir"]).arg(work.join("report"));
    command.env("SCHEMATHESIS_HOOKS", folder.join("hooks.py")).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&work);
    let start = Instant::now();
    let said = process::run(&mut command, LIMIT).unwrap();
    eprintln!("{}\n{:.0} s", process::tail(&said.out, 25), start.elapsed().as_secs_f64());
    assert!(said.status.success(), "{}\n{}", said.out, said.err);
    assert!(api.world.edge(At::A).alive());
    assert_eq!(api.curl(&[], "/v1/healthz"), (200, "ok\n".into()));
    api.world.assert_sound();
}

/// Somebody in the group reads and is refused changes; somebody else does not get in; root changes. With programs of others.
#[test]
fn users_of_the_host_may_what_the_document_says() {
    let Some(mut world) = World::idle("e2e-api-users", |_| {}) else { return };
    // Anybody may look into the folder: what counts is the socket.
    let socket = world.files(At::A).socket.clone();
    std::fs::set_permissions(socket.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let policy = &world.files(At::A).policy;
    let text = std::fs::read_to_string(policy).unwrap().replace("[control]\n", "[control]\nsocket_group = 54321\n");
    std::fs::write(policy, text).unwrap();
    world.start(At::A);
    let api = Api { world, tunnel: String::new() };
    let as_user = |group: &str, words: &[&str], target: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            "65534",
            "--regid",
            group,
            "--clear-groups",
            "curl",
            "-s",
            "-m",
            "10",
            "-w",
            "%{http_code}",
        ]);
        command.args(words).arg("--unix-socket").arg(api.socket()).arg(format!("http://localhost{target}"));
        let said = process::run(&mut command, PATIENCE).unwrap();
        (said.status.code().unwrap(), said.out)
    };
    for route in routes::ROUTES.iter().filter(|route| route.method == "get") {
        let (code, said) = as_user("54321", &["-o", "/dev/null"], &route.ask.replace(' ', "%20"));
        assert_eq!((code, said.as_str()), (0, "200"), "{}", route.path);
    }
    for route in routes::ROUTES.iter().filter(|route| route.method == "post") {
        let (code, said) = as_user("54321", &words(route), route.ask);
        assert!(code == 0 && said.contains("only root") && said.ends_with("403"), "{}: {said}", route.path);
    }
    // curl's 7: could not connect.
    assert_eq!(as_user("65534", &[], "/v1/status").0, 7);
    assert_eq!(api.curl(&["-X", "POST"], "/v1/reload").0, 200);
}

/// The events of a real instance, as `softdpu events` prints them: over a reload that is refused, one that is taken up, a new
/// session, a link that goes down and comes back, and the instance's own restart.
#[test]
fn events_are_followed_over_a_restart() {
    let Some(mut api) = Api::running("e2e-api-ev") else { return };
    let socket = api.socket();
    let mut command = Command::new(binary());
    command.args(["events", "--json", "--since", "0", "--socket"]).arg(&socket).stdout(Stdio::piped());
    let log = api.world.folder.file("events.log");
    let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Value>::new()));
    let (out, into) = (child.stdout.take().unwrap(), events.clone());
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            into.lock().unwrap().push(serde_json::from_str(&line).unwrap());
        }
    });
    let heard = |kind: &str, about: &str| {
        let find = || events.lock().unwrap().iter().find(|e| e["kind"] == kind && e["about"] == about).cloned();
        let found = eventually(PATIENCE, find);
        found.unwrap_or_else(|| panic!("no {kind} {about:?} in {:#?}", events.lock().unwrap()))
    };
    heard("instance_started", "edge-a");
    assert_eq!(api.curl(&["-X", "POST"], &format!("/v1/tunnels/{}/rekey", api.tunnel)).0, 200);
    heard("peer_up", &format!("{}/branch", api.tunnel));

    let policy = api.world.files(At::A).policy.clone();
    let own = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, own.replace("compress = \"lz4\"", "compress = \"lz5\"")).unwrap();
    assert_eq!(api.curl(&["-X", "POST"], "/v1/reload").0, 422);
    let refused = heard("plan_refused", "reload");
    assert!(refused["facts"]["error"].as_str().unwrap().contains("lz5"), "{refused}");
    assert!(refused["text"].as_str().unwrap().contains("lz5"), "{refused}");
    std::fs::write(&policy, format!("{own}\n[[rule]]\nname = \"last\"\nprotocol = \"icmp\"\naction = \"drop\"\n"))
        .unwrap();
    let backups = api.world.folder.file("intents").join("backups.intent.toml");
    let text = std::fs::read_to_string(&backups).unwrap();
    std::fs::write(&backups, text.replace("encrypt = \"preferred\"", "encrypt = \"never\"")).unwrap();
    assert_eq!(api.curl(&["-X", "POST"], "/v1/reload").0, 200);
    assert_eq!(heard("plan_applied", "reload")["facts"]["plan"], 2);
    assert_eq!(heard("intent_changed", "backups")["facts"]["change"], "changed");

    api.world.topology.edge_a.ip("link set apps down").unwrap();
    heard("port_down", "apps");
    api.world.topology.edge_a.ip("link set apps up").unwrap();
    heard("port_up", "apps");

    api.world.take(At::A).stop().unwrap();
    heard("instance_stopping", "");
    let before = events.lock().unwrap().len();
    api.world.start(At::A);
    let again = || {
        let events = events.lock().unwrap();
        events[before..].iter().find(|e| e["kind"] == "instance_started").map(|e| e["id"].as_u64().unwrap())
    };
    let id = eventually(PATIENCE, again).expect("it goes on with the next instance");
    assert!(events.lock().unwrap()[..before].iter().all(|event| event["id"].as_u64().unwrap() < id), "numbers rise");
    // SAFETY: a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    reader.join().unwrap();
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("waiting for it to come back") && said.contains("runs again"), "{said}");
}

/// Every example of the document, asked of a real instance.
#[test]
fn examples_are_answered() {
    let Some(api) = Api::running("e2e-api-ex") else { return };
    api.traffic();
    assert_eq!(api.curl(&["-X", "POST"], &format!("/v1/tunnels/{}/rekey", api.tunnel)).0, 200);
    // A look a second: for the events.
    std::thread::sleep(Duration::from_millis(2500));
    for route in routes::ROUTES {
        let mut words = words(route);
        let file = api.world.folder.file("answer");
        let mut ping = api.world.topology.client.command("ping");
        ping.args(["-c", "10", "-i", "0.2", "-W", "1", SERVER[0]]).stdout(Stdio::null());
        // What is watched for is a packet.
        let packets = route.body.as_ref().map(|_| ping.spawn().unwrap());
        if packets.is_some() {
            words.extend(["-o", file.to_str().unwrap()]);
        }
        let (code, mut body) = api.curl(&words, &route.ask.replace("wg0", &api.tunnel));
        if let Some(mut packets) = packets {
            packets.wait().unwrap();
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.is_empty(), "{}", route.path);
            body = String::from_utf8_lossy(&bytes).into_owned();
        }
        assert_eq!(code, 200, "{}: {body}", route.path);
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() && route.id != "capture" {
            write_example(&api, route, &body);
        }
    }
    assert_eq!(api.curl(&[], "/v1/openapi.json").1, openapi::text());
}

/// The answer, shortened, with the names and places that a reader would have.
fn write_example(api: &Api, route: &routes::Route, body: &str) {
    let folder = api.socket().parent().unwrap().display().to_string();
    let body = body.replace(&api.tunnel, "wg0").replace(&folder, "/etc/softdpu");
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/openapi/examples");
    let (name, text) = match route.answer {
        routes::Answer::Json(_) if route.id == "openapi" => {
            let mut document: Value = serde_json::from_str(&body).unwrap();
            let document = document.as_object_mut().unwrap();
            document.retain(|key, _| key == "openapi" || key == "info" || key == "paths");
            document["info"] = serde_json::json!({ "title": "softdpu", "version": document["info"]["version"] });
            document["paths"] = serde_json::json!({ "/v1/status": {} });
            ("json", format!("{:#}\n", Value::Object(document.clone())))
        }
        routes::Answer::Json(_) => {
            let mut value: Value = serde_json::from_str(&body).unwrap();
            shorten(&mut value);
            ("json", format!("{value:#}\n"))
        }
        routes::Answer::Text(_) => ("txt", body.lines().take(12).map(short).collect()),
        // Whole events.
        routes::Answer::Events(_) => ("txt", body.lines().take(16).map(|line| format!("{line}\n")).collect()),
    };
    std::fs::write(at.join(format!("{}.{name}", route.id)), text).unwrap();
}

/// A line of what may be long.
fn short(line: &str) -> String {
    let start: String = line.chars().take(600).collect();
    if start.len() < line.len() { format!("{start}…\n") } else { format!("{line}\n") }
}

/// Lists to their first two.
fn shorten(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.truncate(2);
            list.iter_mut().for_each(shorten);
        }
        Value::Object(map) => {
            map.values_mut().for_each(shorten);
            // Long maps of reasons: those that have counted something first.
            if map.len() > 40 {
                let keep: Vec<String> = map.keys().take(4).cloned().collect();
                map.retain(|key, _| keep.contains(key));
            }
        }
        _ => {}
    }
}
