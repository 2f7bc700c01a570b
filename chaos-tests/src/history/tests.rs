use super::*;
use crate::fault::Phase;

fn event(what: Happened) -> Event {
    Event {
        at_us: 7,
        call: 3,
        attempt: 2,
        what,
    }
}

fn one_of_each() -> RunRecord {
    let bytes = b"\x00\xffpay".to_vec();
    let mut record = RunRecord::new(RunHeader {
        naive: true,
        resolve_within_ms: Some(5),
        opening: [("a".to_owned(), 10)].into(),
        ..RunHeader::new("s", "sim", u64::MAX)
    });
    let whats = [
        Happened::Invoked {
            client: 4,
            key: "k\n\"".into(),
            payload: bytes.clone(),
        },
        Happened::Sent,
        Happened::Fault {
            name: "f".into(),
            what: "drop".into(),
            phase: Phase::ReplySent,
        },
        Happened::Received,
        Happened::Effect {
            index: 1,
            key: "k".into(),
            payload: bytes.clone(),
            answer: vec![],
            legs: vec![("a".into(), -5), ("b".into(), 5)],
            seen: Seen::AtTheEnd,
        },
        Happened::Replied,
        Happened::Unrecorded,
        Happened::Ended {
            ending: Ending::Answered(bytes.clone()),
        },
        Happened::Ended {
            ending: Ending::Declined(bytes),
        },
        Happened::Ended {
            ending: Ending::Refused,
        },
        Happened::Ended {
            ending: Ending::InDoubt,
        },
        Happened::Ended {
            ending: Ending::Unknown,
        },
        Happened::Lifecycle {
            who: "server-1".into(),
            event: "killed".into(),
        },
        Happened::Swept { key: "k".into() },
        Happened::Acknowledged,
        Happened::FaultsEnded,
    ];
    record.events = whats.into_iter().map(event).collect();
    record.accounts = Some([("a".to_owned(), i64::MIN)].into());
    record.complete = true;
    record.fired = [(
        "f".to_owned(),
        Fired {
            struck: 2,
            affected: 1,
        },
    )]
    .into();
    record.goals.add("a goal", 3);
    record.defects.push(Defect {
        name: "damaged-store".into(),
        text: "a sum that \"differs\"".into(),
    });
    record.seal()
}

fn written(record: &RunRecord) -> String {
    let mut lines = Vec::new();
    record.write(&mut lines).unwrap();
    String::from_utf8(lines).unwrap()
}

fn refused(text: &str) -> (u64, String) {
    match RunRecord::read(text.as_bytes()).unwrap_err() {
        HistoryError::Line { line, what } => (line, what),
        other @ HistoryError::Io(_) => panic!("{other}"),
    }
}

#[test]
fn whatever_happens_is_read_back_as_it_was_written() {
    let record = one_of_each();
    let text = written(&record);
    assert_eq!(text.lines().count(), record.events.len() + 2);
    assert_eq!(RunRecord::read(text.as_bytes()).unwrap(), record);
}

#[test]
fn a_wrong_line_is_refused_with_its_number() {
    let text = written(&one_of_each());
    let lines: Vec<&str> = text.lines().collect();
    for wrong in [
        "",
        "{}",
        "nonsense",
        "{\"event\":{\"at_us\":1,\"what\":\"snet\"}}",
        "{\"event\":{\"at_us\":1,\"what\":\"sent\",\"who\":1}}",
        "{\"event\":{\"at_us\":-1,\"what\":\"sent\"}}",
        "{\"event\":{\"at_us\":1,\"what\":{\"ended\":{\"ending\":{\"answered\":\"abc\"}}}}}",
        "{\"event\":{\"at_us\":1,\"what\":{\"ended\":{\"ending\":{\"answered\":\"xx\"}}}}}",
    ] {
        let mut lines = lines.clone();
        lines[4] = wrong;
        let (line, what) = refused(&lines.join("\n"));
        assert_eq!(line, 5, "{wrong}: {what}");
        assert!(!what.is_empty());
    }
}

#[test]
fn a_history_has_its_lines_in_their_places() {
    let text = written(&one_of_each());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(refused("").0, 1);
    assert_eq!(refused(lines[1]).0, 1);
    assert_eq!(refused(&[lines[0], lines[0]].join("\n")).0, 2);
    let last = lines[lines.len() - 1];
    assert_eq!(refused(&[lines[0], last, lines[1]].join("\n")).0, 3);
}

#[test]
fn a_history_that_stops_early_was_not_read_to_the_end() {
    let text = written(&one_of_each());
    let cut: Vec<&str> = text.lines().take(4).collect();
    let record = RunRecord::read(cut.join("\n").as_bytes()).unwrap();
    assert!(!record.complete);
    assert_eq!(record.events.len(), 3);
}

#[test]
fn a_history_that_stops_at_any_byte_is_read_up_to_there() {
    let text = written(&one_of_each());
    let header = text.lines().next().unwrap().len();
    for bytes in header..text.len() - 1 {
        let cut = &text.as_bytes()[..bytes];
        let record = RunRecord::read(cut).unwrap();
        // The last byte of `end` is a line break, and it is whole without it.
        assert!(!record.complete, "{bytes}");
        let lines = cut.iter().filter(|&&byte| byte == b'\n').count();
        assert!(record.events.len() + 1 >= lines, "{bytes}");
    }
}

#[test]
fn a_line_has_a_bound_and_is_not_read_beyond_it() {
    let text = written(&one_of_each());
    let header = text.lines().next().unwrap();
    let endless = std::io::Read::chain(
        std::io::Cursor::new(format!("{header}\n")),
        std::io::repeat(b'x'),
    );
    let error = RunRecord::read(std::io::BufReader::new(endless)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("line 2 of the history: longer than"),
        "{error}"
    );
}

#[test]
fn the_trace_hash_tells_one_event_from_another() {
    let record = one_of_each();
    assert_eq!(record.clone().seal().trace_hash, record.trace_hash);
    for at in 0..record.events.len() {
        let mut other = record.clone();
        other.events[at].at_us += 1;
        assert_ne!(other.seal().trace_hash, record.trace_hash);
    }
    let mut shorter = record.clone();
    shorter.events.pop();
    assert_ne!(shorter.seal().trace_hash, record.trace_hash);
}
