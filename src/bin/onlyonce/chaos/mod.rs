//! The commands `chaos`.

mod processes;

pub(crate) use processes::{ClientsArguments, ServerArguments, call, serve};
