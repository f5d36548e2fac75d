//! Micro-batches packed from examples without padding.

use super::examples::Examples;
use crate::error::Result;
use crate::ops::{MemoryPrices, Ops};

/// Of the rows of a batch, the last block computes those with a label alone where at least one in so many has none: a row that is left out saves
/// the products of four matrices, forward and backward, and those that stay are copied a few times, which costs 2 to 4 % of that.
const ROWS_TO_A_SAVED_ONE: usize = 16;

/// A micro-batch on the device: examples end to end, positions restarting at each.
pub struct PackedBatch<O: Ops> {
    pub(super) rows: usize,
    /// Tokens of the longest sequence.
    pub(super) longest: usize,
    pub(super) ids: O::Indices,
    pub(super) positions: O::Indices,
    pub(super) borders: O::Indices,
    /// Rows whose next token is learned, and those tokens. On the host: the head takes them in pieces.
    pub(super) labelled_rows: Vec<u32>,
    pub(super) targets: Vec<u32>,
    /// `labelled_rows` on the device, where `selects`.
    selected: O::Indices,
    /// Whether the last block computes the labelled rows alone.
    selects: bool,
    staging: Vec<u32>,
}

impl<O: Ops> PackedBatch<O> {
    /// An empty batch with room for `rows` tokens.
    pub fn new(ops: &O, rows: usize) -> Result<Self> {
        Ok(Self {
            rows: 0,
            longest: 0,
            ids: ops.allocate_indices(rows)?,
            positions: ops.allocate_indices(rows)?,
            borders: ops.allocate_indices(rows + 1)?,
            labelled_rows: Vec::new(),
            targets: Vec::new(),
            selected: ops.allocate_indices(rows)?,
            selects: false,
            staging: Vec::new(),
        })
    }

    /// Replaces the contents by some of the examples, in the order given.
    pub fn fill<E: Examples + ?Sized>(&mut self, ops: &O, examples: &E, indices: &[u32]) -> Result<()> {
        let Self { staging, labelled_rows, targets, .. } = self;
        let each = || indices.iter().map(|index| examples.example(*index as usize));
        staging.clear();
        staging.extend(each().flat_map(|(ids, _)| ids));
        self.rows = staging.len();
        self.longest = each().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        ops.write_indices(staging, &mut self.ids)?;
        staging.clear();
        staging.extend(each().flat_map(|(ids, _)| 0..ids.len() as u32));
        ops.write_indices(staging, &mut self.positions)?;
        staging.clear();
        labelled_rows.clear();
        targets.clear();
        let mut border = 0;
        staging.push(border);
        for (ids, labels) in each() {
            for (row, label) in (border..).zip(labels.iter().skip(1)) {
                if let Ok(target) = u32::try_from(*label) {
                    labelled_rows.push(row);
                    targets.push(target);
                }
            }
            border += ids.len() as u32;
            staging.push(border);
        }
        ops.write_indices(staging, &mut self.borders)?;
        let (rows, labelled) = (self.rows, self.labelled_rows.len());
        self.selects = labelled > 0 && (rows - labelled) * ROWS_TO_A_SAVED_ONE >= rows;
        if self.selects { ops.write_indices(&self.labelled_rows, &mut self.selected) } else { Ok(()) }
    }

    /// Until it is filled again, the last block computes all rows, whatever their labels.
    pub fn select_all(&mut self) {
        self.selects = false;
    }

    /// Tokens.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows whose next token is learned.
    pub fn label_count(&self) -> usize {
        self.targets.len()
    }

    /// Rows of the residual stream after the last block: all, or those whose next token is learned, end to end.
    pub fn output_rows(&self) -> usize {
        if self.selects { self.targets.len() } else { self.rows }
    }

    /// The numbers of those rows, where they are not all.
    pub(super) fn selected(&self) -> Option<&O::Indices> {
        self.selects.then_some(&self.selected)
    }
}

/// Bytes of [`PackedBatch::new`].
pub(crate) fn batch_bytes(prices: &dyn MemoryPrices, rows: usize) -> u64 {
    3 * prices.indices(rows) + prices.indices(rows + 1)
}

#[cfg(test)]
mod tests {
    use super::super::examples::{IGNORED_LABEL, TokenExamples};
    use super::*;
    use crate::ops::cpu::CpuOps;

    /// Of 32 rows, two or more without a label are worth leaving out; a batch without labels has nothing to leave.
    #[test]
    fn labelled_rows_are_selected_where_it_pays() {
        let ops = CpuOps::<f32>::new(1);
        let mut batch = PackedBatch::new(&ops, 32).unwrap();
        for (labels, output_rows) in [(0, 32), (1, 1), (16, 16), (30, 30), (31, 32)] {
            let learned = |position: usize| if (1..=labels).contains(&position) { 7 } else { IGNORED_LABEL };
            let labels = (0..32).map(learned).collect();
            let examples = TokenExamples { input_ids: vec![1; 32], labels, offsets: vec![0, 32] };
            batch.fill(&ops, &examples, &[0]).unwrap();
            assert_eq!(batch.output_rows(), output_rows);
            let expected: Vec<u32> = (0..output_rows as u32).collect();
            assert_eq!(batch.selected(), (output_rows < 32).then_some(&expected));
            batch.select_all();
            assert_eq!((batch.output_rows(), batch.selected()), (32, None));
        }
    }
}
