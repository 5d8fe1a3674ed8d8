//! The three applications: payments over HTTPS, backups by rsync, video as a stream of RTP.

use std::{
    fmt::Write as _,
    fs,
    net::{TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    cleanup::RunDir,
    process::{self, Process},
    topology::{SERVER, Topology},
};

pub const PAYMENTS: u16 = 443;
pub const BACKUPS: u16 = 873;
pub const VIDEO: u16 = 5004;
/// In every record of the payments' and the backups' files, and in every packet of the video.
pub const WORD: &[u8] = b"IBAN DE02120300000000202051";

const PATIENCE: Duration = Duration::from_secs(20);

/// The servers at site B; they end when dropped.
#[derive(Debug)]
pub struct Apps {
    _servers: [Process; 2],
    video: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Bytes of the file that is backed up.
    pub backup: u64,
}

impl Apps {
    /// Starts them, and makes the files: what is paid for, and what is backed up.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start(topology: &Topology, folder: &RunDir, backup: u64) -> Result<Self> {
        let site = folder.file("site-b");
        fs::create_dir_all(site.join("vault"))?;
        fs::write(site.join("statement.txt"), records(200_000))?;
        fs::write(folder.file("ledger.log"), records(backup as usize))?;
        let backup = fs::metadata(folder.file("ledger.log"))?.len();
        let (key, certificate) = (folder.file("tls.key"), folder.file("tls.crt"));
        let mut make = Command::new("openssl");
        make.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        make.args(["-subj", "/CN=pay.example", "-addext", "subjectAltName=DNS:pay.example", "-keyout"]);
        process::run(make.arg(&key).arg("-out").arg(&certificate), PATIENCE)?.ok().context("make a certificate")?;
        let mut https = topology.server.command("openssl");
        https.args(["s_server", "-quiet", "-WWW", "-accept", "443", "-key"]).arg(&key).arg("-cert").arg(&certificate);
        https.current_dir(&site);
        let vault = site.join("vault");
        let text = format!(
            "use chroot = no\nreverse lookup = no\nuid = 0\ngid = 0\n[vault]\npath = {}\nread only = no\n",
            vault.display()
        );
        fs::write(folder.file("rsyncd.conf"), text)?;
        let mut rsync = topology.server.command("rsync");
        rsync.args(["--daemon", "--no-detach", "--port=873", "--address", SERVER[0], "--config"]);
        rsync.arg(folder.file("rsyncd.conf"));
        let mut servers = [
            Process::start(&mut https, &folder.file("https.log"))?,
            Process::start(&mut rsync, &folder.file("rsync.log"))?,
        ];
        for (server, port) in servers.iter_mut().zip([PAYMENTS, BACKUPS]) {
            server
                .until(PATIENCE, |_| topology.server.within(|| Ok(TcpStream::connect((SERVER[0], port))?)).is_ok())?;
        }
        let (video, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = Some(viewer(topology, video.clone(), end.clone())?);
        Ok(Self { _servers: servers, video, end, thread, backup })
    }

    /// Packets of video that arrived so far.
    pub fn viewed(&self) -> u64 {
        self.video.load(Ordering::Relaxed)
    }

    /// Fetches the statement over HTTPS. Whether all of it came.
    ///
    /// # Errors
    /// When curl cannot be run.
    pub fn pay(&self, topology: &Topology, folder: &RunDir, limit: Duration) -> Result<bool> {
        let to = folder.file("statement.txt");
        let _ = fs::remove_file(&to);
        let mut curl = topology.client.command("curl");
        curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", &limit.as_secs().to_string()]);
        curl.args(["--resolve", &format!("pay.example:443:{}", SERVER[0]), "--cacert"]).arg(folder.file("tls.crt"));
        curl.arg("-o").arg(&to).arg("https://pay.example/statement.txt");
        let said = process::run(&mut curl, limit + PATIENCE)?;
        let same = || fs::read(&to).ok() == fs::read(folder.file("site-b/statement.txt")).ok();
        Ok(said.status.success() && same())
    }

    /// Backs the ledger up by rsync, anew. Whether all of it is there.
    ///
    /// # Errors
    /// When rsync cannot be run.
    pub fn back_up(&self, topology: &Topology, folder: &RunDir) -> Result<bool> {
        let there = folder.file("site-b/vault/ledger.log");
        let _ = fs::remove_file(&there);
        let mut rsync = topology.client.command("rsync");
        rsync.args(["-W", "--timeout=20"]).arg(folder.file("ledger.log"));
        rsync.arg(format!("rsync://{}:{BACKUPS}/vault/", SERVER[0]));
        let said = process::run(&mut rsync, Duration::from_secs(60))?;
        Ok(said.status.success() && fs::read(&there).ok() == fs::read(folder.file("ledger.log")).ok())
    }
}

impl Drop for Apps {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whoever looks at the video: counts packets, and reports on every 20th as RTCP does.
fn viewer(topology: &Topology, seen: Arc<AtomicU64>, end: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let socket = topology.server.within(|| Ok(UdpSocket::bind((SERVER[0], VIDEO))?))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(std::thread::Builder::new().name("viewer".into()).spawn(move || {
        let mut buffer = [0; 2048];
        while !end.load(Ordering::Relaxed) {
            let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
            if seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(20) {
                // A receiver report without blocks (RFC 3550 §6.4.2).
                let _ = socket.send_to(&[0x80, 201, 0, 1, 0, 0, 0, 7], from);
            }
        }
    })?)
}

/// Whoever sends the video: one stream, from one socket.
#[derive(Debug)]
pub struct Camera {
    socket: UdpSocket,
    sequence: u16,
}

impl Camera {
    /// # Errors
    /// When the socket cannot be had.
    pub fn new(topology: &Topology) -> Result<Self> {
        let socket = topology.client.within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((SERVER[0], VIDEO))?;
            Ok(socket)
        })?;
        Ok(Self { socket, sequence: 1 })
    }

    pub fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Sends so many packets of 1200 bytes in such steps of time.
    pub fn send(&mut self, packets: u32, step: Duration) {
        let mut packet = vec![0x5a; 1200];
        let start = Instant::now();
        for n in 0..packets {
            // RTP, version 2, a dynamic payload type (RFC 3550 §5.1).
            packet[..2].copy_from_slice(&[0x80, 96]);
            packet[2..4].copy_from_slice(&self.sequence.to_be_bytes());
            packet[4..8].copy_from_slice(&(u32::from(self.sequence) * 3000).to_be_bytes());
            packet[8..12].copy_from_slice(&7u32.to_be_bytes());
            packet[12..12 + WORD.len()].copy_from_slice(WORD);
            self.sequence = self.sequence.wrapping_add(1);
            let _ = self.socket.send(&packet);
            std::thread::sleep((start + step * (n + 1)).saturating_duration_since(Instant::now()));
        }
    }
}

/// Text of records, as ledgers have it.
fn records(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 128);
    let mut n = 0u64;
    while text.len() < bytes {
        n += 1;
        let cents = n.wrapping_mul(0x9e37_79b9) % 1_000_000;
        let _ = writeln!(
            text,
            "2026-11-{:02} booking {n:08} {} amount {cents:>7} EUR status settled",
            n % 28 + 1,
            String::from_utf8_lossy(WORD)
        );
    }
    text
}
