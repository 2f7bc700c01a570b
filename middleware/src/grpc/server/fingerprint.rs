//! What a request is told apart by: its path and its message, and what compresses it. Metadata never:
//! what is in there changes from one attempt to the next, or is a credential.

use http::request::Parts;
use onlyonce_storage::{Fingerprint, FingerprintAlgorithm, Fingerprints};

use crate::grpc::message::Message;
use crate::grpc::names;

/// The fingerprint of a request.
pub(super) fn of(request: &Parts, message: &Message) -> Fingerprints {
    let path = request.uri.path().as_bytes();
    let mut builder = Fingerprint::builder(ALGORITHM).field("path", path);
    // What would compress is not said of a message that is not compressed.
    if message.compressed {
        let encoding = request.headers.get(names::ENCODING);
        let encoding = encoding.map_or(&[][..], |encoding| encoding.as_bytes());
        builder = builder.field("encoding", encoding);
    }
    Fingerprints::new(builder.field("message", &message.bytes).finish())
}

/// Numbers of algorithms are never used again.
const ALGORITHM: FingerprintAlgorithm = FingerprintAlgorithm::new(4);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use onlyonce_storage::Comparison;

    use super::*;

    fn of_request(
        path: &str,
        lines: &[(&'static str, &str)],
        flag: bool,
        text: &str,
    ) -> Fingerprints {
        let mut request = Request::post(path);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let message = Message {
            compressed: flag,
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        };
        of(&request.body(()).unwrap().into_parts().0, &message)
    }

    fn same(one: &Fingerprints, other: &Fingerprints) -> bool {
        other.compare(&one.current()) == Comparison::Same
    }

    // C2
    #[test]
    fn path_message_and_its_compression_tell_requests_apart() {
        let gzip = [("grpc-encoding", "gzip")];
        let first = of_request("/a.A/Pay", &gzip, true, "1");
        for other in [
            of_request("/a.A/Refund", &gzip, true, "1"),
            of_request("/a.A/Pay", &gzip, true, "2"),
            of_request("/a.A/Pay", &gzip, false, "1"),
            of_request("/a.A/Pay", &[("grpc-encoding", "zstd")], true, "1"),
            of_request("/a.A/Pay", &[], true, "1"),
        ] {
            assert!(!same(&first, &other));
        }
    }

    // C16
    #[test]
    fn metadata_does_not_tell_requests_apart() {
        let first = of_request("/a.A/Pay", &[("authorization", "one")], false, "1");
        let again = [
            ("authorization", "two"),
            ("grpc-timeout", "1S"),
            ("grpc-previous-rpc-attempts", "1"),
            ("grpc-encoding", "gzip"),
            ("traceparent", "00-1"),
        ];
        assert!(same(&first, &of_request("/a.A/Pay", &again, false, "1")));
    }
}
