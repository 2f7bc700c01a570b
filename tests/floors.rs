//! Dependencies point down or do not exist: reads the manifests and the `use` lines.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floor of each crate, as ARCHITECTURE.md draws them.
const FLOORS: [(&str, &str, u8); 5] = [
    ("onlyonce-storage", "storage", 0),
    ("onlyonce-middleware", "middleware", 2),
    ("onlyonce-chaos", "chaos-tests", 2),
    ("onlyonce", ".", 3),
    ("onlyonce-bench", "benches", 4),
];

#[test]
fn no_manifest_depends_on_a_crate_of_its_own_floor_or_above() {
    let floors: BTreeMap<_, _> = FLOORS
        .iter()
        .map(|(name, _, floor)| (*name, *floor))
        .collect();
    for (name, folder, floor) in FLOORS {
        for dependency in dependencies(folder) {
            if let Some(below) = floors.get(dependency.as_str()) {
                assert!(
                    *below < floor,
                    "{name} (floor {floor}) depends on {dependency} ({below})"
                );
            }
        }
    }
}

#[test]
fn every_crate_of_the_workspace_has_a_floor() {
    let members = manifest(".")["workspace"]["members"]
        .as_array()
        .unwrap()
        .clone();
    for member in members {
        let member = member.as_str().unwrap();
        assert!(
            FLOORS.iter().any(|(_, folder, _)| *folder == member),
            "{member} has no floor"
        );
    }
}

#[test]
fn fault_injection_knows_neither_the_layer_nor_a_store() {
    for dependency in dependencies("chaos-tests") {
        assert!(
            !dependency.starts_with("onlyonce"),
            "onlyonce-chaos depends on {dependency}"
        );
    }
    for (file, line) in lines("chaos-tests/src") {
        assert!(
            !line.contains("onlyonce_storage"),
            "{}: {line}",
            file.display()
        );
        assert!(
            !line.contains("onlyonce_middleware"),
            "{}: {line}",
            file.display()
        );
    }
}

#[test]
fn the_vocabulary_of_storage_names_no_backend_and_backends_do_not_name_each_other() {
    let backends = ["memory", "postgres", "sled"];
    for (file, line) in uses("storage/src") {
        let path = file.to_string_lossy().replace('\\', "/");
        let own = backends
            .iter()
            .find(|backend| path.contains(&format!("src/{backend}")));
        if path.ends_with("storage/src/lib.rs") {
            continue;
        }
        for backend in backends {
            let named = line.contains(&format!("crate::{backend}::"))
                || line.contains(&format!("crate::{backend};"));
            // The simulated store writes the very bytes of the one on sled.
            let simulated = backend == "sled" && path.contains("src/simulated/");
            assert!(
                !named || simulated || own == Some(&backend),
                "{path}: {line}"
            );
        }
    }
}

#[test]
fn only_the_store_and_the_bank_of_the_demo_name_a_database() {
    for folder in ["storage/src", "middleware/src", "chaos-tests/src", "src"] {
        for (file, line) in lines(folder) {
            let path = file.to_string_lossy().replace('\\', "/");
            if path.contains("storage/src/sled") || path.contains("src/demo/") {
                continue;
            }
            assert!(
                !line.contains("sled::Db") && !line.contains("sled::open"),
                "{path}: {line}"
            );
            assert!(!line.contains("use sled::"), "{path}: {line}");
        }
    }
}

#[test]
fn only_its_own_store_and_the_bank_of_the_demo_name_postgres() {
    for folder in ["storage/src", "middleware/src", "chaos-tests/src", "src"] {
        for (file, line) in lines(folder) {
            let path = file.to_string_lossy().replace('\\', "/");
            let named = line.contains("tokio_postgres");
            assert!(
                !named
                    || path.contains("storage/src/postgres/")
                    || path.contains("src/demo/cluster/"),
                "{path}: {line}"
            );
        }
    }
}

#[test]
fn only_the_clock_reads_the_wall_clock_and_only_two_files_draw_random_numbers() {
    for folder in ["storage/src", "middleware/src", "chaos-tests/src", "src"] {
        for (file, line) in lines(folder) {
            let path = file.to_string_lossy().replace('\\', "/");
            let line = line.trim();
            if line.starts_with("//") {
                continue;
            }
            let wall_clock = line.contains("SystemTime::now") && !path.ends_with("/clock/mod.rs");
            assert!(!wall_clock, "{path}: {line}");
            let random = (line.contains("fastrand") || line.contains("rand::"))
                && !path.ends_with("/jitter.rs")
                && !path.ends_with("/seed.rs");
            assert!(!random, "{path}: {line}");
        }
    }
}

