//! Rounds in which everything that is compared has its turn: raw figures as CSV on standard output,
//! medians and ratios on standard error.
//!
//! Ratios are taken within a round, of what was measured one after the other, and their median is
//! said with the least and the greatest: the machine changes between rounds.

use std::fmt;

/// The figures of all rounds.
#[derive(Debug)]
pub struct Rounds {
    figures: Vec<&'static str>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    round: usize,
    labels: Vec<String>,
    figures: Vec<f64>,
}

/// A ratio: its median over the rounds, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the rounds have at most this.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

// === impl Rounds ===

impl Rounds {
    /// Prints the heading: the round, the columns that say what was measured, and those of figures.
    #[must_use]
    pub fn begin(labels: &[&'static str], figures: &[&'static str]) -> Self {
        println!("round,{},{}", labels.join(","), figures.join(","));
        Self {
            figures: figures.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Notes and prints what was measured in a round.
    pub fn note(&mut self, round: usize, labels: &[&str], figures: &[f64]) {
        let texts: Vec<_> = figures.iter().map(|figure| short(*figure)).collect();
        println!("{round},{},{}", labels.join(","), texts.join(","));
        self.rows.push(Row {
            round,
            labels: labels.iter().map(ToString::to_string).collect(),
            figures: figures.to_vec(),
        });
    }

    /// Prints the medians of the rounds, as lines of a table.
    pub fn print_medians(&self) {
        let mut seen: Vec<&[String]> = Vec::new();
        eprintln!("| | {} |", self.figures.join(" | "));
        for row in &self.rows {
            if seen.contains(&&row.labels[..]) {
                continue;
            }
            seen.push(&row.labels);
            let of_row = |place| {
                let same = self.rows.iter().filter(|other| other.labels == row.labels);
                let all = same.map(|other| other.figures[place]).collect();
                short(Spread::of(all).median)
            };
            let medians: Vec<_> = (0..self.figures.len()).map(of_row).collect();
            eprintln!("| {} | {} |", row.labels.join(" "), medians.join(" | "));
        }
    }

    /// `figure` of the rows with the labels `of`, divided by that of `to` in the same round.
    ///
    /// # Panics
    ///
    /// When there is no such figure, or no round has both.
    #[must_use]
    pub fn ratio(&self, figure: &str, of: &[&str], to: &[&str]) -> Spread {
        let place = self.figures.iter().position(|name| *name == figure);
        let place = place.expect("a figure that was measured");
        let find = |round, labels: &[&str]| {
            let mut rows = self.rows.iter();
            let row = rows.find(|row| row.round == round && row.labels == labels);
            row.map(|row| row.figures[place])
        };
        let mut rounds: Vec<_> = self.rows.iter().map(|row| row.round).collect();
        rounds.dedup();
        let ratios = rounds.into_iter().filter_map(|round| {
            let (one, other) = (find(round, of)?, find(round, to)?);
            Some(one / other)
        });
        Spread::of(ratios.collect())
    }
}

// === impl Spread ===

impl Spread {
    /// Of these values.
    ///
    /// # Panics
    ///
    /// When there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (values.first(), values.last()) else {
            panic!("nothing was measured");
        };
        Self {
            median: values[values.len() / 2],
            least: *least,
            most: *most,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            median,
            least,
            most,
        } = self;
        write!(f, "{median:.2} ({least:.2} to {most:.2})")
    }
}

/// As many digits as mean something.
fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.3}"),
    }
}
