//! How the program ends, in numbers. `0` is fine.

/// A promise was broken.
pub(crate) const BROKEN: u8 = 1;

/// What was asked for cannot be done as it was asked; clap ends with the same.
pub(crate) const MISUSED: u8 = 2;

/// The command could not be run to its end, or met too little: nothing is known.
pub(crate) const UNKNOWN: u8 = 3;

/// As the shell counts it, for whoever asks for help.
pub(crate) const CODES: &str = "Exit codes: 0 every promise held; 1 one was broken; \
2 bad usage or configuration; 3 the run failed, or met too little to prove anything; \
130 or 143 interrupted or terminated";

/// The same for whoever looks at records.
pub(crate) const RECORDS_CODES: &str = "Exit codes: 0 done; 1 refused by what the store holds \
(a doubt that somebody else has ended, a key that was used, a clock that is not trusted), or the \
store has failed; 2 bad usage, or a store that cannot be reached so; 3 the store or its server \
failed on the way, and whether something was changed is unknown";

/// The same for whoever makes a schema.
pub(crate) const STORE_CODES: &str = "Exit codes: 0 done, or nothing to do; 2 bad usage, or a \
database that cannot be reached or used so; 3 the database failed on the way and nothing was changed";

/// The same for whoever runs a proxy.
pub(crate) const PROXY_CODES: &str = "Exit codes: 0 drained, nothing was left over; 2 a setting \
cannot be used; 3 an address or the store cannot be opened, or something was left over; 130 or 143 \
interrupted or terminated a second time";

/// The same for whoever injects faults.
pub(crate) const CHAOS_CODES: &str = "Exit codes: 0 every run is valid; 1 one is violated; 2 bad \
usage, a wrong scenario or history; 3 unknown: a run could not be judged or carried out, a wanted \
situation never arose, the naive control showed no duplicates, or nothing could be run; \
130 or 143 interrupted or terminated";
