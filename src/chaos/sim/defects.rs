//! What is wrong with a run and is in none of its events.

use onlyonce_chaos::history::Defect;

/// A disk that only lost what it may lose was called damaged: the server is gone for good, and with
/// it what it had acknowledged.
pub(super) fn damaged_store(why: String) -> Defect {
    Defect {
        name: "damaged-store".into(),
        text: why,
    }
}

/// A client still waits for something, long after the last fault: a call that has an answer is asked for again
/// and hangs, or calls behind it were never made.
pub(super) fn client_hangs(name: &str) -> Defect {
    Defect {
        name: "client-hangs".into(),
        text: format!("`{name}` was still at work when it had had time for all of its calls"),
    }
}

/// A call was told to be in doubt, and nothing had happened that anybody could not know of.
pub(super) fn needless_doubt(key: &str) -> Defect {
    Defect {
        name: "needless-doubt".into(),
        text: format!("`{key}` was in doubt though no server, disk or handler had failed"),
    }
}
