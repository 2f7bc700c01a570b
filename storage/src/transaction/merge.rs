//! Rows over other rows.

use std::iter::Peekable;

use bytes::Bytes;

use super::Row;

/// The rows of `lower` as `upper` changes them: a value puts its row there, `None` takes it away.
/// Both are in the order of their keys, and so is what comes of them.
pub fn merge<'a, E>(
    upper: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    lower: impl Iterator<Item = Result<Row, E>>,
) -> impl Iterator<Item = Result<Row, E>> {
    Merge {
        upper: upper.peekable(),
        lower: lower.peekable(),
    }
}

struct Merge<U: Iterator, L: Iterator> {
    upper: Peekable<U>,
    lower: Peekable<L>,
}

// === impl Merge ===

impl<'a, E, U, L> Iterator for Merge<U, L>
where
    U: Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    L: Iterator<Item = Result<Row, E>>,
{
    type Item = Result<Row, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, _)) = self.upper.peek() else {
                return self.lower.next();
            };
            match self.lower.peek() {
                Some(Err(_)) => return self.lower.next(),
                Some(Ok((below, _))) if below < *key => return self.lower.next(),
                Some(Ok((below, _))) if below == *key => drop(self.lower.next()),
                _ => {}
            }
            if let Some((key, Some(value))) = self.upper.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_lies_above_replaces_adds_and_takes_away() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let lower = ["a", "b", "c", "e"];
        let lower = lower.map(|key| Ok::<_, Infallible>((bytes(key), bytes("old"))));
        let upper: BTreeMap<_, _> = [
            ("b", Some("new")),
            ("c", None),
            ("d", Some("new")),
            ("f", None),
        ]
        .map(|(key, value)| (bytes(key), value.map(bytes)))
        .into();
        let merged: Result<Vec<_>, _> = merge(upper.iter(), lower.into_iter()).collect();
        let expected = [("a", "old"), ("b", "new"), ("d", "new"), ("e", "old")];
        let expected = expected.map(|(key, value)| (bytes(key), bytes(value)));
        assert_eq!(merged.unwrap(), expected);
    }
}
