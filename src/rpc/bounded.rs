//! A deserializer around a deserializer: what hostile bytes can make of a user's type is bounded.
//!
//! bincode alone has three holes for serde types, each of a few bytes:
//!
//! - a text or byte string is allocated at the length that it claims, before a byte of it is read;
//!   here it is borrowed from the message first, so it is never longer than that;
//! - a type that contains itself nests as deep as the bytes say, and a stack that overflows ends
//!   the whole process; here the depth has a limit;
//! - elements that have no bytes (`Vec<()>`) are read as often as the length claims, up to 2^64
//!   times; here a length that the message has no bytes for has a limit.
//!
//! Everything else is handed through, and the bytes mean what they meant.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// What is left of the bounds at one place of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    depth_left: usize,
    elements_max: usize,
}

/// `inner`, within bounds. It wraps deserializers, visitors, seeds and accesses alike.
pub(super) struct Bounded<T> {
    inner: T,
    bounds: Bounds,
}

// === impl Bounds ===

impl Bounds {
    /// The bounds of a value in a message of `bytes` bytes.
    pub(super) fn of_message(bytes: usize) -> Self {
        Self {
            depth_left: DEPTH_MAX,
            elements_max: bytes.max(ELEMENTS_WITHOUT_BYTES_MAX),
        }
    }

    /// `inner`, within these bounds.
    pub(super) const fn around<T>(self, inner: T) -> Bounded<T> {
        Bounded {
            inner,
            bounds: self,
        }
    }

    /// One level further in.
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => Err(E::custom(format_args!(
                "{OURS} values are nested deeper than {DEPTH_MAX} levels"
            ))),
        }
    }

    fn admit<E: Error>(self, elements: Option<usize>) -> Result<(), E> {
        match elements {
            Some(elements) if elements > self.elements_max => Err(E::custom(format_args!(
                "{OURS} {elements} elements are more than the message can have"
            ))),
            _ => Ok(()),
        }
    }
}

/// Whether an error's words are this module's, and not those of a value's own type.
pub(super) fn are_ours(words: &str) -> bool {
    words.starts_with(OURS)
}

const OURS: &str = "out of bounds:";

// === impl Bounded ===

macro_rules! hand_through {
    ($($method:ident($($argument:ident: $type:ty),*) as $inner:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(
            self,
            $($argument: $type,)*
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            self.inner.$inner($($argument,)* self.bounds.around(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Bounded<D> {
    type Error = D::Error;

    hand_through! {
        deserialize_any() as deserialize_any;
        deserialize_bool() as deserialize_bool;
        deserialize_i8() as deserialize_i8;
        deserialize_i16() as deserialize_i16;
        deserialize_i32() as deserialize_i32;
        deserialize_i64() as deserialize_i64;
        deserialize_i128() as deserialize_i128;
        deserialize_u8() as deserialize_u8;
        deserialize_u16() as deserialize_u16;
        deserialize_u32() as deserialize_u32;
        deserialize_u64() as deserialize_u64;
        deserialize_u128() as deserialize_u128;
        deserialize_f32() as deserialize_f32;
        deserialize_f64() as deserialize_f64;
        deserialize_char() as deserialize_char;
        deserialize_str() as deserialize_str;
        // Borrowed first: see the top of this file.
        deserialize_string() as deserialize_str;
        deserialize_bytes() as deserialize_bytes;
        deserialize_byte_buf() as deserialize_bytes;
        deserialize_option() as deserialize_option;
        deserialize_unit() as deserialize_unit;
        deserialize_unit_struct(name: &'static str) as deserialize_unit_struct;
        deserialize_newtype_struct(name: &'static str) as deserialize_newtype_struct;
        deserialize_seq() as deserialize_seq;
        deserialize_tuple(length: usize) as deserialize_tuple;
        deserialize_tuple_struct(name: &'static str, length: usize) as deserialize_tuple_struct;
        deserialize_map() as deserialize_map;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) as deserialize_struct;
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) as deserialize_enum;
        deserialize_identifier() as deserialize_identifier;
        deserialize_ignored_any() as deserialize_ignored_any;
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit_plain {
    ($($method:ident($type:ty);)*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Bounded<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit_plain! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_str(&str);
        visit_borrowed_str(&'de str);
        visit_string(String);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inside: D) -> Result<V::Value, D::Error> {
        let bounds = self.bounds.deeper()?;
        self.inner.visit_some(bounds.around(inside))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inside: D) -> Result<V::Value, D::Error> {
        let bounds = self.bounds.deeper()?;
        self.inner.visit_newtype_struct(bounds.around(inside))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.bounds.admit(elements.size_hint())?;
        let bounds = self.bounds.deeper()?;
        self.inner.visit_seq(bounds.around(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.bounds.admit(entries.size_hint())?;
        let bounds = self.bounds.deeper()?;
        self.inner.visit_map(bounds.around(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        let bounds = self.bounds.deeper()?;
        self.inner.visit_enum(bounds.around(variant))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Bounded<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inside: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(self.bounds.around(inside))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Bounded<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(self.bounds.around(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Bounded<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(self.bounds.around(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(self.bounds.around(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Bounded<A> {
    type Error = A::Error;
    type Variant = Bounded<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(self.bounds.around(seed))?;
        Ok((value, self.bounds.around(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Bounded<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(self.bounds.around(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .tuple_variant(length, self.bounds.around(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .struct_variant(fields, self.bounds.around(visitor))
    }
}

/// The same as in `serde_json`: no argument that people write is nested deeper, and every stack
/// that a runtime gives its workers holds it.
pub(super) const DEPTH_MAX: usize = 128;

/// Elements that have no bytes of their own cost time all the same.
const ELEMENTS_WITHOUT_BYTES_MAX: usize = 64 * 1024;
