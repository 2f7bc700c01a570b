#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| onlyonce::fuzzing::run("log", bytes));
