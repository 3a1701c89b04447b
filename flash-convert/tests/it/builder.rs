//! Builds GGUF files, valid or invalid.

/// An encoded value with its type id.
#[derive(Clone)]
pub(crate) struct Typed {
    pub(crate) type_id: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A tensor with its data; `offset` overrides its offset in the tensor table.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) type_id: u32,
    pub(crate) data: Vec<u8>,
    pub(crate) offset: Option<u64>,
}

/// Contents of a GGUF file to build.
#[derive(Clone)]
pub(crate) struct Builder {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    pub(crate) metadata: Vec<(String, Typed)>,
    pub(crate) tensors: Vec<Tensor>,
    /// Overrides of the counts in the header.
    pub(crate) n_tensors: Option<u64>,
    pub(crate) n_entries: Option<u64>,
}

impl Typed {
    pub(crate) fn u32(value: u32) -> Self {
        Self { type_id: 4, bytes: value.to_le_bytes().to_vec() }
    }

    pub(crate) fn f32(value: f32) -> Self {
        Self { type_id: 6, bytes: value.to_le_bytes().to_vec() }
    }

    pub(crate) fn bool(value: bool) -> Self {
        Self { type_id: 7, bytes: vec![value.into()] }
    }

    pub(crate) fn string(value: &str) -> Self {
        Self { type_id: 8, bytes: string(value) }
    }

    /// Returns an array of encoded elements.
    pub(crate) fn array(type_id: u32, elements: &[Vec<u8>]) -> Self {
        Self::array_of(type_id, elements.len() as u64, &elements.concat())
    }

    /// Returns an array that claims `count` elements.
    pub(crate) fn array_of(type_id: u32, count: u64, elements: &[u8]) -> Self {
        let mut bytes = type_id.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(elements);
        Self { type_id: 9, bytes }
    }

    pub(crate) fn strings<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self::array(8, &values.into_iter().map(string).collect::<Vec<_>>())
    }

    pub(crate) fn i32s(values: &[i32]) -> Self {
        Self::array(5, &values.iter().map(|v| v.to_le_bytes().to_vec()).collect::<Vec<_>>())
    }

    pub(crate) fn f32s(values: &[f32]) -> Self {
        Self::array(6, &values.iter().map(|v| v.to_le_bytes().to_vec()).collect::<Vec<_>>())
    }
}

pub(crate) fn string(value: &str) -> Vec<u8> {
    let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
    bytes.extend(value.as_bytes());
    bytes
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            metadata: Vec::new(),
            tensors: Vec::new(),
            n_tensors: None,
            n_entries: None,
        }
    }

    /// Sets a key, replacing an existing value in place.
    pub(crate) fn set(&mut self, key: &str, value: Typed) -> &mut Self {
        match self.metadata.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    pub(crate) fn remove(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(name, _)| name != key);
        self
    }

    pub(crate) fn tensor(&mut self, name: &str, dims: &[u64], type_id: u32, data: Vec<u8>) -> &mut Self {
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), type_id, data, offset: None });
        self
    }

    pub(crate) fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_entries.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            out.extend(string(key));
            out.extend(value.type_id.to_le_bytes());
            out.extend(&value.bytes);
        }
        let mut next = 0u64;
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            next = (next + tensor.data.len() as u64).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
            out.extend(&tensor.data);
        }
        out
    }
}
