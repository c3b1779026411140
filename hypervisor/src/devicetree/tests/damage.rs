//! Trees that are broken in ways that nobody thought of.

use std::sync::OnceLock;

use super::*;
use crate::tests::cases;

/// A change to a blob.
#[derive(Clone, Debug)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Word(prop::sample::Index, u32),
    Copy(prop::sample::Index, prop::sample::Index, usize),
    Header(usize, u32),
    Truncate(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let word = prop_oneof![
        Just(0u32),
        1u32..10,
        any::<u32>(),
        Just(u32::MAX),
        Just(u32::MAX - 3),
        Just(0x7fff_ffff),
        0u32..0x4000,
    ];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        4 => (any::<prop::sample::Index>(), word.clone()).prop_map(|(at, value)| Damage::Word(at, value)),
        2 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..40)
            .prop_map(|(from, to, words)| Damage::Copy(from, to, words)),
        1 => (1usize..10, word).prop_map(|(field, value)| Damage::Header(field, value)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Truncate),
    ]
}

fn apply(damage: &[Damage], blob: &mut Blob) {
    for damage in damage {
        if blob.len() < HEADER_SIZE + 4 {
            return;
        }
        // Mostly after the header, which would otherwise be all that ever matters.
        let words = (blob.len() - HEADER_SIZE) / 4;
        match damage {
            Damage::Flip(at, bits) => *at.get_mut(&mut blob[HEADER_SIZE..]) ^= bits,
            Damage::Word(at, value) => {
                let at = HEADER_SIZE + 4 * at.index(words);
                blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            Damage::Copy(from, to, length) => {
                let (from, to) = (HEADER_SIZE + 4 * from.index(words), HEADER_SIZE + 4 * to.index(words));
                let length = (4 * length).min(blob.len() - from.max(to));
                blob.copy_within(from..from + length, to);
            }
            Damage::Header(field, value) => blob[4 * field..4 * field + 4].copy_from_slice(&value.to_be_bytes()),
            Damage::Truncate(at) => {
                *blob = blob.resized(at.index(blob.len()));
            }
        }
    }
}

/// [`SMALL`] and QEMU's trees. Flattened once, which takes longer than all that is done with one.
fn flat(which: usize) -> &'static Blob {
    static TREES: [OnceLock<Blob>; QEMU_TREES.len() + 1] = [const { OnceLock::new() }; _];
    TREES[which].get_or_init(|| Tree::parse(which.checked_sub(1).map_or(SMALL, |index| QEMU_TREES[index].1)).blob(0))
}

/// Whatever `blob` is: it is either refused, or understood as something sane that can be edited and understood again.
fn survives(blob: &Blob, exeunt: Region) {
    let mut platform = Platform::EMPTY;
    if scan(blob, &mut platform).is_err() {
        assert!(platform.memory.is_empty() && platform.cpus.is_empty() && platform.kernel.is_none());
        return;
    }
    assert!(platform.memory.iter().all(|region| region.start < region.end && region.end <= platform.highest));
    assert!(platform.memory.windows(2).all(|pair| pair[0].end < pair[1].start));
    let mut cpus = platform.cpus.to_vec();
    cpus.sort_unstable();
    assert!(cpus.windows(2).all(|pair| pair[0] != pair[1]));
    let _ = (platform.options(blob), platform.kernel.map(|kernel| kernel.bootargs(blob)));

    let mut edited = blob.clone();
    match edit(&mut edited, &platform, &Edits::new(&platform, exeunt, black_box(exeunt))) {
        Ok(size) => {
            assert!(size <= edited.len());
            let again = scanned(&edited);
            assert_eq!(*again.memory, *platform.memory);
            assert_eq!(*again.cpus, *platform.cpus);
            assert_eq!((again.kernel, again.ramdisk), (None, None));
        }
        Err(_) => assert!(edited == *blob),
    }
}

proptest! {
    #![proptest_config(cases(20_000, 4))]

    #[test]
    fn damaged_trees_do_no_harm(
        which in 0..=if cfg!(miri) { 0 } else { QEMU_TREES.len() },
        damage in proptest::collection::vec(damage(), 1..6),
        slack in 0usize..400,
        start: u64,
    ) {
        let mut blob = flat(which).resized(flat(which).len() + slack);
        apply(&damage, &mut blob);
        survives(&blob, Region::new(start >> 1, 2 << 20).unwrap());
    }

    #[test]
    fn damage_between_scan_and_edit_does_no_harm(
        damage in proptest::collection::vec(damage(), 1..6),
        slack in 0usize..400,
    ) {
        let mut blob = flat(0).resized(flat(0).len() + slack);
        let platform = scanned(&blob);
        apply(&damage, &mut blob);
        let edits = Edits { arguments: b"kvm-arm.mode=nvhe", ..Edits::new(&platform, EXEUNT, black_box(EXEUNT)) };
        let _ = edit(&mut blob, &platform, &edits);
    }

    #[test]
    fn noise_does_no_harm(mut blob in proptest::collection::vec(any::<u8>(), 0..400), header: bool) {
        if header && blob.len() > 200 {
            let length = blob.len() as u32;
            let words = [0xd00d_feed, length, 64, length - 20, 48, 17, 16, 0, 20, length / 4 * 4 - 84];
            for (field, word) in words.iter().enumerate() {
                blob[4 * field..4 * field + 4].copy_from_slice(&word.to_be_bytes());
            }
            blob[48..64].fill(0);
            *blob.last_mut().unwrap() = 0;
        }
        survives(&Blob::from(blob.as_slice()), EXEUNT);
    }
}

#[test]
fn undamaged_trees_are_understood() {
    for slack in [0, 400] {
        let blob = flat(0).resized(flat(0).len() + slack);
        assert!(scanned(&blob).kernel.is_some());
        survives(&blob, EXEUNT);
    }
}