#[test]
fn only_benches_may_name_rivals() {
    for (name, folder, _) in FLOORS {
        if name == "onlyonce-bench" {
            continue;
        }
        for rival in [
            "axum-idempotent",
            "idempotent",
            "tower-resilience",
            "backon",
            "tarpc",
        ] {
            assert!(
                !dependencies(folder).contains(&rival.to_owned()),
                "{name} names {rival}"
            );
        }
    }
}

#[test]
fn the_layers_for_grpc_depend_on_no_library_of_grpc() {
    for (name, folder, _) in FLOORS {
        if name == "onlyonce-bench" {
            continue; // It measures beside tonic.
        }
        for dependency in dependencies(folder) {
            let grpc = ["prost", "tonic"]
                .iter()
                .any(|it| dependency.starts_with(it));
            assert!(!grpc, "{name} depends on {dependency}");
        }
    }
}

#[test]
fn a_library_user_gets_no_dependency_of_the_program_by_default() {
    let manifest = manifest(".");
    let defaults = manifest["features"]["default"].as_array().unwrap();
    assert!(
        !defaults
            .iter()
            .any(|feature| feature.as_str() == Some("cli"))
    );
    for program_only in ["clap", "indicatif", "onlyonce-chaos", "serde_json"] {
        let Some(dependency) = manifest["dependencies"].get(program_only) else {
            continue;
        };
        assert_eq!(
            dependency["optional"].as_bool(),
            Some(true),
            "{program_only}"
        );
    }
}

/// Where a process can be told to end itself is for tests to know.
#[test]
fn no_product_carries_the_points_at_which_tests_kill_it() {
    for (name, folder, _) in FLOORS {
        let manifest = manifest(folder);
        let features = manifest.get("features").and_then(toml::Value::as_table);
        for (feature, enables) in features.into_iter().flatten() {
            let enables = enables.as_array().unwrap();
            let points = enables
                .iter()
                .any(|enabled| enabled.as_str().is_some_and(names_points));
            // One that is called so says what it is for, and no other brings it along.
            let is_named_so = feature == "points";
            assert!(
                !points || is_named_so,
                "feature {feature} of {name} enables `points`"
            );
        }
        let workspace = manifest
            .get("workspace")
            .and_then(|workspace| workspace.get("dependencies"));
        let tables = ["dependencies", "build-dependencies"].map(|table| manifest.get(table));
        for table in tables.into_iter().chain([workspace]).flatten() {
            for (dependency, wanted) in table.as_table().unwrap() {
                let features = wanted.get("features").and_then(toml::Value::as_array);
                let points = features
                    .into_iter()
                    .flatten()
                    .any(|feature| feature.as_str().is_some_and(names_points));
                assert!(!points, "{name} takes {dependency} with `points`");
            }
        }
    }
    let storage = manifest("storage");
    assert!(
        storage["features"].get("points").is_some(),
        "there is no such feature any more: the check would say nothing"
    );
}

fn names_points(feature: &str) -> bool {
    feature == "points" || feature.ends_with("/points")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// Names of ordinary and build dependencies, also those of a target. What only tests need may
/// point anywhere.
fn dependencies(folder: &str) -> Vec<String> {
    let manifest = manifest(folder);
    let mut tables = vec![&manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let mut names = Vec::new();
    for table in tables {
        for kind in ["dependencies", "build-dependencies"] {
            if let Some(found) = table.get(kind).and_then(toml::Value::as_table) {
                names.extend(found.keys().cloned());
            }
        }
    }
    names
}

fn uses(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = lines(folder);
    found.retain(|(_, line)| {
        let line = line.trim_start();
        line.starts_with("use ")
            || line.starts_with("pub use ")
            || line.starts_with("pub(crate) use ")
    });
    found
}

fn lines(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    assert!(
        !files.is_empty(),
        "no file in {folder}: the check would say nothing"
    );
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        text.lines()
            .map(|line| (file.clone(), line.to_owned()))
            .collect::<Vec<_>>()
    };
    files.into_iter().flat_map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
