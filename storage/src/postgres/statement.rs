//! A statement and its values: everything that is asked of the database is one of these, sent in one
//! round trip; and without a name where a pooler may give each to another connection.

use tokio_postgres::types::{ToSql, Type};

use crate::{KeyDigest, Timestamp};
use std::time::Duration;

/// A statement and what it is told. Values are never part of the text.
pub(super) struct Told {
    sql: String,
    values: Vec<(Box<dyn ToSql + Send + Sync>, Type)>,
}

// === impl Told ===

impl Told {
    pub(super) fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            values: Vec::new(),
        }
    }

    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    pub(super) fn values(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let values = self.values.iter();
        values
            .map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone()))
            .collect()
    }

    pub(super) fn bytes(self, value: Option<&[u8]>) -> Self {
        self.value(value.map(<[u8]>::to_vec), Type::BYTEA)
    }

    pub(super) fn flag(self, value: bool) -> Self {
        self.value(value, Type::BOOL)
    }

    pub(super) fn int(self, value: impl Into<Option<i32>>) -> Self {
        self.value(value.into(), Type::INT4)
    }

    pub(super) fn long(self, value: impl Into<Option<i64>>) -> Self {
        self.value(value.into(), Type::INT8)
    }

    /// A number of ours. Those above the largest that fits are told as that.
    pub(super) fn number(self, value: impl Into<Option<u64>>) -> Self {
        self.long(value.into().map(number))
    }

    pub(super) fn keys(self, keys: &[KeyDigest]) -> Self {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        self.value(keys, Type::BYTEA_ARRAY)
    }

    pub(super) fn short(self, value: Option<i16>) -> Self {
        self.value(value, Type::INT2)
    }

    pub(super) fn span(self, value: impl Into<Option<Duration>>) -> Self {
        self.long(value.into().map(span))
    }

    pub(super) fn text(self, value: Option<&str>) -> Self {
        self.value(value.map(str::to_owned), Type::TEXT)
    }

    pub(super) fn time(self, value: impl Into<Option<Timestamp>>) -> Self {
        self.number(value.into().map(Timestamp::as_millis))
    }

    fn value(mut self, value: impl ToSql + Send + Sync + 'static, kind: Type) -> Self {
        self.values.push((Box::new(value), kind));
        self
    }
}

/// Two of them can be added, and a third.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(NUMBER_MAX).min(NUMBER_MAX)
}

fn span(value: Duration) -> i64 {
    number(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}

const NUMBER_MAX: i64 = i64::MAX / 4;
