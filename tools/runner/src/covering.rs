//! Few combinations of many dimensions that still hold every pair of values.

/// A value of a dimension: the dimension, and the index of the value.
pub type Value = (usize, usize);

/// Rows of indices into dimensions of the given sizes, such that for each two dimensions every pair of values is in
/// some row, except the pairs in `avoided`, which are in none.
///
/// Greedy and deterministic: each row takes, dimension by dimension, the value that adds most pairs that no row has
/// yet.
///
/// # Panics
/// When `avoided` leaves a row no value of some dimension.
#[must_use]
pub fn pairs(sizes: &[usize], avoided: &[(Value, Value)]) -> Vec<Vec<usize>> {
    let may_meet = |one, other| !avoided.contains(&(one, other)) && !avoided.contains(&(other, one));
    let mut missing: Vec<(Value, Value)> = Vec::new();
    for first in 0..sizes.len() {
        for second in first + 1..sizes.len() {
            for a in 0..sizes[first] {
                missing.extend((0..sizes[second]).map(|b| ((first, a), (second, b))));
            }
        }
    }
    missing.retain(|(one, other)| may_meet(*one, *other));
    let mut rows = Vec::new();
    while let Some(&(one, other)) = missing.first() {
        let mut row: Vec<Option<usize>> = vec![None; sizes.len()];
        row[one.0] = Some(one.1);
        row[other.0] = Some(other.1);
        for dimension in 0..sizes.len() {
            if row[dimension].is_none() {
                let set = || row.iter().enumerate().filter_map(|(place, value)| Some((place, (*value)?)));
                let gain = |value: usize| {
                    let fits = |place: Value| place == (dimension, value) || row[place.0] == Some(place.1);
                    missing.iter().filter(|(one, other)| fits(*one) && fits(*other)).count()
                };
                let possible =
                    (0..sizes[dimension]).rev().filter(|&value| set().all(|each| may_meet(each, (dimension, value))));
                // The first of the best, so that the result does not depend on the order of equals.
                let best = possible.max_by_key(|&value| gain(value));
                row[dimension] = Some(best.expect("some value may be in this row"));
            }
        }
        let row: Vec<usize> = row.into_iter().flatten().collect();
        missing.retain(|(one, other)| row[one.0] != one.1 || row[other.0] != other.1);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(rows: &[Vec<usize>], one: Value, other: Value) -> bool {
        rows.iter().any(|row| row[one.0] == one.1 && row[other.0] == other.1)
    }

    #[test]
    fn every_pair_is_there_but_those_to_be_avoided() {
        for (sizes, avoided) in [
            (vec![8, 4, 3, 2, 2], vec![]),
            (vec![4, 3, 2, 2], vec![((0, 3), (1, 2))]),
            (vec![4, 3, 2, 2], vec![((1, 2), (0, 3)), ((2, 0), (3, 0))]),
            (vec![2, 2], vec![]),
            (vec![1, 5], vec![]),
        ] {
            let rows = pairs(&sizes, &avoided);
            for first in 0..sizes.len() {
                for second in first + 1..sizes.len() {
                    for (a, b) in (0..sizes[first]).flat_map(|a| (0..sizes[second]).map(move |b| (a, b))) {
                        let (one, other) = ((first, a), (second, b));
                        let wanted = !avoided.contains(&(one, other)) && !avoided.contains(&(other, one));
                        assert_eq!(has(&rows, one, other), wanted, "{sizes:?} {one:?} {other:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn there_are_not_many_more_rows_than_the_two_largest_dimensions_need() {
        assert!(pairs(&[8, 4, 3, 2, 2], &[]).len() <= 34);
        assert!(pairs(&[4, 3, 2, 2], &[]).len() <= 13);
        assert_eq!(pairs(&[2, 2], &[]).len(), 4);
    }

    #[test]
    fn the_result_repeats() {
        assert_eq!(pairs(&[4, 3, 2], &[]), pairs(&[4, 3, 2], &[]));
    }
}
