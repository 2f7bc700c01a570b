//! The tables of a page, filled from CSV files, so that no figure is copied by hand.
//!
//! A comment in front of a table says what stands in its rows:
//!
//! ```text
//! <!-- table
//! file: rpc.csv
//! only: bytes = 64
//! rows: in_flight
//! columns: rpc = native, tonic
//! cell: {calls_per_s}; {p50_us/1000} / {p99_us/1000}
//! name: bare-log = log by hand
//! -->
//! ```
//!
//! | line | says |
//! | --- | --- |
//! | `only` | which rows of the file count; may come more than once |
//! | `rows` | by which of its columns rows are told apart; in the order of the file |
//! | `columns` | a column for each of these values; may be left out |
//! | `cell` | what stands in each: medians of figures, divided by a number |
//! | `name` | what a value is called in the first columns; may come more than once |
//!
//! Within a cell `{p50_us@threads=2}` is the figure of those rows only, and `{calls_per_s@kind=a//kind=b}` the
//! ratio of two of them, within each round. Heading and what lies around stay as they are.

use crate::chart::Csv;
use crate::rounds::Spread;

/// What a comment says.
struct Table<'a> {
    only: Vec<(&'a str, &'a str)>,
    rows: Vec<&'a str>,
    columns: Option<(&'a str, Vec<&'a str>)>,
    cell: &'a str,
    names: Vec<(&'a str, &'a str)>,
}

/// The page with its tables filled anew. `read` gives the file of that name; where it has none, the
/// table stays as it is.
///
/// # Errors
///
/// What is wrong with a comment or its file.
pub fn fill(page: &str, read: impl Fn(&str) -> Option<Csv>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = page;
    while let Some(at) = rest.find(BEGIN) {
        let behind = &rest[at + BEGIN.len()..];
        let (said, _) = behind.split_once(END).ok_or("a comment has no end")?;
        let head = at + BEGIN.len() + said.len() + END.len();
        filled.push_str(&rest[..head]);
        rest = &rest[head..];
        let (file, table) = Table::parse(said)?;
        let Some(csv) = read(file) else { continue };
        // An empty line, the names of the columns, and the line below them.
        let heading: usize = rest.split_inclusive('\n').take(3).map(str::len).sum();
        filled.push_str(&rest[..heading]);
        rest = &rest[heading..];
        let body = rest.split_inclusive('\n');
        let old: usize = body
            .take_while(|line| line.starts_with('|'))
            .map(str::len)
            .sum();
        rest = &rest[old..];
        filled.push_str(&table.body(&csv)?);
    }
    filled.push_str(rest);
    Ok(filled)
}

// === impl Table ===

impl<'a> Table<'a> {
    /// The name of its file, and what the other lines say.
    fn parse(said: &'a str) -> Result<(&'a str, Self), String> {
        let mut file = None;
        let mut table = Self {
            only: Vec::new(),
            rows: Vec::new(),
            columns: None,
            cell: "",
            names: Vec::new(),
        };
        let list = |text: &'a str| text.split(',').map(str::trim).collect::<Vec<_>>();
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            let odd = || format!("nothing known: {line}");
            let (what, value) = line.split_once(": ").ok_or_else(odd)?;
            let pair = || value.split_once(" = ").ok_or_else(odd);
            match what {
                "file" => file = Some(value),
                "only" => table.only.push(pair()?),
                "rows" => table.rows = list(value),
                "columns" => {
                    let (column, values) = pair()?;
                    table.columns = Some((column, list(values)));
                }
                "cell" => table.cell = value,
                "name" => table.names.push(pair()?),
                _ => return Err(odd()),
            }
        }
        let file = file.ok_or("a table without a file")?;
        Ok((file, table))
    }

    fn body(&self, csv: &Csv) -> Result<String, String> {
        let only = self.only.iter();
        let csv = only.fold(csv.clone(), |csv, (name, value)| csv.only(name, value));
        let mut body = String::new();
        for labels in csv.labels(&self.rows) {
            let of_row = self
                .rows
                .iter()
                .zip(&labels)
                .fold(csv.clone(), |csv, (name, value)| csv.only(name, value));
            let mut cells: Vec<String> = labels.iter().map(|label| self.name(label)).collect();
            match &self.columns {
                None => cells.push(cell(self.cell, &of_row)?),
                Some((column, values)) => {
                    for value in values {
                        cells.push(cell(self.cell, &of_row.only(column, value))?);
                    }
                }
            }
            body.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        Ok(body)
    }

    fn name(&self, value: &str) -> String {
        let named = self.names.iter().find(|(of, _)| *of == value);
        match (named, value.parse::<u64>()) {
            (Some((_, name)), _) => (*name).to_owned(),
            (None, Ok(number)) => grouped(number),
            (None, Err(_)) => value.to_owned(),
        }
    }
}

