//! Following a running instance's events: the client's side of `GET /v1/events`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::client::{escape, explain};
use super::types::ApiError;
use crate::telemetry::journal::Event;

/// Longest line that is taken, in bytes: an event has a fraction of it.
const MAX_LINE: usize = 1 << 20;
/// Longest error that is taken.
const MAX_ERROR: usize = 64 << 10;

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// As the query's `kind`; empty: the usual ones.
    pub kinds: String,
    /// Behind this number; `None`: those to come.
    pub since: Option<u64>,
}

/// How a stream ended.
#[derive(Debug)]
pub enum Ended {
    /// The connection could not be made, or broke off: the instance may come back.
    Gone(anyhow::Error),
    /// It was asked for something that there is not.
    Refused(anyhow::Error),
    /// `each` wanted no more.
    Enough(anyhow::Error),
}

/// Calls `each` with every event until the stream ends, which it does by its own only when the instance does.
pub async fn follow(socket: &Path, ask: &Ask, mut each: impl FnMut(Event) -> Result<()>) -> Ended {
    let mut body = match open(socket, ask).await {
        Ok(body) => body,
        Err(ended) => return ended,
    };
    let mut lines = Lines::default();
    loop {
        let chunk = match body.frame().await {
            None => return Ended::Gone(anyhow!("the instance closed the connection")),
            Some(Err(error)) => return Ended::Gone(error.into()),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        let events = match lines.take(&chunk) {
            Ok(events) => events,
            Err(error) => return Ended::Refused(error),
        };
        for event in events {
            if let Err(error) = each(event) {
                return Ended::Enough(error);
            }
        }
    }
}

async fn open(socket: &Path, ask: &Ask) -> Result<hyper::body::Incoming, Ended> {
    let stream = UnixStream::connect(socket).await.map_err(|error| Ended::Gone(explain(socket, &error)))?;
    let answer = request(stream, ask).await.map_err(Ended::Gone)?;
    let code = answer.status();
    if code.is_success() {
        return Ok(answer.into_body());
    }
    let body = Limited::new(answer.into_body(), MAX_ERROR).collect().await.map(|body| body.to_bytes());
    Err(Ended::Refused(match body.ok().and_then(|body| serde_json::from_slice::<ApiError>(&body).ok()) {
        Some(error) => anyhow!("{}: {}", error.error, error.help),
        None => anyhow!("{} answered {code}: does it run a version that has events?", socket.display()),
    }))
}

async fn request(stream: UnixStream, ask: &Ask) -> Result<hyper::Response<hyper::body::Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = hyper::Request::get(format!("/v1/events?kind={}", escape(&ask.kinds)))
        .header(header::HOST, "softdpu")
        .header(header::ACCEPT, "text/event-stream");
    if let Some(since) = ask.since {
        request = request.header("last-event-id", since.to_string());
    }
    Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?)
}

/// Puts the stream's lines together, and the events they make.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Lines {
    /// # Errors
    /// It is no stream of our events.
    fn take(&mut self, chunk: &[u8]) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for byte in chunk {
            match byte {
                b'\r' => {}
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    if let Some(data) = line.strip_prefix(b"data:") {
                        self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
                    } else if line.is_empty() && !self.data.is_empty() {
                        let data = std::mem::take(&mut self.data);
                        // Kinds that this version does not know are for others.
                        match serde_json::from_slice::<Event>(&data) {
                            Ok(event) => events.push(event),
                            Err(_) if is_newer(&data) => {}
                            Err(error) => return Err(error).context("not an event of softdpu"),
                        }
                    }
                }
                _ => self.line.push(*byte),
            }
            if self.line.len() + self.data.len() > MAX_LINE {
                bail!("a line of more than {MAX_LINE} bytes is not an event of softdpu");
            }
        }
        Ok(events)
    }
}

/// Whether it is an event of a kind that is not known here.
fn is_newer(data: &[u8]) -> bool {
    let value: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    value["kind"].is_string() && value["id"].is_u64()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::journal::{Kind, Note};
    use proptest::prelude::*;

    fn stream() -> (Vec<u8>, Vec<Event>) {
        let events: Vec<Event> =
            (1..4).map(|id| Note::new(Kind::PortUp, "uplink", "ünder").with("n", id).event(id)).collect();
        let mut text = b":\n\n".to_vec();
        for event in &events {
            let data = serde_json::to_string(event).unwrap();
            text.extend(format!("id: {}\r\nevent: port_up\ndata: {data}\n\n", event.id).bytes());
        }
        text.extend(b"data: {\"id\":9,\"kind\":\"of_next_year\"}\n\n:\n\n");
        (text, events)
    }

    proptest! {
        #[test]
        fn events_come_whole_however_they_are_cut(cuts in proptest::collection::vec(1usize..40, 1..40)) {
            let (text, events) = stream();
            let (mut rest, mut lines, mut found) = (text.as_slice(), Lines::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                found.extend(lines.take(chunk).unwrap());
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, events);
        }

        #[test]
        fn garbage_ends_and_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = Lines::default().take(&bytes);
            let _ = Lines::default().take(&[b"data: ".as_slice(), &bytes, b"\n\n"].concat());
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut lines = Lines::default();
        assert!((0..100).any(|_| lines.take(&[b'x'; 65_536]).is_err()));
    }
}
