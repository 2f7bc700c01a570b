//! What a store takes on the disk.

use std::path::Path;

/// The bytes of the files below a folder; `None` where one cannot be looked at, or where there are
/// more than any store has. Blocks.
pub(super) fn disk_bytes(folder: &Path) -> Option<u64> {
    let mut folders = vec![folder.to_owned()];
    let (mut bytes, mut seen) = (0, 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()? {
            let entry = entry.ok()?;
            seen += 1;
            if seen > ENTRIES_MAX {
                return None;
            }
            // Of the entry itself: a link is not followed out of the store.
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.len(),
                // The store removes files while it is looked at.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
    }
    Some(bytes)
}

/// A store has tens of files, and some more where sled has put a large node aside.
const ENTRIES_MAX: u32 = 100_000;
