//! One entry per route: what it is for, what it takes, all it answers. The document and `docs/api.md` are written from it.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::config::known_classes;
use crate::control::api::TIERS;
use crate::control::types::{Demoted, FlowInfo, MAX_FLOWS, PlanEntry, Rekeyed, ReloadReport, Status};
use crate::control::watch::WatchStopped;
use crate::plan::contract::Contract;
use crate::telemetry::journal::Event;
use crate::telemetry::prometheus;
use crate::telemetry::snapshot::Snapshot;
use crate::watch::filter::MAX_LEN;
use crate::watch::request::{MAX_EXPRESSION, MAX_SECONDS, MAX_SNAP};

/// A route.
pub struct Route {
    /// "get": everybody who may open the socket. "post": root and the instance's own user.
    pub method: &'static str,
    pub path: &'static str,
    /// `operationId`, by which generated clients call it.
    pub id: &'static str,
    /// One line.
    pub summary: &'static str,
    /// What else there is to know.
    pub text: &'static str,
    pub parameters: &'static [Parameter],
    /// What is sent along, as JSON; `None`: nothing may be.
    pub body: Option<Body>,
    pub answer: Answer,
    /// Codes besides 200, each with when it comes.
    pub errors: &'static [(u16, &'static str)],
    /// What to ask for in the example, behind the host.
    pub ask: &'static str,
    /// A real instance's answer, shortened. `examples/ID.*`, written by `tests/api_schemathesis.rs`.
    pub example: &'static str,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    Query,
    Path,
    Header,
}

/// A parameter.
pub struct Parameter {
    pub name: &'static str,
    pub place: In,
    pub text: &'static str,
    pub schema: fn() -> Value,
    pub example: &'static str,
}

/// What is sent with a request.
pub struct Body {
    pub schema: fn() -> Value,
    pub example: &'static str,
}

/// What comes with code 200.
pub enum Answer {
    Json(fn(&mut SchemaGenerator) -> Schema),
    Text(&'static str),
    /// Server-sent events whose data is of this schema.
    Events(fn(&mut SchemaGenerator) -> Schema),
}

fn json_of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "required": ["openapi", "info", "paths"] })
}

fn boolean() -> Value {
    json!({ "type": "boolean", "default": false })
}

