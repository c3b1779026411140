//! Every restart that Linux makes, by its version, and words that are nobody's.

use proptest::prelude::*;

use super::*;

/// Where the next kernel's tree is.
const TREE: u64 = 0x4fe0_0000;

/// A restart with x2 and, if it is there, a tree at [`TREE`].
fn restart(x2: u64, has_vectors: bool, tree: &[u8]) -> Restart {
    let word = |address: u64| {
        let at = usize::try_from(address.checked_sub(TREE)?).ok()?;
        tree.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
    };
    let found = Restart::of(&Signs { in_crash_kernel: false, x2, has_vectors, word: &word });
    // An entry in the memory of the crash kernel is above all else, and needs nothing else.
    let there = Restart::of(&Signs { in_crash_kernel: true, x2, has_vectors, word: &|_| panic!("no look") });
    assert!(there.has_crashed());
    // Who is not sure takes it for a crash, without any sign.
    assert!(found.is_sure || found.why == Restart::Crash && !has_vectors);
    assert_eq!(found.has_crashed(), found.is_sure && found.why == Restart::Crash);
    found.why
}

/// A flattened tree: the nodes and properties of `/chosen`, put between a node before and one after it.
pub fn tree(chosen: &[&str]) -> Vec<u8> {
    let mut strings = Vec::new();
    let mut structure = Vec::new();
    let mut put = |words: &[u32]| structure.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    let mut property = |put: &mut dyn FnMut(&[u32]), name: &str, value: &[u32]| {
        put(&[3, 4 * value.len() as u32, strings.len() as u32]);
        put(value);
        strings.extend(name.bytes().chain([0]));
    };
    put(&[1, 0]);
    property(&mut put, "#address-cells", &[2]);
    // A node whose name begins like the one that is asked for, with the same property.
    put(&[1, u32::from_be_bytes(*b"chos"), u32::from_be_bytes(*b"en@1"), 0]);
    property(&mut put, ELF_CORE_HEADER, &[0, 0x5000_0000, 0, 0x1000]);
    put(&[1, u32::from_be_bytes(*b"chos"), u32::from_be_bytes(*b"en\0\0")]);
    property(&mut put, ELF_CORE_HEADER, &[]);
    put(&[2, 2, 4]);
    put(&[1, u32::from_be_bytes(*b"chos"), u32::from_be_bytes(*b"en\0\0")]);
    for name in chosen {
        property(&mut put, name, &[0, 0x5000_0000, 0, 0x1000]);
    }
    put(&[1, u32::from_be_bytes(*b"modu"), u32::from_be_bytes(*b"le\0\0")]);
    property(&mut put, "reg", &[1, 2, 3, 4]);
    put(&[2, 2]);
    put(&[1, u32::from_be_bytes(*b"psci"), 0]);
    property(&mut put, "method", &[u32::from_be_bytes(*b"smc\0")]);
    put(&[2, 2, 9]);
    let (at, behind) = (40 + 16, 40 + 16 + structure.len() as u32);
    let header = [0xd00d_feed, behind + strings.len() as u32, at, behind, 40, 17, 16, 0, strings.len() as u32];
    let mut blob: Vec<u8> = header.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
    blob.extend((structure.len() as u32).to_be_bytes());
    blob.extend([0; 16]);
    blob.extend(structure);
    blob.extend(strings);
    blob.resize(blob.len().next_multiple_of(4), 0);
    let size = blob.len() as u32;
    blob[4..8].copy_from_slice(&size.to_be_bytes());
    blob
}

fn kexecs_tree() -> Vec<u8> {
    tree(&["linux,initrd-start", "kaslr-seed", "bootargs"])
}

fn crash_kernels_tree() -> Vec<u8> {
    tree(&["linux,initrd-start", "linux,usable-memory-range", "linux,elfcorehdr", "bootargs"])
}

/// `cpu_soft_restart(reboot_code, kimage->head, kimage->start, dtb_mem)`: a list of pages for a kexec, none for a
/// crash, with vectors that a resume from hibernation has left behind, or without.
#[test]
fn linux_before_5_16_tells_by_its_list() {
    for vectors in [false, true] {
        for page in [0x1000, 0x5e8f_3000, 0x8_8000_0000, 0xf_ffff_ffff_f000] {
            assert_eq!(restart(page | 2, vectors, &[]), Restart::Kexec);
        }
        assert_eq!(restart(4, vectors, &[]), Restart::Crash);
    }
}

