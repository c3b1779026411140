//! Bytes as words.
//!
//! Owns the one thing that cannot be said without `unsafe` here: that bytes at a multiple of 4 are 32-bit words. It
//! matters because EL2 is built with strict alignment. What the compiler does not know to be aligned it reads byte by
//! byte, at four times the instructions, and so does its `memmove` when the distance is no multiple of 8: 22
//! instructions for 8 bytes.

/// `bytes` as words, if they are aligned and a whole number of words.
pub(super) fn view(bytes: &[u8]) -> Option<&[u32]> {
    // SAFETY: any four bytes are a `u32`.
    match unsafe { bytes.align_to() } {
        ([], words, []) => Some(words),
        _ => None,
    }
}

/// Moves `buffer[start..end]` to `to`. `start` and `to` are multiples of 4, and there is room.
pub(super) fn move_bytes(buffer: &mut [u8], start: usize, end: usize, to: usize) {
    let whole = end / 4 * 4;
    // What is left of the last word goes last on the way down, and first on the way up.
    if to > start {
        buffer.copy_within(whole..end, to + whole - start);
    }
    // SAFETY: any four bytes are a `u32`, and any `u32` is four bytes.
    match unsafe { buffer.align_to_mut() } {
        ([], words, _) => move_words(words, start / 4, whole / 4, to / 4),
        _ => buffer.copy_within(start..whole, to),
    }
    if to < start {
        buffer.copy_within(whole..end, to + whole - start);
    }
}

/// Moves `words[start..end]` to `to`.
fn move_words(words: &mut [u32], start: usize, end: usize, to: usize) {
    let count = end - start;
    let rest = count % CHUNK;
    if to < start {
        for at in (0..count / CHUNK).map(|i| CHUNK * i) {
            move_chunk(words, start + at, to + at);
        }
        words.copy_within(end - rest..end, to + count - rest);
    } else {
        words.copy_within(end - rest..end, to + count - rest);
        for at in (0..count / CHUNK).rev().map(|i| CHUNK * i) {
            move_chunk(words, start + at, to + at);
        }
    }
}

/// How many words are moved at a time.
const CHUNK: usize = 8;

/// Moves [`CHUNK`] words.
#[inline]
fn move_chunk(words: &mut [u32], from: usize, to: usize) {
    // One by one, or else the compiler calls `memmove` for them.
    if let Some(&[a, b, c, d, e, f, g, h]) = words[from..].first_chunk::<CHUNK>()
        && let Some(place) = words[to..].first_chunk_mut()
    {
        *place = [a, b, c, d, e, f, g, h];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_aligned_words_are_words() {
        let words = [1u32.to_be(), 2u32.to_be(), 3u32.to_be()];
        // SAFETY: any `u32` is four bytes.
        let bytes = unsafe { words.align_to::<u8>().1 };
        assert_eq!(view(bytes), Some(words.as_slice()));
        assert_eq!(view(&bytes[4..]), Some(&words[1..]));
        assert_eq!(view(&bytes[..8]), Some(&words[..2]));
        assert_eq!(view(&bytes[..7]), None);
        assert_eq!(view(&bytes[1..5]), None);
        assert_eq!(view(&[]), Some([].as_slice()));
    }

    proptest! {
        #[test]
        fn moves_are_like_those_of_the_library(
            length in 0usize..300,
            places: [prop::sample::Index; 3],
            skew in 0usize..4,
        ) {
            let mut expected = (0..length + 4).map(|byte| byte as u8).collect::<Vec<_>>();
            let mut moved = expected.clone();
            let start = places[0].index(length / 4 + 1) * 4;
            let end = start + places[1].index(length - start + 1);
            let to = places[2].index((length - (end - start)) / 4 + 1) * 4;
            expected[skew..][..length].copy_within(start..end, to);
            move_bytes(&mut moved[skew..][..length], start, end, to);
            prop_assert_eq!(moved, expected);
        }
    }
}
