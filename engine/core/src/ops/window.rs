//! The positions that a position sees.

use std::ops::Range;

/// Position p of a sequence sees itself and those before it, of a sliding `window` the last `window` positions only, itself among them:
/// `p - window < j <= p`, as `sliding_window` of transformers' Mistral.
pub(crate) fn seen_positions(position: usize, window: Option<usize>) -> Range<usize> {
    let end = position + 1;
    window.map_or(0, |window| end.saturating_sub(window))..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_the_position_itself() {
        assert_eq!(seen_positions(7, None), 0..8);
        assert_eq!(seen_positions(7, Some(1)), 7..8);
        assert_eq!(seen_positions(7, Some(3)), 5..8);
        for window in [8, 9, usize::MAX] {
            assert_eq!(seen_positions(7, Some(window)), 0..8);
        }
    }
}
