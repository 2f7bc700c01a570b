//! Reads the tables of the manual.

use std::collections::BTreeMap;
use std::path::Path;

/// What the manual says of a point: one cell for each kind of call.
pub struct Row {
    cells: Vec<String>,
}

/// The rows whose first cell is a point in backticks, by its name. Panics where two have one name.
pub fn rows() -> BTreeMap<String, Row> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = workspace.join("src/manual/failure_modes.md");
    rows_of(&std::fs::read_to_string(page).unwrap())
}

fn rows_of(page: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", name, cells @ .., ""] = &cells[..] else {
            continue;
        };
        let name = name
            .strip_prefix('`')
            .and_then(|name| name.strip_suffix('`'));
        // Names of points have a place before a colon; other tables have other first cells.
        let Some(name) = name.filter(|name| name.contains(": ")) else {
            continue;
        };
        let cells = cells.iter().map(|cell| (*cell).to_owned()).collect();
        let twice = rows.insert(name.to_owned(), Row { cells });
        assert!(twice.is_none(), "two rows are about {name:?}");
    }
    rows
}

// === impl Row ===

impl Row {
    /// The outcomes in the cell at this place: in the order in which the call comes to the point,
    /// each without the words that say when (`at the claim: runs; at the answer: answered`).
    pub fn outcomes(&self, cell: usize) -> Vec<String> {
        let cell = self.cells.get(cell).map_or("", String::as_str);
        let outcome = |part: &str| {
            let part = part.rsplit_once(": ").map_or(part, |(_, outcome)| outcome);
            part.trim().to_owned()
        };
        cell.split(';').map(outcome).collect()
    }
}

#[test]
fn a_row_is_a_point_and_its_cells_are_outcomes() {
    let page = "| point | Claimed |\n| --- | --- |\n| `a: b` | at the claim: runs; then: x or y |\n\
                | `other` | - |\ntext | `c: d` | runs |\n";
    let rows = rows_of(page);
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["a: b"]);
    assert_eq!(rows["a: b"].outcomes(0), ["runs", "x or y"]);
}
