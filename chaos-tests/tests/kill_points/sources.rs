//! The list of points, read from the code that they stand in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every mention of a point, with the file that it stands in.
pub fn mentions() -> Vec<(String, PathBuf)> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for folder in FOLDERS {
        let mut files = Vec::new();
        collect(&workspace.join(folder), &mut files);
        assert!(!files.is_empty(), "no source in {folder}");
        for file in files {
            if !EXEMPT.iter().any(|exempt| file.ends_with(exempt)) {
                let names = names(&fs::read_to_string(&file).unwrap());
                found.extend(names.into_iter().map(|name| (name, file.clone())));
            }
        }
    }
    found
}

/// Whether a client passes it, and not a server.
pub fn is_the_outbox_s(name: &str) -> bool {
    name.starts_with("outbox")
}

/// Whether only a journaled call passes it.
pub fn is_about_journals(name: &str) -> bool {
    name.starts_with("journal") || JOURNALED.contains(&name)
}

/// Whether only ending a doubt passes it, which the crowd never does.
pub fn is_about_doubts(name: &str) -> bool {
    name.starts_with("doubt") || name.starts_with("admin")
}

/// The names in a source text, without those in comments.
fn names(text: &str) -> Vec<String> {
    let code: Vec<_> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mention = |rest: &str| {
        let name = rest.trim_start().strip_prefix('"');
        let name = name.and_then(|name| name.split_once('"'));
        let (name, _) = name.unwrap_or_else(|| panic!("a point without a literal name: {rest}"));
        name.to_owned()
    };
    code.split(MACRO).skip(1).map(mention).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Where points may stand. The handler's own are here.
const FOLDERS: [&str; 4] = [
    "storage/src",
    "middleware/src",
    "src",
    "chaos-tests/tests/kill_points",
];

/// Where the macro is spoken of.
const EXEMPT: [&str; 2] = ["storage/src/kill_point.rs", "kill_points/sources.rs"];

/// What points of the test's own client with an outbox begin with.
pub const OUTBOX_CHILD: &str = "outbox child";

/// Points of journaled calls that stand in places that others come to as well.
const JOURNALED: [&str; 3] = [
    "admin: resolution of a step read, nothing done",
    "admin: step resolved, nobody told",
    "checkpoint: parts of a record written, not named",
];

const MACRO: &str = "kill_point!(";

#[test]
fn no_two_points_have_one_name() {
    let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (name, file) in mentions() {
        places.entry(name).or_default().push(file);
    }
    assert!(places.len() > 40, "only {} points were found", places.len());
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

#[test]
fn a_mention_is_found_over_lines_and_not_in_comments() {
    let text = "//! kill_point!(\"in a page\")\nkill_point!(\"a: b\");\n  // kill_point!(\"no\")\n \
                x::kill_point!(\n   \"c: d\"\n);";
    assert_eq!(names(text), ["a: b", "c: d"]);
}
