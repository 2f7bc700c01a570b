//! Fault injection for any tower service or TCP server, and checkers of what survived.
