//! Diagrams as SVG, drawn from CSV files: lines, both axes logarithmic.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The rows of a CSV file, by the names in its first line.
#[derive(Clone, Debug)]
pub struct Csv {
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// For each line of a diagram, its points: the median of all rows with the same place on the x axis.
pub type Lines = BTreeMap<String, BTreeMap<u64, f64>>;

/// One diagram.
#[derive(Clone, Debug)]
pub struct Diagram {
    /// What its y axis shows, with the unit.
    pub title: &'static str,
    /// What its x axis shows.
    pub below: &'static str,
    /// What is drawn.
    pub lines: Lines,
}

// === impl Csv ===

impl Csv {
    /// Reads a file; `None` where there is none, so that its diagram is left as it is.
    ///
    /// # Panics
    ///
    /// When the file is empty.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        Some(Self::parse(&fs::read_to_string(path).ok()?))
    }

    /// What such a file says.
    ///
    /// # Panics
    ///
    /// When it is empty.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let fields = |line: &str| line.split(',').map(ToOwned::to_owned).collect();
        let mut lines = text.lines();
        let names = fields(lines.next().expect("a first line"));
        let rows = lines.map(fields).collect();
        Self { names, rows }
    }

    /// The values of these columns that rows have, each once and in their order.
    ///
    /// # Panics
    ///
    /// When there is no such column.
    #[must_use]
    pub fn labels(&self, columns: &[&str]) -> Vec<Vec<String>> {
        let places: Vec<_> = columns.iter().map(|name| self.place(name)).collect();
        let mut seen: Vec<Vec<String>> = Vec::new();
        for row in &self.rows {
            let labels: Vec<_> = places.iter().map(|place| row[*place].clone()).collect();
            if !seen.contains(&labels) {
                seen.push(labels);
            }
        }
        seen
    }

    /// All figures of a column, in the order of the rows.
    ///
    /// # Panics
    ///
    /// When there is no such column, or something else than figures in it.
    #[must_use]
    pub fn figures(&self, column: &str) -> Vec<f64> {
        let place = self.place(column);
        let rows = self.rows.iter();
        rows.map(|row| row[place].parse().expect("a figure"))
            .collect()
    }

    /// Only the rows whose column `name` is `value`.
    #[must_use]
    pub fn only(&self, name: &str, value: &str) -> Self {
        let place = self.place(name);
        let rows = self.rows.iter().filter(|row| row[place] == value);
        Self {
            names: self.names.clone(),
            rows: rows.cloned().collect(),
        }
    }

    /// A line for each value of the column `of`: `y`, multiplied by `scale`, over `x`.
    ///
    /// # Panics
    ///
    /// When there is no such column, or something else than numbers in those of the axes.
    #[must_use]
    pub fn lines(&self, of: &str, x: &str, y: &str, scale: f64) -> Lines {
        let (of, x, y) = (self.place(of), self.place(x), self.place(y));
        let points = self.rows.iter().map(|row| {
            let value: f64 = row[y].parse().expect("a figure");
            let at = row[x].parse().expect("a whole number");
            (row[of].clone(), at, value * scale)
        });
        medians(points)
    }

    /// One line, called `name`: `y`, multiplied by `scale`, over `x`.
    ///
    /// # Panics
    ///
    /// As [`lines`](Self::lines).
    #[must_use]
    pub fn line(&self, name: &str, x: &str, y: &str, scale: f64) -> Lines {
        let all = self.lines(x, x, y, scale).into_values().flatten();
        BTreeMap::from([(name.to_owned(), all.collect())])
    }

    fn place(&self, name: &str) -> usize {
        let place = self.names.iter().position(|known| known == name);
        place.unwrap_or_else(|| panic!("no column is called {name}"))
    }
}

/// Writes the diagrams side by side, two in a row.
///
/// # Panics
///
/// When the file cannot be written.
pub fn write(path: &Path, diagrams: &[Diagram]) {
    let mut drawn = String::new();
    for (number, diagram) in diagrams.iter().enumerate() {
        let (column, row) = ((number % 2) as u32, (number / 2) as u32);
        let _ = writeln!(
            drawn,
            "<g transform=\"translate({} {})\">\n{}</g>",
            column * WIDTH,
            row * HEIGHT,
            draw(diagram)
        );
    }
    let columns = diagrams.len().min(2) as u32;
    let rows = diagrams.len().div_ceil(2) as u32;
    let svg = page(columns * WIDTH, rows * HEIGHT, &drawn);
    fs::write(path, svg).expect("the file can be written");
}

