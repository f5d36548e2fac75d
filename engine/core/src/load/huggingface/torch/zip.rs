//! The archive that torch writes: a zip file whose entries are stored, not compressed, so that each is a window of the file.
//!
//! Format: PKWARE's APPNOTE.TXT 6.3. Sizes and places come from the central directory (torch leaves them out of the entries' own headers);
//! whatever else the file says about them must agree. Checksums are not compared: torch can be told to write none, and a model's content hash
//! tells damage as well.

use std::collections::BTreeMap;
use std::ops::Range;

/// `PK\3\4`, before each entry.
const ENTRY: u32 = 0x0403_4b50;
/// `PK\1\2`, before each entry of the central directory.
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
/// `PK\5\6`, the end of the directory.
const END: u32 = 0x0605_4b50;
/// `PK\6\6`, the end of the directory with 64-bit fields.
const END_64: u32 = 0x0606_4b50;
/// `PK\6\7`, where that lies.
const END_64_LOCATOR: u32 = 0x0706_4b50;

const ENTRY_BYTES: usize = 30;
const DIRECTORY_ENTRY_BYTES: usize = 46;
const END_BYTES: usize = 22;
const END_64_BYTES: usize = 56;
const LOCATOR_BYTES: usize = 20;
/// The end may be followed by a comment of this length.
const MAX_COMMENT_BYTES: usize = u16::MAX as usize;

/// Number of the extra field that holds what 32 bits do not.
const EXTRA_64: u16 = 1;
const ENCRYPTED: u16 = 1;

/// An archive's entries: where the bytes of each lie in the file.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    pub entries: BTreeMap<&'a str, Range<usize>>,
}

