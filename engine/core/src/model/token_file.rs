//! Examples in a mapped file. The layout is that of `docs/token-cache.md`; `src/engine/token-file.ts` writes it.
//!
//! Who opens a file has checked its checksums; here it is made sure only that no number in it leads outside of it.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use memmap2::Mmap;

use super::examples::Examples;
use crate::error::{EngineError, ErrorCode, Result};

const MAGIC: &[u8; 8] = b"LUTHTOKS";
const VERSION: u32 = 1;
/// Bytes before the tokens.
const HEADER: usize = 128;
/// Of a token: its id and its label.
const TOKEN: usize = 8;

/// Which of a file's examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExamplePart {
    All,
    /// Those that are not held out.
    Train,
    /// Those that are.
    Evaluation,
}

impl FromStr for ExamplePart {
    type Err = EngineError;

    /// `all`, `train` or `evaluation`. `INVALID_ARGUMENT` for anything else.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => Ok(Self::All),
            "train" => Ok(Self::Train),
            "evaluation" => Ok(Self::Evaluation),
            _ => Err(EngineError::invalid(format!("part is `{text}`; expected all, train or evaluation"))),
        }
    }
}

/// Some of the examples of a file, in its order. Their tokens stay in the file.
pub struct FileExamples {
    path: PathBuf,
    map: Mmap,
    /// Where the ends of examples begin, in tokens from the file's first one.
    ends_at: usize,
    examples: usize,
    /// Numbers of those that are meant; none: all.
    chosen: Option<Vec<u32>>,
}

impl FileExamples {
    /// Maps a file. Of its examples, those count as held out whose hash, as a share of the largest, is below `held_out`.
    ///
    /// The file must not be written to while this lives; it may be deleted. Errors: `IO` where it cannot be read or has another layout.
    pub fn open(path: &Path, part: ExamplePart, held_out: f64) -> Result<Self> {
        let file = File::open(path).map_err(|error| EngineError::io("open", path, &error))?;
        // SAFETY: the mapping is private and read-only, and nobody writes to a finished file: it is made under another name and renamed.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| EngineError::io("map", path, &error))?;
        let wrong = |what: &str| {
            let message = format!("{} is no token file of version {VERSION}: {what}; delete it", path.display());
            EngineError::new(ErrorCode::Io, message)
        };
        if map.len() < HEADER || &map[..8] != MAGIC || u32_at(&map, 8) != VERSION {
            return Err(wrong("its first bytes are others"));
        }
        let [examples, tokens, summary] = [48, 56, 72].map(|place| u64_at(&map, place));
        let expected = u128::from(tokens) * TOKEN as u128
            + u128::from(examples) * 2 * size_of::<u64>() as u128
            + u128::from(summary)
            + HEADER as u128;
        if expected != map.len() as u128 || u32::try_from(examples).is_err() {
            return Err(wrong(&format!("its header tells of {expected} bytes, it has {}", map.len())));
        }
        let (examples, ends_at) = (examples as usize, HEADER + tokens as usize * TOKEN);
        let mut found = Self { path: path.to_path_buf(), map, ends_at, examples, chosen: None };
        if !found.ends().is_sorted() || found.ends().last().copied().unwrap_or(0) != tokens {
            return Err(wrong("its examples do not end in order"));
        }
        if part != ExamplePart::All {
            let wanted = part == ExamplePart::Evaluation;
            let of_part = |index: &u32| (share(found.hashes()[*index as usize]) < held_out) == wanted;
            found.chosen = Some((0..examples as u32).filter(of_part).collect());
        }
        Ok(found)
    }

    /// Where each example ends, in tokens.
    fn ends(&self) -> &[u64] {
        self.numbers(self.ends_at..self.ends_at + self.examples * size_of::<u64>())
    }

    fn hashes(&self) -> &[u64] {
        let first = self.ends_at + self.examples * size_of::<u64>();
        self.numbers(first..first + self.examples * size_of::<u64>())
    }

    /// Bytes of the file as numbers.
    fn numbers<T: Stored>(&self, bytes: Range<usize>) -> &[T] {
        let bytes = &self.map[bytes];
        // SAFETY: any bytes are a `T`, which is an integer.
        let (before, numbers, after) = unsafe { bytes.align_to::<T>() };
        // Maps begin at a page, and sections at a multiple of what they hold.
        assert!(before.is_empty() && after.is_empty(), "{} is mapped askew", self.path.display());
        numbers
    }

    /// Tokens of an example, from the file's first one.
    fn tokens(&self, index: usize) -> Range<usize> {
        let index = self.chosen.as_ref().map_or(index, |chosen| chosen[index] as usize);
        let ends = self.ends();
        let first = index.checked_sub(1).map_or(0, |before| ends[before]);
        first as usize..ends[index] as usize
    }
}

