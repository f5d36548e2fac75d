//! Cross-entropy of rows of logits, fused with its gradient.

use super::parallel::Disjoint;
use super::pool::ThreadPool;
use super::real::Real;
use super::rows;

/// See `Ops::cross_entropy`.
pub(super) fn cross_entropy<E: Real>(
    pool: &mut ThreadPool,
    vocabulary: usize,
    targets: &[u32],
    label_smoothing: f64,
    grad_scale: Option<E>,
    logits: &mut [E],
    losses: &mut [E],
) {
    let (logits, losses) = (Disjoint::new(logits), Disjoint::new(losses));
    pool.run(targets.len(), &|row| {
        let target = targets[row] as usize;
        // SAFETY: this piece's row.
        let (logits, loss) =
            unsafe { (logits.range(row * vocabulary..(row + 1) * vocabulary), &mut losses.range(row..row + 1)[0]) };
        let (largest, chosen) = (rows::largest(logits), logits[target].to_f64());
        // Σ goal · logit
        let wanted = if label_smoothing > 0.0 {
            (1.0 - label_smoothing) * chosen + label_smoothing / vocabulary as f64 * rows::sum(logits)
        } else {
            chosen
        };
        let total = match grad_scale {
            None => rows::exponential_sum(logits, largest),
            Some(_) => rows::exponentials(logits, E::ONE, largest),
        };
        *loss = E::from_f64(total.ln() + (largest.to_f64() - wanted));
        if let Some(scale) = grad_scale {
            rows::scale(logits, E::from_f64(scale.to_f64() / total));
            let scale = scale.to_f64();
            if label_smoothing > 0.0 {
                rows::subtract(logits, E::from_f64(scale * label_smoothing / vocabulary as f64));
            }
            logits[target] = logits[target] - E::from_f64(scale * (1.0 - label_smoothing));
        }
    });
}
