//! What decides the order in which callers meet: the lock and the counters of the table of flights,
//! and the task of an owner.
//!
//! In the unit tests of this crate a scheduler takes their place that tries the orders one by one
//! (`schedules.rs`). Whatever a caller of this crate builds or tests has the real ones.

#[cfg(test)]
mod chosen {
    use std::sync::PoisonError;

    pub(in super::super) use shuttle::future::spawn;
    use shuttle::sync::MutexGuard;
    pub(in super::super) use shuttle::sync::atomic::{AtomicU8, AtomicUsize};

    /// A lock that does not poison, as the real one.
    pub(in super::super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in super::super) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(in super::super) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(not(test))]
mod chosen {
    pub(in super::super) use std::sync::atomic::{AtomicU8, AtomicUsize};

    pub(in super::super) use parking_lot::Mutex;
    pub(in super::super) use tokio::spawn;
}

pub(super) use self::chosen::{AtomicU8, AtomicUsize, Mutex, spawn};
