//! Tries set-ups: generator alone, kernel forwarding, with NAPI and sink in different places.
use softdpu_bench::net::generator::{Generator, Limits};
use softdpu_bench::net::topology::*;
use std::time::Duration;
fn main() -> anyhow::Result<()> {
    softdpu_bench::stop::install();
    let args: Vec<String> = std::env::args().collect();
    let near = match args[1].as_str() {
        "inline" => Napi::Inline,
        c => Napi::Thread(c.parse()?),
    };
    let far = match args[2].as_str() {
        "plain" => Far::Plain,
        f => {
            let (k, n) = f.split_once(':').unwrap();
            let n = match n {
                "inline" => Napi::Inline,
                c => Napi::Thread(c.parse()?),
            };
            if k == "xdp" { Far::Xdp(n) } else { Far::Gro(n) }
        }
    };
    let t = Topology::new(Setup { near, far })?;
    let rate = args.get(4).and_then(|r| r.parse::<f64>().ok()).filter(|r| *r > 0.0);
    let mut link = None;
    let mut child = None;
    let words = softdpu_bench::bpf::sys::Words::new(2)?;
    match args[3].as_str() {
        "kernel" => t.kernel_forwarding(true)?,
        "drop" => {
            let p =
                softdpu_bench::bpf::sys::Program::load("drop", &softdpu_bench::bpf::programs::sink(words.fd(), PORT))?;
            link = Some(t.dut.run(|| Ok(p.attach(softdpu_bench::net::namespace::ifindex(&t.near_if)?)?))?);
        }
        "cmd" => {
            let cmd = args[5].replace("NEAR", &t.near_if).replace("FAR", &t.far_if);
            child = Some(t.dut.command("sh").arg("-c").arg(cmd).spawn()?);
            std::thread::sleep(Duration::from_millis(700));
            t.place(&t.dut, &t.near_if, near)?;
        }
        "xdpfwd" => {
            use softdpu_bench::bpf::{asm::*, sys::Program};
            let out = t.dut.run(|| softdpu_bench::net::namespace::ifindex(&t.far_if))?;
            let mut a = Asm::new();
            a.alu(Op::Mov, Reg::R1, out as i32).alu(Op::Mov, Reg::R2, 0).call(23).exit();
            let p = Program::load("fwd", &a.finish())?;
            link = Some(t.dut.run(|| Ok(p.attach(softdpu_bench::net::namespace::ifindex(&t.near_if)?)?))?);
            t.place(&t.dut, &t.near_if, near)?;
        }
        _ => {}
    }
    if let Ok(m) = std::env::var("RPS_SINK") { t.sink.set(&format!("/sys/class/net/{}/queues/rx-0/rps_cpus", t.sink_if), &m)?; }
    if let Ok(m) = std::env::var("RPS_NEAR") { t.dut.set(&format!("/sys/class/net/{}/queues/rx-0/rps_cpus", t.near_if), &m)?; }
    let traffic = t.traffic(1, 60);
    let g = Generator::start(
        &t,
        &traffic,
        Limits {
            packets: 100_000_000,
            time: Duration::from_secs(5),
            rate,
            core: 1,
            batch: std::env::var("BATCH").map_or(64, |b| b.parse().unwrap()),
        },
    )?;
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..3 {
        let (s0, a0, d0, t0) = (g.sent()?, t.arrived()?, words.read()?[1], std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(500));
        let dt = t0.elapsed().as_secs_f64() * 1e6;
        println!(
            "sent {:.3} arrived {:.3} near-drop {:.3} Mpps",
            (g.sent()? - s0) as f64 / dt,
            (t.arrived()? - a0) as f64 / dt,
            (words.read()?[1] - d0) as f64 / dt
        );
    }
    g.finish()?;
    drop(link);
    if let Some(mut c) = child {
        c.kill()?;
        c.wait()?;
    }
    Ok(())
}
