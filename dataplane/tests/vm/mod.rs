//! What the tests for the VM (`cargo xtask vm`) share.

#![allow(dead_code)] // each test file is a crate of its own and uses a part of this
#![allow(clippy::unwrap_used)]

use std::time::Duration;

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
