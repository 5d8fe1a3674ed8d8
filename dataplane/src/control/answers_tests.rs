//! What each route answers, held against the document: codes, content types, errors as JSON.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::openapi::routes::{Answer, ROUTES, Route};
use super::tests::{Running, runtime};
use super::{client, openapi, types::ApiError};

const WAIT: Duration = Duration::from_secs(5);

/// Code, head and body of an answer.
fn ask(running: &Running, head: &str, body: &[u8]) -> (u16, String, String) {
    let request = [format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(), body].concat();
    let text = String::from_utf8_lossy(&running.raw(&request, WAIT)).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request:?}: {text:?}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_ascii_lowercase(), body.to_owned())
}

/// Asserts that the document knows this answer.
fn known(route: &Route, code: u16, head: &str, body: &str) {
    if code == 200 {
        let content_type = match route.answer {
            Answer::Json(_) => "application/json",
            Answer::Text(of) => of,
            Answer::Events(_) => "text/event-stream",
        };
        assert!(head.contains(&format!("content-type: {content_type}")), "{}: {head}", route.path);
        return;
    }
    assert!(route.errors.iter().any(|(known, _)| *known == code), "{} {code}: {body}", route.path);
    serde_json::from_str::<ApiError>(body).unwrap_or_else(|error| panic!("{} {code}: {error}: {body}", route.path));
}

#[test]
fn every_example_is_answered() {
    let running = Running::start(false);
    for route in ROUTES {
        let mut line = format!("{} {} HTTP/1.1", route.method.to_uppercase(), route.ask);
        let sent = route.body.as_ref().map_or("", |body| body.example);
        if !sent.is_empty() {
            line += &format!("\r\ncontent-type: application/json\r\ncontent-length: {}", sent.len());
        }
        let (code, head, body) = ask(&running, &line, sent.as_bytes());
        known(route, code, &head, &body);
        // The one that is made up has no packets to watch.
        assert_eq!(code, if sent.is_empty() { 200 } else { 503 }, "{line}: {body}");
        let other = if route.method == "get" { "DELETE" } else { "PUT" };
        let (code, head, body) = ask(&running, &format!("{other} {} HTTP/1.1", route.ask), b"");
        assert_eq!(code, 405, "{line}: {body}");
        assert!(head.contains("allow: "), "{head}");
        serde_json::from_str::<ApiError>(&body).unwrap();
    }
}

#[test]
fn the_document_is_served() {
    let running = Running::start(false);
    let (code, body) = running.get("/v1/openapi.json");
    assert_eq!((code, body.as_str()), (200, openapi::text()));
}

#[test]
fn each_error_has_its_code() {
    let running = Running::start(false);
    for (line, code, part) in [
        ("POST /v1/reload?dry_run=maybe", 400, "dry_run (true or false)"),
        ("POST /v1/reload?force=true", 400, "dry_run (true or false)"),
        ("POST /v1/history/x/rollback", 400, "openapi.json"),
        ("POST /v1/history/99999999999999999999/rollback", 400, "openapi.json"),
        ("POST /v1/history/9/rollback", 404, "no plan 9"),
        ("POST /v1/history/2/rollback", 422, "not valid any more"),
        ("POST /v1/history/3/rollback", 500, "broke off"),
        ("POST /v1/tunnels/%ff/rekey", 400, "openapi.json"),
        ("POST /v1/tunnels/nope/rekey", 404, "no tunnel is called `nope`"),
        ("POST /v1/tunnels/wg0/rekey?peer=x", 404, "no peer `x`"),
        ("POST /v1/tunnels/to-b/rekey", 409, "only those of type wireguard"),
        ("POST /v1/flows/demote", 400, "one flow or all"),
        ("POST /v1/flows/demote?all=true&flow=0:1", 400, "one flow or all"),
        ("GET /v1/flows?limit=1&limit=2", 400, "duplicate field"),
        ("GET /v1/events?kind=plann", 400, "did you mean `plan`"),
        ("GET /v1/events?since=-1", 400, "since (a number)"),
        ("GET /nowhere", 404, "/v1/events"),
    ] {
        let (got, _, body) = ask(&running, &format!("{line} HTTP/1.1"), b"");
        assert_eq!(got, code, "{line}: {body}");
        assert!(body.contains(part), "{line}: {body}");
        serde_json::from_str::<ApiError>(&body).unwrap();
    }
}