/// Little-endian fields. Every read is checked against the end of the file.
#[derive(Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn window(self, start: usize, len: usize, what: &str) -> Result<&'a [u8], String> {
        let window = start.checked_add(len).and_then(|end| self.bytes.get(start..end));
        window.ok_or_else(|| {
            format!("{what} of {len} bytes at byte {start} lies beyond the end at byte {}", self.bytes.len())
        })
    }

    fn u16(self, at: usize) -> u16 {
        self.bytes[at..].first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    fn u32(self, at: usize) -> u32 {
        self.bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(self, at: usize) -> u64 {
        self.bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// Where the central directory lies, and how many entries it has.
struct Directory {
    window: Range<usize>,
    count: usize,
}

impl<'a> Archive<'a> {
    /// Reads the directory and checks every entry. Nothing is reserved that the directory does not have the bytes for.
    ///
    /// Errors: what is wrong with the file, for the caller to put its path before: it is cut, an entry is compressed or encrypted, entries
    /// overlap or have one name, the directory and an entry disagree.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let file = Fields { bytes };
        let directory = directory(file)?;
        let mut entries = BTreeMap::new();
        let mut occupied = Vec::with_capacity(directory.count);
        let mut at = directory.window.start;
        for _ in 0..directory.count {
            let (name, entry, next) = entry(file, at, &directory)?;
            at = next;
            occupied.push(entry.header..entry.data.end);
            if entries.insert(name, entry.data).is_some() {
                return Err(format!("two entries are called `{name}`"));
            }
        }
        if at != directory.window.end {
            let (count, rest) = (directory.count, directory.window.end - at);
            return Err(format!("the directory has {rest} bytes more than its {count} entries"));
        }
        occupied.sort_by_key(|range| range.start);
        match occupied.windows(2).find(|pair| pair[0].end > pair[1].start) {
            Some(pair) => Err(format!("entries overlap: bytes {:?} and {:?}", pair[0], pair[1])),
            None => Ok(Self { entries }),
        }
    }
}

fn directory(file: Fields<'_>) -> Result<Directory, String> {
    let len = file.bytes.len();
    let last = len.checked_sub(END_BYTES).ok_or("it is too short for an archive")?;
    let is_end = |at: &usize| file.u32(*at) == END && *at + END_BYTES + usize::from(file.u16(at + 20)) == len;
    let end = (last.saturating_sub(MAX_COMMENT_BYTES)..=last).rev().find(is_end);
    let end = end.ok_or("it has no directory at its end; is it a partial download?")?;
    if file.u16(end + 4) != 0 || file.u16(end + 6) != 0 {
        return Err("it is one of several volumes".into());
    }
    let stated = [file.u16(end + 10).into(), file.u32(end + 12).into(), file.u32(end + 16).into()];
    let unknown: [u64; 3] = [u16::MAX.into(), u32::MAX.into(), u32::MAX.into()];
    let ([count, size, start], limit) = match end_64(file, end)? {
        None => (stated, end),
        Some((found, at)) => {
            let agree = (0..3).all(|field| stated[field] == unknown[field] || stated[field] == found[field]);
            if !agree {
                return Err(format!("its two ends disagree: entries, bytes, start {stated:?} and {found:?}"));
            }
            (found, at)
        }
    };
    let window =
        start.checked_add(size).filter(|after| *after <= limit as u64).map(|after| start as usize..after as usize);
    let window = window.ok_or_else(|| {
        format!("its directory of {size} bytes at byte {start} reaches beyond byte {limit}, where its end begins")
    })?;
    let most = window.len() / DIRECTORY_ENTRY_BYTES;
    if count > most as u64 {
        return Err(format!("its directory of {size} bytes states {count} entries; at most {most} fit"));
    }
    Ok(Directory { window, count: count as usize })
}

/// Entries, size and start of the directory as the 64-bit end has them, and where that lies; `None` where there is none.
fn end_64(file: Fields<'_>, end: usize) -> Result<Option<([u64; 3], usize)>, String> {
    let Some(locator) = end.checked_sub(LOCATOR_BYTES).filter(|at| file.u32(*at) == END_64_LOCATOR) else {
        return Ok(None);
    };
    let at = file.u64(locator + 8);
    let last = locator.checked_sub(END_64_BYTES).filter(|last| at <= *last as u64);
    let at = last.map(|_| at as usize).filter(|at| file.u32(*at) == END_64);
    let at = at.ok_or_else(|| format!("the 64-bit end of its directory is not at byte {}", file.u64(locator + 8)))?;
    Ok(Some(([file.u64(at + 32), file.u64(at + 40), file.u64(at + 48)], at)))
}

/// One entry: where its own header and its bytes lie.
struct Entry {
    header: usize,
    data: Range<usize>,
}

/// The directory's entry at `at`, and where the next one begins.
fn entry<'a>(file: Fields<'a>, at: usize, directory: &Directory) -> Result<(&'a str, Entry, usize), String> {
    let inside = Fields { bytes: &file.bytes[..directory.window.end] };
    inside.window(at, DIRECTORY_ENTRY_BYTES, "the directory's entry")?;
    if file.u32(at) != DIRECTORY_ENTRY {
        return Err(format!("no directory entry begins at byte {at}"));
    }
    let (flags, method) = (file.u16(at + 8), file.u16(at + 10));
    let lengths = [28, 30, 32].map(|field| usize::from(file.u16(at + field)));
    let name = inside.window(at + DIRECTORY_ENTRY_BYTES, lengths[0], "an entry's name")?;
    let name = std::str::from_utf8(name).map_err(|_| format!("the entry at byte {at} has a name that is not UTF-8"))?;
    let extra_at = at + DIRECTORY_ENTRY_BYTES + lengths[0];
    let extra = inside.window(extra_at, lengths[1], "an entry's extra field")?;
    inside.window(extra_at + lengths[1], lengths[2], "an entry's comment")?;
    let next = extra_at + lengths[1] + lengths[2];
    if flags & ENCRYPTED != 0 {
        return Err(format!("`{name}` is encrypted"));
    }
    if method != 0 {
        return Err(format!("`{name}` is compressed (method {method}); torch stores its entries as they are"));
    }
    if file.u16(at + 34) != 0 {
        return Err(format!("`{name}` is in another volume"));
    }
    // In the order in which the extra field has those that 32 bits do not hold.
    let sizes = [24, 20, 42].map(|field| u64::from(file.u32(at + field)));
    let [size, packed, header] = wide(sizes, extra).ok_or_else(|| format!("`{name}` lacks its 64-bit sizes"))?;
    if size != packed {
        return Err(format!("`{name}` has {size} bytes and takes {packed}, though it is not compressed"));
    }
    let data = data_of(file, name, header, size, directory.window.start)?;
    Ok((name, Entry { header: header as usize, data }, next))
}

/// Fields that are all ones are in the extra field `EXTRA_64`, one after another. `None` where it does not have them.
fn wide<const N: usize>(fields: [u64; N], mut extra: &[u8]) -> Option<[u64; N]> {
    let mut found: &[u8] = &[];
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let [kind, len] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_le_bytes);
        let (field, after) = rest.split_at_checked(usize::from(len))?;
        if kind == EXTRA_64 {
            found = field;
        }
        extra = after;
    }
    let mut wide = fields;
    for field in wide.iter_mut().filter(|field| **field == u64::from(u32::MAX)) {
        let (head, rest) = found.split_first_chunk::<8>()?;
        (*field, found) = (u64::from_le_bytes(*head), rest);
    }
    Some(wide)
}

/// Where an entry's bytes lie, behind its own header, which must be the directory's. All of it before `limit`.
fn data_of(file: Fields<'_>, name: &str, header: u64, size: u64, limit: usize) -> Result<Range<usize>, String> {
    let beyond = || format!("`{name}` of {size} bytes at byte {header} reaches into the directory at byte {limit}");
    let at = usize::try_from(header).ok().filter(|at| at.saturating_add(ENTRY_BYTES) <= limit).ok_or_else(beyond)?;
    if file.u32(at) != ENTRY {
        return Err(format!("`{name}` should begin at byte {at}, where no entry does"));
    }
    let [name_len, extra_len] = [26, 28].map(|field| usize::from(file.u16(at + field)));
    let data = at + ENTRY_BYTES + name_len + extra_len;
    let end = usize::try_from(size).ok().and_then(|size| data.checked_add(size)).filter(|end| *end <= limit);
    let end = end.ok_or_else(beyond)?;
    let own = &file.bytes[at + ENTRY_BYTES..at + ENTRY_BYTES + name_len];
    if own != name.as_bytes() || file.u16(at + 8) != 0 {
        return Err(format!("the header of `{name}` at byte {at} is another's, or says that it is compressed"));
    }
    Ok(data..end)
}
