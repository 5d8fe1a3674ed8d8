//! What must be true for the demo to end with 0.

use softdpu_testbed::status::{Figures, Flow};

use super::{
    apps::{SECURE, SHOP},
    report::{Report, Wire, list},
    workload::Measured,
};

/// Every document arrived whole.
pub fn transfers(report: &mut Report, name: &'static str, measured: &Measured) {
    let bad: Vec<&str> = measured.transfers.iter().filter(|one| !one.equal).map(|one| one.url.as_str()).collect();
    let all = measured.transfers.len();
    let bytes: u64 = measured.transfers.iter().map(|one| one.bytes).sum();
    let detail =
        if bad.is_empty() { format!("{all} transfers, {bytes} bytes") } else { format!("differ: {}", bad.join(" ")) };
    report.check(name, all > 0 && bad.is_empty(), detail);
}

/// Every DNS question was answered rightly.
pub fn dns(report: &mut Report, measured: &Measured) {
    let right = measured.dns_answers;
    report.check("DNS answers are right", right == 4, format!("{right} of 4"));
    let lost = measured.echoes_lost;
    report.check("round trips complete", lost == 0, format!("{lost} lost"));
}

/// Nothing but ESP on the wire.
pub fn wire(report: &mut Report, wire: &Wire) {
    let detail = format!(
        "{} ESP frames looked into, {} others, {} missed{}",
        wire.esp_frames_looked_into,
        wire.frames_not_esp,
        wire.frames_missed,
        wire.examples.first().map(|one| format!(", first: {one}")).unwrap_or_default()
    );
    let ok = wire.esp_frames_looked_into > 100 && wire.frames_missed == 0 && wire.examples.is_empty();
    report.check("the wire shows nothing but ESP", ok && wire.frames_not_esp == 0, detail);
}

/// Text shrinks to less than half.
pub fn compression(report: &mut Report) {
    let (ratio, before) = report.compression.first().map_or((0.0, 0), |text| (text.ratio, text.bytes_before));
    // At least one round of the text must have gone through the compressor, or the ratio says nothing.
    let ok = ratio > 2.0 && before > 12 << 20;
    report.check("HTTP text is compressed by more than 2", ok, format!("{ratio:.2} on {before} bytes"));
}

/// Every application's flows have their class, and their name where they say one.
pub fn classes(report: &mut Report, edge: &'static str, flows: &[Flow]) {
    let expected: [(&str, &str, Option<&str>); 4] =
        [(":80", "http", Some(SHOP)), (":443", "tls", Some(SECURE)), (":53", "dns", None), (":5201", "iperf3", None)];
    let mut wrong = Vec::new();
    let mut right = 0;
    for (port, class, host) in expected {
        let of_port: Vec<&Flow> = flows.iter().filter(|flow| flow.b.ends_with(port)).collect();
        if of_port.is_empty() {
            wrong.push(format!("no flow to {port}"));
        }
        for flow in of_port {
            let name = flow.host.as_deref();
            let named = match host {
                Some(host) => name == Some(host),
                None if class == "dns" => name == Some(SHOP) || name == Some(SECURE),
                None => true,
            };
            if flow.protocol == class && named {
                right += 1;
            } else {
                wrong.push(format!(
                    "{} {} to {} is {} {}",
                    flow.l4,
                    flow.a,
                    flow.b,
                    flow.protocol,
                    name.unwrap_or("-")
                ));
            }
        }
    }
    let name = match edge {
        "edge-a" => "edge-a: http, tls, dns and iperf3 flows are classed and named",
        _ => "edge-b: http, tls, dns and iperf3 flows are classed and named",
    };
    let detail = wrong
        .first()
        .map_or_else(|| format!("{right} flows"), |first| format!("{} wrong, first: {first}", wrong.len()));
    report.check(name, wrong.is_empty() && right > 0, detail);
}

/// Both edges encrypted and decrypted, dropped nothing unexplained, and have all their frames.
pub fn edges(report: &mut Report) {
    let edges = report.edges.clone();
    let sum = |get: fn(&Figures) -> u64| edges.values().map(get).collect::<Vec<u64>>();
    let (sealed, opened) = (sum(|edge| edge.packets_encrypted), sum(|edge| edge.packets_decrypted));
    let worked = sealed.iter().chain(&opened).all(|count| *count > 0);
    report.check("both edges encrypt and decrypt", worked, format!("encrypted {sealed:?}, decrypted {opened:?}"));
    for (name, figures) in edges {
        let unexplained = figures.unexplained();
        let (drops, frames) = match name {
            "edge-a" => ("edge-a: no unexplained drops", "edge-a: every frame is accounted for"),
            _ => ("edge-b: no unexplained drops", "edge-b: every frame is accounted for"),
        };
        // An edge that did nothing dropped nothing.
        report.check(drops, unexplained.is_empty() && figures.packets_decrypted > 0, list(&unexplained));
        report.check(
            frames,
            figures.balanced(),
            format!("{} of {}", list(&figures.frames_by_place), figures.frames_total),
        );
    }
}

/// Without traffic, nearly no processor time.
pub fn idle(report: &mut Report, percent: f64) {
    report.check("idle: at most 1 % of a core per edge", percent <= 1.0, format!("{percent:.2} %"));
}
