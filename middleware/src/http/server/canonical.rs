//! One text for JSON documents that say the same.
//!
//! Members are sorted, white space goes, strings are written in one way. Numbers are compared as
//! they are written: as floating-point numbers two large amounts would be one. So `1` and `1.0`
//! differ. A document that leaves anything open (the same name twice, half of a surrogate pair)
//! or nests deeper than [`DEPTH_MAX`] has no such text, and its bytes are compared.

use serde_json::value::RawValue;

/// The text of a document; `None` where it has none.
pub(super) fn canonical(json: &[u8]) -> Option<Vec<u8>> {
    // From here on the syntax is known to be right.
    serde_json::from_slice::<&RawValue>(json).ok()?;
    let mut document = Document { rest: json };
    let mut out = Vec::with_capacity(json.len());
    document.value(&mut out, DEPTH_MAX)?;
    Some(out)
}

struct Document<'a> {
    rest: &'a [u8],
}

// === impl Document ===

impl<'a> Document<'a> {
    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(out, depth.checked_sub(1)?),
            b'[' => self.array(out, depth.checked_sub(1)?),
            b'"' => write_string(&self.string()?, out),
            // A number or a literal: whatever stands before what may follow one.
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}') || is_white(*byte);
                let length = self.rest.iter().position(ends).unwrap_or(self.rest.len());
                out.extend_from_slice(self.skip(length));
                Some(())
            }
        }
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.skip(1);
        let mut members = Vec::new();
        while self.peek()? != b'}' {
            self.skip_if(b',');
            self.peek()?;
            let name = self.string()?;
            self.peek()?;
            self.skip_if(b':');
            let mut value = Vec::new();
            self.value(&mut value, depth)?;
            members.push((name, value));
        }
        self.skip(1);
        members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        out.push(b'{');
        for (index, (name, value)) in members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(name, out)?;
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        Some(())
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.skip(1);
        out.push(b'[');
        while self.peek()? != b']' {
            if self.skip_if(b',') {
                out.push(b',');
            }
            self.value(out, depth)?;
        }
        self.skip(1);
        out.push(b']');
        Some(())
    }

    /// The string that begins here, without its escapes.
    fn string(&mut self) -> Option<String> {
        let mut escaped = false;
        let ends = |byte: &u8| {
            let end = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            end
        };
        let length = self.rest.get(1..)?.iter().position(ends)? + 2;
        serde_json::from_slice(self.skip(length)).ok()
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let white = self.rest.iter().take_while(|byte| is_white(**byte)).count();
        self.skip(white);
        self.rest.first().copied()
    }

    fn skip(&mut self, length: usize) -> &'a [u8] {
        let (skipped, rest) = self.rest.split_at(length);
        self.rest = rest;
        skipped
    }

    fn skip_if(&mut self, expected: u8) -> bool {
        let found = self.rest.first() == Some(&expected);
        if found {
            self.skip(1);
        }
        found
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) -> Option<()> {
    serde_json::to_writer(out, text).ok()
}

const fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// What people write nests less; a level costs a copy of what lies in it.
const DEPTH_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(json: &str) -> Option<String> {
        canonical(json.as_bytes()).map(|text| String::from_utf8(text).unwrap())
    }

    // C3
    #[test]
    fn order_white_space_and_escapes_do_not_matter() {
        let one = text(r#" { "b" : [1, {"y":null,"x":true}] , "a":"\u0041\/\n" } "#);
        let other = text(r#"{"a":"A/\u000a","b":[1,{"x":true,"y":null}]}"#);
        assert_eq!(one, other);
        assert_eq!(one.unwrap(), r#"{"a":"A/\n","b":[1,{"x":true,"y":null}]}"#);
        assert_eq!(text("[ ]").unwrap(), "[]");
        assert_eq!(text(" {} ").unwrap(), "{}");
    }

    #[test]
    fn what_is_not_the_same_is_not_made_the_same() {
        // As floating-point numbers the first two are one.
        for (one, other) in [
            ("9007199254740993", "9007199254740992"),
            ("1", "1.0"),
            ("[1,2]", "[2,1]"),
            ("[[1],2]", "[[1,2]]"),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
            (r#"{"a":"1"}"#, r#"{"a":1}"#),
            (r#"{"a":null}"#, "{}"),
            (r#""a\"b""#, r#""a\\b""#),
        ] {
            assert_ne!(text(one).unwrap(), text(other).unwrap());
        }
    }

    #[test]
    fn what_leaves_anything_open_has_no_text() {
        let deep = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(text(&deep(DEPTH_MAX)).is_some());
        for json in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#""\ud800""#,
            "{\"a\":1} x",
            "\u{feff}{}",
            "",
            "{",
            "[1,]",
            "NaN",
            &deep(DEPTH_MAX + 1),
            &deep(100_000),
        ] {
            assert_eq!(text(json), None, "{}", &json[..json.len().min(40)]);
        }
        assert_eq!(canonical(b"\"\xff\""), None);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                proptest::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_text_of_a_document_says_what_the_document_says(json in any_json()) {
            let pretty = serde_json::to_vec_pretty(&json).unwrap();
            let text = canonical(&pretty).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<serde_json::Value>(&text).unwrap(), &json);
            // And is its own.
            prop_assert_eq!(canonical(&text).unwrap(), text);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in r#"[\[\]{}",:\\ a1]{0,40}"#) {
            let _ = canonical(bytes.as_bytes());
        }
    }
}
