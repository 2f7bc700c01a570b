//! Bodies as transports have to see them.

use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;

use crate::http::{Body, BoxError};

/// The same body; where it has trailers, without a word of how long it is. A length makes HTTP/1.1
/// frame the body by that, and then there is no place for trailers.
pub(super) fn framed(body: Body) -> Body {
    let Some(trailers) = body
        .contents()
        .and_then(|contents| contents.trailers.clone())
    else {
        return body;
    };
    let data = body.contents().map(|contents| contents.bytes.clone());
    let frames = [
        Ok::<_, BoxError>(Frame::data(data.unwrap_or_default())),
        Ok(Frame::trailers(trailers)),
    ];
    Body::stream(StreamBody::new(stream::iter(frames)))
}
