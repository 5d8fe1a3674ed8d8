#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;

/// The flags of the mapping that holds `address`, as in /proc/self/smaps.
fn flags_of(address: usize) -> Vec<String> {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().unwrap().split_once('-');
        if let Some((from, to)) =
            range.and_then(|(a, b)| Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?)))
        {
            inside = (from..to).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.split_whitespace().map(String::from).collect();
        }
    }
    panic!("no mapping holds {address:x}");
}

#[test]
fn pages_of_secrets_are_left_out_of_dumps_and_children() {
    let secret = Secret::new(&[7; 32]);
    let flags = flags_of(secret.expose().as_ptr() as usize);
    assert!(flags.contains(&"dd".into()), "not left out of core dumps: {flags:?}");
    assert!(flags.contains(&"wf".into()), "not wiped in children: {flags:?}");
    assert!(flags.contains(&"lo".into()) || usage().unlocked > 0, "neither locked nor said to be unlocked: {flags:?}");
    let stack = 0_u8;
    assert!(!flags_of(&raw const stack as usize).contains(&"dd".into()), "the test tells nothing");
}

#[test]
fn slots_are_zeroed_when_dropped_and_used_again() {
    // A size that no other test uses, so that the slot is not taken in between.
    let secret = Secret::<6400>::new(&[0xA5; 6400]);
    let at = secret.expose().as_ptr();
    drop(secret);
    // SAFETY: mappings of the arena stay for the life of the process.
    let left = unsafe { std::slice::from_raw_parts(at, 6400) };
    assert!(left.iter().all(|b| *b == 0));
    let again = Secret::<6400>::zeroed();
    assert_eq!(again.expose().as_ptr(), at);
}

#[test]
fn many_keys_share_pages() {
    let before = usage();
    let keys: Vec<_> = (0..10_000_u32).map(|i| SecretBox::new([i; 56])).collect();
    let grown = usage().mapped - before.mapped;
    // What is mapped ahead is one large page at most.
    assert!(grown <= 10_000 * 256 + (2 << 20), "{grown} bytes for 10000 keys of 224");
    for (i, key) in keys.iter().enumerate() {
        assert!(key.iter().all(|v| *v == i as u32) && (&raw const **key).is_aligned());
    }
    let mut places: Vec<_> = keys.iter().map(|k| k.as_ptr() as usize).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|w| w[1] - w[0] >= 224), "two keys share bytes");
}

#[test]
fn values_with_a_drop_are_dropped_once() {
    let counted = std::sync::Arc::new(());
    let boxed = SecretBox::new(counted.clone());
    assert_eq!(std::sync::Arc::strong_count(&counted), 2);
    drop(boxed);
    assert_eq!(std::sync::Arc::strong_count(&counted), 1);
}

#[test]
fn equality_and_silence() {
    let (a, b) = (Secret::new(&[0xAB; 32]), Secret::new(&[0xAC; 32]));
    assert!(a == a.clone() && a != b);
    assert_eq!(format!("{a:?} {:?}", SecretBox::new([0xAB_u8; 4])), "Secret(32 bytes) Secret(…)");
}

/// Bytes that are in memory once they were worked out, and nowhere else: not in the program, not the other way round.
fn pattern(salt: u8, out: &mut [u8; 32]) {
    let mut x = u32::from(std::hint::black_box(salt)).wrapping_mul(0x9E37_79B9);
    for b in out {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        *b = x as u8;
    }
}

const KEY: u8 = 11;
const MARK: u8 = 12;

/// Not a test: the process that dumps its core, when the one below asks for it.
#[test]
fn the_child_that_dumps_its_core() {
    if std::env::var_os("SOFTDPU_TEST_DUMP").is_none() {
        return;
    }
    let mut key = Secret::<32>::zeroed();
    pattern(KEY, key.expose_mut());
    let mut material = Secret::<36>::zeroed();
    material.expose_mut()[..32].copy_from_slice(key.expose());
    let material = crate::crypto::KeyMaterial::new(crate::crypto::Cipher::Aes256Gcm, material.expose());
    let expanded = crate::crypto::aead::AeadKey::new_chacha(key.expose());
    // Ordinary memory, which shows that the dump is one.
    let mut mark = Box::new([0; 32]);
    pattern(MARK, &mut mark);
    scrub_stack();
    std::hint::black_box((&key, &material, &expanded, &mark));
    // SAFETY: always safe to call.
    unsafe { libc::abort() };
}

#[test]
fn a_core_dump_has_no_key_in_it() {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let pattern_of_cores = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern_of_cores.trim().contains(['|', '/']) || pattern_of_cores.trim().is_empty() {
        return println!("skipped: core dumps go elsewhere here ({})", pattern_of_cores.trim());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "crypto::secret::tests::the_child_that_dumps_its_core", "--test-threads=1"]);
    child.env("SOFTDPU_TEST_DUMP", "1").env_remove("RUST_BACKTRACE").current_dir(dir.path());
    // SAFETY: setrlimit may be called between fork and exec.
    unsafe {
        child.pre_exec(|| {
            let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_CORE, &all);
            Ok(())
        });
    }
    let done = child.output().unwrap();
    assert_eq!(done.status.signal(), Some(libc::SIGABRT), "{}", String::from_utf8_lossy(&done.stderr));
    let Some(core) =
        fs::read_dir(dir.path()).unwrap().flatten().find(|f| f.file_name().to_string_lossy().contains("core"))
    else {
        return println!("skipped: no core file was written (core dumped: {})", done.status.core_dumped());
    };
    let core = fs::read(core.path()).unwrap();
    let holds = |salt| {
        let mut wanted = [0; 32];
        pattern(salt, &mut wanted);
        // Half of a key is a find, too.
        wanted.chunks(16).any(|half| core.windows(16).any(|w| w == half))
    };
    assert!(holds(MARK), "the dump has no ordinary memory either: the test tells nothing");
    assert!(!holds(KEY), "the key is in the core dump");
}

/// In a process of its own, which the hardening is then the end of.
#[test]
fn a_hardened_process_dumps_nothing() {
    if std::env::var_os("SOFTDPU_TEST_HARDEN").is_some() {
        let done = harden_process();
        // SAFETY: prctl with numbers.
        let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        assert!(done.not_dumpable && done.no_core && dumpable == 0, "{done:?}, dumpable {dumpable}");
        if let Some(line) = limits.lines().find(|l| l.starts_with("Max core file size")) {
            assert_eq!(line.split_whitespace().nth(4), Some("0"), "{line}");
        }
        return;
    }
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crypto::secret::tests::a_hardened_process_dumps_nothing"])
        .env("SOFTDPU_TEST_HARDEN", "1")
        .env_remove("SOFTDPU_DUMPABLE")
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}
