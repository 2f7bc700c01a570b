//! What decides the order in which callers meet: the lock and the counters of the table of flights,
//! the word that it is empty, and the task of an owner whose caller is gone.
//!
//! In the unit tests of this crate a scheduler takes their place that tries the orders one by one
//! (`schedules.rs`). Whatever a caller of this crate builds or tests has the real ones.

pub(super) use self::chosen::{AtomicBool, AtomicU8, AtomicUsize, Mutex, Notify, Runtime};

#[cfg(not(test))]
mod chosen {
    use std::future::Future;
    pub(in super::super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};

    pub(in super::super) use parking_lot::Mutex;
    use tokio::runtime::Handle;
    pub(in super::super) use tokio::sync::Notify;

    /// Where tasks are spawned.
    pub(in super::super) struct Runtime(Handle);

    impl Runtime {
        pub(in super::super) fn here() -> Self {
            Self(Handle::current())
        }

        pub(in super::super) fn spawn<F>(&self, future: F)
        where
            F: Future<Output: Send> + Send + 'static,
        {
            self.0.spawn(future);
        }
    }
}

#[cfg(test)]
mod chosen {
    use std::future::Future;
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;

    use shuttle::future::spawn;
    use shuttle::sync::MutexGuard;
    pub(in super::super) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
    use shuttle::thread::yield_now;
    use tokio::sync::futures::Notified;

    /// A lock that does not poison, as the real one.
    pub(in super::super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    /// Held until it is dropped; then others may come before anything else is done.
    pub(in super::super) struct Guard<'a, T>(Option<MutexGuard<'a, T>>);

    /// The real one, and others may come before it is asked.
    pub(in super::super) struct Notify(tokio::sync::Notify);

    /// The scheduler's own tasks.
    pub(in super::super) struct Runtime;

    impl Runtime {
        pub(in super::super) const fn here() -> Self {
            Self
        }

        pub(in super::super) fn spawn<F>(&self, future: F)
        where
            F: Future<Output: Send> + Send + 'static,
        {
            drop(spawn(future));
        }
    }

    impl<T> Mutex<T> {
        pub(in super::super) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(in super::super) fn lock(&self) -> Guard<'_, T> {
            Guard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0
                .as_deref()
                .expect("a guard holds until it is dropped")
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0
                .as_deref_mut()
                .expect("a guard holds until it is dropped")
        }
    }

    impl<T> Drop for Guard<'_, T> {
        fn drop(&mut self) {
            self.0 = None;
            if !std::thread::panicking() {
                yield_now();
            }
        }
    }

    impl Notify {
        pub(in super::super) fn new() -> Self {
            Self(tokio::sync::Notify::new())
        }

        pub(in super::super) fn notified(&self) -> Notified<'_> {
            yield_now();
            self.0.notified()
        }

        pub(in super::super) fn notify_waiters(&self) {
            self.0.notify_waiters();
        }
    }
}
