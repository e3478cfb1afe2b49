//! What stands for many measurements: their median, or the one below which most of them are.

/// The middle one of `values`, or the lower of the middle two; the default of none.
pub fn median<T: PartialOrd + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    percentile(values, 0.5)
}

/// The least of `values` that at least this part of them does not exceed; the default of none.
pub fn percentile<T: PartialOrd + Copy + Default>(values: impl Iterator<Item = T>, part: f64) -> T {
    let mut sorted: Vec<T> = values.collect();
    // Measured values are numbers, so any two can be compared.
    sorted.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let rank = (sorted.len() as f64 * part).ceil();
    // A rank is far below 2^53 and never negative.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let index = (rank as usize).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn median_is_the_middle_of_the_sorted() {
        let times = [9, 1, 5].map(Duration::from_millis);
        assert_eq!(median(times.into_iter()), Duration::from_millis(5));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), 2.0);
        assert_eq!(median(std::iter::empty::<Duration>()), Duration::ZERO);
    }

    #[test]
    fn percentile_is_the_value_of_its_rank() {
        let values = || (1..=200u64).rev();
        assert_eq!(
            [0.5, 0.99, 1.0].map(|part| percentile(values(), part)),
            [100, 198, 200]
        );
        assert_eq!(percentile(std::iter::empty::<u64>(), 0.5), 0);
    }
}
