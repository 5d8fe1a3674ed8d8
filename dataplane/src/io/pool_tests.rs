#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn pool(chunks: u32) -> FramePool {
    FramePool::new(Umem::heap(chunks, 2048).unwrap())
}

#[test]
fn last_freed_is_first_taken_and_an_empty_pool_says_so() {
    let mut pool = pool(2);
    let a = pool.alloc().unwrap();
    let b = pool.alloc().unwrap();
    assert!(pool.alloc().is_none());
    assert_eq!((a.headroom(), a.len()), (HEADROOM, 0));
    let index = a.index();
    pool.free(b);
    pool.free(a);
    let again = pool.alloc().unwrap();
    assert_eq!(again.index(), index);
    pool.free(again);
    pool.assert_no_leak();
}

#[test]
fn a_lost_frame_shows() {
    let mut pool = pool(4);
    let frame = pool.alloc().unwrap();
    frame.into_index();
    let account = pool.account();
    assert!(account.balanced() && !account.all_free());
    assert_eq!((account.free, account.out), (3, 1));
}

#[test]
fn another_pools_frame_is_refused() {
    let (mut a, mut b) = (pool(2), pool(2));
    let frame = a.alloc().unwrap();
    b.free(frame);
    assert_eq!((b.refused(), b.available()), (1, 2));
    assert_eq!(a.account().out, 1);
}

#[test]
fn descriptors_that_the_port_does_not_own_are_refused() {
    let mut pool = pool(4);
    let (a, b) = (pool.register("a").unwrap(), pool.register("b").unwrap());
    let addr = pool.lend_to_fill(a).unwrap();
    assert!(pool.received(b, addr, 60).is_none(), "another port's chunk");
    assert!(pool.received(a, 1 << 40, 60).is_none(), "outside the region");
    assert!(pool.received(a, addr + 2000, 60).is_none(), "over the chunk's end");
    assert!(pool.received(a, addr, u32::MAX).is_none(), "over the chunk's end");
    let frame = pool.received(a, addr + 256, 60).unwrap();
    assert_eq!((frame.offset(), frame.len()), (256, 60));
    assert!(pool.received(a, addr, 60).is_none(), "twice");
    assert!(!pool.completed(a, addr), "never sent");
    let index = frame.into_index();
    pool.lend_to_tx(b, index);
    assert_eq!(pool.held(b).tx, 1);
    assert!(pool.account().balanced());
    assert!(pool.completed(b, addr + 256));
    assert!(!pool.completed(b, addr + 256), "twice");
    assert_eq!(pool.refused(), 7);
    assert!(pool.account().all_free());
}

#[test]
fn a_closed_ports_chunks_come_back() {
    let mut pool = pool(8);
    let a = pool.register("a").unwrap();
    let b = pool.register("b").unwrap();
    for _ in 0..3 {
        pool.lend_to_fill(a).unwrap();
    }
    let frame = pool.alloc().unwrap();
    let index = frame.into_index();
    pool.lend_to_tx(a, index);
    pool.lend_to_fill(b).unwrap();
    assert_eq!(pool.reclaim(a), 4);
    assert!(pool.account().balanced());
    assert_eq!(pool.reclaim(b), 1);
    pool.assert_no_leak();
    assert_eq!(pool.register("a").unwrap(), a, "the line in the account is used again");
}

#[test]
fn frames_outlive_a_pool_that_went_first() {
    let mut pool = pool(1);
    let mut frame = pool.scatter(&[7; 100]).unwrap();
    drop(pool);
    frame.bytes_mut()[0] = 8;
    assert_eq!(frame.bytes()[..2], [8, 7]);
    frame.into_index();
}

#[derive(Debug, Clone)]
enum Step {
    Scatter(usize),
    Free(usize),
    Join(usize, usize),
    Split(usize),
    Trim(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..9000).prop_map(Step::Scatter),
        2 => any::<usize>().prop_map(Step::Free),
        2 => any::<(usize, usize)>().prop_map(|(a, b)| Step::Join(a, b)),
        1 => any::<usize>().prop_map(Step::Split),
        1 => any::<(usize, usize)>().prop_map(|(a, n)| Step::Trim(a, n % 100)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Chains against plain vectors: the bytes are the same whatever was joined and cut, and no chunk is lost.
    #[test]
    fn chains_behave_as_byte_strings(steps in prop::collection::vec(step(), 0..60)) {
        let mut pool = pool(64);
        let mut live: Vec<(Frame, Vec<u8>)> = Vec::new();
        let mut seed = 0u8;
        for s in steps {
            match s {
                Step::Scatter(n) => {
                    seed = seed.wrapping_add(31);
                    let bytes: Vec<u8> = (0..n).map(|i| (i as u8).wrapping_mul(13) ^ seed).collect();
                    let before = pool.available();
                    match pool.scatter(&bytes) {
                        Some(frame) => live.push((frame, bytes)),
                        None => prop_assert!(before == pool.available() && before < n.div_ceil(1728).max(1)),
                    }
                }
                Step::Free(i) if !live.is_empty() => {
                    let (frame, _) = live.swap_remove(i % live.len());
                    pool.free(frame);
                }
                Step::Join(i, j) if live.len() > 1 => {
                    let (rest, tail) = live.swap_remove(i % live.len());
                    let at = j % live.len();
                    let (head, bytes) = &mut live[at];
                    pool.append(head, rest);
                    bytes.extend(tail);
                }
                Step::Split(i) if !live.is_empty() => {
                    let at = i % live.len();
                    let (head, bytes) = &mut live[at];
                    if let Some(rest) = pool.split_off(head) {
                        let tail = bytes.split_off(head.len());
                        live.push((rest, tail));
                    }
                }
                Step::Trim(i, n) if !live.is_empty() => {
                    let at = i % live.len();
                    let (head, bytes) = &mut live[at];
                    if head.trim_front(n) {
                        bytes.drain(..n);
                    }
                }
                _ => {}
            }
            prop_assert!(pool.account().balanced());
            for (frame, bytes) in &mut live {
                prop_assert_eq!(frame.total_len(), bytes.len());
                prop_assert_eq!(pool.parts(frame).count(), pool.part_count(frame));
                let mut flat = vec![0; bytes.len()];
                prop_assert_eq!(pool.linearise(frame, &mut flat), Some(bytes.len()));
                prop_assert_eq!(&flat, &*bytes);
                if !bytes.is_empty() {
                    prop_assert_eq!(pool.linearise(frame, &mut flat[1..]), None);
                    bytes[0] ^= 0x55;
                    let part = pool.parts_mut(frame).find(|p| !p.is_empty()).unwrap();
                    part[0] ^= 0x55;
                }
            }
        }
        for (frame, _) in live {
            pool.free(frame);
        }
        pool.assert_no_leak();
    }
}