/// Integers that a file holds; little-endian, as every machine that this runs on.
trait Stored {}
impl Stored for u32 {}
impl Stored for i32 {}
impl Stored for u64 {}

const _: () = assert!(cfg!(target_endian = "little"), "token files are read as they are");

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[place + byte]))
}

fn u64_at(bytes: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[place + byte]))
}

/// A hash in [0, 1): its upper 53 bits, which a double holds exactly.
fn share(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

impl Examples for FileExamples {
    fn len(&self) -> usize {
        self.chosen.as_ref().map_or(self.examples, Vec::len)
    }

    fn example(&self, index: usize) -> (&[u32], &[i32]) {
        let Range { start, end } = self.tokens(index);
        let (length, first) = (end - start, HEADER + start * TOKEN);
        let labels = first + length * size_of::<u32>();
        (self.numbers(first..labels), self.numbers(labels..first + length * TOKEN))
    }

    fn example_len(&self, index: usize) -> usize {
        self.tokens(index).len()
    }

    fn check_layout(&self, _what: &str) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of examples with these ids, whose labels are one more, and with these hashes.
    fn written(name: &str, examples: &[(&[u32], u64)], change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let tokens: usize = examples.iter().map(|(ids, _)| ids.len()).sum();
        let mut bytes = vec![0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = VERSION as u8;
        bytes[48..56].copy_from_slice(&(examples.len() as u64).to_le_bytes());
        bytes[56..64].copy_from_slice(&(tokens as u64).to_le_bytes());
        bytes[72] = 2;
        for (ids, _) in examples {
            bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
            bytes.extend(ids.iter().flat_map(|id| (*id as i32 + 1).to_le_bytes()));
        }
        let mut end = 0;
        for (ids, _) in examples {
            end += ids.len() as u64;
            bytes.extend(end.to_le_bytes());
        }
        bytes.extend(examples.iter().flat_map(|(_, hash)| hash.to_le_bytes()));
        bytes.extend(b"{}");
        change(&mut bytes);
        let path = std::env::temp_dir().join(format!("luthier-{}-{name}.tokens", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    const HALF: u64 = 1 << 63;
    const EXAMPLES: [(&[u32], u64); 3] = [(&[1, 2, 3], 0), (&[4], HALF), (&[5, 6], HALF - 1)];

    #[test]
    fn parts_of_a_file() {
        let path = written("parts", &EXAMPLES, |_| {});
        let ids = |part, share| {
            let examples = FileExamples::open(&path, part, share).unwrap();
            assert_eq!(examples.lengths().len(), examples.len());
            let ids = |index| {
                let (ids, labels) = examples.example(index);
                assert!(ids.iter().zip(labels).all(|(id, label)| *label == *id as i32 + 1));
                assert_eq!(examples.example_len(index), ids.len());
                ids.to_vec()
            };
            (0..examples.len()).map(ids).collect::<Vec<_>>()
        };
        assert_eq!(ids(ExamplePart::All, 0.5), [vec![1, 2, 3], vec![4], vec![5, 6]]);
        // A hash of exactly half is not below a half.
        assert_eq!(ids(ExamplePart::Train, 0.5), [vec![4]]);
        assert_eq!(ids(ExamplePart::Evaluation, 0.5), [vec![1, 2, 3], vec![5, 6]]);
        assert_eq!(ids(ExamplePart::Evaluation, 0.0), [[0u32; 0]; 0]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn whatever_the_bytes_are_nothing_outside_the_file_is_read() {
        type Change = fn(&mut Vec<u8>);
        let changes: [(&str, Change); 7] = [
            ("empty", Vec::clear),
            ("cut", |bytes| bytes.truncate(bytes.len() - 1)),
            ("longer", |bytes| bytes.push(0)),
            ("magic", |bytes| bytes[0] = b'x'),
            ("version", |bytes| bytes[8] = 2),
            ("count", |bytes| bytes[48..56].fill(0xff)),
            ("ends", |bytes| bytes[HEADER + 48..HEADER + 56].fill(0xff)),
        ];
        for (name, change) in changes {
            let path = written(name, &EXAMPLES, change);
            let error = FileExamples::open(&path, ExamplePart::All, 0.0).err().expect(name);
            assert_eq!(error.code, ErrorCode::Io, "{name}: {error}");
            std::fs::remove_file(path).unwrap();
        }
        assert!(FileExamples::open(Path::new("/nowhere.tokens"), ExamplePart::All, 0.0).is_err());
    }
}
