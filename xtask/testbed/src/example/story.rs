//! The story: plan, traffic, a conflict, a mistake, the operator's changes.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Options, Teller,
    apps::{Apps, BACKUPS, Camera, PAYMENTS, VIDEO, WORD},
    host::{self, Files},
    wire::Wire,
};
use crate::{
    capture::Capture,
    cleanup::RunDir,
    edge::Edge,
    process::{Said, eventually},
    status::Figures,
    topology::{SERVER, Topology},
};

const PATIENCE: Duration = Duration::from_secs(20);
const TCP: u8 = 6;
const UDP: u8 = 17;
const POLICY: &str = "policies/example-a.toml";

/// What every chapter has at hand.
struct Scene<'a> {
    files: &'a Files,
    topology: &'a Topology,
    folder: &'a RunDir,
    apps: &'a Apps,
}

pub fn tell(options: &Options, folder: &RunDir, teller: &mut Teller) -> Result<()> {
    let files = Files::new(&options.binary, &options.configs, folder)?;
    teller.chapter("Two teams' files become a plan");
    plan(&files, teller)?;

    let topology = host::hosts(&options.tag)?;
    let apps = Apps::start(&topology, folder, if options.quick { 2 << 20 } else { 16 << 20 })?;
    let edges = host::start(&files, &topology)?;
    topology.reachable(SERVER[0], PATIENCE)?;
    let scene = Scene { files: &files, topology: &topology, folder, apps: &apps };
    let told = chapters(&scene, options, teller);
    if told.is_err() {
        for edge in &edges {
            eprintln!("an edge said:\n{}", crate::process::tail(&edge.said(), 30));
        }
    }
    told?;
    ending(edges, teller)
}

fn chapters(scene: &Scene<'_>, options: &Options, teller: &mut Teller) -> Result<()> {
    teller.chapter("Payments: in the tunnel, as they are");
    payments(scene, teller)?;
    teller.chapter("Backups: in the tunnel, smaller");
    backups(scene, teller)?;
    teller.chapter("Video: in clear, in the driver");
    video(scene, if options.quick { 300 } else { 2000 }, teller)?;
    teller.chapter("What runs, as softdpu tells it");
    // What the driver counted comes in once a second.
    std::thread::sleep(Duration::from_millis(1200));
    teller.typed("softdpu flows", &scene.files.ask(&["flows"])?.out);
    for intent in ["payments", "backups", "video"] {
        let said = scene.files.ask(&["explain", "--intent", intent, "--watch", "0.2"])?;
        teller.typed(&format!("softdpu explain --intent {intent}"), &said.out);
        let wanted = if intent == "video" { "encrypted? no, it asks to" } else { "encrypted? yes, by tunnel `to-b`" };
        teller.claim(format!("explain answers for {intent}"), said.out.contains(wanted), first(&said, "encrypted?"));
    }
    teller.chapter("Another team claims the payments' flows");
    conflict(scene, teller)?;
    teller.chapter("Somebody mistypes");
    mistake(scene, teller)?;
    teller.chapter("The operator limits the backups");
    limit(scene, teller)?;
    teller.chapter("The operator works on the tunnel");
    maintenance(scene, teller)
}

/// The plan of the example's policy, on no host at all.
fn plan(files: &Files, teller: &mut Teller) -> Result<()> {
    let said = files.softdpu(&["plan", "-c", POLICY], &[])?;
    teller.typed(&format!("softdpu plan -c {POLICY}"), &said.out);
    let contract = contract(files)?;
    for (name, tier, tunnel, compress) in [
        ("payments", "worker", Some("to-b"), false),
        ("backups", "worker", Some("to-b"), true),
        ("video", "xdp", None, false),
    ] {
        let is = intent(&contract, name);
        let ok = is["verdict"] == "met"
            && is["tier"] == tier
            && is["tunnel"].as_str() == tunnel
            && is["compress"] == compress;
        let seen =
            format!("{}, tier {}, tunnel {}, compress {}", is["verdict"], is["tier"], is["tunnel"], is["compress"]);
        teller.claim(format!("the plan meets {name}"), ok, seen.replace('"', ""));
    }
    Ok(())
}

fn contract(files: &Files) -> Result<Value> {
    let said = files.softdpu(&["plan", "-c", POLICY, "--json"], &[])?;
    serde_json::from_str(&said.out).with_context(|| format!("no plan: {}{}", said.err, said.out))
}

