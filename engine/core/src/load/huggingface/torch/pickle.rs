//! A reader of Python pickles that hold tensors. It executes nothing: opcodes become plain data, the few globals of [`Global`] stand for data,
//! and every other global, opcode or use of one is refused by name.
//!
//! Format: Python's `pickletools`, protocols 2 to 5; of their opcodes those that `torch.save` writes. Every length is checked against the
//! pickle's end before it is used, and what is made is counted: at most 2^20 values, of some 64 bytes at most.

use super::calls::instance;
use super::value::{Data, Global, Value};
use crate::error::ErrorCode;

/// Larger pickles than this describe no tensors: one takes some 150 bytes.
const MAX_BYTES: usize = 16 << 20;
/// Values and marks on the stack; torch's batches are of a thousand pairs.
const MAX_STACK: usize = 1 << 16;
/// Containers, their pairs, tensors, storages and kept values; a tensor takes some 16.
const MAX_MADE: usize = 1 << 20;
/// Dimensions of a tensor.
pub(super) const MAX_DIMENSIONS: usize = 8;

/// What is wrong with a pickle, for the caller to put the file's name before.
#[derive(Debug)]
pub(super) struct PickleError {
    pub code: ErrorCode,
    pub what: String,
}

pub(super) type Result<T> = std::result::Result<T, PickleError>;

/// Reads a whole pickle.
///
/// Errors: `MODEL_UNSUPPORTED` where it asks for anything but tensors and plain data, by name; `MODEL_CORRUPT` where it is cut or malformed.
pub(super) fn read_pickle(bytes: &[u8]) -> Result<Data<'_>> {
    let mut reader =
        Reader { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: Vec::new(), data: Data::default(), made: 0 };
    if bytes.len() > MAX_BYTES {
        return Err(reader.corrupt(format_args!("it has {} bytes; expected at most {MAX_BYTES}", bytes.len())));
    }
    match (reader.byte()?, reader.byte()?) {
        (0x80, 2..=5) => {}
        (0x80, version) => {
            return Err(reader.unsupported(format_args!("it is of protocol {version}; supported: 2 to 5")));
        }
        _ => {
            return Err(
                reader.unsupported("it begins as pickles of protocols 0 and 1 do, or is none; supported: 2 to 5")
            );
        }
    }
    while reader.step()? {}
    Ok(reader.data)
}

