//! `GET /v1/events`: what happens, as server-sent events (WHATWG HTML, section 9.2). A reader has a place in the journal and
//! no queue of its own: one that is too slow for the ring is told how much it missed, and cut off.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, extract::State};
use bytes::Bytes;
use futures::Stream;
use serde::Deserialize;

use super::ControlSource;
use super::api::refuse;
use super::extract::{Parameters, Query};
use super::lease::Lease;
use crate::telemetry::journal::{Event, Journal, Kind, MAX_READERS, Note, Reader, Wanted};

/// Sent when nothing else was for so long: a comment, so that either end notices when the other has gone.
pub const KEEP_ALIVE: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(15) };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    kind: Option<String>,
    since: Option<u64>,
    follow: Option<bool>,
}

impl Parameters for EventsQuery {
    const NAMES: &'static str = "kind, since (a number) and follow (true or false)";
}

pub async fn events(
    State(source): State<Arc<dyn ControlSource>>,
    Extension(lease): Extension<Arc<Lease>>,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Response {
    let wanted: Wanted = match query.kind.as_deref().unwrap_or_default().parse() {
        Ok(wanted) => wanted,
        Err((error, help)) => return refuse(StatusCode::BAD_REQUEST, error, help),
    };
    // Whoever comes back has the header from the browser or client library that it uses.
    let last = match headers.get("last-event-id").map(|id| id.to_str().ok().and_then(|id| id.trim().parse().ok())) {
        None => query.since,
        Some(Some(id)) => Some(id),
        Some(None) => {
            let help = "it is the `id` of the last event that was received, a number";
            return refuse(StatusCode::BAD_REQUEST, "the header Last-Event-ID is not a number", help);
        }
    };
    let follow = query.follow.unwrap_or(true);
    // Without following there is only what has been.
    let last = if follow { last } else { last.or(Some(0)) };
    let journal = source.events();
    let Some(reader) = journal.reader(wanted, last) else {
        let error = format!("{MAX_READERS} clients follow events already");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, error, "close one of them");
    };
    let hello = hello(&source.status().await, &reader);
    let stream = Following { reader, follow, hello: Some(hello), lease: Leased { lease, journal } };
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(stream.frames())).into_response()
}

fn hello(status: &super::Status, reader: &Reader) -> Event {
    let missed = reader.missed();
    let text = match missed {
        None => format!("{} answers", status.name),
        Some(missed) => format!("{} answers; at most {missed} events have gone meanwhile", status.name),
    };
    let note = Note::new(Kind::Hello, &status.name, text).with("instance", status.name.as_str());
    let note = note.with("version", status.version.as_str()).with("pid", status.pid).with("oldest", reader.oldest());
    let note = if let Some(missed) = missed { note.with("missed", missed) } else { note };
    note.event(reader.at())
}

/// As the format wants it: JSON has no line breaks of its own.
fn frame(event: &Event, numbered: bool) -> Bytes {
    let data = serde_json::to_string(event).unwrap_or_default();
    let id = if numbered { format!("id: {}\n", event.id) } else { String::new() };
    format!("{id}event: {}\ndata: {data}\n\n", event.kind).into()
}

/// The connection lasts while its reader takes something.
struct Leased {
    lease: Arc<Lease>,
    journal: Arc<Journal>,
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.lease.stops();
    }
}

struct Following {
    reader: Reader,
    follow: bool,
    hello: Option<Event>,
    lease: Leased,
}

impl Following {
    fn frames(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        futures::stream::unfold(Some(self), |state| async {
            let mut state = state?;
            state.lease.lease.takes(&state.lease.journal);
            if let Some(hello) = state.hello.take() {
                return Some((Ok(frame(&hello, false)), Some(state)));
            }
            loop {
                match state.reader.read() {
                    Err(missed) => {
                        let text = format!("too slow: at most {missed} events have gone unread");
                        let note = Note::new(Kind::CutOff, "", text).with("missed", missed);
                        return Some((Ok(frame(&note.event(state.reader.at()), false)), None));
                    }
                    Ok(events) if events.is_empty() && !state.follow => return None,
                    Ok(events) if events.is_empty() => {
                        match tokio::time::timeout(KEEP_ALIVE, state.reader.wait()).await {
                            Ok(true) => {}
                            Ok(false) => return None,
                            Err(_) => return Some((Ok(Bytes::from_static(b":\n\n")), Some(state))),
                        }
                    }
                    Ok(events) => {
                        let frames: Vec<u8> = events.iter().flat_map(|event| frame(event, true)).collect();
                        return Some((Ok(frames.into()), Some(state)));
                    }
                }
            }
        })
    }
}