fn intent(contract: &Value, name: &str) -> Value {
    let all = contract["intents"].as_array().into_iter().flatten();
    all.clone().find(|intent| intent["name"] == name).cloned().unwrap_or_default()
}

/// What the tunnel of site A has sealed, opened, and made of what it compressed.
fn tunnel(scene: &Scene<'_>) -> Result<Figures> {
    Ok(Figures::read(&scene.files.json(&["status"])?))
}

/// What a job gave, what the wire showed, packets sealed and opened, bytes before and after compression.
type Watched<T> = (T, Wire, [u64; 2], (u64, u64));

/// A job with the wire captured, and what the tunnel counted meanwhile: sealed and opened packets, bytes before and after
/// compression. Counters follow packets by some milliseconds, so they are read until they agree with the wire, or for a while.
fn watched<T>(scene: &Scene<'_>, job: impl FnOnce() -> Result<T>) -> Result<Watched<T>> {
    let capture = Capture::start(&scene.topology.wire, "wire", "ip", 2048, 0, scene.folder)?;
    let before = tunnel(scene)?;
    let done = job()?;
    std::thread::sleep(Duration::from_millis(300));
    let wire = Wire::of(&capture.stop()?, WORD);
    let mut after = tunnel(scene)?;
    let counted = |after: &Figures| {
        [after.packets_encrypted - before.packets_encrypted, after.packets_decrypted - before.packets_decrypted]
    };
    eventually(Duration::from_secs(3), || {
        after = tunnel(scene).ok()?;
        (counted(&after) == wire.esp.map(|way| way.frames)).then_some(())
    });
    Ok((done, wire, counted(&after), after.compressed_since(&before)))
}

/// The wire had nothing of an application but ESP, and the counters say the same.
fn only_sealed(who: &str, port: u16, wire: &Wire, counted: [u64; 2], teller: &mut Teller) {
    let (sealed, clear) = (wire.sealed(), wire.in_clear(TCP, port));
    let ok = sealed.frames > 20 && clear.frames == 0 && wire.leaks == 0 && wire.lost == 0;
    let seen = format!(
        "{} frames of ESP, {} of TCP port {port}, {} with their text; {} missed by the capture",
        sealed.frames, clear.frames, wire.leaks, wire.lost
    );
    teller.claim(format!("the wire shows {who} as ESP only"), ok, seen);
    let frames = wire.esp.map(|way| way.frames);
    let seen = format!("sealed {} and opened {}, on the wire {} and {}", counted[0], counted[1], frames[0], frames[1]);
    teller.claim(format!("{who}: the tunnel's counters agree with the wire"), counted == frames, seen);
}

fn payments(scene: &Scene<'_>, teller: &mut Teller) -> Result<()> {
    let (whole, wire, counted, compressed) = watched(scene, || scene.apps.pay(scene.topology, scene.folder, PATIENCE))?;
    teller.claim("a statement comes over HTTPS", whole, if whole { "equal to the server's" } else { "it did not" });
    only_sealed("payments", PAYMENTS, &wire, counted, teller);
    let seen = format!("{} bytes were given to the compressor", compressed.0);
    teller.claim("payments are not compressed", compressed.0 == 0, seen);
    flows(scene, PAYMENTS, "worker", "intent:payments", Some("to-b"), teller)
}

fn backups(scene: &Scene<'_>, teller: &mut Teller) -> Result<()> {
    let (whole, wire, counted, compressed) = watched(scene, || scene.apps.back_up(scene.topology, scene.folder))?;
    let bytes = scene.apps.backup;
    teller.claim("rsync backs the ledger up", whole, format!("{bytes} bytes, equal at the other site"));
    only_sealed("backups", BACKUPS, &wire, counted, teller);
    let sent = wire.esp[0].bytes;
    let seen = format!(
        "{bytes} bytes of file were {sent} bytes of ESP, headers and all: {:.2} to 1",
        bytes as f64 / sent.max(1) as f64
    );
    teller.claim("backups are smaller on the wire than what was sent", sent > 0 && sent * 2 < bytes, seen);
    let ok = compressed.0 >= bytes && compressed.1 * 2 < compressed.0;
    teller.claim("the compressor's counters say so too", ok, format!("{} bytes became {}", compressed.0, compressed.1));
    flows(scene, BACKUPS, "worker", "intent:backups", Some("to-b"), teller)
}