fn medians(points: impl Iterator<Item = (String, u64, f64)>) -> Lines {
    let mut all: BTreeMap<String, BTreeMap<u64, Vec<f64>>> = BTreeMap::new();
    for (line, at, value) in points.filter(|(_, _, value)| *value > 0.0) {
        all.entry(line)
            .or_default()
            .entry(at)
            .or_default()
            .push(value);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let of_line = |points: BTreeMap<u64, Vec<f64>>| {
        let points = points.into_iter();
        points.map(|(at, values)| (at, median(values))).collect()
    };
    let all = all.into_iter();
    all.map(|(line, points)| (line, of_line(points))).collect()
}

fn draw(diagram: &Diagram) -> String {
    let lines = &diagram.lines;
    let all = || lines.values().flatten();
    let most = all().map(|(_, value)| *value).fold(1e-9, f64::max).log10();
    let least = all().map(|(_, value)| *value).fold(1e12, f64::min).log10();
    let (top, bottom) = (most.ceil(), least.floor().min(most.ceil() - 1.0));
    let ends = all().map(|(at, _)| *at);
    let (first, last) = (ends.clone().min().unwrap_or(1), ends.max().unwrap_or(2));
    let (from, to) = ((first as f64).log2(), (last as f64).log2());
    let x = |at: u64| {
        let share = ((at as f64).log2() - from) / (to - from).max(1.0);
        60.0 + share * (f64::from(WIDTH) - 210.0)
    };
    let y = |value: f64| {
        let share = (value.log10() - bottom) / (top - bottom);
        f64::from(HEIGHT) - 50.0 - share * (f64::from(HEIGHT) - 110.0)
    };
    let mut drawn = String::new();
    let text = |drawn: &mut String, x: f64, y: f64, words: &str| {
        let _ = writeln!(drawn, "<text x=\"{x:.0}\" y=\"{y:.0}\">{words}</text>");
    };
    text(&mut drawn, 60.0, 30.0, diagram.title);
    for power in bottom as i32..=top as i32 {
        let value = 10_f64.powi(power);
        let at = y(value);
        let (left, right) = (x(first), x(last));
        let _ = writeln!(
            drawn,
            "<line x1=\"{left:.0}\" x2=\"{right:.0}\" y1=\"{at:.0}\" y2=\"{at:.0}\" stroke=\"#ddd\"/>"
        );
        text(&mut drawn, 12.0, at + 4.0, &value.to_string());
    }
    let mut names: Vec<(f64, &str, &str)> = Vec::new();
    for (number, (line, points)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<_> = points
            .iter()
            .map(|(at, value)| (x(*at), y(*value)))
            .collect();
        let path: Vec<_> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            drawn,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (x, y) in &points {
            let _ = writeln!(
                drawn,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"
            );
        }
        if let Some((_, y)) = points.last() {
            names.push((*y, line, colour));
        }
    }
    // Names stand beside the ends of their lines, apart from each other.
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = 0.0_f64;
    for (y, line, colour) in names {
        let at = (y + 4.0).max(free);
        free = at + 15.0;
        let left = x(last) + 8.0;
        let _ = writeln!(
            drawn,
            "<text x=\"{left:.0}\" y=\"{at:.0}\" fill=\"{colour}\">{line}</text>"
        );
    }
    for at in lines
        .values()
        .flat_map(BTreeMap::keys)
        .collect::<BTreeSet<_>>()
    {
        let words = at.to_string();
        let left = x(*at) - 4.0 * words.len() as f64;
        text(&mut drawn, left, f64::from(HEIGHT) - 28.0, &words);
    }
    text(
        &mut drawn,
        x(first),
        f64::from(HEIGHT) - 10.0,
        diagram.below,
    );
    drawn
}

fn page(width: u32, height: u32, drawn: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{drawn}</svg>\n"
    )
}

const WIDTH: u32 = 560;
const HEIGHT: u32 = 340;
const COLOURS: [&str; 6] = [
    "#777777", "#2a78d6", "#d65a2a", "#2a9d5a", "#9a4fc0", "#b08a00",
];
