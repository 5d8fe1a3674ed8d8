//! The routes and what they answer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::events::events;
use super::extract::{NoBody, Parameters, Path, Query};
use super::openapi;
use super::types::{ApiError, Demoted, FlowFilter, MAX_FLOWS, Rekeyed};
use super::{ControlSource, PlanSource};
use crate::config::{HostPattern, known_classes, nearest};
use crate::offload::FlowName;
use crate::telemetry::prometheus::{self, Scrape};
use crate::wire::prefix::Prefix;

/// How long workers may take to list their flows.
const FLOWS_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) type Source = State<Arc<dyn ControlSource>>;

/// All routes: for the Unix socket. Each has its entry in [`super::openapi`]; a test finds those that have none.
pub fn all(source: Arc<dyn ControlSource>) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(document))
        .route("/v1/status", get(status))
        .route("/v1/counters", get(counters))
        .route("/v1/plan", get(plan))
        .route("/v1/flows", get(flows))
        .route("/v1/flows/demote", post(demote))
        .route("/v1/tunnels/{tunnel}/rekey", post(rekey))
        .route("/v1/reload", post(reload))
        .route("/v1/history", get(history))
        .route("/v1/history/{plan}/rollback", post(rollback))
        .route("/v1/events", get(events))
        .route("/v1/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .merge(super::watch::routes())
        .layer(axum::middleware::from_fn(only_owners_change))
        .layer(Extension(Turn(Arc::new(Semaphore::new(1)))))
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        .with_state(source)
}

/// The metrics alone: for the loopback port, which has no permissions.
pub fn metrics_only(source: Arc<dyn ControlSource>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        .with_state(source)
}

pub(super) fn refuse(code: StatusCode, error: impl Into<String>, help: impl Into<String>) -> Response {
    (code, Json(ApiError { error: error.into(), help: help.into() })).into_response()
}

async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::text()).into_response()
}

async fn status(State(source): Source) -> Response {
    Json(source.status().await).into_response()
}

async fn plan(State(source): Source) -> Response {
    Json(&*source.plan()).into_response()
}

async fn counters(State(source): Source) -> Response {
    Json(source.counters()).into_response()
}

/// Who connected, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub uid: u32,
}

/// Whoever may open the socket may ask; changes are for root and for the user that the instance runs as.
async fn only_owners_change(request: Request, next: Next) -> Response {
    // SAFETY: it cannot fail and touches nothing.
    let own = unsafe { libc::geteuid() };
    let peer = request.extensions().get::<Peer>().map(|peer| peer.uid);
    if request.method() == Method::GET
        || request.method() == Method::HEAD
        || peer.is_some_and(|uid| uid == 0 || uid == own)
    {
        return next.run(request).await;
    }
    let error = "only root and the user that the instance runs as may change anything";
    refuse(StatusCode::FORBIDDEN, error, "run it with sudo")
}

/// One change at a time: who asks for another meanwhile is told so.
#[derive(Clone)]
struct Turn(Arc<Semaphore>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    #[serde(default)]
    dry_run: bool,
}

impl Parameters for ReloadQuery {
    const NAMES: &'static str = "dry_run (true or false)";
}

async fn reload(
    State(source): Source,
    Extension(turn): Extension<Turn>,
    Query(query): Query<ReloadQuery>,
    _: NoBody,
) -> Response {
    change(source, turn, PlanSource::File("reload"), query.dry_run).await
}

async fn rollback(
    State(source): Source,
    Extension(turn): Extension<Turn>,
    Path(plan): Path<u64>,
    Query(query): Query<ReloadQuery>,
    _: NoBody,
) -> Response {
    if !source.history().iter().any(|entry| entry.plan == plan) {
        let help = "`softdpu history` lists them; nothing was changed";
        return refuse(StatusCode::NOT_FOUND, format!("there is no plan {plan}"), help);
    }
    change(source, turn, PlanSource::History(plan), query.dry_run).await
}

