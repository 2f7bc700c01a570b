//! The life of a key, in lanes: client, wire, server, disk.

use std::fmt::Write;

use super::markup::{bytes, count, escaped, short};
use crate::campaign::Story;
use crate::fault::Phase;
use crate::history::{Ending, Event, Happened};

pub(super) fn story(page: &mut String, story: &Story) {
    let height = HEAD + story.events.len() as f64 * ROW + 14.0;
    let _ = write!(
        page,
        "<div class=\"wide\"><svg viewBox=\"0 0 1000 {height:.0}\" role=\"img\" \
         aria-label=\"the life of a key\">\n<defs><marker id=\"to\" viewBox=\"0 0 8 8\" refX=\"7\" \
         refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"head\" \
         d=\"M0 0l8 4-8 4z\"/></marker></defs>\n\
         <text class=\"strong\" x=\"0\" y=\"17\">key {}</text>\n",
        short(&story.key, 22)
    );
    for (name, x) in [
        ("client", CLIENT),
        ("wire", WIRE),
        ("server", SERVER),
        ("disk", DISK),
    ] {
        let _ = writeln!(
            page,
            "<text class=\"soft\" x=\"{x}\" y=\"17\" text-anchor=\"middle\">{name}</text>\
             <line class=\"lane\" x1=\"{x}\" x2=\"{x}\" y1=\"26\" y2=\"{:.0}\"/>",
            height - 8.0
        );
    }
    let mut effects = 0;
    for (row, event) in story.events.iter().enumerate() {
        let y = HEAD + row as f64 * ROW + ROW / 2.0;
        let _ = write!(
            page,
            "<text class=\"soft\" x=\"92\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y + 4.0,
            moment(event.at_us)
        );
        mark(page, event, y, &mut effects);
        page.push('\n');
    }
    page.push_str("</svg></div>\n");
    if story.left_out > 0 {
        let _ = writeln!(
            page,
            "<p class=\"note\">{} later events of this key are left out.</p>",
            count(story.left_out)
        );
    }
}

fn mark(page: &mut String, event: &Event, y: f64, effects: &mut u64) {
    let call = event.call;
    let attempt = |what: &str| match event.attempt {
        0 => format!("call {call}: {what}"),
        attempt => format!("call {call}, attempt {attempt}: {what}"),
    };
    let (class, text) = match &event.what {
        Happened::Invoked {
            client, payload, ..
        } => {
            dot(page, CLIENT, y, "ask");
            let text = format!("client {client} asks, call {call}: {}", bytes(payload, 44));
            ("strong", text)
        }
        Happened::Sent => {
            arrow(page, CLIENT, WIRE, y);
            ("soft", attempt("request sent"))
        }
        Happened::Received => {
            arrow(page, WIRE, SERVER, y);
            ("soft", attempt("request received"))
        }
        Happened::Replied => {
            arrow(page, SERVER, WIRE, y);
            ("soft", attempt("answer sent"))
        }
        Happened::Fault { name, what, phase } => {
            let x = match phase {
                Phase::RequestSent | Phase::ReplySent => WIRE,
                Phase::RequestReceived => SERVER,
                Phase::EffectDurable => (SERVER + DISK) / 2.0,
                Phase::ReplyReceived => CLIENT,
            };
            cross(page, x, y);
            (
                "alarm",
                format!("{} ({}, {phase})", short(name, 30), escaped(what)),
            )
        }
        Happened::Effect { index, answer, .. } => {
            *effects += 1;
            arrow(page, SERVER, DISK, y);
            dot(page, DISK, y, if *effects > 1 { "alarm" } else { "done" });
            let text = format!("effect {effects}, commit {index}: {}", bytes(answer, 34));
            (
                if *effects > 1 {
                    "alarm strong"
                } else {
                    "strong"
                },
                text,
            )
        }
        Happened::Ended { ending } => {
            arrow(page, WIRE, CLIENT, y);
            dot(
                page,
                CLIENT,
                y,
                if *ending == Ending::Unknown {
                    "hollow"
                } else {
                    "ask"
                },
            );
            let text = match ending {
                Ending::Answered(answer) | Ending::Declined(answer) => {
                    format!("call {call} {}: {}", ending.name(), bytes(answer, 38))
                }
                Ending::InDoubt => format!("call {call} is told: in doubt"),
                Ending::Refused => format!("call {call} is told: not executed"),
                Ending::Unknown => format!("call {call} learns nothing"),
            };
            ("strong", text)
        }
        Happened::Lifecycle { who, event } => {
            across(page, y);
            (
                "lifetext",
                format!("{} {}", short(who, 24), short(event, 24)),
            )
        }
        Happened::Swept { .. } => {
            across(page, y);
            ("lifetext", "the key is swept".to_owned())
        }
        Happened::Unrecorded => {
            dot(page, CLIENT, y, "hollow");
            ("soft", attempt("the answer was not recorded"))
        }
        Happened::Acknowledged => {
            dot(page, CLIENT, y, "hollow");
            ("soft", attempt("the answer is acknowledged"))
        }
        Happened::FaultsEnded => {
            across(page, y);
            ("lifetext", "no fault strikes from now on".to_owned())
        }
    };
    let _ = write!(
        page,
        "<text class=\"{class}\" x=\"{TEXT}\" y=\"{:.1}\">{text}</text>",
        y + 4.0
    );
}

fn arrow(page: &mut String, from: f64, to: f64, y: f64) {
    let gap = if to > from { 7.0 } else { -7.0 };
    let _ = write!(
        page,
        "<line class=\"arrow\" marker-end=\"url(#to)\" x1=\"{:.0}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
        from + gap / 2.0,
        to - gap
    );
}

fn dot(page: &mut String, x: f64, y: f64, class: &str) {
    let _ = write!(
        page,
        "<circle class=\"{class}\" cx=\"{x:.0}\" cy=\"{y:.1}\" r=\"5.5\"/>"
    );
}

fn cross(page: &mut String, x: f64, y: f64) {
    let _ = write!(
        page,
        "<path class=\"lost\" d=\"M{:.1} {:.1}l11 11m0 -11l-11 11\"/>",
        x - 5.5,
        y - 5.5
    );
}

fn across(page: &mut String, y: f64) {
    let _ = write!(
        page,
        "<line class=\"life\" x1=\"{CLIENT}\" x2=\"{DISK}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
    );
}

/// Rows follow one another within milliseconds, also late in a run.
fn moment(at_us: u64) -> String {
    format!("{}.{:03} s", at_us / 1_000_000, at_us / 1_000 % 1_000)
}

const HEAD: f64 = 32.0;
const ROW: f64 = 23.0;
const CLIENT: f64 = 135.0;
const WIRE: f64 = 270.0;
const SERVER: f64 = 405.0;
const DISK: f64 = 540.0;
const TEXT: f64 = 575.0;
