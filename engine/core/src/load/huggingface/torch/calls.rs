//! What a pickle would call, and what it refers to outside itself: the values that torch's own functions would make of it.

use super::pickle::{MAX_DIMENSIONS, Reader, Result};
use super::value::{Global, Storage, StridedTensor, Value};

impl<'a> Reader<'a> {
    /// REDUCE: a known global and its arguments, as the value that torch would make.
    pub fn reduce(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let global = match self.pop()? {
            Value::Global(global) => global,
            other => return Err(self.refused(format_args!("a call of {} (REDUCE)", other.kind()))),
        };
        let arguments = self.tuple(arguments, "the arguments of a call")?.to_vec();
        match (global, &arguments[..]) {
            (Global::OrderedDict, []) => self.push_dict(),
            (
                Global::RebuildTensor,
                [storage, offset, shape, strides, _, _] | [storage, offset, shape, strides, _, _, _],
            ) => {
                let (Value::Storage(storage), Value::Int(offset)) = (*storage, *offset) else {
                    return Err(self.corrupt("a tensor is rebuilt from what is no storage, or at no number"));
                };
                let offset = u64::try_from(offset).map_err(|_| self.corrupt("a tensor begins before its storage"))?;
                let (shape, strides) = (self.sizes(*shape, "shape")?, self.sizes(*strides, "strides")?);
                if self.data.sizes(shape).len() != self.data.sizes(strides).len() {
                    return Err(self.corrupt("a tensor's shape and its strides have different lengths"));
                }
                self.count(1)?;
                let number = self.data.tensors.len() as u32;
                self.data.tensors.push(StridedTensor { storage, offset, shape, strides });
                self.push(Value::Tensor(number))
            }
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), _, _])
            | (Global::RebuildParameterWithState, [tensor @ Value::Tensor(_), _, _, _]) => {
                let tensor = *tensor;
                self.push(tensor)
            }
            (global, arguments) => {
                let kinds: Vec<&str> = arguments.iter().take(MAX_DIMENSIONS).map(Value::kind).collect();
                Err(self.refused(format_args!("`{global}` of {}: {}", arguments.len(), kinds.join(", "))))
            }
        }
    }

    /// The number of a tuple that is a shape or strides.
    fn sizes(&self, value: Value<'a>, what: &str) -> Result<u32> {
        let values = self.tuple(value, what)?;
        if values.len() > MAX_DIMENSIONS {
            return Err(
                self.corrupt(format_args!("a {what} of {} numbers; expected at most {MAX_DIMENSIONS}", values.len()))
            );
        }
        match value {
            Value::Tuple(number) if values.iter().all(|size| matches!(size, Value::Int(0..))) => Ok(number),
            _ => Err(self.corrupt(format_args!("a {what} has something else than numbers of at least 0"))),
        }
    }

    /// BUILD: attributes of a dict, such as the versions of the modules that `state_dict` adds. Nothing needs them.
    pub fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.top()? {
            Value::Dict(_) => Ok(()),
            other => Err(self.refused(format_args!("attributes of {} (BUILD)", other.kind()))),
        }
    }

    /// BINPERSID: `('storage', type, key, device, numbers)`.
    pub fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = match self.tuple(id, "the id of a persistent object")? {
            [
                Value::Text("storage"),
                Value::Global(Global::StorageType(kind)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(len),
            ] => {
                let len =
                    u64::try_from(*len).map_err(|_| self.corrupt(format_args!("storage `{key}` has {len} numbers")))?;
                Storage { kind: *kind, key, len }
            }
            other => {
                let kinds: Vec<&str> = other.iter().take(MAX_DIMENSIONS).map(Value::kind).collect();
                return Err(self.refused(format_args!("a persistent object that is no storage: {}", kinds.join(", "))));
            }
        };
        self.count(1)?;
        let number = self.data.storages.len() as u32;
        self.data.storages.push(storage);
        self.push(Value::Storage(number))
    }
}

/// Whose instance OBJ, NEWOBJ and NEWOBJ_EX would make. No global that is known has any, so this is data in place of a class.
pub(super) fn instance(opcode: u8, stack: &[Value<'_>], marks: &[usize]) -> String {
    let (name, class) = match opcode {
        b'o' => ("OBJ", marks.last().and_then(|mark| stack.get(*mark))),
        0x81 => ("NEWOBJ", stack.iter().rev().nth(1)),
        _ => ("NEWOBJ_EX", stack.iter().rev().nth(2)),
    };
    match class {
        Some(Value::Global(global)) => format!("an instance of `{global}` ({name})"),
        Some(other) => format!("an instance of {} ({name})", other.kind()),
        None => format!("an instance of nothing ({name})"),
    }
}