#[test]
fn bodies_are_refused_and_nothing_is_done() {
    let running = Running::start(false);
    let post = |headers: &str, body: &[u8]| ask(&running, &format!("POST /v1/reload HTTP/1.1\r\n{headers}"), body);
    let (code, _, body) = post("content-length: 16", b"{\"dry_run\":true}");
    assert!(code == 400 && body.contains("nothing was done"), "{code} {body}");
    assert_eq!(post("content-length: 0", b"").0, 200);
    let long = vec![b'x'; 20_000];
    assert_eq!(post("content-length: 20000", &long).0, 413);
    let (code, _, body) = post("content-length: 10", b"half");
    assert!(code == 408 && body.contains("in time"), "{code} {body}");
}

#[test]
fn one_change_at_a_time() {
    let running = Running::start(false);
    let socket = running.socket();
    runtime().block_on(async {
        let (slow, second) = tokio::join!(client::reload(&socket, None, true), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client::reload(&socket, None, false).await
        });
        assert!(slow.is_ok());
        assert!(second.unwrap_err().to_string().contains("another change is under way"));
        assert!(client::reload(&socket, None, false).await.unwrap().applied, "and the next one is taken");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever stands in path, query, header and body: an answer that the document knows, or none.
    #[test]
    fn garbage_in_every_place_gets_a_known_answer(
        seed in 0usize..1000,
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        pairs in proptest::collection::vec(("[a-z_%&=+.:/*0-9-]{0,12}", "[a-z_%&=+.:/*0-9-]{0,12}"), 0..4),
    ) {
        thread_local!(static RUNNING: Running = Running::start(false));
        RUNNING.with(|running| {
            let route = &ROUTES[seed % ROUTES.len()];
            let escaped: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            let names: Vec<&str> = route.parameters.iter().map(|parameter| parameter.name).collect();
            let query: Vec<String> = pairs
                .iter()
                .enumerate()
                .map(|(at, (key, value))| format!("{}={value}", names.get(seed % 7 + at).copied().unwrap_or(key.as_str())))
                .collect();
            let path = route.path.replace("{tunnel}", &escaped).replace("{plan}", &escaped);
            // A stream would go on for ever.
            let end = if route.id == "events" { "&follow=false" } else { "" };
            let line = format!("{} {path}?{}{end} HTTP/1.1\r\nlast-event-id: {escaped}", route.method.to_uppercase(), query.join("&"));
            let (code, head, body) = ask(running, &line, b"");
            // An empty part of the path is another path.
            if code != 404 || !bytes.is_empty() {
                known(route, code, &head, &body);
            }
        });
    }
}

/// Half a request, then silence; a connection per request, many; and the rest goes on.
#[test]
fn a_stream_does_not_keep_others_out() {
    let running = Running::start(false);
    let mut streams: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(running.socket()).unwrap()).collect();
    for stream in &mut streams {
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    }
    let mut codes: Vec<String> = Vec::new();
    for stream in &mut streams {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let mut buffer = [0; 12];
        stream.read_exact(&mut buffer).unwrap();
        codes.push(String::from_utf8_lossy(&buffer[9..]).into_owned());
    }
    assert_eq!(codes.iter().filter(|code| *code == "200").count(), 16);
    assert_eq!(codes.iter().filter(|code| *code == "503").count(), 4);
    assert_eq!(running.get("/v1/healthz").0, 200);
    let figures: Value = serde_json::to_value(running.journal.figures()).unwrap();
    assert_eq!(figures["readers"], 16);
}