fn video(scene: &Scene<'_>, packets: u32, teller: &mut Teller) -> Result<()> {
    let mut camera = Camera::new(scene.topology)?;
    let port = camera.port();
    let find = || -> Option<Value> {
        let flows = scene.files.json(&["flows", "--port", &port.to_string()]).ok()?;
        flows.as_array()?.first().cloned()
    };
    // The worker sees a flow's first packets; then it goes down.
    let mut flow = Value::Null;
    let down = eventually(PATIENCE, || {
        camera.send(20, Duration::from_millis(2));
        flow = find()?;
        (flow["tier"] == "xdp").then_some(())
    });
    let said = scene.files.ask(&["explain", &format!("{}:{port}", crate::topology::CLIENT[0])])?;
    let seen =
        if down.is_some() { format!("class {}, rule {}", flow["class"], flow["rule"]) } else { said.out.clone() };
    teller.claim("the stream goes down into the driver (tier xdp)", down.is_some(), seen.replace('"', ""));
    teller.typed(&format!("softdpu explain {}:{port}", crate::topology::CLIENT[0]), &said.out);

    let verdict = |name: &str| tunnel(scene).map(|figures| figures.xdp_verdicts.get(name).copied().unwrap_or(0));
    let before = (scene.apps.viewed(), verdict("flow_forward")?, verdict("worker")?);
    let ((), wire, counted, _) = watched(scene, || {
        camera.send(packets, Duration::from_micros(500));
        eventually(PATIENCE, || (scene.apps.viewed() - before.0 >= u64::from(packets)).then_some(()));
        Ok(())
    })?;
    let arrived = scene.apps.viewed() - before.0;
    teller.claim("the viewer has every packet", arrived == u64::from(packets), format!("{arrived} of {packets}"));
    let clear = wire.in_clear(UDP, VIDEO);
    let reports = clear.frames.saturating_sub(u64::from(packets));
    let ok = clear.frames >= u64::from(packets) && wire.leaks >= u64::from(packets) && wire.lost == 0;
    let seen = format!(
        "{} frames of UDP port {VIDEO}, {reports} of them the viewer's reports; {} can be read",
        clear.frames, wire.leaks
    );
    teller.claim("the wire shows video in clear", ok, seen);
    let seen = format!("{} frames of ESP, {} sealed", wire.sealed().frames, counted[0]);
    teller.claim("nothing of it is encrypted", counted == [0, 0] && wire.sealed().frames == 0, seen);
    let driver = verdict("flow_forward")? - before.1;
    let worker = verdict("worker")? - before.2;
    let seen =
        format!("the driver forwarded {driver} packets, the worker was given {worker}; the wire had {}", clear.frames);
    teller.claim("video: the driver's counters agree with the wire", driver == clear.frames, seen);
    flows(scene, VIDEO, "xdp", "intent:video", None, teller)
}

/// The flows of a port are where the plan says.
fn flows(
    scene: &Scene<'_>,
    port: u16,
    tier: &str,
    rule: &str,
    tunnel: Option<&str>,
    teller: &mut Teller,
) -> Result<()> {
    let all = scene.files.json(&["flows", "--port", &port.to_string()])?;
    let all: Vec<&Value> = all.as_array().into_iter().flatten().collect();
    let ok = |flow: &&Value| flow["tier"] == tier && flow["rule"] == rule && flow["tunnel"].as_str() == tunnel;
    let right = all.iter().copied().filter(ok).count();
    let seen = all.first().map_or_else(
        || "no flow".to_owned(),
        |flow| {
            format!("{right} of {}: tier {}, rule {}, tunnel {}", all.len(), flow["tier"], flow["rule"], flow["tunnel"])
        },
    );
    let claim = format!("softdpu flows agrees with the plan for port {port}");
    teller.claim(claim, right > 0 && right == all.len(), seen.replace('"', ""));
    Ok(())
}

