//! Benchmarks of onlyonce.