/// On a task of its own: a client that goes away leaves no change half done.
async fn change(source: Arc<dyn ControlSource>, Turn(turn): Turn, from: PlanSource, dry: bool) -> Response {
    let Ok(turn) = turn.try_acquire_owned() else {
        let help = "nothing was done; `softdpu history` shows when it is over";
        return refuse(StatusCode::CONFLICT, "another change is under way", help);
    };
    let done = tokio::spawn(async move {
        let done = source.reload(from, dry).await;
        drop(turn);
        done
    });
    match done.await {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{error:#}"),
            "nothing was changed, the policy in force stays",
        ),
        Err(error) => {
            let help = "`softdpu history` says which policy is in force; please report this";
            refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("the change broke off: {error}"), help)
        }
    }
}

async fn history(State(source): Source) -> Response {
    Json(source.history()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RekeyQuery {
    peer: Option<String>,
}

impl Parameters for RekeyQuery {
    const NAMES: &'static str = "peer (a name, or a public key)";
}

async fn rekey(
    State(source): Source,
    Path(tunnel): Path<String>,
    Query(query): Query<RekeyQuery>,
    _: NoBody,
) -> Response {
    const HELP: &str = "`softdpu status` lists tunnels and peers";
    let known = source.status().await.tunnels.into_iter().find(|known| known.name == tunnel);
    let error = match known {
        None => format!("no tunnel is called `{}`", short(&tunnel)),
        Some(known) if known.kind != "wireguard" => {
            let error = format!("tunnel `{tunnel}` has no keys of softdpu's making: only those of type wireguard have");
            return refuse(StatusCode::CONFLICT, error, "make new keys, or ask the IKE daemon for them");
        }
        Some(known) => match &query.peer {
            Some(peer) if !known.peers.iter().any(|known| known.name == *peer || known.public_key == *peer) => {
                format!("tunnel `{tunnel}` has no peer `{}`", short(peer))
            }
            _ => {
                return match source.rekey(&tunnel, query.peer.as_deref()).await {
                    Ok(begun) => Json(Rekeyed { begun }).into_response(),
                    Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"), HELP),
                };
            }
        },
    };
    refuse(StatusCode::NOT_FOUND, error, HELP)
}

/// What somebody wrote, for an answer that quotes it.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

async fn healthz(State(source): Source) -> Response {
    let status = source.status().await;
    let down: Vec<String> = status
        .workers
        .iter()
        .filter(|w| w.state != "running")
        .map(|w| format!("worker {} is {}", w.worker, w.state))
        .collect();
    if down.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        refuse(StatusCode::SERVICE_UNAVAILABLE, down.join(", "), "the log of the instance says why")
    }
}

async fn metrics(State(source): Source) -> Response {
    let scrape = Scrape::new(source.status().await, source.counters(), source.plan());
    match prometheus::text(scrape) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response(),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written", "please report this"),
    }
}

pub const TIERS: [&str; 4] = ["worker", "xdp", "nic", "kernel"];
const FLOW_HELP: &str =
    "a flow is named by its id in `softdpu flows --json`, or by its ends: \"10.0.0.1:5000 10.0.0.2:443\"";

/// Query of `/v1/flows/demote`. Neither: nothing is done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DemoteQuery {
    flow: Option<String>,
    #[serde(default)]
    all: bool,
}

impl Parameters for DemoteQuery {
    const NAMES: &'static str = "flow, or all=true";
}

