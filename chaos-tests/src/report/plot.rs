//! A run over its time: how long calls took, how many ended, when faults struck.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::markup::{duration, escaped, short};
use crate::campaign::Timeline;

pub(super) const LEGEND: &str = "<div class=\"legend\"><span><i class=\"c-answered\"></i>answered</span>\
<span><i class=\"c-other\"></i>declined or refused</span><span><i class=\"c-open\"></i>in doubt</span>\
<span><i class=\"c-bad\"></i>unknown to the client, or down</span>\
<span><i class=\"c-band bar\"></i>a fault strikes</span></div>\n";

pub(super) fn timeline(page: &mut String, timeline: &Timeline) {
    let bands = lanes(timeline);
    let strip = bands.len() as f64 * STRIP + if bands.is_empty() { 0.0 } else { 14.0 };
    let bottom = TOP + LATENCY + GAP + RATE + strip;
    let height = bottom + 26.0;
    let until = timeline.until_us.max(1) as f64;
    let x = |at_us: u64| LEFT + WIDTH * at_us as f64 / until;
    let _ = writeln!(
        page,
        "<svg viewBox=\"0 0 1000 {height:.0}\" role=\"img\" aria-label=\"calls over time\">"
    );
    // Who is down is shaded over the whole height, behind everything else.
    for band in timeline
        .bands
        .iter()
        .filter(|band| band.name.ends_with(DOWN))
    {
        let width = (x(band.until_us) - x(band.from_us)).max(1.5);
        let _ = writeln!(
            page,
            "<rect class=\"down\" x=\"{:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            x(band.from_us),
            bottom - TOP
        );
    }
    latencies(page, timeline, &x);
    rate(page, timeline);
    let mut y = TOP + LATENCY + GAP + RATE + 14.0;
    for (name, marks) in bands {
        let _ = writeln!(
            page,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" class=\"soft\">{}</text>\
             <rect class=\"well\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{WIDTH}\" height=\"{:.1}\" rx=\"3\"/>",
            LEFT - 10.0,
            y + STRIP - 8.0,
            short(name, 24),
            y,
            STRIP - 6.0,
        );
        let most = marks
            .iter()
            .map(|(_, _, struck)| *struck)
            .max()
            .unwrap_or(1)
            .max(1);
        for (from_us, until_us, struck) in marks {
            let opacity = 0.4 + 0.6 * struck as f64 / most as f64;
            let _ = writeln!(
                page,
                "<rect class=\"band\" fill-opacity=\"{opacity:.2}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
                 height=\"{:.1}\"><title>{} × {struck}</title></rect>",
                x(from_us),
                (x(until_us) - x(from_us)).max(1.5),
                STRIP - 6.0,
                escaped(name),
            );
        }
        y += STRIP;
    }
    for part in 0..=5 {
        let at_us = timeline.until_us * part / 5;
        let anchor = match part {
            0 => "start",
            5 => "end",
            _ => "middle",
        };
        let _ = writeln!(
            page,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            x(at_us),
            height - 6.0,
            duration(at_us)
        );
    }
    page.push_str("</svg>\n");
}

fn latencies(page: &mut String, timeline: &Timeline, x: &impl Fn(u64) -> f64) {
    let least = timeline
        .dots
        .iter()
        .map(|dot| dot.took_us.max(1))
        .min()
        .unwrap_or(1);
    let most = timeline
        .dots
        .iter()
        .map(|dot| dot.took_us.max(1))
        .max()
        .unwrap_or(1);
    // Whole powers of ten, two of them at least.
    let low = least.max(SHORTEST_US).ilog10();
    let high = (most.max(SHORTEST_US).ilog10() + 1).max(low + 2);
    let y = |took_us: u64| {
        let power = (took_us.max(SHORTEST_US) as f64).log10();
        let share = (power - f64::from(low)) / f64::from(high - low);
        TOP + LATENCY * (1.0 - share)
    };
    for power in low..=high {
        let at = 10_u64.saturating_pow(power);
        let _ = writeln!(
            page,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text class=\"soft\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT + WIDTH,
            y(at),
            y(at),
            LEFT - 10.0,
            y(at) + 4.0,
            round(at)
        );
    }
    let _ = writeln!(
        page,
        "<text class=\"strong\" x=\"{LEFT}\" y=\"13\">how long calls took</text>"
    );
    // What is rare comes last, so that it lies on top.
    let rarely = |ending: &str| ending != "answered";
    for pass in [false, true] {
        for dot in timeline
            .dots
            .iter()
            .filter(|dot| rarely(dot.ending) == pass)
        {
            let (class, radius) = match dot.ending {
                "answered" => ("answered", 2.4),
                "declined" | "refused" => ("declined", 2.4),
                "in-doubt" => ("indoubt", 3.4),
                _ => ("nothing", 3.4),
            };
            let _ = write!(
                page,
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"/>",
                x(dot.at_us),
                y(dot.took_us)
            );
        }
    }
    page.push('\n');
}

fn rate(page: &mut String, timeline: &Timeline) {
    let mut ended = [0_u64; BARS];
    for dot in &timeline.dots {
        let at = u128::from(dot.at_us.saturating_add(dot.took_us)) * BARS as u128;
        let bar = (at / u128::from(timeline.until_us.max(1))) as usize;
        ended[bar.min(BARS - 1)] += 1;
    }
    let most = ended.iter().copied().max().unwrap_or(0).max(1);
    let base = TOP + LATENCY + GAP + RATE;
    let bar_width = WIDTH / BARS as f64;
    let bar_us = (timeline.until_us / BARS as u64).max(1);
    let _ = writeln!(
        page,
        "<text class=\"strong\" x=\"{LEFT}\" y=\"{:.1}\">how many ended in {}</text>\
         <text class=\"soft\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{most}</text>\
         <line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{base}\" y2=\"{base}\"/>",
        base - RATE - 8.0,
        duration(bar_us),
        LEFT - 10.0,
        base - RATE + 9.0,
        LEFT + WIDTH,
    );
    for (bar, &count) in ended.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = RATE * count as f64 / most as f64;
        let _ = write!(
            page,
            "<rect class=\"rate\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
            LEFT + bar as f64 * bar_width,
            base - height,
            bar_width - 1.5,
        );
    }
    page.push('\n');
}

/// From when to when, and how often.
type Mark = (u64, u64, u64);

/// One strip for each fault and for each that was down, the most busy ones.
fn lanes(timeline: &Timeline) -> Vec<(&str, Vec<Mark>)> {
    let mut lanes: BTreeMap<&str, Vec<Mark>> = BTreeMap::new();
    for band in &timeline.bands {
        let mark = (band.from_us, band.until_us, band.struck);
        lanes.entry(&band.name).or_default().push(mark);
    }
    let mut lanes: Vec<_> = lanes.into_iter().collect();
    lanes.sort_by_key(|(name, marks)| (name.ends_with(DOWN), std::cmp::Reverse(marks.len())));
    lanes.truncate(STRIPS_MAX);
    lanes
}

/// A power of ten without decimals.
fn round(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", micros / 1_000_000),
    }
}

/// What took less was refused before anything was sent: where below the plot it is says nothing.
const SHORTEST_US: u64 = 100;
const DOWN: &str = " is down";
const LEFT: f64 = 170.0;
const WIDTH: f64 = 815.0;
const TOP: f64 = 24.0;
const LATENCY: f64 = 190.0;
const GAP: f64 = 40.0;
const RATE: f64 = 56.0;
const STRIP: f64 = 20.0;
const BARS: usize = 80;
const STRIPS_MAX: usize = 24;
