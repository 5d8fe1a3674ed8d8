//! What the tests for the VM (`cargo xtask vm`) share.

#![allow(dead_code)] // each test file is a crate of its own and uses a part of this
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use serde_json::Value;
use softdpu_testbed::{
    netns::NetNs,
    process::{self, Process},
};

/// Time for what should take a moment. The VM's processors are emulated.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether this is the VM; says aloud that the test is skipped where it is not.
pub fn here() -> bool {
    let here = std::env::var_os("SOFTDPU_VM").is_some();
    if !here {
        eprintln!("SKIPPED: only in the VM (cargo xtask vm)");
    }
    here
}

/// Major and minor number of the kernel.
pub fn kernel() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-', '+']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Runs iperf3 from `client` to a server on `server` for `seconds`, with more arguments of the client; its report.
pub fn iperf(client: &NetNs, server: &NetNs, address: &str, seconds: u32, arguments: &[&str]) -> Value {
    let folder = softdpu_testbed::cleanup::RunDir::new("iperf").unwrap();
    let mut listener = server.command("iperf3");
    let mut listener =
        Process::start(listener.args(["-s", "-1", "--forceflush", "-B", address]), &folder.file("log")).unwrap();
    listener.until(PATIENCE, |server| server.said().contains("listening")).unwrap();
    let mut command = client.command("iperf3");
    command.args(["-J", "-c", address, "-t", &seconds.to_string(), "--connect-timeout", "10000"]).args(arguments);
    let said = process::run(&mut command, PATIENCE + Duration::from_secs(u64::from(seconds))).unwrap();
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("iperf3: {said:?}"));
    assert!(report["error"].is_null(), "iperf3 to {address} {arguments:?}: {}", report["error"]);
    report
}

/// Bits per second that a receiver got, in an iperf3 report.
pub fn rate(report: &Value) -> f64 {
    let end = &report["end"];
    let sum = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    sum["bits_per_second"].as_f64().unwrap()
}

/// TCP from one host to an echo on another, with checked content.
pub fn tcp(from: &NetNs, to: &NetNs, address: &str, data: &[u8]) {
    let listener = to.within(|| Ok(TcpListener::bind((address, 0))?)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            listener.set_nonblocking(true).unwrap();
            let (mut stream, _) = process::eventually(PATIENCE, || listener.accept().ok()).expect("a connection");
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let mut stream = from.within(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(data).expect("send");
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("receive");
        echo.join().expect("the echo");
        assert!(back == data, "{} bytes went, {} came back or they differ", data.len(), back.len());
    });
}

/// Datagrams of several lengths from one host to an echo on another, with checked content.
pub fn udp(from: &NetNs, to: &NetNs, address: &str, lengths: &[usize]) {
    let echo = to.within(|| Ok(UdpSocket::bind((address, 0))?)).unwrap();
    let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let client = from.within(|| Ok(UdpSocket::bind(any)?)).unwrap();
    client.connect(echo.local_addr().unwrap()).unwrap();
    for socket in [&echo, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let mut buffer = vec![0u8; 65_536];
    for (seed, length) in (1..).zip(lengths) {
        let data = crate::common::traffic::bytes(seed, *length, false);
        client.send(&data).unwrap();
        let (got, back) = echo.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{length} bytes there: {error}"));
        assert!(buffer[..got] == data, "{length} bytes differ there");
        echo.send_to(&buffer[..got], back).unwrap();
        let got = client.recv(&mut buffer).unwrap_or_else(|error| panic!("{length} bytes back: {error}"));
        assert!(buffer[..got] == data, "{length} bytes differ back");
    }
}

/// Pings until one is answered.
pub fn ping(from: &NetNs, address: &str) {
    let answered = process::eventually(PATIENCE, || {
        let mut ping = from.command("ping");
        ping.args(["-n", "-c", "1", "-W", "0.5", address]);
        process::run(&mut ping, PATIENCE).ok()?.ok().ok()
    });
    assert!(answered.is_some(), "{address} does not answer {}", from.name());
}

/// What the kernel's IPsec counted as wrong in a namespace.
pub fn xfrm_errors(host: &NetNs) -> Vec<String> {
    let text = host.within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/xfrm_stat")?)).unwrap();
    text.lines().filter(|line| line.split_whitespace().nth(1) != Some("0")).map(str::to_owned).collect()
}
