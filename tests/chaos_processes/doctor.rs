//! `chaos doctor` tells beforehand what a machine cannot run.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use super::judged::program;

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn what_is_not_installed_is_the_reason_and_the_rest_can_run() {
    let output = Command::new(program())
        .args(["chaos", "doctor"])
        .env("PATH", "")
        .output()
        .unwrap();
    let text = text(&output);
    if cfg!(target_os = "linux") {
        let reason = "kernel: not run: `unshare` is not on the PATH; the package is usually called util-linux";
        assert!(text.contains(reason), "{text}");
    }
    for executor in ["tower", "proxy", "crash"] {
        assert!(
            text.contains(&format!("{executor}: can run here")),
            "{text}"
        );
    }
}

#[test]
fn every_executor_says_of_every_fault_at_which_phases_or_why_not() {
    let output = Command::new(program())
        .args(["chaos", "doctor", "--json"])
        .output()
        .unwrap();
    let told: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    for executor in told["executors"].as_array().unwrap() {
        if executor.get("not_run").is_some() {
            continue;
        }
        let faults = executor["faults"].as_array().unwrap();
        // Two of them can happen to the client's process and to the server's.
        assert_eq!(faults.len(), 19, "{executor}");
        for fault in faults {
            let phases = fault["phases"]
                .as_array()
                .is_some_and(|phases| !phases.is_empty());
            let reason = fault["not_run"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty());
            assert!(phases != reason, "{fault}");
        }
    }
    let fault = |executor: &str, what: &str| {
        let executors = told["executors"].as_array().unwrap();
        let found = executors
            .iter()
            .find(|one| one["executor"] == executor)
            .unwrap();
        let faults = found["faults"].as_array().unwrap();
        faults
            .iter()
            .find(|fault| fault["what"] == what)
            .unwrap()
            .clone()
    };
    let points = |executor: &str| {
        let executors = told["executors"].as_array().unwrap();
        let found = executors.iter().find(|one| one["executor"] == executor);
        found.unwrap()["points"].clone()
    };
    match cfg!(feature = "points") {
        true => assert!(points("crash").as_array().unwrap().len() > 60),
        false => assert!(
            points("crash")["not_run"]
                .as_str()
                .unwrap()
                .contains("`points`")
        ),
    }
    assert!(
        points("sim")["not_run"]
            .as_str()
            .unwrap()
            .contains("at a phase or a time")
    );
    // Here it can, or the reason is told by the machine.
    let cut = fault("crash", "power-cut");
    assert!(
        cut["phases"] == serde_json::json!(["any phase"]) || cut["not_run"].is_string(),
        "{cut}"
    );
    assert_eq!(
        fault("proxy", "power-cut")["not_run"],
        "the power is cut by sim and crash"
    );
    assert_eq!(fault("proxy", "drop")["phases"][1], "request-sent");
    assert_eq!(
        fault("proxy", "packet-loss")["not_run"],
        "a proxy sees no packets; the kernel does"
    );
    assert_eq!(
        fault("crash", "drop")["not_run"],
        "there is no wire here; proxy and kernel have one"
    );
}

#[test]
fn an_unprivileged_user_is_told_the_same_or_why_not() {
    let not_run = |reason: &str| {
        let _ = writeln!(
            std::io::stderr(),
            "doctor as another user: not run: {reason}"
        );
    };
    if !rustix::process::getuid().is_root() {
        return not_run("this is no root, so that the other tests are it");
    }
    // Where everybody can reach it.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("onlyonce");
    std::fs::copy(program(), &copy).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["chaos", "doctor"])
        .output();
    let Ok(output) = output else {
        return not_run("`setpriv` is not on the PATH");
    };
    let text = text(&output);
    let kernel = text
        .lines()
        .find(|line| line.starts_with("kernel: "))
        .unwrap();
    let refused = kernel.starts_with("kernel: not run: ") && kernel.len() > 40;
    assert!(kernel == "kernel: can run here" || refused, "{text}");
}