async fn demote(State(source): Source, Query(query): Query<DemoteQuery>, _: NoBody) -> Response {
    let name = match (query.flow.as_deref().map(str::parse::<FlowName>), query.all) {
        (None, true) => None,
        (Some(Ok(name)), false) => Some(name),
        (Some(Err(wrong)), _) => return refuse(StatusCode::BAD_REQUEST, wrong, FLOW_HELP),
        _ => return refuse(StatusCode::BAD_REQUEST, "one flow or all of them", FLOW_HELP),
    };
    let done = match name {
        None => source.demote(None),
        Some(name) => {
            let filter = FlowFilter { flow: Some(name), limit: MAX_FLOWS, ..FlowFilter::default() };
            match source.flows(filter).await {
                Ok(flows) if flows.is_empty() => {
                    return refuse(StatusCode::NOT_FOUND, "there is no such flow", FLOW_HELP);
                }
                Ok(flows) => flows.iter().try_fold(0, |sum, flow| Ok(sum + source.demote(Some(flow))?)),
                Err(error) => Err(error),
            }
        }
    };
    match done {
        Ok(flows) => Json(Demoted { flows }).into_response(),
        Err(e) => refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{e:#}"), "`softdpu status` shows the workers"),
    }
}

/// Query of `/v1/flows`, unchecked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowsQuery {
    class: Option<String>,
    app: Option<String>,
    host: Option<String>,
    tier: Option<String>,
    port: Option<u16>,
    prefix: Option<String>,
    flow: Option<String>,
    limit: Option<usize>,
}

impl Parameters for FlowsQuery {
    const NAMES: &'static str = "class, app, host, tier, port, prefix, flow and limit";
}

impl FlowsQuery {
    fn filter(self) -> Result<FlowFilter, ApiError> {
        let bad = |error: String, help: String| Err(ApiError { error, help });
        if let Some(class) = &self.class
            && !known_classes().any(|c| c == class)
        {
            let help = match nearest(class, known_classes()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the classes are {}", known_classes().collect::<Vec<_>>().join(", ")),
            };
            return bad(format!("no class of flows is called `{class}`"), help);
        }
        let host = match self.host.map(|h| h.parse::<HostPattern>()).transpose() {
            Ok(host) => host,
            Err(wrong) => return bad(wrong.message, wrong.help),
        };
        if let Some(tier) = &self.tier
            && !TIERS.contains(&tier.as_str())
        {
            return bad(format!("no tier is called `{tier}`"), format!("the tiers are {}", TIERS.join(", ")));
        }
        let prefix = match self.prefix.as_deref().map(str::parse::<Prefix>).transpose() {
            Ok(prefix) => prefix,
            Err(wrong) => return bad(format!("not a prefix: {wrong}"), "write 10.0.0.0/8 or 2001:db8::/32".into()),
        };
        let flow = match self.flow.as_deref().map(str::parse::<FlowName>).transpose() {
            Ok(flow) => flow,
            Err(wrong) => return bad(wrong, FLOW_HELP.into()),
        };
        let (class, app, tier, port) = (self.class, self.app, self.tier, self.port);
        match self.limit.unwrap_or(FlowFilter::default().limit) {
            limit @ 1..=MAX_FLOWS => Ok(FlowFilter { class, app, host, tier, port, prefix, flow, limit }),
            limit => bad(format!("`limit` cannot be {limit}"), format!("from 1 to {MAX_FLOWS}")),
        }
    }
}

async fn flows(State(source): Source, Query(query): Query<FlowsQuery>) -> Response {
    let filter = match query.filter() {
        Ok(filter) => filter,
        Err(e) => return (StatusCode::BAD_REQUEST, Json(e)).into_response(),
    };
    let limit = filter.limit;
    match tokio::time::timeout(FLOWS_TIMEOUT, source.flows(filter)).await {
        Ok(Ok(mut flows)) => {
            flows.truncate(limit);
            Json(flows).into_response()
        }
        Ok(Err(e)) => refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{e:#}"), "`softdpu status` shows the workers"),
        Err(_) => refuse(
            StatusCode::GATEWAY_TIMEOUT,
            "a worker did not answer in time",
            "`softdpu status` shows whether the workers run",
        ),
    }
}

async fn unknown(uri: axum::http::Uri) -> Response {
    let help = format!("there is {}", openapi::paths().collect::<Vec<_>>().join(", "));
    refuse(StatusCode::NOT_FOUND, format!("no such path: {}", short(uri.path())), help)
}

async fn method() -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, "not this method", "questions are asked with GET, changes made with POST")
}
