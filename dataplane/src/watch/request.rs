//! What a client asks for, and the check of it.

use super::filter::{BadProgram, Insn, MAX_LEN, Program};
use super::record::Point;
use super::session::{Filter, Session, TRACE_SNAP, What};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Largest packet that there can be, with its link header.
pub const MAX_SNAP: u32 = 65_535 + 22;
/// Longest watch, in seconds: a day.
pub const MAX_SECONDS: u64 = 86_400;
/// Longest text of a filter that is kept, for logs and files.
pub const MAX_EXPRESSION: usize = 1024;

/// Body of `POST /v1/trace` and `POST /v1/capture`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WatchRequest {
    /// Of captures: "rx", "open", "seal", "tx"; none: all of them.
    pub at: Vec<String>,
    /// `None`: every packet.
    #[serde(deserialize_with = "object")]
    pub filter: Option<FilterRequest>,
    /// Bytes kept of each packet; 0: as many as a port's packets can have.
    pub snaplen: u32,
    /// Packets, each of which may be seen at several points; 0: any number.
    pub count: u64,
    /// How long; 0: until the client has enough.
    pub seconds: u64,
}

/// A filter, compiled by the client for packets with a link header and for those without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterRequest {
    /// What it was compiled from.
    #[serde(default)]
    pub expression: String,
    pub ethernet: Vec<Insn>,
    pub raw: Vec<Insn>,
}

impl WatchRequest {
    /// # Errors
    /// What does not fit, with the place.
    pub fn from_body(body: serde_json::Map<String, Value>) -> serde_json::Result<Self> {
        serde_json::from_value(Value::Object(body))
    }
}

/// An object or nothing: by itself serde takes the fields from an array, too, which the document does not offer.
fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    let read = |map| serde_json::from_value(Value::Object(map)).map_err(D::Error::custom);
    Option::<serde_json::Map<String, Value>>::deserialize(from)?.map(read).transpose()
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("there is no point `{0}`: rx, open, seal, tx")]
    Point(String),
    #[error("a trace is of every node: it has no points")]
    PointOfTrace,
    #[error("a packet has at most {MAX_SNAP} bytes")]
    Snap,
    #[error("at most a day: {MAX_SECONDS} seconds")]
    Seconds,
    #[error("the text of a filter has at most {MAX_EXPRESSION} bytes, its program at most {MAX_LEN} instructions")]
    Expression,
    #[error(transparent)]
    Program(#[from] BadProgram),
}

impl WatchRequest {
    /// Checks it and makes the session. `largest`: the largest packet that a port takes, in bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn session(&self, trace: bool, largest: usize) -> Result<Session, BadRequest> {
        let mut points = 0;
        for name in &self.at {
            points |= Point::from_name(name).ok_or_else(|| BadRequest::Point(name.chars().take(40).collect()))?.bit();
        }
        if self.snaplen > MAX_SNAP {
            return Err(BadRequest::Snap);
        }
        if self.seconds > MAX_SECONDS {
            return Err(BadRequest::Seconds);
        }
        let filter = self.filter.as_ref().map(FilterRequest::check).transpose()?.unwrap_or_default();
        let all = Point::ALL.into_iter().fold(0, |all, point| all | point.bit());
        let (what, snap) = match (trace, points) {
            (true, 0) => (What::Trace, TRACE_SNAP),
            (true, _) => return Err(BadRequest::PointOfTrace),
            (false, points) => (What::Capture(if points == 0 { all } else { points }), self.snaplen as usize),
        };
        let snap = if snap == 0 { largest.clamp(1600, MAX_SNAP as usize) } else { snap };
        Ok(Session::new(what, filter, snap, self.count, true))
    }

    /// For logs and files: what was asked for.
    pub fn expression(&self) -> &str {
        self.filter.as_ref().map_or("", |filter| &filter.expression)
    }
}

impl FilterRequest {
    fn check(&self) -> Result<Filter, BadRequest> {
        if self.expression.len() > MAX_EXPRESSION || self.ethernet.len().max(self.raw.len()) > MAX_LEN {
            return Err(BadRequest::Expression);
        }
        Ok(Filter { ethernet: Some(Program::new(self.ethernet.clone())?), raw: Some(Program::new(self.raw.clone())?) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |trace, json: &str| {
            let request: WatchRequest = serde_json::from_str(json).unwrap();
            request.session(trace, 1500).unwrap_err().to_string()
        };
        assert!(refused(false, r#"{"at": ["middle"]}"#).contains("no point `middle`: rx, open, seal, tx"));
        assert!(refused(true, r#"{"at": ["rx"]}"#).contains("no points"));
        assert!(refused(false, r#"{"snaplen": 99999}"#).contains("65557"));
        assert!(refused(false, r#"{"seconds": 86401}"#).contains("a day"));
        let jump = r#"{"filter": {"ethernet": [[5, 0, 0, 9], [6, 0, 0, 1]], "raw": [[6, 0, 0, 1]]}}"#;
        assert!(refused(true, jump).contains("instruction 0 of the filter jumps out of it"));
        assert!(serde_json::from_str::<WatchRequest>(r#"{"speed": 1}"#).is_err());
        let array = r#"{"filter": ["", [[6, 0, 0, 1]], [[6, 0, 0, 1]]]}"#;
        assert!(serde_json::from_str::<WatchRequest>(array).is_err());
        assert!(serde_json::from_str::<WatchRequest>(r#"{"filter": null}"#).unwrap().filter.is_none());
    }

    #[test]
    fn what_is_left_out_is_everything() {
        let session = WatchRequest::default().session(false, 9000).unwrap();
        assert_eq!((session.what, session.snap), (What::Capture(0b1111), 9000));
        assert!(session.filter.is_any());
        assert_eq!(WatchRequest::default().session(true, 9000).unwrap().snap, TRACE_SNAP);
    }
}
