//! Bounds-checked reading of little-endian fields from a mapped GGUF file.

use std::ops::Range;
use std::path::Path;

use crate::error::{EngineError, ErrorCode, Result};

/// A position in the file's bytes. Nothing is read, skipped or counted past the end; every failure names path, byte and purpose.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
    /// Version 1 wrote lengths as u32, later versions as u64.
    pub short_lengths: bool,
}

impl<'a> Cursor<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, position: 0, short_lengths: false }
    }

    pub fn path(&self) -> &'a Path {
        self.path
    }

    pub fn position(&self) -> usize {
        self.position
    }

    /// `MODEL_CORRUPT` with the path and the present position.
    pub fn corrupt(&self, what: impl std::fmt::Display) -> EngineError {
        let message =
            format!("{} is not a readable GGUF file: {what} (at byte {})", self.path.display(), self.position);
        EngineError::new(ErrorCode::ModelCorrupt, message)
    }

    /// The next `length` bytes as a window of the file.
    pub fn window(&mut self, length: u64, what: &str) -> Result<Range<usize>> {
        let left = self.bytes.len() - self.position;
        let length = usize::try_from(length).ok().filter(|length| *length <= left).ok_or_else(|| {
            self.corrupt(format_args!(
                "{what} needs {length} bytes, the file ends after {left}; is it a partial download?"
            ))
        })?;
        let window = self.position..self.position + length;
        self.position = window.end;
        Ok(window)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let window = self.window(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[window]);
        Ok(array)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count or length, in the width of this file's version.
    pub fn length(&mut self, what: &str) -> Result<u64> {
        if self.short_lengths { self.u32(what).map(u64::from) } else { self.u64(what) }
    }

    /// A count of things that take at least `minimum_bytes` each; more than can follow is refused before anything is reserved.
    pub fn count(&mut self, minimum_bytes: u64, what: &str) -> Result<usize> {
        let count = self.length(what)?;
        let left = (self.bytes.len() - self.position) as u64;
        match count.checked_mul(minimum_bytes) {
            Some(needed) if needed <= left => Ok(count as usize),
            _ => Err(self.corrupt(format_args!(
                "{what} is {count}, which needs at least {minimum_bytes} bytes each, the file ends after {left}"
            ))),
        }
    }

    /// A length-prefixed string as a window; not yet checked to be UTF-8.
    pub fn string_window(&mut self, what: &str) -> Result<Range<usize>> {
        let length = self.length(what)?;
        self.window(length, what)
    }

    /// A length-prefixed UTF-8 string of at most `limit` bytes.
    pub fn string(&mut self, limit: usize, what: &str) -> Result<&'a str> {
        let window = self.string_window(what)?;
        if window.len() > limit {
            return Err(self.corrupt(format_args!("{what} has {} bytes, at most {limit} are allowed", window.len())));
        }
        std::str::from_utf8(&self.bytes[window]).map_err(|_| self.corrupt(format_args!("{what} is not UTF-8")))
    }
}
