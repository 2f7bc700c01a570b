//! Keys, claims, records and the stores that keep them.
