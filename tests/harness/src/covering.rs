//! Few combinations of many dimensions that still hold every pair of values.

/// Rows of indices into dimensions of the given sizes, such that for each two dimensions every pair of values is in some row.
///
/// Greedy and deterministic: each row takes, dimension by dimension, the value that adds most pairs that no row has yet.
#[must_use]
pub fn pairs(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut missing = Vec::new();
    for first in 0..sizes.len() {
        for second in first + 1..sizes.len() {
            for a in 0..sizes[first] {
                missing.extend((0..sizes[second]).map(|b| ((first, a), (second, b))));
            }
        }
    }
    let mut rows = Vec::new();
    while let Some(&(seed, other)) = missing.first() {
        let mut row: Vec<Option<usize>> = vec![None; sizes.len()];
        row[seed.0] = Some(seed.1);
        row[other.0] = Some(other.1);
        for dimension in 0..sizes.len() {
            if row[dimension].is_none() {
                let gain = |value: usize| {
                    let fits = |place: (usize, usize)| place == (dimension, value) || row[place.0] == Some(place.1);
                    missing.iter().filter(|(one, two)| fits(*one) && fits(*two)).count()
                };
                // The first of the best, so that the result does not depend on the order of equals.
                row[dimension] = (0..sizes[dimension]).rev().max_by_key(|&value| gain(value));
            }
        }
        let row: Vec<usize> = row.into_iter().map(|value| value.unwrap_or(0)).collect();
        missing.retain(|(one, two)| row[one.0] != one.1 || row[two.0] != two.1);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_there() {
        for sizes in [vec![8, 4, 3, 2, 2], vec![2, 2], vec![3, 3, 3, 3], vec![1, 5]] {
            let rows = pairs(&sizes);
            for first in 0..sizes.len() {
                for second in first + 1..sizes.len() {
                    for (a, b) in (0..sizes[first]).flat_map(|a| (0..sizes[second]).map(move |b| (a, b))) {
                        assert!(
                            rows.iter().any(|row| row[first] == a && row[second] == b),
                            "{sizes:?} {first} {second}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn there_are_not_many_more_rows_than_the_two_largest_dimensions_need() {
        assert!(pairs(&[8, 4, 3, 2, 2]).len() <= 34);
        assert_eq!(pairs(&[2, 2]).len(), 4);
    }

    #[test]
    fn the_result_repeats() {
        assert_eq!(pairs(&[4, 3, 2]), pairs(&[4, 3, 2]));
    }
}
