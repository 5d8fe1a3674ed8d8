//! Routes of `softdpu trace` and `softdpu capture`: answers that go on until the client has enough. They are POST, so that only
//! root and the instance's own user may see what packets carry.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::ControlSource;
use super::api::{Peer, Source, refuse};
use super::extract::NoBody;
use super::lease::Lease;
use crate::watch::request::BadRequest;
use crate::watch::{Feed, WatchRequest};

/// Why packets are not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchRefused {
    #[error(transparent)]
    Bad(#[from] BadRequest),
    #[error("a trace or a capture is running already")]
    Busy,
    #[error("{0}")]
    Unable(String),
}

/// Answer of `POST /v1/watch/stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WatchStopped {
    /// `false`: nothing was running.
    pub stopped: bool,
}

pub fn routes() -> Router<Arc<dyn ControlSource>> {
    Router::new()
        .route("/v1/trace", post(trace))
        .route("/v1/capture", post(capture))
        .route("/v1/watch/stop", post(stop))
}

type Asked = Result<Json<serde_json::Map<String, serde_json::Value>>, JsonRejection>;

async fn trace(
    State(source): Source,
    peer: Option<Extension<Peer>>,
    lease: Extension<Arc<Lease>>,
    body: Asked,
) -> Response {
    watch(&source, body, true, peer, &lease)
}

async fn capture(
    State(source): Source,
    peer: Option<Extension<Peer>>,
    lease: Extension<Arc<Lease>>,
    body: Asked,
) -> Response {
    watch(&source, body, false, peer, &lease)
}

fn watch(
    source: &Arc<dyn ControlSource>,
    body: Asked,
    trace: bool,
    peer: Option<Extension<Peer>>,
    lease: &Lease,
) -> Response {
    const HELP: &str = "the body is JSON: {\"at\": [\"rx\"], \"count\": 1, \"seconds\": 10, \"snaplen\": 0, \"filter\": {\"ethernet\": […], \"raw\": […]}}";
    let request = body
        .map_err(|wrong| wrong.body_text())
        .and_then(|Json(body)| WatchRequest::from_body(body).map_err(|wrong| wrong.to_string()));
    let request = match request {
        Ok(request) => request,
        Err(wrong) => return refuse(StatusCode::BAD_REQUEST, wrong, HELP),
    };
    let by = peer.map_or(u32::MAX, |Extension(peer)| peer.uid);
    let feed = match source.watch(&request, trace, by) {
        Ok(feed) => feed,
        Err(wrong @ WatchRefused::Bad(_)) => return refuse(StatusCode::BAD_REQUEST, wrong.to_string(), HELP),
        Err(WatchRefused::Busy) => {
            let help = "one at a time: POST /v1/watch/stop ends it";
            return refuse(StatusCode::CONFLICT, WatchRefused::Busy.to_string(), help);
        }
        Err(wrong) => {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, wrong.to_string(), "`softdpu status` shows the workers");
        }
    };
    lease.lasts();
    let kind = if trace { "application/x-ndjson" } else { "application/x-pcapng" };
    let (to, from) = mpsc::channel(1);
    tokio::spawn(tell(feed, to));
    let stream = futures::stream::unfold(from, |mut from| async move {
        let bytes = from.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(bytes)), from))
    });
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response()
}

/// The feed is asked for more only when the client has taken what there was: a slow one loses records, and keeps nothing else. A task of
/// its own, so that the watch ends in time also where the client reads nothing.
async fn tell(mut feed: Feed, to: mpsc::Sender<Vec<u8>>) {
    loop {
        let bytes = tokio::select! {
            bytes = feed.next() => bytes,
            () = to.closed() => None,
        };
        let Some(bytes) = bytes else { return };
        if feed.wait_for(to.send(bytes)).await.is_err() {
            return;
        }
    }
}

async fn stop(State(source): Source, _: NoBody) -> Response {
    Json(WatchStopped { stopped: source.stop_watch() }).into_response()
}
