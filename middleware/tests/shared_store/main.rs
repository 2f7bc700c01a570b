//! Several servers over HTTP and gRPC on one store in PostgreSQL: processes of this very binary, real
//! sockets, and a front that loses answers and goes over to the other server.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[allow(dead_code, reason = "of its methods these tests use one")]
#[path = "../grpc/bank.rs"]
mod bank;
mod front;
#[path = "../../../storage/tests/postgres_rig/mod.rs"]
mod postgres_rig;
mod servers;

mod grpc;
mod http;
