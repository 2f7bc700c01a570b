//! The names of gRPC's own metadata. Those of the call stand in [`http::names`](crate::http::names).

use http::HeaderName;

/// Which compressions the caller takes. On requests.
pub(crate) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// What compresses the messages that are compressed.
pub(crate) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Why the call ended so, percent-encoded. On responses.
pub(crate) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How many attempts were made before. On requests.
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

/// The milliseconds after which asking again is of use; negative where it is of none. On responses.
pub(crate) const PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How the call ended. On responses, in trailers or, where nothing else follows, in headers.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A `google.rpc.Status` in base64. On responses.
pub(crate) const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// How much time is left until the call's deadline. On requests.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
