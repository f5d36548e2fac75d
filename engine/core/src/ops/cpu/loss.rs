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
        let (largest, chosen) = (rows::largest(logits), logits[target]);
        let total = match grad_scale {
            None => rows::exponential_sum(logits, largest),
            Some(_) => rows::exponentials(logits, E::ONE, largest),
        };
        *loss = E::from_f64(total.ln() + (largest.to_f64() - chosen.to_f64()));
        if let Some(scale) = grad_scale {
            rows::scale(logits, E::from_f64(scale.to_f64() / total));
            logits[target] = logits[target] - scale;
        }
    });
}
