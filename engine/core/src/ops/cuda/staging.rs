//! The way of weights to the GPU: through two pieces of locked host memory, one filled by every thread while the other is copied.
//!
//! The driver copies pageable memory through locked memory of its own, too, but with one thread, which then also takes the page faults of a mapped
//! file: about 3 GB/s.

use std::sync::Arc;

use luthier_kernels::{DevicePointer, Event, PinnedMemory, Stream};
use rayon::prelude::*;

use crate::error::{EngineError, Result};

const PIECE_BYTES: usize = 16 << 20;
/// What one thread takes at a time.
const SHARE_BYTES: usize = 1 << 20;

/// Below, the driver's own way is as fast.
pub(super) const LEAST_BYTES: usize = 4 << 20;

/// Both pieces; the memory is kept for the next model.
pub(super) struct Staging {
    pieces: [Piece; 2],
    stream: Arc<Stream>,
}

struct Piece {
    memory: PinnedMemory,
    /// The last copy from it.
    copied: Event,
}

impl Staging {
    /// Errors: the host does not lock 32 MiB.
    pub fn new(stream: &Arc<Stream>) -> Result<Self> {
        let piece = || -> Result<Piece> {
            Ok(Piece { memory: PinnedMemory::new(stream, PIECE_BYTES)?, copied: Event::new(stream)? })
        };
        Ok(Self { pieces: [piece()?, piece()?], stream: stream.clone() })
    }

    /// Copies to the device, in the stream's order; the bytes may be changed once this returns.
    ///
    /// # Safety
    /// `to` has room for the bytes.
    pub unsafe fn upload(&mut self, bytes: &[u8], to: DevicePointer) -> Result<()> {
        let mut place = to;
        for part in bytes.chunks(PIECE_BYTES) {
            let [piece, other] = &mut self.pieces;
            piece.copied.synchronize()?;
            // SAFETY: the last copy from this memory is done.
            let room = unsafe { piece.memory.as_mut_slice() };
            let shares = room.par_chunks_mut(SHARE_BYTES).zip(part.par_chunks(SHARE_BYTES));
            shares.for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
            // SAFETY: the caller's promise; this memory is left alone until the event.
            unsafe { self.stream.upload_locked(&piece.memory, place, part.len()) }.map_err(EngineError::from)?;
            self.stream.record(&piece.copied)?;
            place += part.len() as u64;
            std::mem::swap(piece, other);
        }
        Ok(())
    }
}
