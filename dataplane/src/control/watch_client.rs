//! Asking for a trace or a capture: an answer that goes on.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use super::client::explain;
use super::types::ApiError;
use crate::watch::WatchRequest;

/// Longest error that is taken, in bytes.
const MAX_ERROR: usize = 1 << 16;

/// `POST /v1/trace` or `/v1/capture`: hands what comes to `take`, which says whether it wants more, until the instance ends it.
/// SIGINT and SIGTERM ask for the end, and what is under way still comes; the second one goes at once.
///
/// # Errors
/// The instance cannot be asked, refuses, or breaks off; and what `take` says.
pub async fn watch(
    socket: &Path,
    trace: bool,
    request: &WatchRequest,
    mut take: impl FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    let path = if trace { "/v1/trace" } else { "/v1/capture" };
    let mut answer = post(socket, path, serde_json::to_vec(request)?).await?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut stopping = false;
    loop {
        let frame = tokio::select! {
            frame = answer.frame() => Some(frame),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        match frame {
            Some(None) => return Ok(()),
            Some(Some(frame)) => {
                let frame = frame.map_err(|_| anyhow!("{} broke off: has the instance ended?", socket.display()))?;
                let wanted = frame.data_ref().map_or(Ok(true), |bytes| take(bytes))?;
                if wanted || stopping {
                    continue;
                }
            }
            // A signal.
            None if stopping => return Ok(()),
            None => {}
        }
        stopping = true;
        if post(socket, "/v1/watch/stop", Vec::new()).await.is_err() {
            return Ok(());
        }
    }
}

async fn post(socket: &Path, path: &str, body: Vec<u8>) -> Result<hyper::body::Incoming> {
    let stream = UnixStream::connect(socket).await.map_err(|e| explain(socket, &e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, "softdpu")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await;
    let answer = answer.with_context(|| format!("{} does not speak HTTP", socket.display()))?;
    if answer.status() == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let code = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ERROR).collect().await.map_err(|e| anyhow!("{e}"))?.to_bytes();
    Err(match serde_json::from_slice::<ApiError>(&body) {
        Ok(e) => anyhow!("{}: {}", e.error, e.help),
        Err(_) => anyhow!("{} answered {code}", socket.display()),
    })
}
