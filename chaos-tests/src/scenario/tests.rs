use super::*;
use crate::fault::{Phase, Place, What};

fn refused(text: &str) -> (usize, String, String) {
    let error = Scenario::parse(text).unwrap_err();
    (error.line(), error.field().into(), error.what().into())
}

fn with_fault(fault: &str) -> String {
    format!("name = \"x\"\nworkload = \"transfers\"\n[[fault]]\n{fault}\n")
}

#[test]
fn a_scenario_says_only_what_differs_from_the_defaults() {
    let scenario = Scenario::parse("name = \"x\"\nworkload = \"hot-key\"").unwrap();
    assert_eq!((scenario.calls, scenario.clients), (100, 4));
    assert_eq!((scenario.deadline_ms, scenario.attempt_ms), (30_000, 1_000));
    assert_eq!(scenario.mode, Mode::Claimed);
    assert_eq!(scenario.faults, []);
    assert_eq!(scenario.clone().naive().mode, Mode::Naive);
}

#[test]
fn every_word_of_a_fault_can_be_written() {
    let whats = [
        ("wire", "\"drop\""),
        ("wire", "{ duplicate = { later_ms = 5 } }"),
        ("wire", "{ delay = { min_ms = 1, max_ms = 2 } }"),
        ("wire", "\"corrupt\""),
        ("wire", "\"truncate\""),
        ("wire", "\"reset\""),
        ("wire", "\"close\""),
        ("wire", "\"blackhole\""),
        ("wire", "\"partition\""),
        ("wire", "\"packet-loss\""),
        ("server", "{ crash = { back_after_ms = 5 } }"),
        ("client", "{ pause = { for_ms = 5 } }"),
        ("disk", "\"power-cut\""),
        ("disk", "\"sync-fails\""),
        ("disk", "{ sync-slow = { for_ms = 5 } }"),
        ("disk", "\"disk-full\""),
        ("clock", "{ clock-jump = { by_ms = -5 } }"),
    ];
    for (place, what) in whats {
        let text = with_fault(&format!(
            "name = \"f\"\nwhere = \"{place}\"\nwhat = {what}\nwhen = {{ share = 0.5, first_attempts = 2, from_ms = 1, until_ms = 2 }}"
        ));
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(scenario.faults[0].when.share, Some(0.5), "{what}");
    }
    let text = with_fault(
        "name = \"f\"\nwhere = \"wire\"\nwhat = \"drop\"\nwhen = { phase = \"reply-sent\", after_bytes = 7, call = 3, attempt = 1 }",
    );
    let fault = Scenario::parse(&text).unwrap().faults.remove(0);
    assert_eq!((fault.place, fault.what), (Place::Wire, What::Drop));
    assert_eq!(fault.when.phase, Some(Phase::ReplySent));
}

#[test]
fn a_wrong_scenario_is_refused_with_line_and_field() {
    let whole = "name = \"x\"\nworkload = \"transfers\"\n";
    for (text, line, field) in [
        (format!("{whole}cals = 3"), 3, "cals"),
        (format!("{whole}calls = 0"), 3, "calls"),
        (format!("{whole}calls = \"many\""), 3, "calls"),
        (format!("{whole}calls = -1"), 3, "calls"),
        (format!("{whole}clients = 5000"), 3, "clients"),
        (
            format!("{whole}deadline_ms = 10\nattempt_ms = 11"),
            4,
            "attempt_ms",
        ),
        (format!("{whole}deadline_ms = 3600001"), 3, "deadline_ms"),
        (format!("{whole}mode = \"exactly\""), 3, "mode"),
        (format!("{whole}goals = [\"a\",\n\"a\"]"), 4, "goals"),
        (format!("{whole}calls 3"), 3, "calls 3"),
        ("workload = \"transfers\"".into(), 1, "name"),
        (
            "name = \"x\"\nworkload = \"trnsfers\"".into(),
            2,
            "workload",
        ),
        ("name = \"\"\nworkload = \"transfers\"".into(), 1, "name"),
        ("name = \"x\"\nname = \"y\"".into(), 2, "name"),
    ] {
        let (found_line, found_field, what) = refused(&text);
        assert_eq!(
            (found_line, found_field.as_str()),
            (line, field),
            "{text}\n{what}"
        );
        assert!(!what.is_empty());
    }
}

