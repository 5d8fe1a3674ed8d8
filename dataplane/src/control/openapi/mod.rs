//! The API's OpenAPI 3.1 document, made of the routes' entries ([`routes`]) and of the types that are answered. Its schemas
//! are JSON Schema 2020-12, as 3.1 wants them, and `schemars`, which describes the policy too, writes those: so the types
//! have one description, and no second library its own macros.

#[cfg(test)]
mod page;
pub mod routes;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::types::ApiError;
use crate::telemetry::journal::Kind;
use routes::{Answer, In, Parameter, ROUTES, Route};

const DESCRIPTION: &str = "\
The control API of a running softdpu, on its Unix socket.

Whoever may open the socket may ask (GET): its owner and its group, by `socket_mode` and `socket_group` of `[control]`. Changes \
(POST) are for root and for the user that the instance runs as, by the credentials that the kernel has of the client.

Whatever is not done is answered with an `ApiError`: what is wrong, and what would be right. Besides the codes of each \
operation: 404 for a path that does not exist, 405 for a method that a path does not have (with `Allow`), 431 for a head of more \
than 16 KiB, which has no body. A connection may last 60 s, 5 s of them in silence, one that follows events as long as it reads; 64 \
connections are served at a time, others wait.

Fields may be added to any object: clients pass over what they do not know.";

/// Paths, as they are written in it.
pub fn paths() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|route| route.path)
}

/// The document as text, made once.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| format!("{:#}\n", document()))
}

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<ApiError>();
    let mut paths = Map::new();
    for route in ROUTES {
        let operations = paths.entry(route.path).or_insert_with(|| json!({}));
        operations[route.method] = operation(route, &mut generator, error.as_value());
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "softdpu",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost", "description": "Any host name will do: the Unix socket is the address." }],
        "tags": [
            { "name": "read", "description": "For whoever may open the socket." },
            { "name": "change", "description": "For root, and the user that the instance runs as." },
        ],
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator, error: &Value) -> Value {
    let (content_type, content) = content(route, generator);
    let mut responses = json!({ "200": { "description": "Done.", "content": { content_type: content } } });
    for (code, when) in route.errors {
        responses[code.to_string()] =
            json!({ "description": when, "content": { "application/json": { "schema": error } } });
    }
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "description": route.text,
        "tags": [if route.method == "get" { "read" } else { "change" }],
        "responses": responses,
    });
    if let Some(body) = &route.body {
        let example: Value = serde_json::from_str(body.example).unwrap_or_default();
        let content = json!({ "schema": (body.schema)(), "example": example });
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": content } });
    }
    if !route.parameters.is_empty() {
        operation["parameters"] = route.parameters.iter().map(parameter).collect();
    }
    operation
}

fn content(route: &Route, generator: &mut SchemaGenerator) -> (&'static str, Value) {
    match &route.answer {
        Answer::Json(schema) => {
            let example: Value = serde_json::from_str(route.example).unwrap_or_default();
            ("application/json", json!({ "schema": schema(generator), "example": example }))
        }
        Answer::Text(content_type) => {
            (content_type, json!({ "schema": { "type": "string" }, "example": route.example }))
        }
        // 3.1 has no words for a stream: as is usual there, what is described is one event.
        Answer::Events(schema) => {
            let data = json!({
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": schema(generator),
            });
            let event = json!({
                "type": "object",
                "description": "One event of the stream.",
                "required": ["event", "data"],
                "properties": {
                    "id": { "type": "string", "pattern": "^[0-9]+$", "description": "To come back with." },
                    "event": generator.subschema_for::<Kind>(),
                    "data": data,
                },
            });
            ("text/event-stream", json!({ "schema": event, "example": route.example }))
        }
    }
}

fn parameter(parameter: &Parameter) -> Value {
    let place = match parameter.place {
        In::Query => "query",
        In::Path => "path",
        In::Header => "header",
    };
    let schema = (parameter.schema)();
    let text = Value::from(parameter.example);
    // As the schema wants it.
    let example = match schema["type"].as_str() {
        Some("integer" | "boolean") => serde_json::from_str(parameter.example).unwrap_or(text),
        _ => text,
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": parameter.place == In::Path,
        "description": parameter.text,
        "schema": schema,
        "example": example,
    })
}