/// The template with its figures; empty where nothing was measured.
fn cell(template: &str, rows: &Csv) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        let (figure, after) = behind.split_once('}').ok_or("a figure has no end")?;
        let Some(value) = value(figure, rows)? else {
            return Ok(String::new());
        };
        text.push_str(before);
        text.push_str(&shown(value));
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// `column`, `column/number`, `column@name=value` or `column@name=value//name=value`.
fn value(figure: &str, rows: &Csv) -> Result<Option<f64>, String> {
    let of = |rows: &Csv, selected: &str| {
        let pair = selected.split_once('=');
        let (name, value) = pair.ok_or_else(|| format!("nothing selected: {figure}"))?;
        Ok::<_, String>(rows.only(name, value))
    };
    let (figure, selected) = match figure.split_once('@') {
        Some((figure, selected)) => (figure, Some(selected)),
        None => (figure, None),
    };
    let (column, divisor) = match figure.split_once('/') {
        Some((column, divisor)) => (column, divisor.parse().map_err(|_| figure.to_owned())?),
        None => (figure, 1.0),
    };
    let values = match selected.map(|selected| selected.split_once("//").ok_or(selected)) {
        None => rows.figures(column),
        Some(Err(selected)) => of(rows, selected)?.figures(column),
        Some(Ok((one, other))) => {
            let (one, other) = (of(rows, one)?, of(rows, other)?);
            let other = other.figures(column);
            let pairs = one.figures(column).into_iter().zip(other);
            pairs.map(|(one, other)| one / other).collect()
        }
    };
    Ok((!values.is_empty()).then(|| Spread::of(values).median / divisor))
}

/// As many digits as mean something.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => grouped(value.round() as u64),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.0995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const BEGIN: &str = "<!-- table\n";
const END: &str = "-->\n";

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: &str = "round,callers,kind,calls_per_s,p50_us\n\
        1,1,bare,2000,500\n1,1,ours,1000,900\n\
        2,1,bare,4000,400\n2,1,ours,3000,800\n\
        3,1,bare,3000,300\n3,1,ours,1800,700\n";

    fn filled(comment: &str) -> String {
        let page = format!(
            "before\n\n<!-- table\nfile: a.csv\n{comment}\n-->\n\n| a | b |\n| --- | --- |\n| 9 | 9 |\n\nafter\n"
        );
        fill(&page, |file| {
            (file == "a.csv").then(|| Csv::parse(MEASURED))
        })
        .expect("a page")
    }

    #[test]
    fn a_table_is_filled_with_medians_and_all_else_stays() {
        let page = filled(
            "rows: callers\ncolumns: kind = bare, ours, none\ncell: {calls_per_s}; {p50_us/1000}",
        );
        let (before, table) = page.split_once("-->\n").expect("the comment stays");
        assert!(before.starts_with("before\n"));
        assert_eq!(
            table,
            "\n| a | b |\n| --- | --- |\n| 1 | 3,000; 0.40 | 1,800; 0.80 |  |\n\nafter\n"
        );
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let page = filled("rows: callers\ncell: {calls_per_s@kind=ours//kind=bare}");
        assert!(page.contains("| 1 | 0.60 |"), "{page}");
    }

    #[test]
    fn rows_have_names_and_some_are_left_out() {
        let page = filled("only: kind = ours\nrows: kind\ncell: {p50_us}\nname: ours = with it");
        assert!(page.contains("| with it | 800 |\n\nafter"), "{page}");
    }

    #[test]
    fn a_page_filled_twice_is_the_same() {
        let comment = "rows: callers\ncolumns: kind = bare\ncell: {calls_per_s}";
        let once = filled(comment);
        let twice = fill(&once, |_| Some(Csv::parse(MEASURED))).expect("a page");
        assert_eq!(once, twice);
    }

    #[test]
    fn a_comment_that_says_what_nobody_knows_is_refused() {
        let page = "<!-- table\nfile: a.csv\nrow: callers\n-->\n";
        assert!(fill(page, |_| None).is_err());
    }
}
