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
    assert!(grown <= 10_000 * 256 + 64 * 1024 * 8, "{grown} bytes for 10000 keys of 224");
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
