//! The JSON of a header, entry by entry, with what serde cannot say: which tensor and field was wrong.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::header::{Dtype, HeaderFault};

/// Name of the entry that is no tensor but free text.
const METADATA: &str = "__metadata__";

/// One entry as written: types checked, values not.
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) offsets: [u64; 2],
}

/// All entries in the order of the file.
#[derive(Default)]
pub(super) struct RawHeader {
    pub(super) tensors: Vec<RawTensor>,
    pub(super) metadata: Option<BTreeMap<String, String>>,
}

/// Where the parser was when it stopped; serde's errors have no room for it.
#[derive(Default)]
enum Stop {
    #[default]
    Nowhere,
    Entry(String),
    Field(String, String),
    Fault(HeaderFault),
}

impl Stop {
    fn note(&mut self, stop: impl FnOnce() -> Stop) {
        if matches!(self, Stop::Nowhere) {
            *self = stop();
        }
    }
}

/// Parses the entries of `header_json`.
pub(super) fn parse(header_json: &str) -> Result<RawHeader, HeaderFault> {
    let mut stop = Stop::Nowhere;
    let mut json = serde_json::Deserializer::from_str(header_json);
    let parsed =
        HeaderSeed { stop: &mut stop }.deserialize(&mut json).and_then(|raw| json.end().map(|()| raw));
    parsed.map_err(|error| match stop {
        Stop::Fault(fault) => fault,
        Stop::Entry(tensor) if error.is_data() => HeaderFault::NotATensor { tensor, error },
        Stop::Field(tensor, field) if error.is_data() => HeaderFault::BadField { tensor, field, error },
        _ => HeaderFault::NotJson { error },
    })
}

struct HeaderSeed<'s> {
    stop: &'s mut Stop,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawHeader, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawHeader, A::Error> {
        let stop = self.stop;
        let mut header = RawHeader::default();
        while let Some(name) = entries.next_key::<String>()? {
            if name == METADATA {
                let metadata = entries.next_value_seed(MetadataSeed { stop: &mut *stop });
                let metadata = metadata.inspect_err(|_| stop.note(|| Stop::Entry(name.clone())))?;
                if header.metadata.replace(metadata).is_some() {
                    stop.note(|| Stop::Fault(HeaderFault::DuplicateTensor { tensor: name }));
                    return Err(A::Error::custom("duplicate entry"));
                }
            } else {
                let tensor = entries.next_value_seed(TensorSeed { name: &name, stop: &mut *stop });
                let (dtype, shape, offsets) =
                    tensor.inspect_err(|_| stop.note(|| Stop::Entry(name.clone())))?;
                header.tensors.push(RawTensor { name, dtype, shape, offsets });
            }
        }
        Ok(header)
    }
}

struct MetadataSeed<'s> {
    stop: &'s mut Stop,
}

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    /// What MLX writes where there is none.
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut metadata = BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries
                .next_value::<String>()
                .inspect_err(|_| self.stop.note(|| Stop::Field(METADATA.to_owned(), key.clone())))?;
            match metadata.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => {
                    let (tensor, field) = (METADATA.to_owned(), entry.key().clone());
                    self.stop.note(|| Stop::Fault(HeaderFault::DuplicateField { tensor, field }));
                    return Err(A::Error::custom("duplicate key"));
                }
            };
        }
        Ok(metadata)
    }
}

struct TensorSeed<'s> {
    name: &'s str,
    stop: &'s mut Stop,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_> {
    type Value = (Dtype, Vec<u64>, [u64; 2]);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl TensorSeed<'_> {
    /// Reads the value of `field` into its place, once.
    fn field<'de, T, A>(
        &mut self,
        place: &mut Option<T>,
        field: &'static str,
        fields: &mut A,
    ) -> Result<(), A::Error>
    where
        T: serde::Deserialize<'de>,
        A: MapAccess<'de>,
    {
        let (name, stop) = (self.name, &mut *self.stop);
        let value = fields
            .next_value()
            .inspect_err(|_| stop.note(|| Stop::Field(name.to_owned(), field.to_owned())))?;
        match place.replace(value) {
            None => Ok(()),
            Some(_) => self
                .fault(HeaderFault::DuplicateField { tensor: self.name.to_owned(), field: field.to_owned() }),
        }
    }

    fn present<T, E: serde::de::Error>(&mut self, value: Option<T>, field: &'static str) -> Result<T, E> {
        match value {
            Some(value) => Ok(value),
            None => self.fault(HeaderFault::MissingField { tensor: self.name.to_owned(), field }),
        }
    }

    fn fault<T, E: serde::de::Error>(&mut self, fault: HeaderFault) -> Result<T, E> {
        let error = E::custom(&fault);
        self.stop.note(|| Stop::Fault(fault));
        Err(error)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_> {
    type Value = (Dtype, Vec<u64>, [u64; 2]);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Self::Value, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None::<String>, None, None);
        while let Some(field) = fields.next_key::<String>()? {
            match field.as_str() {
                "dtype" => self.field(&mut dtype, "dtype", &mut fields)?,
                "shape" => self.field(&mut shape, "shape", &mut fields)?,
                "data_offsets" => self.field(&mut offsets, "data_offsets", &mut fields)?,
                // As in the reference implementation: a later format may add fields.
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        let dtype = self.present(dtype, "dtype")?;
        let shape = self.present(shape, "shape")?;
        let offsets = self.present(offsets, "data_offsets")?;
        match Dtype::from_name(&dtype) {
            Some(dtype) => Ok((dtype, shape, offsets)),
            None => self.fault(HeaderFault::UnknownDtype { tensor: self.name.to_owned(), dtype }),
        }
    }
}
