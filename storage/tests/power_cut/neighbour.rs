//! Another program on the same disk.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::run_options::draw;

/// Half of the runs have one.
pub fn has_neighbour(run: &str) -> bool {
    draw(&format!("neighbour of {run}"), 2) == 1
}

/// Where `run` has a neighbour, syncs a file of its own beside `store`, as fast as it can. Each
/// sync commits the journal, and with it whatever the store has done to its directory by then, at
/// moments that the store did not choose.
pub fn neighbour(store: &Path, run: &str) {
    if !has_neighbour(run) {
        return;
    }
    let mut file = File::create(store.with_extension("neighbour")).unwrap();
    std::thread::spawn(move || {
        for turn in 0_u64.. {
            // Grows and is emptied again, so that every sync has something for the journal.
            if turn % 64 == 0 {
                file.set_len(0).unwrap();
            }
            file.write_all(&[7; 4_096]).unwrap();
            file.sync_all().unwrap();
        }
    });
}
