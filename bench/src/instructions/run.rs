//! Running all cases under callgrind: this program once more, in as many parts as there are cores.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::kept::With;
use super::{callgrind, seeds};
use crate::cases;
use crate::net::cores;

/// Runs what callgrind counts, and says how many operations it were. The parts of all cases are dealt out in turn.
///
/// # Errors
/// Where a case cannot be made.
pub fn be_counted(only: &[String], part: usize, parts: usize) -> Result<()> {
    println!("cpu {}", cpu());
    if parts == 0 {
        return Ok(());
    }
    for entry in cases::selected(only).into_iter().skip(part).step_by(parts) {
        let mut case = entry.make().with_context(|| entry.name.clone())?;
        // What is done once only, and memory that is touched first, are not of the operation.
        case.run(entry.count);
        let (done, _) = callgrind::count(&entry.name, || case.run(entry.count));
        println!("ops {done} {}", entry.name);
    }
    Ok(())
}

/// What this program was built with, and what valgrind is like here.
///
/// # Errors
/// Without valgrind.
pub fn here() -> Result<With> {
    let version = Command::new("valgrind").arg("--version").stdin(Stdio::null()).output();
    let version = version.ok().filter(|said| said.status.success());
    let version = version.context("valgrind is not installed: cargo xtask setup, or apt-get install valgrind")?;
    let said = valgrind(&["--tool=none"], &[], 0, 0)?;
    let cpu = said.lines().find_map(|line| line.strip_prefix("cpu ")).context("what valgrind shows of the CPU")?;
    // SAFETY: the library's own text, which stays.
    let libc = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    Ok(With {
        rustc: rustc().context("no compiler's name in this program")?,
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        valgrind: String::from_utf8_lossy(&version.stdout).trim().trim_start_matches("valgrind-").to_owned(),
        libc: format!("glibc {}", libc.to_string_lossy()),
        cpu: cpu.to_owned(),
    })
}

/// Counts the cases of these names; instructions per operation, by name.
///
/// # Errors
/// Valgrind fails, or a case does.
pub fn all(only: &[String], names: &[(String, usize)]) -> Result<BTreeMap<String, f64>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let parts = cores::allowed().map_or(1, |cores| cores.len()).clamp(1, names.len().min(8));
    let folder = tempfile::tempdir().context("a folder for what callgrind writes")?;
    let run = |part: usize| -> Result<Vec<(String, f64)>> {
        let out = folder.path().join(format!("part-{part}"));
        let options = [
            "--tool=callgrind",
            "--instr-atstart=no",
            "--collect-atstart=no",
            "--combine-dumps=yes",
            "--compress-strings=no",
            &format!("--callgrind-out-file={}", out.display()),
        ];
        let said = valgrind(&options, only, part, parts)?;
        let text = std::fs::read_to_string(&out).context("reading what callgrind wrote")?;
        let counts: BTreeMap<_, _> = callgrind::parts(&text).into_iter().collect();
        let of = |line: &str| -> Option<(String, f64)> {
            let (done, name) = line.strip_prefix("ops ")?.split_once(' ')?;
            let count = *counts.get(name)? as f64 / done.parse::<f64>().ok()?;
            // A hundredth of an instruction is enough to see.
            Some((name.to_owned(), (count * 100.0).round() / 100.0))
        };
        Ok(said.lines().filter_map(of).collect())
    };
    let counted = thread::scope(|scope| {
        let threads: Vec<_> = (0..parts).map(|part| scope.spawn(move || run(part))).collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a part panicked"))?);
        joined.collect::<Result<Vec<_>>>()
    })?;
    let counted: BTreeMap<_, _> = counted.into_iter().flatten().collect();
    for (name, _) in names {
        ensure!(counted.get(name).is_some_and(|count| *count > 0.0), "callgrind counted nothing of {name}");
    }
    Ok(counted)
}

/// This program as a counted one, whose surroundings are the same each time: nothing of the caller's environment, fixed seeds.
fn valgrind(options: &[&str], only: &[String], part: usize, parts: usize) -> Result<String> {
    let mut command = Command::new("valgrind");
    command.arg("--quiet").args(options);
    command.arg(std::env::current_exe().context("finding this program")?).arg("instructions");
    command.args(["--part", &part.to_string(), &parts.to_string()]);
    if !only.is_empty() {
        command.arg("--only").arg(only.join(","));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env(seeds::VARIABLE, "1").stdin(Stdio::null());
    let output = command.output().context("running valgrind")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {}\n{errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What code is chosen by at run time. Valgrind knows no AVX-512 and shows none, so that under it everybody's portable code, or
/// that for AVX2, is what runs and is counted.
fn cpu() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let features = [
            ("sse4.2", has!("sse4.2")),
            ("avx", has!("avx")),
            ("avx2", has!("avx2")),
            ("bmi2", has!("bmi2")),
            ("adx", has!("adx")),
            ("movbe", has!("movbe")),
            ("aes", has!("aes")),
            ("pclmulqdq", has!("pclmulqdq")),
            ("sha", has!("sha")),
            ("vaes", has!("vaes")),
            ("avx512f", has!("avx512f")),
        ];
        features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }
    #[cfg(not(target_arch = "x86_64"))]
    String::new()
}

/// The compiler of this program, by what it has left in it; and of the XDP program within it, where that is another.
fn rustc() -> Option<String> {
    compilers().0
}

/// Version of the compiler of this program, and of all that left their names in debug information.
pub fn compilers() -> (Option<String>, Vec<String>) {
    const MARK: &[u8] = b"rustc version ";
    let program = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
    let (mut own, mut all) = (None, std::collections::BTreeSet::new());
    let mut rest = program.as_slice();
    while let Some(at) = rest.windows(MARK.len()).position(|bytes| bytes == MARK) {
        rest = &rest[at + MARK.len()..];
        let end = rest.iter().take(100).position(|b| *b == 0).unwrap_or(0);
        let text = std::str::from_utf8(&rest[..end]).ok().filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
        match text {
            // In DWARF: `clang LLVM (rustc version …)`.
            Some(text) if text.ends_with("))") => _ = all.insert(text[..text.len() - 1].to_owned()),
            // In `.comment`.
            Some(text) if own.is_none() => own = Some(text.to_owned()),
            _ => {}
        }
    }
    (own, all.into_iter().collect())
}
