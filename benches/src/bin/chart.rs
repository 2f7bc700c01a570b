//! Draws what `stores` and `replay` have measured.
//!
//! `cargo run --release -p onlyonce-bench --bin chart -- benches/results`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

fn main() {
    let folder = std::env::args().nth(1);
    let folder = PathBuf::from(folder.unwrap_or_else(|| "benches/results".to_owned()));
    let rows = rows(&fs::read_to_string(folder.join("stores.csv")).expect("stores.csv"));
    let rates = series(&rows, 3, |rate| rate / 1_000.0);
    let p99 = series(&rows, 5, |micros| micros / 1_000.0);
    let (left, right) = ("thousand first calls a second", "p99 of a first call, ms");
    let drawn = [draw(left, &rates, 0), draw(right, &p99, WIDTH)].concat();
    let svg = page(2 * WIDTH, HEIGHT, &drawn);
    fs::write(folder.join("stores.svg"), svg).expect("stores.svg");
}

/// The fields of each line but the first.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip(1);
    lines
        .map(|line| line.split(',').map(ToOwned::to_owned).collect())
        .collect()
}

/// For each store, by callers, the median of a column over the rounds.
fn series(
    rows: &[Vec<String>],
    column: usize,
    scale: fn(f64) -> f64,
) -> BTreeMap<String, BTreeMap<u32, f64>> {
    let mut values: BTreeMap<String, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for row in rows {
        let callers = row[1].parse().expect("callers");
        let value = row[column].parse().expect("a figure");
        let of_store = values.entry(row[2].clone()).or_default();
        of_store.entry(callers).or_default().push(scale(value));
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let medians = |of_store: BTreeMap<u32, Vec<f64>>| {
        let medians = of_store.into_iter();
        medians
            .map(|(callers, all)| (callers, median(all)))
            .collect()
    };
    let all = values.into_iter();
    all.map(|(store, of_store)| (store, medians(of_store)))
        .collect()
}

/// A diagram with both axes logarithmic.
fn draw(title: &str, series: &BTreeMap<String, BTreeMap<u32, f64>>, left: u32) -> String {
    let all = || series.values().flatten();
    let most = all().map(|(_, value)| *value).fold(0.1, f64::max).log10();
    let least = all().map(|(_, value)| *value).fold(1e9, f64::min).log10();
    let (top, bottom) = (most.ceil(), least.floor());
    let callers_max = all().map(|(callers, _)| *callers).max().unwrap_or(2);
    let x = |callers: u32| {
        let share = f64::from(callers).log2() / f64::from(callers_max).log2();
        f64::from(left) + 60.0 + share * (f64::from(WIDTH) - 190.0)
    };
    let y = |value: f64| {
        let share = (value.log10() - bottom) / (top - bottom);
        f64::from(HEIGHT) - 50.0 - share * (f64::from(HEIGHT) - 110.0)
    };
    let mut drawn = String::new();
    let text = |drawn: &mut String, x: f64, y: f64, words: &str| {
        let _ = writeln!(drawn, "<text x=\"{x:.0}\" y=\"{y:.0}\">{words}</text>");
    };
    text(&mut drawn, f64::from(left) + 60.0, 30.0, title);
    for power in bottom as i32..=top as i32 {
        let value = 10_f64.powi(power);
        let at = y(value);
        let _ = writeln!(
            drawn,
            "<line x1=\"{:.0}\" x2=\"{:.0}\" y1=\"{at:.0}\" y2=\"{at:.0}\" stroke=\"#ddd\"/>",
            x(1),
            x(callers_max)
        );
        text(
            &mut drawn,
            f64::from(left) + 15.0,
            at + 4.0,
            &value.to_string(),
        );
    }
    for (number, (store, of_store)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = of_store
            .iter()
            .map(|(callers, value)| (x(*callers), y(*value)));
        let line: Vec<_> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            drawn,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        if let Some((callers, value)) = of_store.last_key_value() {
            text(&mut drawn, x(*callers) + 6.0, y(*value) + 4.0, store);
        }
    }
    let callers = series.values().flat_map(BTreeMap::keys);
    for callers in callers.collect::<std::collections::BTreeSet<_>>() {
        let at = f64::from(HEIGHT) - 25.0;
        text(&mut drawn, x(*callers) - 8.0, at, &callers.to_string());
    }
    text(&mut drawn, x(1), f64::from(HEIGHT) - 8.0, "callers at once");
    drawn
}

fn page(width: u32, height: u32, drawn: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{drawn}</svg>\n"
    )
}

const WIDTH: u32 = 530;
const HEIGHT: u32 = 340;
const COLOURS: [&str; 4] = ["#777777", "#2a78d6", "#d65a2a", "#2a9d5a"];
