//! nginx over HTTPS, with a certificate of its own and objects that nobody could guess.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::gain::mix::{Text, fill};
use crate::net::namespace::Namespace;
use crate::path::{not_installed, on_core, program};
use crate::stats::random::Random;
use crate::stop;

pub const PORT: u16 = 20_443;
pub const PACKAGE: &str = "nginx-light";

/// Certificate, objects and scripts of a run.
pub struct Files(TempDir);

impl Files {
    /// With an object of each of these sizes.
    ///
    /// # Errors
    /// openssl is not installed, or a file cannot be written.
    pub fn new(sizes: &[(&str, usize)]) -> Result<Self> {
        let this = Self(tempfile::tempdir()?);
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=server.bench.example", "-keyout"]).arg(this.file("key.pem"));
        openssl.arg("-out").arg(this.file("cert.pem")).stdin(Stdio::null());
        let made = openssl.output().with_context(|| not_installed("openssl", "openssl"))?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr).trim());
        std::fs::create_dir(this.file("www"))?;
        for (n, (name, size)) in sizes.iter().enumerate() {
            let mut bytes = Vec::with_capacity(*size);
            fill(&mut bytes, Text::Noise, *size, &mut Random::new(n as u64 + 1));
            std::fs::write(this.object(name), &bytes[..*size])?;
        }
        Ok(this)
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn object(&self, name: &str) -> PathBuf {
        self.file("www").join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// One process: what ends this program ends it.
    fn config(&self) -> String {
        let base = self.folder().display();
        format!(
            r"daemon off;
master_process off;
user root;
pid {base}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path {base}/body;
  proxy_temp_path {base}/proxy;
  fastcgi_temp_path {base}/fastcgi;
  uwsgi_temp_path {base}/uwsgi;
  scgi_temp_path {base}/scgi;
  open_file_cache max=16;
  server {{
    listen {PORT} ssl;
    ssl_certificate {base}/cert.pem;
    ssl_certificate_key {base}/key.pem;
    ssl_protocols TLSv1.3;
    root {base}/www;
  }}
}}
"
        )
    }
}

/// While it lives, nginx runs.
pub struct Nginx {
    child: Child,
}

impl Nginx {
    /// Starts it inside `host`, and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, or does not come up.
    pub fn start(host: &Namespace, files: &Files, core: usize) -> Result<Self> {
        let (config, log) = (files.file("nginx.conf"), files.file("nginx.log"));
        std::fs::write(&config, files.config())?;
        let said = std::fs::File::create(&log)?;
        let mut command = on_core(host.command(program("nginx")), core);
        command.args(["-e", "stderr", "-c"]).arg(&config);
        let child = command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .with_context(|| not_installed("nginx", PACKAGE))?;
        let mut this = Self { child };
        let patience = Instant::now() + Duration::from_secs(5);
        while host.run(|| Ok(TcpStream::connect(("127.0.0.1", PORT))?)).is_err() {
            let text = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = this.child.try_wait()? {
                bail!("nginx ended with {status}: {}", text().trim());
            }
            if Instant::now() > patience || stop::asked() {
                bail!("nginx does not listen: {}", text().trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Nothing of its is worth an orderly end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
