use super::*;
use crate::campaign::toy::Toy;
use crate::campaign::{Campaign, Options, run};
use crate::executor::Executor;
use crate::scenario::Scenario;

fn context() -> Context {
    Context {
        scenario: "lost-answers".into(),
        program: "onlyonce chaos".into(),
        facts: vec![("machine".into(), "<b>two cores</b>".into())],
    }
}

fn campaign(toy: &Toy, seeds: u64, name: &str) -> Campaign {
    let text = format!(
        "name = \"{name}\"\nabout = \"{name}\"\nworkload = \"transfers\"\ncalls = 60\n\
         goals = [\"a reply was lost after its effect\", \"{name}\"]\n\
         [[fault]]\nname = \"{name}\"\nwhere = \"wire\"\nwhat = \"drop\"\nwhen = {{ share = 0.2 }}\n\
         [[fault]]\nname = \"cut\"\nwhere = \"disk\"\nwhat = \"power-cut\"\n"
    );
    let scenario = Scenario::parse(&text).unwrap();
    let options = Options {
        seeds_from: 1,
        seeds_to: seeds,
        jobs: 2,
        control: true,
    };
    run(&scenario, &[toy as &dyn Executor], &options, &|_, _| true)
}

fn broken() -> Toy {
    Toy {
        broken: true,
        ..Toy::default()
    }
}

#[test]
fn whatever_comes_from_outside_is_escaped() {
    let hostile = "<script>alert('&')</script>\u{202e}";
    let found = campaign(&broken(), 3, hostile);
    let page = html(&found, &context());
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;\u{fffd}"));
    assert!(page.contains("&lt;b&gt;two cores"));
    let xml = junit(&found, &context());
    assert!(!xml.contains("<script"), "{xml}");
}

#[test]
fn a_page_stays_within_two_mebibytes_however_much_is_wrong() {
    let mut found = campaign(&broken(), 200, "much");
    let part = found.parts[0].clone();
    // As many executors as there are, all as bad.
    found.parts = vec![part; 5];
    let page = html(&found, &context());
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
    assert!(page.contains("more violated runs are not shown"));
}

#[test]
fn the_page_says_first_whether_the_promise_held_and_how_sure_that_is() {
    let page = html(&campaign(&Toy::default(), 40, "lost"), &context());
    let verdict = page.find("Not proven").unwrap();
    let bound = page.find("0 violations in 40 seeds").unwrap();
    let matrix = page.find("What was survived").unwrap();
    assert!(verdict < bound && bound < matrix);
    assert!(page.contains("wanted, never arose"));
    assert!(page.contains("not run"));
    let page = html(&campaign(&broken(), 3, "lost"), &context());
    assert!(page.contains("A promise was broken"));
    assert!(page.contains("onlyonce chaos run lost-answers --exec toy --seeds 1"));
    assert!(page.contains("effect 2, commit"));
}

#[test]
fn machines_are_told_the_same() {
    let found = campaign(&broken(), 3, "lost");
    let lines: Vec<serde_json::Value> = json(&found, &context())
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["verdict"], "violated");
    assert_eq!(lines[1]["violated"], 3);
    assert_eq!(lines[1]["faults_not_run"]["cut"], "it has no disk");
    let xml = junit(&found, &context());
    assert!(
        xml.contains("tests=\"3\" failures=\"1\" errors=\"1\" skipped=\"0\""),
        "{xml}"
    );
    let text = text(&found, &context());
    assert!(
        text.starts_with("lost: violated\n3 of 3 runs are violated.\n"),
        "{text}"
    );
    assert!(text.contains("cut: not run: it has no disk"), "{text}");
}

#[test]
fn runs_that_could_not_be_judged_are_told_apart_from_those_that_survived() {
    let toy = Toy {
        unread: true,
        ..Toy::default()
    };
    let found = campaign(&toy, 4, "lost");
    let page = html(&found, &context());
    assert!(page.contains("<span class=\"tag open\">unknown</span>"));
    assert!(page.contains("; 2 of 4 runs, 2 unknown</span>"), "{page}");
    let text = text(&found, &context());
    let told = "survived in 2 of 4 runs, unknown in 2\n";
    assert!(text.contains(told), "{text}");
}

/// The bound is of seeds: those that another executor ran too are no others, and those that were not judged none.
#[test]
fn the_bound_counts_seeds_that_were_judged_in_full() {
    let toy = Toy {
        unread: true,
        ..Toy::default()
    };
    let mut found = campaign(&toy, 40, "lost");
    assert!(
        found
            .bound()
            .starts_with("0 violations in 20 seeds: fewer than 15.0 %")
    );
    found.parts.push(found.parts[0].clone());
    assert!(
        found
            .bound()
            .starts_with("0 violations in 20 seeds: fewer than 15.0 %")
    );
    (found.parts[0].unknown, found.parts[1].unknown) = (40, 40);
    assert_eq!(
        found.bound(),
        "No run was judged in full, so nothing is known."
    );
}

#[test]
fn where_nothing_was_run_no_machine_is_told_that_all_is_well() {
    let mut found = campaign(&Toy::default(), 3, "lost");
    found.scenario.goals.clear();
    found.parts[0].runs = 0;
    found.parts[0].not_run = Some(crate::executor::NotRun::because("it is out of order"));
    assert_eq!(found.exit_code(), 3);
    let xml = junit(&found, &context());
    assert!(xml.contains("errors=\"1\" skipped=\"1\""), "{xml}");
    assert!(xml.contains("no executor could run it"), "{xml}");
}

#[test]
fn a_fault_that_never_struck_is_named_to_everybody() {
    let mut found = campaign(&Toy::default(), 3, "lost");
    found.parts[0].fired.clear();
    assert!(html(&found, &context()).contains("toy: the fault `lost` never struck"));
    let xml = junit(&found, &context());
    assert!(xml.contains("name=\"lost strikes by toy\"><error"), "{xml}");
    let lines = json(&found, &context());
    let never = "\"never_struck\":[{\"executor\":\"toy\",\"fault\":\"lost\"}]";
    assert!(lines.contains(never), "{lines}");
}

#[test]
fn a_terminal_is_not_told_what_it_would_obey() {
    let mut found = campaign(&broken(), 1, "lost");
    found.parts[0].findings[0].violations[0] = "\x1b[2Jgone\u{7}".into();
    let text = text(&found, &context());
    assert!(
        !text.contains('\x1b') && text.contains("\\u{1b}[2Jgone"),
        "{text}"
    );
}
