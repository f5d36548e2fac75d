//! A writer of torch's files: the archive, and pickles of tensors. What it writes can be spoilt at known places.

use crate::support::{TinyModel, f32_bytes};

/// An archive, and where its parts begin.
pub struct Archive {
    pub bytes: Vec<u8>,
    /// Of each entry: its own header.
    pub headers: Vec<usize>,
    /// Of each entry: the directory's.
    pub directory: Vec<usize>,
    /// The end with 32-bit fields, the file's last 22 bytes.
    pub end: usize,
}

/// How an archive says where things are.
#[derive(Clone, Copy, PartialEq)]
pub enum Fields {
    /// In 32 bits, as small files can.
    Short,
    /// In 64 bits, and all ones in place of the 32.
    Long,
}

impl Archive {
    pub fn new(entries: &[(&str, &[u8])], fields: Fields) -> Self {
        let mut archive = Self { bytes: Vec::new(), headers: Vec::new(), directory: Vec::new(), end: 0 };
        let long = fields == Fields::Long;
        for (name, bytes) in entries {
            archive.headers.push(archive.bytes.len());
            // As torch writes it: sizes follow the data (flag 8), which begins at a multiple of 64.
            archive.put(&[b"PK\x03\x04", &[0, 0, 8, 8], &[0; 18], &(name.len() as u16).to_le_bytes()]);
            let padding = 64 - (archive.bytes.len() + 2 + name.len() + 4) % 64;
            archive.put(&[&(padding as u16 + 4).to_le_bytes(), name.as_bytes(), b"FB"]);
            archive.put(&[&(padding as u16).to_le_bytes(), &vec![b'Z'; padding], bytes]);
        }
        let start = archive.bytes.len();
        for (index, (name, bytes)) in entries.iter().enumerate() {
            archive.directory.push(archive.bytes.len());
            let (size, header) = (bytes.len() as u64, archive.headers[index] as u64);
            let short = |value: u64| if long { u32::MAX } else { value as u32 }.to_le_bytes();
            let wide = [[1, 0, 24, 0].as_slice(), &[size, size, header].map(u64::to_le_bytes).concat()].concat();
            let extra: &[u8] = if long { &wide } else { &[] };
            archive.put(&[b"PK\x01\x02", &[0, 0, 0, 0, 8, 8], &[0; 10], &short(size), &short(size)]);
            archive.put(&[&(name.len() as u16).to_le_bytes(), &(extra.len() as u16).to_le_bytes()]);
            archive.put(&[&[0; 10], &short(header), name.as_bytes(), extra]);
        }
        let (count, size, end_64) =
            (entries.len() as u64, (archive.bytes.len() - start) as u64, archive.bytes.len() as u64);
        archive.put(&[b"PK\x06\x06", &44u64.to_le_bytes(), &[0; 12], &count.to_le_bytes(), &count.to_le_bytes()]);
        archive.put(&[&size.to_le_bytes(), &(start as u64).to_le_bytes()]);
        archive.put(&[b"PK\x06\x07", &[0; 4], &end_64.to_le_bytes(), &1u32.to_le_bytes()]);
        archive.end = archive.bytes.len();
        let short = |value: u64| if long { u32::MAX } else { value as u32 }.to_le_bytes();
        let count = if long { u16::MAX } else { count as u16 }.to_le_bytes();
        archive.put(&[b"PK\x05\x06", &[0; 4], &count, &count, &short(size), &short(start as u64), &[0; 2]]);
        archive
    }

    /// An archive with this pickle, `byteorder`, and storages `0`, `1`, … of these bytes.
    pub fn of_pickle(pickle: &[u8], storages: &[Vec<u8>]) -> Self {
        let names: Vec<String> = (0..storages.len()).map(|key| format!("m/data/{key}")).collect();
        let mut entries: Vec<(&str, &[u8])> = vec![("m/data.pkl", pickle), ("m/byteorder", b"little")];
        entries.extend(names.iter().zip(storages).map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
        Self::new(&entries, Fields::Short)
    }

    fn put(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
    }

    /// The same with other bytes at a place.
    pub fn with(&self, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut changed = self.bytes.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    }
}

/// BINUNICODE
pub fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A tuple of ints.
pub fn ints(values: &[usize]) -> Vec<u8> {
    let values = values.iter().flat_map(|value| [b"\x8a\x08".as_slice(), &(*value as u64).to_le_bytes()].concat());
    [b"(".to_vec(), values.collect(), b"t".to_vec()].concat()
}

/// `torch._utils._rebuild_tensor_v2` of a storage of `len` numbers.
pub fn tensor(class: &str, key: &str, len: usize, offset: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let storage = [
        b"(".to_vec(),
        text("storage"),
        format!("ctorch\n{class}\n").into_bytes(),
        text(key),
        text("cpu"),
        [b"J".as_slice(), &(len as u32).to_le_bytes(), b"tQ"].concat(),
    ];
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        [b"J".as_slice(), &(offset as u32).to_le_bytes()].concat(),
        ints(shape),
        ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// The strides of a tensor whose rows lie one after another.
pub fn dense(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|index| shape[index + 1..].iter().product()).collect()
}

/// A whole pickle of protocol 2: a dict of what was pickled.
pub fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items = items.iter().flat_map(|(name, value)| [text(name), value.clone()].concat());
    [b"\x80\x02}(".to_vec(), items.collect(), b"u.".to_vec()].concat()
}

impl TinyModel {
    /// The wanted tensors as a file of torch's, each with a storage of its own.
    pub fn torch_file(&self, wanted: impl Fn(&str) -> bool) -> Archive {
        let tensors: Vec<_> = self.tensors.iter().filter(|(name, _)| wanted(name)).collect();
        let items: Vec<(&str, Vec<u8>)> = tensors
            .iter()
            .enumerate()
            .map(|(key, (name, (shape, values)))| {
                let value = tensor("FloatStorage", &key.to_string(), values.len(), 0, shape, &dense(shape));
                (name.as_str(), value)
            })
            .collect();
        let storages: Vec<Vec<u8>> = tensors.iter().map(|(_, (_, values))| f32_bytes(values)).collect();
        Archive::of_pickle(&dict(&items), &storages)
    }
}
