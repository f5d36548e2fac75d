//! What a pickle of tensors is made of: plain data, addressed by number, so that nothing nests and nothing owns itself.

/// The only globals that are known. Each stands for data; none is code that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch._utils._rebuild_parameter_with_state`
    RebuildParameterWithState,
    /// `torch.FloatStorage` and its like.
    StorageType(StorageType),
}

/// The element type of a storage, by the name of torch's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StorageType {
    Float,
    Half,
    BFloat16,
    Double,
    Byte,
    Char,
    Short,
    Int,
    Long,
    Bool,
    ComplexFloat,
    ComplexDouble,
}

impl StorageType {
    const ALL: [(&'static str, Self); 12] = [
        ("FloatStorage", Self::Float),
        ("HalfStorage", Self::Half),
        ("BFloat16Storage", Self::BFloat16),
        ("DoubleStorage", Self::Double),
        ("ByteStorage", Self::Byte),
        ("CharStorage", Self::Char),
        ("ShortStorage", Self::Short),
        ("IntStorage", Self::Int),
        ("LongStorage", Self::Long),
        ("BoolStorage", Self::Bool),
        ("ComplexFloatStorage", Self::ComplexFloat),
        ("ComplexDoubleStorage", Self::ComplexDouble),
    ];

    /// The class, such as `FloatStorage`.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Byte | Self::Char | Self::Bool => 1,
            Self::Half | Self::BFloat16 | Self::Short => 2,
            Self::Float | Self::Int => 4,
            Self::Double | Self::Long | Self::ComplexFloat => 8,
            Self::ComplexDouble => 16,
        }
    }
}

impl Global {
    /// `None` for every other name.
    pub fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch._utils", "_rebuild_parameter_with_state") => Some(Self::RebuildParameterWithState),
            ("torch", name) => {
                let kind = StorageType::ALL.iter().find(|(class, _)| *class == name);
                kind.map(|(_, kind)| Self::StorageType(*kind))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Global {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OrderedDict => f.write_str("collections.OrderedDict"),
            Self::RebuildTensor => f.write_str("torch._utils._rebuild_tensor_v2"),
            Self::RebuildParameter => f.write_str("torch._utils._rebuild_parameter"),
            Self::RebuildParameterWithState => f.write_str("torch._utils._rebuild_parameter_with_state"),
            Self::StorageType(kind) => write!(f, "torch.{}", kind.name()),
        }
    }
}

/// A value on the stack, in the memo or in a container. Containers, storages and tensors are numbers into [`Data`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A number that no tensor needs, such as a version.
    Float,
    Text(&'a str),
    Global(Global),
    Tuple(u32),
    List,
    Dict(u32),
    Storage(u32),
    Tensor(u32),
}

impl Value<'_> {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Float => "a float",
            Self::Text(_) => "a str",
            Self::Global(_) => "a class or function",
            Self::Tuple(_) => "a tuple",
            Self::List => "a list",
            Self::Dict(_) => "a dict",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// Bytes of an archive's entry, as numbers of one type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Storage<'a> {
    pub kind: StorageType,
    /// Name of the entry, `data/{key}`.
    pub key: &'a str,
    /// Numbers.
    pub len: u64,
}

/// A view of a storage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StridedTensor {
    /// Number of the storage.
    pub storage: u32,
    /// In elements, as are the strides.
    pub offset: u64,
    /// Numbers of tuples that are as long as each other, of ints of at least 0.
    pub shape: u32,
    pub strides: u32,
}

/// What was read: the values that others refer to by number.
#[derive(Debug, Default)]
pub(super) struct Data<'a> {
    pub tuples: Vec<Vec<Value<'a>>>,
    pub dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub storages: Vec<Storage<'a>>,
    pub tensors: Vec<StridedTensor>,
    /// What the whole pickle is.
    pub root: Option<Value<'a>>,
}

impl<'a> Data<'a> {
    /// Pairs of a dict, in the order in which they were written.
    pub fn dict(&self, number: u32) -> &[(Value<'a>, Value<'a>)] {
        &self.dicts[number as usize]
    }

    /// A tensor by its number.
    pub fn tensor(&self, number: u32) -> StridedTensor {
        self.tensors[number as usize]
    }

    /// The ints of a shape or of strides.
    pub fn sizes(&self, number: u32) -> impl ExactSizeIterator<Item = u64> {
        self.tuples[number as usize].iter().map(|value| match value {
            Value::Int(size) => size.cast_unsigned(),
            _ => 0,
        })
    }
}
