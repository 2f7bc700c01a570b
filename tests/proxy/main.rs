//! The proxy as its users meet it: processes, and clients that know nothing of it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod deliveries;
mod doubts;
mod egress_outbox;
mod hostile;
mod in_between;
mod keys;
mod kills;
mod operation;
mod other_clients;
mod outbox_bounds;
mod page;
#[path = "../../storage/tests/postgres_rig/mod.rs"]
mod postgres_rig;
mod programs;
mod scripted;
mod services_words;
mod shared_store;
mod three_instances;
mod word_for_word;
mod xml_rpc;