#[test]
fn a_fault_that_cannot_be_is_refused_with_line_and_field() {
    let wire = "name = \"f\"\nwhere = \"wire\"\nwhat = \"drop\"\n";
    for (fault, line, field) in [
        ("name = \"f\"\nwhere = \"wire\"\nwhat = \"power-cut\"".into(), 6, "what"),
        ("name = \"f\"\nwhere = \"disk\"\nwhat = \"drop\"".into(), 6, "what"),
        ("name = \"f\"\nwhere = \"moon\"\nwhat = \"drop\"".into(), 5, "where"),
        ("name = \"f\"\nwhere = \"wire\"\nwhat = \"drip\"".into(), 6, "what"),
        ("name = \"f\"\nwhere = \"wire\"\nwhat = { delay = { min_ms = 3, max_ms = 2 } }".into(), 6, "min_ms"),
        ("name = \"f\"\nwhere = \"server\"\nwhat = { pause = { for_ms = 9999999 } }".into(), 6, "what"),
        ("where = \"wire\"\nwhat = \"drop\"".into(), 3, "name"),
        (format!("{wire}when = {{ share = 1.5 }}"), 7, "share"),
        (format!("{wire}when = {{ share = -0.1 }}"), 7, "share"),
        (format!("{wire}when = {{ share = nan }}"), 7, "share"),
        (format!("{wire}when = {{ shares = 0.1 }}"), 7, "shares"),
        (format!("{wire}when = {{ phase = \"reply\" }}"), 7, "phase"),
        (format!("{wire}when = {{ phase = \"effect-durable\" }}"), 7, "phase"),
        (format!("{wire}when = {{ call = 101 }}"), 7, "call"),
        (format!("{wire}when = {{ attempt = 0 }}"), 7, "attempt"),
        (format!("{wire}when = {{ attempt = 3, first_attempts = 2 }}"), 7, "attempt"),
        (format!("{wire}when = {{ from_ms = 5, until_ms = 5 }}"), 7, "until_ms"),
        ("name = \"f\"\nwhere = \"server\"\nwhat = { pause = { for_ms = 1 } }\nwhen = { after_bytes = 1 }".into(), 7, "after_bytes"),
        (format!("{wire}[[fault]]\n{wire}"), 8, "name"),
    ] {
        let fault: String = fault;
        let (found_line, found_field, what) = refused(&with_fault(&fault));
        assert_eq!((found_line, found_field.as_str()), (line, field), "{fault}\n{what}");
    }
}

#[test]
fn a_point_of_the_code_goes_with_a_crash_of_the_server_and_with_nothing_else() {
    let crash = "name = \"f\"\nwhere = \"server\"\nwhat = { crash = { back_after_ms = 5 } }\n";
    let text = with_fault(&format!(
        "{crash}when = {{ point = \"a: b\", passing = 3 }}"
    ));
    let fault = Scenario::parse(&text).unwrap().faults.remove(0);
    assert_eq!(
        (fault.when.point.as_deref(), fault.when.passing),
        (Some("a: b"), Some(3))
    );
    assert!(Scenario::parse_with_points(&text, &["a: b"]).is_ok());
    let error = Scenario::parse_with_points(&text, &["a: c"]).unwrap_err();
    assert_eq!((error.line(), error.field()), (7, "point"));
    let pause = "name = \"f\"\nwhere = \"server\"\nwhat = { pause = { for_ms = 5 } }\n";
    let client = crash.replace("server", "client");
    for (fault, field) in [
        (format!("{crash}when = {{ passing = 3 }}"), "passing"),
        (
            format!("{crash}when = {{ point = \"a\", passing = 0 }}"),
            "passing",
        ),
        (
            format!("{crash}when = {{ point = \"a\", share = 0.5 }}"),
            "point",
        ),
        (
            format!("{crash}when = {{ point = \"a\", phase = \"reply-sent\" }}"),
            "point",
        ),
        (format!("{pause}when = {{ point = \"a\" }}"), "point"),
        (format!("{client}when = {{ point = \"a\" }}"), "point"),
    ] {
        let (line, found, what) = refused(&with_fault(&fault));
        assert_eq!((line, found.as_str()), (7, field), "{fault}\n{what}");
    }
}

#[test]
fn a_scenario_has_a_bound() {
    let long = "#".repeat(SCENARIO_BYTES_MAX + 1);
    assert!(Scenario::parse(&long).is_err());
    let many: String = (0..=FAULTS_MAX)
        .map(|at| format!("[[fault]]\nname = \"{at}\"\nwhere = \"wire\"\nwhat = \"drop\"\n"))
        .collect();
    let (_, field, _) = refused(&format!("name = \"x\"\nworkload = \"transfers\"\n{many}"));
    assert_eq!(field, "fault");
}