fn conflict(scene: &Scene<'_>, teller: &mut Teller) -> Result<()> {
    let (files, to) = (scene.files, "intents/analytics.intent.toml");
    files.write(to, include_str!("../../../../configs/intents/conflict/analytics.intent.toml"))?;
    let said = files.softdpu(&["plan", "-c", POLICY], &[])?;
    teller.typed(&format!("softdpu plan -c {POLICY}"), &said.out);
    let contract = contract(files)?;
    let (analytics, payments) = (intent(&contract, "analytics"), intent(&contract, "payments"));
    let ok = analytics["verdict"] == "refused" && analytics["because"]["reason"] == "claimed_by_intent";
    let seen = format!("{}: {}", analytics["verdict"], analytics["because"]["reason"]).replace('"', "");
    teller.claim("the conflicting intent is refused", ok && said.status.code() == Some(1), seen);
    let part = said.out.split("\nconflict: ").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    let both =
        ["analytics.intent.toml:5", "| encrypt = \"never\"", "payments.intent.toml:4", "| encrypt = \"required\""];
    let quoted = both.iter().all(|what| part.contains(what));
    teller.claim(
        "both files' lines are quoted, with whose they are",
        quoted && part.contains("payments team"),
        part.replace('\n', " "),
    );
    teller.claim("payments stay as they were", payments["verdict"] == "met", payments["verdict"].to_string());
    let reloaded = files.ask(&["reload"])?;
    teller.typed("softdpu reload", &format!("{}{}", reloaded.out, reloaded.err));
    let (whole, wire, counted, _) = watched(scene, || scene.apps.pay(scene.topology, scene.folder, PATIENCE))?;
    teller.claim("with it in the folder payments go on", whole, if whole { "whole" } else { "they do not" });
    only_sealed("payments (claimed by another)", PAYMENTS, &wire, counted, teller);
    files.remove(to)?;
    let rules = analytics["rules"].as_array().map_or(0, Vec::len);
    teller.claim("the refused intent has no rule", rules == 0, format!("{rules} rules"));
    Ok(())
}

fn mistake(scene: &Scene<'_>, teller: &mut Teller) -> Result<()> {
    let (files, file) = (scene.files, "intents/video.intent.toml");
    let text = files.read(file)?;
    files.ask(&["reload"])?;
    let number = |files: &Files| files.json(&["history"]).map(|all| all[0]["plan"].clone());
    let before = number(files)?;
    files.write(file, &text.replace("encrypt = \"never\"", "encrypt = \"nevr\""))?;
    let said = files.ask(&["reload"])?;
    teller.typed("softdpu reload", &format!("{}{}", said.out, said.err));
    let ok = said.status.code() == Some(1) && said.err.contains("video.intent.toml:4") && said.err.contains("nevr");
    teller.claim("a broken file is not applied, and is quoted", ok, first_of(&said.err, "video.intent.toml:"));
    let after = number(files)?;
    teller.claim("the running plan stays", before == after, format!("plan {before}, then {after}"));
    let whole = scene.apps.pay(scene.topology, scene.folder, PATIENCE)?;
    teller.claim("payments go on", whole, if whole { "whole" } else { "they do not" });
    files.write(file, &text)
}

fn limit(scene: &Scene<'_>, teller: &mut Teller) -> Result<()> {
    let files = scene.files;
    let text = files.read(POLICY)?;
    files.write(POLICY, &text.replace("connections = 20\n", "connections = 20\nbandwidth = \"40 Mbit/s\"\n"))?;
    let said = files
        .softdpu(&["plan", "-c", POLICY, "--diff"], &["--socket", &files.edges[0].socket.display().to_string()])?;
    teller.typed(&format!("softdpu plan -c {POLICY} --diff"), &format!("{}{}", said.out, said.err));
    let ok = said.out.contains("~ backups") && said.out.contains("verdict: met -> degraded");
    teller.claim("--diff shows what changes before it does", ok, first(&said, "verdict:"));
    let reloaded = files.ask(&["reload"])?;
    teller.typed("softdpu reload", &format!("{}{}", reloaded.out, reloaded.err));
    let explained = files.json(&["explain", "--intent", "backups", "--watch", "0.2"])?;
    let (is, because) = (&explained["intent"], &explained["intent"]["because"]);
    let ok = is["verdict"] == "degraded"
        && because["reason"] == "app_limit"
        && because["by"]["quote"].as_str().is_some_and(|quote| quote.contains("40 Mbit/s"));
    let seen = format!("{}, {}: {}, {}", is["verdict"], because["reason"], because["text"], because["by"]["owner"]);
    teller.claim("the running plan says degraded, by the operator's line", ok, seen.replace('"', ""));
    let started = std::time::Instant::now();
    let whole = scene.apps.back_up(scene.topology, scene.folder)?;
    let seconds = started.elapsed().as_secs_f64();
    let rate = scene.apps.backup as f64 * 8.0 / seconds / 1e6;
    teller.claim("backups go on, slower", whole && rate < 44.0, format!("{seconds:.1} s, {rate:.1} Mbit/s"));
    let said = files.ask(&["explain", "--intent", "backups", "--watch", "0.2"])?;
    teller.typed("softdpu explain --intent backups", &said.out);
    let ok = said.out.contains("slow? yes") && said.out.contains("app_limit") && said.out.contains("over its meter");
    teller.claim("explain says why backups are slow", ok, first(&said, "over its meter"));
    files.write(POLICY, &text)
}

