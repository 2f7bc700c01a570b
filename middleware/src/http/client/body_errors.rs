//! Errors that live in the body of an answer.
//!
//! XML-RPC, and mostly JSON-RPC too, answer 200 whatever happened. What such a body means only its
//! protocol knows, and mostly only the application: an error that the server's own code chose is the
//! call's answer, and asking again would be answered so again. So nothing is retried for a body
//! unless somebody has said which codes are worth it.

use http::Response;
use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::Value;

use crate::client::Executed;
use crate::http::{Body, Contents};

/// What the body of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyVerdict {
    /// It is the call's answer.
    Answer,
    /// The outcome of the call is unknown, and asking again would not tell.
    InDoubt,
    /// Another attempt may fare better. Not heeded where the answer is on record: the next attempt
    /// would get the same one.
    Retry(Executed),
}

/// What the codes of errors mean that live in bodies: in the `error` of JSON-RPC, or the `<fault>` of
/// XML-RPC.
///
/// Every error is the call's answer, except those whose codes are named here.
#[derive(Clone, Debug, Default)]
pub struct ErrorCodes {
    retried: Vec<i64>,
    in_doubt: Vec<i64>,
}

// === impl ErrorCodes ===

impl ErrorCodes {
    /// Every error is an answer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Errors with these codes are retried. The effect may have happened all the same, so it is done
    /// only towards peers that are known to dedupe.
    #[must_use]
    pub fn retry(mut self, codes: &[i64]) -> Self {
        self.retried.extend(codes);
        self
    }

    /// Errors with these codes leave the call in doubt.
    #[must_use]
    pub fn in_doubt(mut self, codes: &[i64]) -> Self {
        self.in_doubt.extend(codes);
        self
    }

    /// What this body says. One that is not JSON-RPC is an answer, and so is the answer to a batch.
    #[must_use]
    pub fn in_json_rpc(&self, _: &Response<Body>, body: &Contents) -> BodyVerdict {
        let reply = serde_json::from_slice::<Value>(&body.bytes).unwrap_or_default();
        let code = reply.get("error").and_then(|error| error.get("code"));
        let code = code.and_then(Value::as_i64);
        code.map_or(BodyVerdict::Answer, |code| self.read(code))
    }

    /// What this body says. One that is not XML-RPC is an answer.
    #[must_use]
    pub fn in_xml_rpc(&self, _: &Response<Body>, body: &Contents) -> BodyVerdict {
        fault_code(&body.bytes).map_or(BodyVerdict::Answer, |code| self.read(code))
    }

    fn read(&self, code: i64) -> BodyVerdict {
        if self.in_doubt.contains(&code) {
            BodyVerdict::InDoubt
        } else if self.retried.contains(&code) {
            BodyVerdict::Retry(Executed::Unknown)
        } else {
            BodyVerdict::Answer
        }
    }
}

/// The number beside the name `faultCode`, within `<methodResponse><fault>`.
fn fault_code(xml: &[u8]) -> Option<i64> {
    let mut reader = Reader::from_str(std::str::from_utf8(xml).ok()?);
    let (mut path, mut named) = (Vec::<String>::new(), false);
    // Every step reads at least one byte, so that a body is read once.
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                path.push(tag.local_name().as_ref().to_owned());
                let outer = ["methodResponse", "fault"];
                if path.iter().zip(outer).any(|(tag, wanted)| tag != wanted) {
                    return None;
                }
            }
            Event::End(_) => {
                path.pop();
            }
            Event::Text(text) => {
                let text = text.trim_ascii();
                match path.last().map(String::as_str) {
                    Some("name") => named = text == "faultCode",
                    Some("int" | "i4" | "i8") if named => return text.parse().ok(),
                    _ => {}
                }
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn contents(text: &str) -> Contents {
        Contents {
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            trailers: None,
        }
    }

    fn head() -> Response<Body> {
        Response::new(Body::default())
    }

    // P24
    #[test]
    fn a_json_rpc_error_is_what_its_code_was_said_to_be() {
        let errors = ErrorCodes::new().retry(&[-32_000]).in_doubt(&[7]);
        let read = |text: &str| errors.in_json_rpc(&head(), &contents(text));
        let error = |code: i64| read(&format!(r#"{{"id":1,"error":{{"code":{code}}}}}"#));
        assert_eq!(error(-32_000), BodyVerdict::Retry(Executed::Unknown));
        assert_eq!(error(7), BodyVerdict::InDoubt);
        assert_eq!(error(-32_601), BodyVerdict::Answer);
        for text in [
            "",
            "no json",
            r#"{"result":{"error":{"code":7}}}"#,
            r#"{"error":null,"result":1}"#,
            r#"[{"error":{"code":7}}]"#,
        ] {
            assert_eq!(read(text), BodyVerdict::Answer, "{text}");
        }
    }

    // P24
    #[test]
    fn an_xml_rpc_fault_is_what_its_code_was_said_to_be() {
        let faults = ErrorCodes::new().retry(&[4]).in_doubt(&[-5]);
        let read = |text: &str| faults.in_xml_rpc(&head(), &contents(text));
        let value = |kind: &str, code: i64| {
            format!(
                "<?xml version=\"1.0\"?><!-- <fault> --><methodResponse>\n<fault><value><struct>\
                 <member><name>faultString</name><value><string>4</string></value></member>\
                 <member><name>faultCode</name><value><{kind}> {code} </{kind}></value></member>\
                 </struct></value></fault></methodResponse>"
            )
        };
        assert_eq!(
            read(&value("int", 4)),
            BodyVerdict::Retry(Executed::Unknown)
        );
        assert_eq!(read(&value("i4", -5)), BodyVerdict::InDoubt);
        assert_eq!(read(&value("int", 9)), BodyVerdict::Answer);
        // What only looks like a fault: in a result, in text, cut, or nonsense.
        let cut = value("int", 4);
        for text in [
            "<methodResponse><params><param><value><struct><member><name>faultCode</name>\
             <value><int>4</int></value></member></struct></value></param></params></methodResponse>",
            "<html><fault><name>faultCode</name><int>4</int></fault></html>",
            &cut[..cut.find("<int>").unwrap()],
            "<<<",
            "",
        ] {
            assert_eq!(read(text), BodyVerdict::Answer, "{text}");
        }
    }
}
