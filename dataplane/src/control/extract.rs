//! What requests bring along: query, path, body. Whatever is wrong with it gets an answer that says so, as JSON.

use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::api::refuse;

/// A body is read no longer than this, to be refused.
const BODY_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };
/// Most bytes of a body that are read, to be refused.
const MAX_BODY: usize = 16 << 10;

/// A type whose fields are the query's parameters.
pub trait Parameters: DeserializeOwned + Send {
    /// Their names, for who has written another.
    const NAMES: &'static str;
}

/// The query.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: Parameters> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let query: Result<axum::extract::Query<T>, QueryRejection> =
            axum::extract::Query::from_request_parts(parts, state).await;
        match query {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(wrong) => {
                Err(refuse(StatusCode::BAD_REQUEST, wrong.body_text(), format!("the parameters are {}", T::NAMES)))
            }
        }
    }
}

/// A part of the path.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let path: Result<axum::extract::Path<T>, PathRejection> =
            axum::extract::Path::from_request_parts(parts, state).await;
        match path {
            Ok(axum::extract::Path(part)) => Ok(Self(part)),
            Err(wrong) => {
                let help = "/v1/openapi.json says what belongs into each path";
                Err(refuse(StatusCode::BAD_REQUEST, wrong.body_text(), help))
            }
        }
    }
}

/// No body: whoever sends one expects something of it that will not happen.
pub struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        const HELP: &str = "parameters go into the query: /v1/reload?dry_run=true";
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time", HELP)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "no body is taken, least of all a long one", HELP))
            }
            Ok(Err(error)) => Err(refuse(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"), HELP)),
            Ok(Ok(body)) => match body.to_bytes().is_empty() {
                true => Ok(Self),
                false => Err(refuse(StatusCode::BAD_REQUEST, "no body is taken: nothing was done", HELP)),
            },
        }
    }
}