/// kexec-tools' own way to load: x2 is 0, and every kexec has something to copy.
#[test]
fn linux_from_5_16_on_tells_by_its_vectors() {
    assert_eq!(restart(0, true, &[]), Restart::Kexec);
    assert_eq!(restart(0, false, &[]), Restart::Crash);
}

/// kexec_file_load: x2 is the next kernel's tree, whose `/chosen` tells, whether anything was copied or not (6.17), and
/// whatever vectors were left behind.
#[test]
fn a_tree_tells_by_what_it_is_for() {
    for vectors in [false, true] {
        assert_eq!(restart(TREE, vectors, &kexecs_tree()), Restart::Kexec);
        assert_eq!(restart(TREE, vectors, &crash_kernels_tree()), Restart::Crash);
        // As its only property.
        assert_eq!(restart(TREE, vectors, &tree(&["linux,elfcorehdr"])), Restart::Crash);
        assert_eq!(restart(TREE, vectors, &tree(&["linux,elfcorehd", "linux,elfcorehdrs"])), Restart::Kexec);
        assert_eq!(restart(TREE, vectors, &tree(&[])), Restart::Kexec);
    }
}

/// What is at x2 is no tree, or none that can be read to the place that tells: the vectors decide.
#[test]
fn without_a_tree_the_vectors_tell() {
    let whole = kexecs_tree();
    let with = |at: usize, word: u32| {
        let mut tree = whole.clone();
        tree[at..at + 4].copy_from_slice(&word.to_be_bytes());
        tree
    };
    let broken = [
        Vec::new(),
        vec![0; 4096],
        with(0, 0xd00d_feee),
        with(4, 100),
        with(4, 0x0020_0001),
        with(4, u32::MAX),
        with(8, 0xffff_fff0),
        with(8, 57),
        with(12, u32::MAX),
        // An unknown token, and a property that reaches to the end of the address space.
        with(56, 5),
        with(68, u32::MAX),
        whole[..100].to_vec(),
    ];
    for tree in broken {
        let seen = [false, true].map(|vectors| restart(TREE, vectors, &tree));
        assert_eq!(seen, [Restart::Crash, Restart::Kexec], "{tree:x?}");
    }
    for x2 in [1, 2, 8, TREE + 4, TREE + 0x1_0000, u64::MAX, u64::MAX - 7] {
        assert_eq!(
            [false, true].map(|vectors| restart(x2, vectors, &whole)),
            [Restart::Crash, Restart::Kexec],
            "{x2:#x}"
        );
    }
}

proptest! {
    /// A tree of words without meaning ends, whatever it holds.
    #[test]
    fn any_memory_gives_an_answer(
        words in prop::collection::vec(prop_oneof![0_u32..10, any::<u32>(), Just(u32::MAX), 0_u32..400], 0..100),
        vectors: bool,
    ) {
        let mut tree: Vec<u8> = [0xd00d_feed_u32, 400, 40, 200].iter().flat_map(|word| word.to_be_bytes()).collect();
        tree.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        restart(TREE, vectors, &tree);
    }

    /// Whatever word of a real one is changed.
    #[test]
    fn any_damage_gives_an_answer(at in 0_usize..120, word: u32, vectors: bool) {
        let mut tree = crash_kernels_tree();
        let at = 4 * (at % (tree.len() / 4));
        tree[at..at + 4].copy_from_slice(&word.to_be_bytes());
        restart(TREE, vectors, &tree);
    }
}

#[test]
fn a_crash_is_sure_if_something_says_so() {
    let tree = tree(&[ELF_CORE_HEADER]);
    let word = |address: u64| {
        let at = usize::try_from(address.checked_sub(TREE)?).ok()?;
        tree.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
    };
    let of = |x2| Restart::of(&Signs { in_crash_kernel: false, x2, has_vectors: false, word: &word });
    // Linux up to 5.15, kexec_file_load, and kexec_load from 5.16 on, which a host that is no Linux looks like.
    assert!(of(IND_DONE).has_crashed());
    assert!(of(TREE).has_crashed());
    assert_eq!(of(0), Restarts { why: Restart::Crash, is_sure: false });
}
