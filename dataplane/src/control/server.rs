//! The listeners and the connections: bounded in number, in size and in time, so that no client can hold up the instance.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use super::lease::Lease;
use super::socket::{self, Bound};
use super::{ControlSource, api};
use crate::config::Control;

/// Connections at a time, on each listener.
const MAX_CONNECTIONS: usize = 64;
/// From being ready for a request to the end of its head: the silent are shown out. Tests have no time to wait.
const HEAD_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };
/// A whole connection, with all its requests.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;

/// The bound listeners of an instance.
#[derive(Debug)]
pub struct Server {
    unix: UnixListener,
    tcp: Option<TcpListener>,
    bound: Bound,
}

impl Server {
    /// Binds what the policy asks for. Must be called in a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// Another instance runs on the socket, an address is not loopback or is taken, or what the file system says.
    pub fn bind(control: &Control) -> Result<Self> {
        let (unix, bound) = socket::bind(&control.socket, control.socket_mode, control.socket_group.as_deref())?;
        unix.set_nonblocking(true)?;
        let unix = UnixListener::from_std(unix)?;
        let tcp = control.metrics.map(loopback).transpose()?;
        Ok(Self { unix, tcp, bound })
    }

    /// Path of the control socket.
    pub fn socket(&self) -> &Path {
        self.bound.path()
    }

    /// Where the metrics listen, with the port that was chosen when the policy said 0.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Answers until `stop` is done, then removes the socket. Open connections are cut.
    pub async fn serve(self, source: Arc<dyn ControlSource>, stop: impl Future<Output = ()>) {
        let (cut, cut_rx) = watch::channel(());
        let unix = accept_all(api::all(source.clone()), cut_rx.clone(), async || {
            let (stream, _) = self.unix.accept().await?;
            let peer = api::Peer { uid: stream.peer_cred()?.uid() };
            Ok((stream, Some(peer)))
        });
        let tcp = async {
            match &self.tcp {
                Some(listener) => {
                    let router = api::metrics_only(source);
                    accept_all(router, cut_rx, async || listener.accept().await.map(|(stream, _)| (stream, None)))
                        .await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop => {}
            () = unix => {}
            () = tcp => {}
        }
        drop(cut);
    }
}

/// A listener on a loopback address; metrics tell about everyone's traffic and have no password.
fn loopback(at: SocketAddr) -> Result<TcpListener> {
    if !at.ip().is_loopback() {
        bail!(
            "metrics listen on loopback only, not on {at}: write 127.0.0.1:{}, or scrape the control socket",
            at.port()
        );
    }
    let listener = std::net::TcpListener::bind(at).with_context(|| format!("cannot listen on {at} for metrics"))?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

async fn accept_all<S>(
    router: Router,
    cut: watch::Receiver<()>,
    accept: impl AsyncFn() -> std::io::Result<(S, Option<api::Peer>)>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Waiting for a seat leaves further clients in the listen queue. The semaphore is never closed.
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let (stream, peer) = match accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, say: worth another try, but not a busy loop.
                tracing::warn!("control: accept: {e}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let router = match peer {
            Some(peer) => router.clone().layer(axum::Extension(peer)),
            None => router.clone(),
        };
        let lease = Arc::new(Lease::default());
        let router = router.layer(axum::Extension(lease.clone()));
        let mut cut = cut.clone();
        tokio::spawn(async move {
            let _seat = seat;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            tokio::select! {
                ended = connection => {
                    if let Err(e) = ended {
                        tracing::debug!("control: connection: {e}");
                    }
                }
                () = lease.ended(CONNECTION_TIMEOUT) => {}
                _ = cut.changed() => {}
            }
        });
    }
}
