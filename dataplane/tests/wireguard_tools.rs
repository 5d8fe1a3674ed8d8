//! The configuration socket, spoken to by hand and by the real `wg`.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use softdpu::crypto::wg::{PrivateKey, PublicKey};
use softdpu::tunnel::wireguard::Limits;
use softdpu::tunnel::wireguard::serve::{Handle, Options, Service};
use softdpu::tunnel::wireguard::uapi::SetDevice;
use softdpu::tunnel::wireguard::uapi_server::FOLDER;

/// A running interface; ends when dropped.
struct Interface {
    handle: Handle,
    socket: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Interface {
    fn start(folder: &Path, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = Options {
            name: name.to_owned(),
            folder: Some(folder.to_owned()),
            limits: Limits { peers: 20_000, ..Limits::default() },
            set: SetDevice::default(),
        };
        let service = runtime.block_on(async { Service::new(options) }).unwrap();
        let handle = service.handle();
        runtime.spawn(service.run(|device| assert!(device.peers().count() <= device.slots())));
        Self { handle, socket: folder.join(format!("{name}.sock")), runtime: Some(runtime) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

/// Writes a request and reads up to the empty line.
fn ask(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

fn answer(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\n\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_protocol_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let interface = Interface::start(folder.path(), "wgt0");
    let meta = std::fs::symlink_metadata(&interface.socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let mut one = interface.connect();
    let mut two = interface.connect();
    let empty = ask(&mut one, "get=1\n\n");
    assert!(empty.starts_with("listen_port=") && empty.ends_with("\nerrno=0\n\n"), "{empty}");
    let key = PrivateKey::generate().unwrap();
    let peer = hex(PrivateKey::generate().unwrap().public().as_bytes());
    let private = hex(key.expose());
    let set = format!(
        "set=1\nprivate_key={private}\nfwmark=0\npublic_key={peer}\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\n\
         persistent_keepalive_interval=7\n\n"
    );
    assert_eq!(ask(&mut two, &set), "errno=0\n\n");
    let state = ask(&mut one, "get=1\n\n");
    assert!(state.contains(&private) && state.contains("\nallowed_ip=fd00::/8\n"), "{state}");
    // A mistake at the end: nothing of the request is applied, and the connection goes on.
    let wrong = format!("set=1\nreplace_peers=true\npublic_key={peer}\nremove=true\nallowed_ip=10.0.0.0/99\nx=1\n\n");
    assert_eq!(ask(&mut two, &wrong), "errno=-22\n\n");
    assert_eq!(ask(&mut two, "what=1\n\n"), "errno=-71\n\n");
    assert_eq!(ask(&mut two, &format!("set=1\n{}\n\n", "x".repeat(100_000))), "errno=-7\n\n");
    assert_eq!(ask(&mut one, "get=1\n\n"), state);
    // The newer way to take one allowed IP away, and several requests in one write.
    let minus = format!("set=1\npublic_key={peer}\nupdate_only=true\nallowed_ip=-10.0.0.0/8\n\nget=1\n\n");
    assert_eq!(ask(&mut two, &minus), "errno=0\n\n");
    let state = answer(&mut two);
    assert!(!state.contains("10.0.0.0/8") && state.contains("fd00::/8"), "{state}");
    // A port that is taken is an error, and the old one stays.
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let asked = format!("set=1\nlisten_port={port}\nreplace_peers=true\n\n");
    assert_eq!(ask(&mut two, &asked), format!("errno=-{}\n\n", 98));
    assert_eq!(ask(&mut two, "get=1\n\n"), state);
    drop(taken);
    assert_eq!(ask(&mut two, &asked), "errno=0\n\n");
    assert_eq!(ask(&mut one, "get=1\n\n"), format!("private_key={private}\nlisten_port={port}\nerrno=0\n\n"));
}

#[test]
fn a_stale_socket_is_taken_over_and_another_instance_is_not() {
    let folder = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("wgt0.sock")).unwrap());
    let interface = Interface::start(folder.path(), "wgt0");
    assert!(ask(&mut interface.connect(), "get=1\n\n").ends_with("errno=0\n\n"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let again = |name: &str| {
        let options = Options {
            name: name.into(),
            folder: Some(folder.path().into()),
            limits: Limits::default(),
            set: SetDevice::default(),
        };
        runtime.block_on(async { Service::new(options).map(|_| ()) })
    };
    assert!(again("wgt0").is_err());
    for name in ["", "..", "a/b", "sixteen-letters-", "a b"] {
        assert!(again(name).is_err(), "{name:?}");
    }
    let socket = interface.socket.clone();
    drop(interface);
    assert!(!socket.exists(), "removed at the end");
}

#[test]
fn a_client_that_stops_halfway_stops_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let interface = Interface::start(folder.path(), "wgt1");
    let mut silent = interface.connect();
    silent.write_all(b"set=1\nreplace_peers=true").unwrap();
    drop(interface.connect());
    assert!(ask(&mut interface.connect(), "get=1\n\n").ends_with("errno=0\n\n"));
}

#[test]
fn ten_thousand_peers_by_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let interface = Interface::start(folder.path(), "wgt2");
    let mut stream = interface.connect();
    let mut request = "set=1\nreplace_peers=true\n".to_owned();
    for n in 0..10_000_u32 {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        request +=
            &format!("public_key={}\nendpoint=192.0.2.1:5\nreplace_allowed_ips=true\nallowed_ip={ip}/32\n", hex(&key));
    }
    let began = Instant::now();
    assert_eq!(ask(&mut stream, &(request + "\n")), "errno=0\n\n");
    let state = ask(&mut stream, "get=1\n\n");
    assert_eq!(state.matches("public_key=").count(), 10_000);
    eprintln!("set and get of 10,000 peers: {:?}", began.elapsed());
}

/// `wg` with the arguments; `None` where it is missing, or we are not root.
fn wg(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    if !softdpu_testbed::is_root() {
        eprintln!("SKIPPED: wg looks in {FOLDER}, which takes root");
        return None;
    }
    let child = Command::new("wg")
        .args(arguments)
        .env("WG_HIDE_KEYS", "never")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED: no wg on this machine (Debian: wireguard-tools)");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text))
}

fn base64(bytes: &[u8; 32]) -> String {
    PublicKey::from_bytes(*bytes).to_string()
}

#[test]
fn the_real_wg() {
    if wg(&["--version"], "").is_none() {
        return;
    }
    let name = format!("sd{}", std::process::id());
    let interface = Interface::start(Path::new(FOLDER), &name);
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ok = |arguments: &[&str]| {
        let (ok, text) = wg(arguments, "").unwrap();
        assert!(ok, "wg {arguments:?}: {text}");
        text
    };
    let private = PrivateKey::generate().unwrap();
    let [one, two] = [(); 2].map(|()| PrivateKey::generate().unwrap().public().to_string());
    let (private_text, psk) = (base64(private.expose()), base64(&[5; 32]));
    let key_file = file("key", &private_text);
    let psk_file = file("psk", &psk);

    ok(&["set", &name, "private-key", &key_file, "fwmark", "0x20"]);
    ok(&[
        "set",
        &name,
        "peer",
        &one,
        "preshared-key",
        &psk_file,
        "endpoint",
        "127.0.0.1:9",
        "persistent-keepalive",
        "25",
        "allowed-ips",
        "10.0.0.0/8,fd00::/8",
        "peer",
        &two,
        "endpoint",
        "[::1]:9",
        "allowed-ips",
        "10.1.0.0/16",
    ]);
    let port = ok(&["show", &name, "listen-port"]).trim().to_owned();
    let dump = ok(&["show", &name, "dump"]);
    let public = private.public().to_string();
    let lines: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0], [&private_text, &public, &port, "0x20"]);
    assert_eq!(lines[1][..4], [&one, &psk, "127.0.0.1:9", "10.0.0.0/8,fd00::/8"]);
    assert_eq!((lines[1][4], lines[1][7]), ("0", "25"));
    assert_eq!(lines[2][..4], [&two, "(none)", "[::1]:9", "10.1.0.0/16"]);
    assert!(ok(&["show", "interfaces"]).split_whitespace().any(|i| i == name));
    assert!(ok(&["show", "all", "dump"]).contains(&format!("{name}\t{one}")));
    assert!(ok(&["show", &name]).contains("persistent keepalive: every 25 seconds"));

    // What it shows as configuration can be set again.
    let config = ok(&["showconf", &name]);
    assert!(config.contains(&format!("PrivateKey = {private_text}")), "{config}");
    let config_file = file("conf", &config);
    ok(&["setconf", &name, &config_file]);
    assert_eq!(ok(&["showconf", &name]), config);
    // Of these, only the difference.
    let without =
        config.split("[Peer]").take(2).collect::<Vec<_>>().join("[Peer]").replace("10.0.0.0/8", "10.7.0.0/16");
    ok(&["syncconf", &name, &file("sync", &without)]);
    let allowed = ok(&["show", &name, "allowed-ips"]);
    assert_eq!(allowed.lines().count(), 1, "{allowed}");
    assert!(allowed.contains("10.7.0.0/16 fd00::/8"), "{allowed}");
    ok(&["set", &name, "peer", &one, "remove"]);
    assert_eq!(ok(&["show", &name, "peers"]), "");
    ok(&["set", &name, "private-key", "/dev/null", "listen-port", "0"]);
    assert!(ok(&["show", &name, "private-key"]).contains("(none)"));

    // Errors come through as the system's text.
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (fine, text) = wg(&["set", &name, "listen-port", &port], "").unwrap();
    assert!(!fine && text.contains("Address already in use"), "{text}");
    assert_eq!(interface.handle.events.lost(), 0);
}
