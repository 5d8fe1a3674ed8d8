//! Instructions by valgrind's callgrind: what the counted process says to it, and what it writes.
//!
//! Callgrind only collects between the two ends of [`counted`], so that what a case prepares is not counted. It is told so by a
//! sequence of instructions that does nothing anywhere else ("client request", `valgrind.h`).

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process is one whose instructions are counted.
static COUNTING: AtomicBool = AtomicBool::new(false);

/// What callgrind can be asked, `callgrind.h`.
#[derive(Clone, Copy, Debug)]
enum Request {
    ZeroStats = 1,
    ToggleCollect = 2,
    DumpStatsAt = 3,
    StartInstrumentation = 4,
    StopInstrumentation = 5,
}

/// `VG_USERREQ_TOOL_BASE('C', 'T')`.
const TOOL: u64 = 0x4354_0000;

/// Asks callgrind; nothing happens where it is not there.
#[inline(always)]
fn ask(request: Request, argument: u64) {
    #[cfg(target_arch = "x86_64")]
    {
        let arguments = [TOOL + request as u64, argument, 0, 0, 0, 0];
        // SAFETY: four rotations by 128 bits in all, which leave `rdi` as it was, and an exchange of a register with itself.
        // Valgrind reads the six words that `rax` points to, and the text that one of them may point to, and sets `rdx`.
        unsafe {
            std::arch::asm!(
                "rol rdi, 3",
                "rol rdi, 13",
                "rol rdi, 61",
                "rol rdi, 51",
                "xchg rbx, rbx",
                in("rax") arguments.as_ptr(),
                inout("rdx") 0_u64 => _,
                options(nostack)
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (request, argument);
}

/// Does `work`; counts its instructions where [`count`] is under way.
#[inline]
pub fn counted(work: impl FnOnce()) {
    if !COUNTING.load(Ordering::Relaxed) {
        return work();
    }
    ask(Request::ToggleCollect, 0);
    work();
    ask(Request::ToggleCollect, 0);
}

/// Does `work`; what it does within [`counted`] goes into a part of callgrind's file that says `name`.
pub fn count<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let name: Vec<u8> = name.bytes().chain([0]).collect();
    ask(Request::StartInstrumentation, 0);
    ask(Request::ZeroStats, 0);
    COUNTING.store(true, Ordering::Relaxed);
    let done = work();
    COUNTING.store(false, Ordering::Relaxed);
    ask(Request::DumpStatsAt, name.as_ptr() as u64);
    ask(Request::StopInstrumentation, 0);
    done
}

/// Of a callgrind file with one part per [`count`]: their names, and how many instructions they were.
pub fn parts(text: &str) -> Vec<(String, u64)> {
    const MARK: &str = "desc: Trigger: Client Request: ";
    let mut parts = Vec::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(of) = line.strip_prefix(MARK) {
            name = Some(of.trim().to_owned());
        } else if let Some(total) = line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:"))
            && let Some(total) = total.split_whitespace().next().and_then(|n| n.parse().ok())
            && let Some(name) = name.take()
        {
            parts.push((name, total));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_names() {
        let text = "version: 1\npart: 1\n\ndesc: Trigger: Client Request: node/parse\nevents: Ir\nfn=(1)\n1 5\nsummary: 1234\n\n\
                    totals: 1234\npart: 2\ndesc: Trigger: Client Request: ring\ntotals: 7\npart: 3\ndesc: Trigger: Program termination\n\
                    totals: 0\n";
        assert_eq!(parts(text), [("node/parse".to_owned(), 1234), ("ring".to_owned(), 7)]);
    }

    #[test]
    fn nothing_happens_without_callgrind() {
        let mut done = 0;
        count("test", || counted(|| done += 1));
        assert_eq!(done, 1);
    }
}
