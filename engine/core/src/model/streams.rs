//! What a forward pass keeps, the residual stream before each block and after the last, and where each of them lies.

use crate::error::Result;
use crate::ops::{MemoryPrices, Ops, PlacedBytes};

/// Buffers that streams share which are not kept, or kept elsewhere: one that a block reads, and one that it writes or that the next one comes
/// back to.
const SHARED: usize = 2;

/// What a forward pass keeps for a backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: no backward pass follows.
    Nothing,
    /// The inputs of all blocks, and all else of the blocks but of the first so many, which share a place: the backward pass computes it again for
    /// all of those but the last. With `offload`, the inputs of those wait outside the device's memory.
    AllBut { recomputed: usize, offload: bool },
}

impl Keep {
    /// Everything, of every block.
    pub const ALL: Self = Self::AllBut { recomputed: 0, offload: false };

    /// Blocks' activations and blocks' products with A that there is room for, of so many blocks.
    pub(super) fn places(self, blocks: usize) -> [usize; 2] {
        match self {
            Self::Nothing => [1, 1],
            Self::AllBut { recomputed, .. } => {
                let recomputed = recomputed.min(blocks);
                [blocks - recomputed + usize::from(recomputed > 0), blocks]
            }
        }
    }
}

/// Places of the residual streams of a micro-batch, each `[rows, hidden_size]` activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlaces {
    /// Buffers on the device.
    pub on_device: usize,
    /// The first so many streams have a place outside the device's memory and pass through two buffers on it.
    pub parked: usize,
    /// The first so many streams pass through two buffers; the others have one each.
    sharing: usize,
}

impl StreamPlaces {
    /// Of a model with `blocks` blocks.
    pub fn new(keep: Keep, blocks: usize) -> Self {
        let (sharing, parked) = match keep {
            Keep::Nothing => (blocks + 1, 0),
            Keep::AllBut { recomputed, offload: true } if recomputed.min(blocks) > SHARED => {
                (recomputed.min(blocks), recomputed.min(blocks))
            }
            // So few would not leave the device.
            Keep::AllBut { .. } => (0, 0),
        };
        Self { on_device: sharing.min(SHARED) + blocks + 1 - sharing, parked, sharing }
    }

    fn buffer(self, stream: usize) -> usize {
        if stream < self.sharing { stream % SHARED } else { self.sharing.min(SHARED) + stream - self.sharing }
    }
}

/// The residual streams: stream i is the input of block i.
pub(super) struct Streams<O: Ops> {
    places: StreamPlaces,
    buffers: Vec<O::Buffer>,
    parked: Vec<O::Parked>,
    /// The parked stream that each of the shared buffers holds.
    held: [Option<usize>; SHARED],
}

impl<O: Ops> Streams<O> {
    /// Streams of up to `len` numbers.
    pub fn new(ops: &O, places: StreamPlaces, len: usize) -> Result<Self> {
        Ok(Self {
            places,
            buffers: (0..places.on_device).map(|_| ops.allocate_activations(len)).collect::<Result<_>>()?,
            parked: (0..places.parked).map(|_| ops.allocate_parked(len)).collect::<Result<_>>()?,
            held: [None; SHARED],
        })
    }

    /// A stream. One that is parked was written or fetched last of those that share its buffer.
    pub fn get(&self, stream: usize) -> &O::Buffer {
        debug_assert!(
            stream >= self.places.parked || self.held[stream % SHARED] == Some(stream),
            "{stream} is not here"
        );
        &self.buffers[self.places.buffer(stream)]
    }

    /// A stream, to write to.
    pub fn get_mut(&mut self, stream: usize) -> &mut O::Buffer {
        self.hold(stream);
        &mut self.buffers[self.places.buffer(stream)]
    }

    /// A stream, and the next one to write to.
    pub fn pair(&mut self, stream: usize) -> (&O::Buffer, &mut O::Buffer) {
        self.hold(stream + 1);
        let (from, to) = (self.places.buffer(stream), self.places.buffer(stream + 1));
        let (before, after) = self.buffers.split_at_mut(from.max(to));
        if from < to { (&before[from], &mut after[0]) } else { (&after[0], &mut before[to]) }
    }

    /// Keeps the first `len` numbers of a stream that was just written, where it is one that is parked.
    pub fn park(&mut self, ops: &O, stream: usize, len: usize) -> Result<()> {
        match self.parked.get_mut(stream) {
            Some(place) => ops.park(len, &self.buffers[self.places.buffer(stream)], place),
            None => Ok(()),
        }
    }

    /// Sees to it that a stream's buffer holds it, in place of the one that shares the buffer.
    pub fn fetch(&mut self, ops: &O, stream: usize, len: usize) -> Result<()> {
        if stream >= self.places.parked || self.held[stream % SHARED] == Some(stream) {
            return Ok(());
        }
        ops.fetch(len, &self.parked[stream], &mut self.buffers[self.places.buffer(stream)])?;
        self.hold(stream);
        Ok(())
    }

    fn hold(&mut self, stream: usize) {
        if stream < self.places.parked {
            self.held[stream % SHARED] = Some(stream);
        }
    }
}

/// Bytes of [`Streams::new`].
pub(super) fn stream_bytes(prices: &dyn MemoryPrices, places: StreamPlaces, len: usize) -> PlacedBytes {
    let buffers = PlacedBytes { device: prices.activations(len), pinned_host: 0 };
    buffers * places.on_device + prices.parked(len) * places.parked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(keep: Keep, blocks: usize) -> (usize, usize) {
        let StreamPlaces { on_device, parked, .. } = StreamPlaces::new(keep, blocks);
        (on_device, parked)
    }

    #[test]
    fn buffers_on_the_device_and_outside() {
        let offload = |recomputed| Keep::AllBut { recomputed, offload: true };
        assert_eq!(places(Keep::Nothing, 32), (2, 0));
        assert_eq!(places(Keep::ALL, 32), (33, 0));
        assert_eq!(places(Keep::AllBut { recomputed: 32, offload: false }, 32), (33, 0));
        // Two buffers and the stream after the last block; the streams of blocks that are kept have theirs.
        assert_eq!(places(offload(usize::MAX), 32), (3, 32));
        assert_eq!(places(offload(20), 32), (15, 20));
        assert_eq!(places(offload(3), 3), (3, 3));
        // Nothing would be saved.
        for recomputed in 0..=2 {
            assert_eq!(places(offload(recomputed), 32), (33, 0));
        }
        assert_eq!(places(offload(9), 1), (2, 0));
    }

    /// A block's input and output are two buffers, and a stream that comes back early does not take the place of the one that is used.
    #[test]
    fn neighbours_never_share_a_buffer() {
        for blocks in 1..9 {
            let some = (0..=blocks + 1).map(|recomputed| Keep::AllBut { recomputed, offload: true });
            for keep in some.chain([Keep::Nothing, Keep::ALL]) {
                let places = StreamPlaces::new(keep, blocks);
                let buffers: Vec<usize> = (0..=blocks).map(|stream| places.buffer(stream)).collect();
                assert!(buffers.windows(2).all(|pair| pair[0] != pair[1]), "{keep:?}, {blocks} blocks: {buffers:?}");
                assert_eq!(buffers.iter().max(), Some(&(places.on_device - 1)), "{keep:?}, {blocks} blocks");
            }
        }
    }
}