/// A position in a pickle, and what was read before it.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Lengths that the stack had when the marks were set.
    marks: Vec<usize>,
    /// Values by the number under which they were kept; pickles number them in order.
    memo: Vec<Value<'a>>,
    pub data: Data<'a>,
    /// Values made so far.
    made: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, code: ErrorCode, what: impl std::fmt::Display) -> PickleError {
        PickleError { code, what: format!("{what} (at byte {} of the pickle)", self.at) }
    }

    pub fn corrupt(&self, what: impl std::fmt::Display) -> PickleError {
        self.error(ErrorCode::ModelCorrupt, what)
    }

    fn unsupported(&self, what: impl std::fmt::Display) -> PickleError {
        self.error(ErrorCode::ModelUnsupported, what)
    }

    /// Refuses whatever would import or call something.
    pub fn refused(&self, what: impl std::fmt::Display) -> PickleError {
        self.unsupported(format_args!(
            "it asks for {what}, which is not executed; only tensors are read: save the model's state dict, or safetensors"
        ))
    }

    fn window(&mut self, len: u64) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        let len = usize::try_from(len).ok().filter(|len| *len <= left);
        let len = len.ok_or_else(|| self.corrupt(format_args!("it ends {left} bytes on, in the middle of a value")))?;
        let window = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(window)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.window(N as u64)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self, len: u64) -> Result<&'a str> {
        let bytes = self.window(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt("a str is not UTF-8"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let len = self.bytes[self.at..].iter().position(|byte| *byte == b'\n');
        let len = len.ok_or_else(|| self.corrupt("a name does not end"))?;
        let line = self.text(len as u64)?;
        self.at += 1;
        Ok(line)
    }

    pub fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.stack.len() + self.marks.len() >= MAX_STACK {
            return Err(self.corrupt(format_args!("more than {MAX_STACK} values wait to be used")));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Values above the last mark stay out of reach.
    pub fn pop(&mut self) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| self.corrupt("a value is used that is not there"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| self.corrupt("a mark is used that is not there"))?;
        Ok(self.stack.split_off(mark))
    }

    pub fn top(&self) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| self.corrupt("a value is used that is not there"))
    }

    /// Counts values that stay until the end.
    pub fn count(&mut self, more: usize) -> Result<()> {
        self.made += more;
        if self.made > MAX_MADE {
            return Err(self.corrupt(format_args!("it makes more than {MAX_MADE} values")));
        }
        Ok(())
    }

    fn push_tuple(&mut self, values: Vec<Value<'a>>) -> Result<()> {
        self.count(1 + values.len())?;
        let number = self.data.tuples.len() as u32;
        self.data.tuples.push(values);
        self.push(Value::Tuple(number))
    }

    pub fn push_dict(&mut self) -> Result<()> {
        self.count(1)?;
        let number = self.data.dicts.len() as u32;
        self.data.dicts.push(Vec::new());
        self.push(Value::Dict(number))
    }

    pub fn tuple(&self, value: Value<'a>, what: &str) -> Result<&[Value<'a>]> {
        match value {
            Value::Tuple(number) => Ok(&self.data.tuples[number as usize]),
            other => Err(self.corrupt(format_args!("{what} is {}; expected a tuple", other.kind()))),
        }
    }

    fn keep(&mut self, number: usize) -> Result<()> {
        let (value, next) = (self.top()?, self.memo.len());
        match self.memo.get_mut(number) {
            Some(kept) => *kept = value,
            None if number == next => {
                self.count(1)?;
                self.memo.push(value);
            }
            None => {
                return Err(self.corrupt(format_args!("a value is kept as number {number}; the next one is {next}")));
            }
        }
        Ok(())
    }

    fn recall(&mut self, number: usize) -> Result<()> {
        let value = self.memo.get(number).copied();
        let value =
            value.ok_or_else(|| self.corrupt(format_args!("value {number} is recalled, but was never kept")))?;
        self.push(value)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let known = Global::find(module, name).ok_or_else(|| self.refused(format_args!("`{module}.{name}`")))?;
        self.push(Value::Global(known))
    }

    fn set_items(&mut self, pairs: &[Value<'a>]) -> Result<()> {
        let Value::Dict(number) = self.top()? else { return Err(self.corrupt("a pair is put into what is no dict")) };
        let (pairs, rest) = pairs.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.corrupt("a key has no value"));
        }
        self.count(pairs.len())?;
        self.data.dicts[number as usize].extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    /// One opcode; false after the last one. The names are those of `pickletools`.
    fn step(&mut self) -> Result<bool> {
        match self.byte()? {
            // STOP
            b'.' => return self.stop().map(|()| false),
            // FRAME: only a hint for reading ahead.
            0x95 => {
                let len = self.u64()?;
                let left = (self.bytes.len() - self.at) as u64;
                if len > left {
                    return Err(self.corrupt(format_args!("a frame of {len} bytes begins, {left} follow")));
                }
            }
            // MARK
            b'(' => {
                if self.stack.len() + self.marks.len() >= MAX_STACK {
                    return Err(self.corrupt(format_args!("more than {MAX_STACK} marks and values wait to be used")));
                }
                self.marks.push(self.stack.len());
            }
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let value = self.long()?;
                self.push(Value::Int(value))?;
            }
            // BINFLOAT
            b'G' => {
                self.window(8)?;
                self.push(Value::Float)?;
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'X' => {
                let len = self.u32()?;
                self.push_text(len.into())?;
            }
            0x8c => {
                let len = self.byte()?;
                self.push_text(len.into())?;
            }
            0x8d => {
                let len = self.u64()?;
                self.push_text(len)?;
            }
            // EMPTY_LIST, APPEND, APPENDS: what is in a list, no tensor needs.
            b']' => self.push(Value::List)?,
            b'a' => {
                self.pop()?;
                self.expect_list()?;
            }
            b'e' => {
                self.pop_mark()?;
                self.expect_list()?;
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b')' => self.push_tuple(Vec::new())?,
            b't' => {
                let values = self.pop_mark()?;
                self.push_tuple(values)?;
            }
            opcode @ 0x85..=0x87 => {
                let mut values = (0x85..=opcode).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                values.reverse();
                self.push_tuple(values)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push_dict()?,
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let pairs = self.pop_mark()?;
                self.set_items(&pairs)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let number = self.byte()?;
                self.keep(number.into())?;
            }
            b'r' => {
                let number = self.u32()?;
                self.keep(number as usize)?;
            }
            0x94 => self.keep(self.memo.len())?,
            b'h' => {
                let number = self.byte()?;
                self.recall(number.into())?;
            }
            b'j' => {
                let number = self.u32()?;
                self.recall(number as usize)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                _ => return Err(self.corrupt("the name of a global is no str")),
            },
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            // What would import or make something else, named where it is known.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                return Err(self.refused(format_args!("an instance of `{module}.{name}` (INST)")));
            }
            opcode @ (b'o' | 0x81 | 0x92) => return Err(self.refused(instance(opcode, &self.stack, &self.marks))),
            0x82 => {
                let code = self.byte()?;
                return Err(self.refused(format_args!("extension {code} of copyreg (EXT1)")));
            }
            0x83 => {
                let code = u16::from_le_bytes(self.array()?);
                return Err(self.refused(format_args!("extension {code} of copyreg (EXT2)")));
            }
            0x84 => {
                let code = self.u32()?;
                return Err(self.refused(format_args!("extension {code} of copyreg (EXT4)")));
            }
            b'P' => {
                let name = self.line()?;
                return Err(self.refused(format_args!("the persistent object `{name}` (PERSID)")));
            }
            other => {
                return Err(
                    self.unsupported(format_args!("opcode {other:#04x} is none that torch's files of tensors have"))
                );
            }
        }
        Ok(true)
    }

    fn push_text(&mut self, len: u64) -> Result<()> {
        let text = self.text(len)?;
        self.push(Value::Text(text))
    }

    /// A little-endian two's complement number of a stated length.
    fn long(&mut self) -> Result<i64> {
        let len = self.byte()?;
        if len > 8 {
            return Err(self.corrupt(format_args!("an int has {len} bytes; expected at most 8")));
        }
        let bytes = self.window(len.into())?;
        let mut wide = if bytes.last().is_some_and(|last| *last >= 0x80) { [0xff; 8] } else { [0; 8] };
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    fn expect_list(&mut self) -> Result<()> {
        match self.top()? {
            Value::List => Ok(()),
            other => Err(self.corrupt(format_args!("a value is appended to {}; expected a list", other.kind()))),
        }
    }

    fn stop(&mut self) -> Result<()> {
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() || self.at != self.bytes.len() {
            return Err(self.corrupt("it ends with values that nothing uses, or before its last byte"));
        }
        self.data.root = Some(root);
        Ok(())
    }
}
