//! Parser of a header's JSON, whose errors name the tensor and field, as serde's cannot.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::dtype::Dtype;
use crate::error::HeaderFault;

/// Name of the entry that holds metadata instead of a tensor.
const METADATA: &str = "__metadata__";

/// Entry of a tensor, with types checked and values unchecked.
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) offsets: [u64; 2],
}

/// All entries, in file order.
#[derive(Default)]
pub(super) struct RawHeader {
    pub(super) tensors: Vec<RawTensor>,
    pub(super) metadata: Option<BTreeMap<String, String>>,
}

/// Location of a parse error, which serde's errors cannot carry.
#[derive(Default)]
enum ErrorSite {
    #[default]
    Unknown,
    Entry(String),
    Field(String, String),
    Fault(HeaderFault),
}

impl ErrorSite {
    /// Sets the location, unless one is set already.
    fn set(&mut self, site: impl FnOnce() -> ErrorSite) {
        if matches!(self, ErrorSite::Unknown) {
            *self = site();
        }
    }
}

/// Parses all entries of `header_json`.
pub(super) fn parse(header_json: &str) -> Result<RawHeader, HeaderFault> {
    let mut site = ErrorSite::Unknown;
    let mut json = serde_json::Deserializer::from_str(header_json);
    let parsed =
        HeaderSeed { site: &mut site }.deserialize(&mut json).and_then(|raw| json.end().map(|()| raw));
    parsed.map_err(|error| match site {
        ErrorSite::Fault(fault) => fault,
        ErrorSite::Entry(tensor) if error.is_data() => HeaderFault::NotATensor { tensor, error },
        ErrorSite::Field(tensor, field) if error.is_data() => HeaderFault::BadField { tensor, field, error },
        _ => HeaderFault::NotJson { error },
    })
}

struct HeaderSeed<'s> {
    site: &'s mut ErrorSite,
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
        let site = self.site;
        let mut header = RawHeader::default();
        while let Some(name) = entries.next_key::<String>()? {
            if name == METADATA {
                let metadata = entries.next_value_seed(MetadataSeed { site: &mut *site });
                let metadata = metadata.inspect_err(|_| site.set(|| ErrorSite::Entry(name.clone())))?;
                if header.metadata.replace(metadata).is_some() {
                    site.set(|| ErrorSite::Fault(HeaderFault::DuplicateTensor { tensor: name }));
                    return Err(A::Error::custom("duplicate entry"));
                }
            } else {
                let tensor = entries.next_value_seed(TensorSeed { name: &name, site: &mut *site });
                let (dtype, shape, offsets) =
                    tensor.inspect_err(|_| site.set(|| ErrorSite::Entry(name.clone())))?;
                header.tensors.push(RawTensor { name, dtype, shape, offsets });
            }
        }
        Ok(header)
    }
}

struct MetadataSeed<'s> {
    site: &'s mut ErrorSite,
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

    /// Accepts `null`, which MLX writes for absent metadata.
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut metadata = BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries
                .next_value::<String>()
                .inspect_err(|_| self.site.set(|| ErrorSite::Field(METADATA.to_owned(), key.clone())))?;
            match metadata.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => {
                    let (tensor, field) = (METADATA.to_owned(), entry.key().clone());
                    self.site.set(|| ErrorSite::Fault(HeaderFault::DuplicateField { tensor, field }));
                    return Err(A::Error::custom("duplicate key"));
                }
            };
        }
        Ok(metadata)
    }
}

struct TensorSeed<'s> {
    name: &'s str,
    site: &'s mut ErrorSite,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_> {
    type Value = (Dtype, Vec<u64>, [u64; 2]);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl TensorSeed<'_> {
    /// Reads the value of `field` into `place`, and fails if `place` has one already.
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
        let (name, site) = (self.name, &mut *self.site);
        let value = fields
            .next_value()
            .inspect_err(|_| site.set(|| ErrorSite::Field(name.to_owned(), field.to_owned())))?;
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
        self.site.set(|| ErrorSite::Fault(fault));
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
                // Unknown fields are ignored, as in the reference implementation: a later format may add some.
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
