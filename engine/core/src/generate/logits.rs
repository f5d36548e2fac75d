//! Functions of one row of raw logits.

/// ln Σ e^logit, in f64. Minus infinity where every logit is minus infinity; NaN where one is NaN.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return if logits.iter().any(|logit| logit.is_nan()) { f64::NAN } else { f64::NEG_INFINITY };
    }
    let total: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    f64::from(largest) + total.ln()
}

/// Index of the largest logit; of several equal ones the first, as torch's argmax. `None` where one is NaN or there is none.
pub(super) fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut largest = f32::NEG_INFINITY;
    for (index, logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if best.is_none() || *logit > largest {
            (best, largest) = (Some(index), *logit);
        }
    }
    best
}

/// The `count` largest logits with their indices, largest first; of equal ones the smaller index first.
pub(super) fn largest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut indices: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = count.min(indices.len());
    if count == 0 {
        return Vec::new();
    }
    if count < indices.len() {
        indices.select_nth_unstable_by(count - 1, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices.into_iter().map(|index| (index, logits[index as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_is_stable() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 2]), f64::NEG_INFINITY);
        assert!(log_sum_exp(&[0.0, f32::NAN]).is_nan());
    }

    #[test]
    fn the_first_of_equal_logits_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), Some(0));
        assert_eq!(argmax(&[1.0, f32::NAN]), None);
        assert_eq!(largest(&[1.0, 3.0, 2.0, 3.0], 3), [(1, 3.0), (3, 3.0), (2, 2.0)]);
        assert_eq!(largest(&[1.0], 5), [(0, 1.0)]);
        assert!(largest(&[1.0], 0).is_empty());
    }
}
