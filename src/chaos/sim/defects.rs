//! What is wrong with a run and is in no history: the checker of histories can say of these only
//! that it does not know.

use std::fmt;

/// One thing that the program must never do, whatever strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    name: &'static str,
    text: String,
}

// === impl Defect ===

impl Defect {
    /// A disk that only lost what it may lose was called damaged: the server is gone for good, and
    /// with it what it had acknowledged.
    pub(super) const fn damaged_store(why: String) -> Self {
        let name = "damaged-store";
        Self { name, text: why }
    }

    /// A call was told to be in doubt, and nothing had happened that anybody could not know of.
    pub(super) fn needless_doubt(key: &str) -> Self {
        Self {
            name: "needless-doubt",
            text: format!("`{key}` was in doubt though no server, disk or handler had failed"),
        }
    }

    /// Its name, such as `damaged-store`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}
