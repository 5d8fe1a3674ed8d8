//! Real applications on the server: nginx over HTTP and HTTPS, dnsmasq, iperf3, and an echo of our own for round trips.

use std::{
    fs,
    net::{TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use softdpu_testbed::{
    cleanup::RunDir,
    process::{self, Process},
    topology::{SERVER, Topology},
};

/// Name of the shop over HTTP.
pub const SHOP: &str = "shop.example";
/// Name of the shop over HTTPS.
pub const SECURE: &str = "pay.shop.example";
/// UDP port of the echo.
pub const ECHO_PORT: u16 = 7007;

const PATIENCE: Duration = Duration::from_secs(15);

/// The servers; they end when dropped.
#[derive(Debug)]
pub struct Apps {
    _running: Vec<Process>,
}

impl Apps {
    /// Starts all of them on the server and waits until each answers there. `folder/www` is what nginx serves.
    ///
    /// # Errors
    /// When one does not come up; the message has its last words.
    pub fn start(topology: &Topology, folder: &RunDir) -> Result<Self> {
        certificate(folder)?;
        let mut running = vec![nginx(topology, folder)?, dnsmasq(topology, folder)?];
        let mut iperf = topology.server.command("iperf3");
        running.push(Process::start(iperf.args(["-s", "--forceflush"]), &folder.file("iperf3-server.log"))?);
        for (process, port) in running.iter_mut().zip([443, 53, 5201]) {
            process.until(PATIENCE, |_| {
                let connect = || Ok(TcpStream::connect((SERVER[0], port))?);
                topology.server.within(connect).is_ok()
            })?;
        }
        echo(topology)?;
        Ok(Self { _running: running })
    }
}

/// A certificate of our own for both names, as `cert.pem` and `key.pem`.
fn certificate(folder: &RunDir) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={SHOP}"), "-addext", &format!("subjectAltName=DNS:{SHOP},DNS:{SECURE}")]);
    openssl.arg("-keyout").arg(folder.file("key.pem")).arg("-out").arg(folder.file("cert.pem"));
    process::run(&mut openssl, PATIENCE)?.ok().context("make a certificate")?;
    Ok(())
}

fn nginx(topology: &Topology, folder: &RunDir) -> Result<Process> {
    let base = folder.path().display();
    // `user root`: the folder is private, and the namespace is all that this nginx can reach.
    let text = format!(
        r"daemon off;
user root;
worker_processes 1;
pid {base}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  types {{ text/html html; application/json json; text/plain log; }}
  default_type application/octet-stream;
  client_body_temp_path {base}/nginx-body;
  proxy_temp_path {base}/nginx-proxy;
  fastcgi_temp_path {base}/nginx-fastcgi;
  uwsgi_temp_path {base}/nginx-uwsgi;
  scgi_temp_path {base}/nginx-scgi;
  server {{
    listen {v4}:80; listen [{v6}]:80;
    server_name {SHOP};
    root {base}/www;
  }}
  server {{
    listen {v4}:443 ssl; listen [{v6}]:443 ssl;
    server_name {SECURE};
    ssl_certificate {base}/cert.pem;
    ssl_certificate_key {base}/key.pem;
    root {base}/www;
  }}
}}
",
        v4 = SERVER[0],
        v6 = SERVER[1],
    );
    fs::write(folder.file("nginx.conf"), text)?;
    let mut command = topology.server.command("nginx");
    command.args(["-e", "stderr", "-c"]).arg(folder.file("nginx.conf"));
    Process::start(&mut command, &folder.file("nginx.log"))
}

fn dnsmasq(topology: &Topology, folder: &RunDir) -> Result<Process> {
    let mut command = topology.server.command("dnsmasq");
    command.args([
        "--no-daemon",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--user=root",
        "--bind-interfaces",
    ]);
    command.arg(format!("--listen-address={}", SERVER[0]));
    for address in SERVER {
        command.arg(format!("--host-record={SHOP},{address}")).arg(format!("--host-record={SECURE},{address}"));
    }
    command.arg(format!("--pid-file={}", folder.file("dnsmasq.pid").display()));
    Process::start(&mut command, &folder.file("dnsmasq.log"))
}

/// Answers every datagram with itself until this process ends.
fn echo(topology: &Topology) -> Result<()> {
    let socket = topology.server.within(|| Ok(UdpSocket::bind((SERVER[0], ECHO_PORT))?))?;
    std::thread::Builder::new().name("echo".into()).spawn(move || {
        let mut buffer = [0u8; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    })?;
    Ok(())
}
