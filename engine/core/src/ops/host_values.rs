//! What a device holds, in host memory.

use super::Element;

/// Numbers or codes read from a device, in the type that the host reads them in.
#[derive(Clone, Debug, PartialEq)]
pub enum HostValues {
    F32(Vec<f32>),
    F64(Vec<f64>),
    /// 8-bit codes.
    Codes(Vec<u8>),
}

impl HostValues {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Codes(codes) => codes.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers, where they are of this type.
    pub fn numbers<E: Element>(&self) -> Option<&[E]> {
        E::of_host(self)
    }

    /// The numbers' memory, where they are of this type.
    pub fn into_numbers<E: Element>(self) -> Option<Vec<E>> {
        E::from_host(self)
    }
}