fn maintenance(scene: &Scene<'_>, teller: &mut Teller) -> Result<()> {
    let files = scene.files;
    let text = files.read(POLICY)?;
    let with = text.replace("tunnels = [] ", "tunnels = [\"to-b\"]\nnote = \"fibre is moved until Friday\" ");
    files.write(POLICY, &with)?;
    let contract = contract(files)?;
    let (payments, backups) = (intent(&contract, "payments"), intent(&contract, "backups"));
    let ok = payments["verdict"] == "refused" && backups["verdict"] == "degraded";
    let seen = format!(
        "payments {} ({}), backups {} ({})",
        payments["verdict"], payments["because"]["reason"], backups["verdict"], backups["because"]["reason"]
    );
    teller.claim("without the tunnel payments are refused, backups degraded", ok, seen.replace('"', ""));
    let reloaded = files.ask(&["reload"])?;
    teller.typed("softdpu reload", &format!("{}{}", reloaded.out, reloaded.err));
    let (whole, wire, _, _) = watched(scene, || scene.apps.pay(scene.topology, scene.folder, Duration::from_secs(2)))?;
    let clear = wire.in_clear(TCP, PAYMENTS).frames;
    let seen = format!(
        "{}; {clear} frames in clear on the wire",
        if whole { "they came through" } else { "none came through" }
    );
    teller.claim("payments stop rather than go in clear", !whole && clear == 0 && wire.lost == 0, seen);
    let said = files.ask(&["explain", "--intent", "payments", "--watch", "0.2"])?;
    teller.typed("softdpu explain --intent payments", &said.out);
    let ok = said.out.contains("maintenance") && said.out.contains("network operations");
    teller.claim("explain says why, and who can change it", ok, first(&said, "who can change it"));
    files.write(POLICY, &text)?;
    let reloaded = files.ask(&["reload"])?;
    teller.typed("softdpu reload", &format!("{}{}", reloaded.out, reloaded.err));
    let (whole, wire, counted, _) = watched(scene, || scene.apps.pay(scene.topology, scene.folder, PATIENCE))?;
    teller.claim("with the tunnel back payments go on", whole, if whole { "whole" } else { "they do not" });
    only_sealed("payments (again)", PAYMENTS, &wire, counted, teller);
    Ok(())
}

fn ending(edges: [Edge; 2], teller: &mut Teller) -> Result<()> {
    teller.chapter("At the end");
    for (edge, name) in edges.into_iter().zip(["example-a", "example-b"]) {
        let balanced = eventually(PATIENCE, || Figures::read(&edge.status().ok()?).balanced().then_some(())).is_some();
        let figures = Figures::read(&edge.status()?);
        teller.claim(
            format!("{name}: no byte escaped in clear"),
            figures.escaped_bytes == 0,
            figures.escaped_bytes.to_string(),
        );
        let seen = format!("{:?} of {}", figures.frames_by_place, figures.frames_total);
        teller.claim(format!("{name}: every frame is accounted for"), balanced, seen);
        let ended = edge.stop();
        let clean = ended.as_ref().is_ok_and(|status| status.success());
        teller.claim(format!("{name} ends cleanly"), clean, format!("{ended:?}"));
    }
    Ok(())
}

/// The first line of an answer with a word.
fn first(said: &Said, word: &str) -> String {
    first_of(&said.out, word)
}

fn first_of(text: &str, word: &str) -> String {
    let line = text.lines().find(|line| line.contains(word));
    line.map_or_else(|| format!("no line has {word}: {text}"), |line| line.trim().to_owned())
}
