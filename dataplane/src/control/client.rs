//! Asking a running instance. Errors say what to do: nothing listens, not allowed in, several to choose from.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::{ApiError, Demoted, FlowInfo, PlanEntry, Rekeyed, ReloadReport, Status};
use crate::plan::contract::Contract;
use crate::telemetry::snapshot::Snapshot;

/// Where instances have their sockets unless their policy says otherwise.
pub const SOCKET_FOLDER: &str = "/run/softdpu";

/// From connecting to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a change, with its health check.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// The socket to ask: the one named, the one of the instance named, or the only one there is in `folder`.
///
/// # Errors
/// None, or several to choose from.
pub fn find_socket(socket: Option<&Path>, name: Option<&str>, folder: &Path) -> Result<PathBuf> {
    if let Some(socket) = socket {
        return Ok(socket.to_owned());
    }
    let found = sockets(folder);
    if let Some(name) = name {
        let path = folder.join(format!("{name}.sock"));
        if found.iter().any(|(n, _)| n == name) {
            return Ok(path);
        }
        let others = if found.is_empty() { "none".to_owned() } else { names(&found) };
        bail!("no instance `{name}` ({} does not exist; running: {others})", path.display());
    }
    match found.as_slice() {
        [] => bail!(
            "no instance is running: {} has no socket. Start one with `softdpu run -c FILE`, or name its socket with --socket",
            folder.display()
        ),
        [(_, path)] => Ok(path.clone()),
        several => bail!("several instances are running: choose one with -n NAME: {}", names(several)),
    }
}

fn names(found: &[(String, PathBuf)]) -> String {
    found.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
}

/// Names and paths of the sockets in `folder`, sorted.
fn sockets(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_socket()))
        .filter_map(|e| Some((e.file_name().to_str()?.strip_suffix(".sock")?.to_owned(), e.path())))
        .collect();
    found.sort();
    found
}

/// `GET /v1/status`.
///
/// # Errors
/// The instance cannot be asked, or its answer is not one.
pub async fn status(socket: &Path) -> Result<Status> {
    json(socket, "/v1/status").await
}

/// `GET /v1/counters`.
///
/// # Errors
/// As [`status`].
pub async fn counters(socket: &Path) -> Result<Snapshot> {
    json(socket, "/v1/counters").await
}

/// `GET /v1/plan`.
///
/// # Errors
/// As [`status`].
pub async fn plan(socket: &Path) -> Result<Contract> {
    json(socket, "/v1/plan").await
}

/// `GET /v1/flows`. The server checks the filters.
///
/// # Errors
/// As [`status`], and what the server says about the filters.
pub async fn flows(socket: &Path, filters: &[(&str, Option<&str>)], limit: usize) -> Result<Vec<FlowInfo>> {
    let mut path = format!("/v1/flows?limit={limit}");
    for (key, value) in filters {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escape(value)));
        }
    }
    json(socket, &path).await
}

/// `POST /v1/flows/demote`. `None`: all.
///
/// # Errors
/// As [`status`], and what the server says about the flow.
pub async fn demote(socket: &Path, flow: Option<&str>) -> Result<Demoted> {
    let path = match flow {
        Some(flow) => format!("/v1/flows/demote?flow={}", escape(flow)),
        None => "/v1/flows/demote?all=true".to_owned(),
    };
    answer(socket, Method::POST, &path).await
}

/// `POST /v1/reload`, or `/v1/history/PLAN/rollback`. Waits as long as a health check may take.
///
/// # Errors
/// As [`status`], and what is wrong with the policy.
pub async fn reload(socket: &Path, rollback: Option<u64>, dry: bool) -> Result<ReloadReport> {
    let path = match rollback {
        None => format!("/v1/reload?dry_run={dry}"),
        Some(plan) => format!("/v1/history/{plan}/rollback?dry_run={dry}"),
    };
    answer_within(CHANGE_TIMEOUT, socket, Method::POST, &path).await
}

/// `GET /v1/history`.
///
/// # Errors
/// As [`status`].
pub async fn history(socket: &Path) -> Result<Vec<PlanEntry>> {
    json(socket, "/v1/history").await
}

/// `POST /v1/tunnels/TUNNEL/rekey`.
///
/// # Errors
/// As [`status`], and what the server says about tunnel and peer.
pub async fn rekey(socket: &Path, tunnel: &str, peer: Option<&str>) -> Result<Rekeyed> {
    let mut path = format!("/v1/tunnels/{}/rekey", escape(tunnel));
    if let Some(peer) = peer {
        path.push_str(&format!("?peer={}", escape(peer)));
    }
    answer(socket, Method::POST, &path).await
}

/// Percent-encoding of a query value (RFC 3986 section 2).
pub(super) fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

async fn json<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    answer(socket, Method::GET, path).await
}

async fn answer<T: DeserializeOwned>(socket: &Path, method: Method, path: &str) -> Result<T> {
    answer_within(TIMEOUT, socket, method, path).await
}

async fn answer_within<T: DeserializeOwned>(time: Duration, socket: &Path, method: Method, path: &str) -> Result<T> {
    let (code, body) = tokio::time::timeout(time, ask(socket, method, path))
        .await
        .map_err(|_| anyhow!("no answer from {} within {} s", socket.display(), time.as_secs()))??;
    if !code.is_success() {
        return Err(match serde_json::from_slice::<ApiError>(&body) {
            Ok(e) => anyhow!("{}: {}", e.error, e.help),
            Err(_) => anyhow!("{} answered {code}", socket.display()),
        });
    }
    serde_json::from_slice(&body)
        .with_context(|| format!("{} does not answer as softdpu {} does", socket.display(), env!("CARGO_PKG_VERSION")))
}

async fn ask(socket: &Path, method: Method, path: &str) -> Result<(hyper::StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await.map_err(|e| explain(socket, &e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "softdpu")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await;
    let answer = answer.with_context(|| format!("{} does not speak HTTP", socket.display()))?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    Ok((code, body.map_err(|e| anyhow!("the answer of {} broke off: {e}", socket.display()))?.to_bytes()))
}

/// Says what a failed connect means.
pub(super) fn explain(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let path = socket.display();
    match error.kind() {
        ErrorKind::NotFound => anyhow!("no socket {path}: is the instance running? (`softdpu run -c FILE`)"),
        ErrorKind::ConnectionRefused => {
            anyhow!("nobody listens on {path}: the instance died without cleaning up. Start it again, it will")
        }
        ErrorKind::PermissionDenied => match std::fs::metadata(socket) {
            Ok(meta) => anyhow!(
                "not allowed to use {path}: its mode is {:04o}, its group {}. Run as root, or join that group",
                meta.permissions().mode() & 0o777,
                meta.gid()
            ),
            Err(_) => anyhow!("not allowed to look at {path}: run as root"),
        },
        _ => anyhow!("cannot connect to {path}: {error}"),
    }
}
