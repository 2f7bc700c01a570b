//! The macro that names a point in the code, for this crate and those above it.

/// Names a point at which a test may end the process: see the module `points`, which the feature
/// of that name adds. Without the feature it is nothing.
///
/// The name is a literal and stands nowhere else, so that the list of all points can be read from
/// the sources: `chaos-tests/tests/kill_points` kills a server at each of them, and fails for one
/// that it does not reach. It says what is done and what is not: "group flushed, not synced".
#[cfg(feature = "points")]
#[doc(hidden)]
#[macro_export]
macro_rules! kill_point {
    ($name:literal) => {
        $crate::points::pass($name)
    };
}

/// See the other definition, for the feature `points`.
#[cfg(not(feature = "points"))]
#[doc(hidden)]
#[macro_export]
macro_rules! kill_point {
    ($name:literal) => {};
}