fn number() -> Value {
    json!({ "type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX })
}

/// Labels of letters, digits, `-` and `_`; perhaps all names below a domain.
const HOST: &str = r"^(\*|(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*)$";

const DRY: Parameter = Parameter {
    name: "dry_run",
    place: In::Query,
    text: "Only say what would change.",
    schema: boolean,
    example: "true",
};

const BODY_400: &str =
    "A parameter is wrong or not known, or there is a body: parameters go into the query. Nothing was done.";
const BODY_408: &str = "A body was announced and did not come within 5 s. Nothing was done.";
const BODY_413: &str = "There is a body, and it is longer than 16 KiB. Nothing was done.";
const NOT_YOU: &str = "The client is neither root nor the user that the instance runs as, by the socket's peer credentials. Nothing was done.";

/// `at`: a capture's points, or nothing for a trace.
fn watch(at: Option<Value>) -> Value {
    let instruction = json!({
        "type": "array",
        "description": "Code, jump where it holds, jump where not, constant: classic BPF, as `tcpdump -ddd` prints it.",
        "items": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
        "minItems": 4,
        "maxItems": 4,
    });
    let program = |of: &str| json!({ "type": "array", "description": of, "items": instruction, "minItems": 1, "maxItems": MAX_LEN });
    let filter = json!({
        "type": ["object", "null"],
        "description": "A filter, compiled by the client. Without it: every packet.",
        "additionalProperties": false,
        "required": ["ethernet", "raw"],
        "properties": {
            "expression": { "type": "string", "maxLength": MAX_EXPRESSION, "description": "What it was compiled from." },
            "ethernet": program("For packets with a link header."),
            "raw": program("For packets without one."),
        },
    });
    let mut properties = json!({
        "filter": filter,
        "snaplen": {
            "type": "integer", "minimum": 0, "maximum": MAX_SNAP, "default": 0,
            "description": "Bytes kept of each packet; 0: as many as a port's packets can have.",
        },
        "count": {
            "type": "integer", "minimum": 0, "maximum": u64::MAX, "default": 0,
            "description": "Packets, each of which may be seen at several points; 0: any number.",
        },
        "seconds": {
            "type": "integer", "minimum": 0, "maximum": MAX_SECONDS, "default": 0,
            "description": "How long; 0: until the client has enough.",
        },
    });
    if let Some(at) = at {
        properties["at"] = at;
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

const WATCH_ERRORS: &[(u16, &str)] = &[
    (400, "The body is not JSON, or asks for what there is not."),
    (403, NOT_YOU),
    (409, "A trace or a capture is running already."),
    (503, "A worker is too busy to be asked."),
];

/// All of them.
pub const ROUTES: &[Route] = &[
    Route {
        method: "get",
        path: "/v1/status",
        id: "status",
        summary: "The instance at a glance: ports, workers, tunnels, rules, classes, drops",
        text: "All it takes to tell whether the instance is well, without waiting for a worker. Counters count from the start of \
               the instance; a rate is the difference of two answers.",
        parameters: &[],
        body: None,
        answer: Answer::Json(json_of::<Status>),
        errors: &[],
        ask: "/v1/status",
        example: include_str!("examples/status.json"),
    },
    Route {
        method: "get",
        path: "/v1/counters",
        id: "counters",
        summary: "All counters, summed over the workers and by worker",
        text: "The figures behind `/metrics`, with every name of the policy, also those that have counted nothing.",
        parameters: &[],
        body: None,
        answer: Answer::Json(json_of::<Snapshot>),
        errors: &[],
        ask: "/v1/counters",
        example: include_str!("examples/counters.json"),
    },
    Route {
        method: "get",
        path: "/v1/plan",
        id: "plan",
        summary: "The contract: what became of each intent, and who decides it",
        text: "What `softdpu plan` says, of the policy in force.",
        parameters: &[],
        body: None,
        answer: Answer::Json(json_of::<Contract>),
        errors: &[],
        ask: "/v1/plan",
        example: include_str!("examples/plan.json"),
    },
    Route {
        method: "get",
        path: "/v1/flows",
        id: "flows",
        summary: "The flows in the workers' tables",
        text: "Filters are joined by \"and\". No order is promised.",
        parameters: &[
            Parameter {
                name: "class",
                place: In::Query,
                text: "Name of a class of flows.",
                schema: || json!({ "type": "string", "enum": known_classes().collect::<Vec<_>>() }),
                example: "http",
            },
            Parameter {
                name: "app",
                place: In::Query,
                text: "Name of an application of the policy.",
                schema: || json!({ "type": "string" }),
                example: "payments",
            },
            Parameter {
                name: "host",
                place: In::Query,
                text: "A host name of at most 253 characters, or `*.` and a domain for all names below it.",
                schema: || json!({ "type": "string", "pattern": HOST, "maxLength": 253 }),
                example: "*.example.com",
            },
            Parameter {
                name: "tier",
                place: In::Query,
                text: "Who handles it.",
                schema: || json!({ "type": "string", "enum": TIERS }),
                example: "worker",
            },
            Parameter {
                name: "port",
                place: In::Query,
                text: "Port number of either end.",
                schema: || json!({ "type": "integer", "minimum": 0, "maximum": u16::MAX }),
                example: "443",
            },
            Parameter {
                name: "prefix",
                place: In::Query,
                text: "An address or prefix, without host bits, that holds the address of either end.",
                schema: || json!({ "type": "string", "format": "prefix" }),
                example: "10.0.0.0/8",
            },
            Parameter {
                name: "flow",
                place: In::Query,
                text: "A flow by its `id`, or by one or both of its ends.",
                schema: || json!({ "type": "string", "format": "flow" }),
                example: "10.0.0.1:5000 10.0.0.2:443",
            },
            Parameter {
                name: "limit",
                place: In::Query,
                text: "Most flows in the answer.",
                schema: || json!({ "type": "integer", "minimum": 1, "maximum": MAX_FLOWS, "default": 1000 }),
                example: "1000",
            },
        ],
        body: None,
        answer: Answer::Json(json_of::<Vec<FlowInfo>>),
        errors: &[
            (400, "A filter is wrong or not known; the answer says what would be right."),
            (503, "A worker is too busy to be asked, or ended while it was."),
            (504, "A worker did not answer within 2 s."),
        ],
        ask: "/v1/flows?limit=2",
        example: include_str!("examples/flows.json"),
    },
    Route {
        method: "post",
        path: "/v1/flows/demote",
        id: "demote",
        summary: "Take one flow, or all, back from the driver to the workers",
        text: "No packet is lost: the next one goes to the worker. A flow that was demoted so stays there. Exactly one of `flow` \
               and `all=true` is given.",
        parameters: &[
            Parameter {
                name: "flow",
                place: In::Query,
                text: "As of `/v1/flows`.",
                schema: || json!({ "type": "string", "format": "flow" }),
                example: "0:17",
            },
            Parameter { name: "all", place: In::Query, text: "All flows.", schema: boolean, example: "false" },
        ],
        body: None,
        answer: Answer::Json(json_of::<Demoted>),
        errors: &[
            (400, BODY_400),
            (403, NOT_YOU),
            (404, "There is no such flow."),
            (408, BODY_408),
            (413, BODY_413),
            (503, "Nothing is offloaded here, or a worker did not say which flow it is."),
        ],
        ask: "/v1/flows/demote?all=true",
        example: include_str!("examples/demote.json"),
    },
    Route {
        method: "post",
        path: "/v1/tunnels/{tunnel}/rekey",
        id: "rekey",
        summary: "Make new session keys in a WireGuard tunnel",
        text: "Handshakes are begun at once; traffic goes on under the old keys until they are done.",
        parameters: &[
            Parameter {
                name: "tunnel",
                place: In::Path,
                text: "Name of a tunnel of type wireguard.",
                schema: || json!({ "type": "string", "minLength": 1 }),
                example: "wg0",
            },
            Parameter {
                name: "peer",
                place: In::Query,
                text: "Only this peer: its name, or its public key. Without it all that have an endpoint.",
                schema: || json!({ "type": "string" }),
                example: "branch",
            },
        ],
        body: None,
        answer: Answer::Json(json_of::<Rekeyed>),
        errors: &[
            (400, BODY_400),
            (403, NOT_YOU),
            (404, "There is no such tunnel, or it has no such peer."),
            (408, BODY_408),
            (409, "The tunnel has no keys of softdpu's making: it is not of type wireguard."),
            (413, BODY_413),
            (503, "The tunnel's control side does not answer."),
        ],
        ask: "/v1/tunnels/wg0/rekey",
        example: include_str!("examples/rekey.json"),
    },
    Route {
        method: "post",
        path: "/v1/reload",
        id: "reload",
        summary: "Take up the changed policy",
        text: "Reads the policy file and its intents again, compiles, puts in force, runs the health check, and takes all back where \
               that fails (`rolled_back`). The answer comes when that is over, which takes as long as the health check may.",
        parameters: &[DRY],
        body: None,
        answer: Answer::Json(json_of::<ReloadReport>),
        errors: &[
            (400, BODY_400),
            (403, NOT_YOU),
            (408, BODY_408),
            (409, "Another change is under way. Nothing was done."),
            (413, BODY_413),
            (422, "The policy is not valid, or needs a restart: the text of all errors. The policy in force stays."),
            (500, "The change broke off. `/v1/history` says which policy is in force."),
        ],
        ask: "/v1/reload?dry_run=true",
        example: include_str!("examples/reload.json"),
    },
    Route {
        method: "get",
        path: "/v1/history",
        id: "history",
        summary: "The policies that were in force, newest first",
        text: "At most 64.",
        parameters: &[],
        body: None,
        answer: Answer::Json(json_of::<Vec<PlanEntry>>),
        errors: &[],
        ask: "/v1/history",
        example: include_str!("examples/history.json"),
    },
    Route {
        method: "post",
        path: "/v1/history/{plan}/rollback",
        id: "rollback",
        summary: "Go back to a policy that was in force",
        text: "As `/v1/reload`, with the text of that policy. Its file is not touched.",
        parameters: &[
            Parameter {
                name: "plan",
                place: In::Path,
                text: "Number of a plan in `/v1/history`.",
                schema: number,
                example: "1",
            },
            DRY,
        ],
        body: None,
        answer: Answer::Json(json_of::<ReloadReport>),
        errors: &[
            (400, BODY_400),
            (403, NOT_YOU),
            (404, "There is no plan of that number."),
            (408, BODY_408),
            (409, "Another change is under way. Nothing was done."),
            (413, BODY_413),
            (422, "That policy is not valid any more, or needs a restart. The policy in force stays."),
            (500, "The change broke off. `/v1/history` says which policy is in force."),
        ],
        ask: "/v1/history/1/rollback?dry_run=true",
        example: include_str!("examples/rollback.json"),
    },
    Route {
        method: "get",
        path: "/v1/events",
        id: "events",
        summary: "What happens, as it happens (server-sent events)",
        text: "The stream begins with a `hello`. Each event has its number as `id`, its kind as `event`, and one line of JSON as \
               `data`. Numbers rise over restarts of the instance, so that a client may come back with the last one it saw. The \
               newest 4,096 events are kept, and 2,048 of the kinds that may come every second. A client that reads too slowly for \
               that is told how many events it missed (`cut_off`) and cut off; one that takes nothing for 45 s is cut off. Every \
               15 s without an event a comment is sent. Kinds are listed in docs/api.md; clients pass over those they do not know.",
        parameters: &[
            Parameter {
                name: "kind",
                place: In::Query,
                text: "Kinds with commas between them, or what comes before their first underscore for all that share it: \
                       `plan,peer_up`. `all` for every kind. Without it all but `flow_…`, which are made on wish only, at most 100 a \
                       second of each kind.",
                schema: || json!({ "type": "string", "format": "event-kinds" }),
                example: "plan,peer_up",
            },
            Parameter {
                name: "since",
                place: In::Query,
                text: "Begin behind the event of this number. 0: with the oldest that is kept. Without it: with the next one.",
                schema: number,
                example: "0",
            },
            Parameter {
                name: "follow",
                place: In::Query,
                text: "`false`: send what is kept and end.",
                schema: || json!({ "type": "boolean", "default": true }),
                example: "false",
            },
            Parameter {
                name: "Last-Event-ID",
                place: In::Header,
                text: "As `since`, and stronger: what clients of server-sent events send when they come back.",
                schema: number,
                example: "1795392000123",
            },
        ],
        body: None,
        answer: Answer::Events(json_of::<Event>),
        errors: &[
            (400, "A parameter is wrong or not known, or the header is not a number."),
            (503, "16 clients follow events already."),
        ],
        ask: "/v1/events?kind=instance,peer,plan&since=0&follow=false",
        example: include_str!("examples/events.txt"),
    },
    Route {
        method: "post",
        path: "/v1/trace",
        id: "trace",
        summary: "Packets on their way through every node",
        text: "What `softdpu trace` shows: one JSON object a line per packet, as they come, until there are as many as were asked for, the \
               time is over, or the client goes. A change, in who may ask for it: packets are secret. A client that is too slow loses \
               records. The last line is `{\"ended\": {\"seen\": …, \"matched\": …, \"lost\": …}}`: packets asked about, those that matched, and \
               records lost.",
        parameters: &[],
        body: Some(Body { schema: || watch(None), example: "{\"count\": 1, \"seconds\": 10}" }),
        answer: Answer::Text("application/x-ndjson"),
        errors: WATCH_ERRORS,
        ask: "/v1/trace",
        example: include_str!("examples/trace.txt"),
    },
    Route {
        method: "post",
        path: "/v1/capture",
        id: "capture",
        summary: "Packets at some points of their way, as a pcapng file",
        text: "What `softdpu capture` writes, likewise. Where packets were sealed or opened the file holds them in clear.",
        parameters: &[],
        body: Some(Body {
            schema: || {
                watch(Some(json!({
                    "type": "array",
                    "items": { "type": "string", "enum": ["rx", "open", "seal", "tx"] },
                    "description": "Points; none: all of them.",
                })))
            },
            example: "{\"at\": [\"rx\"], \"count\": 1, \"seconds\": 10}",
        }),
        answer: Answer::Text("application/x-pcapng"),
        errors: WATCH_ERRORS,
        ask: "/v1/capture",
        example: "(a file: `-o capture.pcapng`)",
    },
    Route {
        method: "post",
        path: "/v1/watch/stop",
        id: "stop",
        summary: "End the trace or capture that is running",
        text: "Whoever began it: its answer ends.",
        parameters: &[],
        body: None,
        answer: Answer::Json(json_of::<WatchStopped>),
        errors: &[(400, BODY_400), (403, NOT_YOU), (408, BODY_408), (413, BODY_413)],
        ask: "/v1/watch/stop",
        example: include_str!("examples/stop.json"),
    },
    Route {
        method: "get",
        path: "/v1/healthz",
        id: "healthz",
        summary: "Whether all workers run",
        text: "For probes: the code says it all.",
        parameters: &[],
        body: None,
        answer: Answer::Text("text/plain"),
        errors: &[(503, "A worker does not run; which, and why.")],
        ask: "/v1/healthz",
        example: include_str!("examples/healthz.txt"),
    },
    Route {
        method: "get",
        path: "/metrics",
        id: "metrics",
        summary: "All counters for Prometheus",
        text: "Names, labels and types are stable: docs/metrics.md. Also on the loopback address that the policy may name \
               (`[control] metrics`).",
        parameters: &[],
        body: None,
        answer: Answer::Text(prometheus::CONTENT_TYPE),
        errors: &[(500, "The text could not be written.")],
        ask: "/metrics",
        example: include_str!("examples/metrics.txt"),
    },
    Route {
        method: "get",
        path: "/v1/openapi.json",
        id: "openapi",
        summary: "This document",
        text: "For the version that answers.",
        parameters: &[],
        body: None,
        answer: Answer::Json(any_object),
        errors: &[],
        ask: "/v1/openapi.json",
        example: include_str!("examples/openapi.json"),
    },
];
