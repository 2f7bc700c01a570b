//! Flame graphs as SVG, drawn from the stacks that a profiler saw.
//!
//! Wide is what takes long; below a function stands who called it. What takes less than a share of all
//! is left out, so that a graph stays small enough to be kept. Hovering shows a name in full.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// All stacks that were seen, as a tree from the outermost function.
#[derive(Clone, Debug, Default)]
pub struct Stacks {
    samples: u64,
    called: BTreeMap<String, Self>,
}

/// Where the rectangles of a graph are put.
struct Graph {
    /// Of all samples.
    samples: u64,
    rows: usize,
    drawn: String,
}

// === impl Stacks ===

impl Stacks {
    /// The stacks that `perf script -F ip,sym` prints: one function a line, innermost first, an empty
    /// line behind each stack.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut all = Self::default();
        let mut stack: Vec<String> = Vec::new();
        for line in text.lines().chain([""]) {
            match line.trim().split_once(' ') {
                Some((_address, name)) => stack.push(plain(name)),
                None => {
                    all.add(&stack);
                    stack.clear();
                }
            }
        }
        all
    }

    /// How many stacks there are.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// Adds one, innermost function first.
    fn add(&mut self, stack: &[String]) {
        if stack.is_empty() {
            return;
        }
        self.samples += 1;
        let mut at = self;
        // What lies outside of a function without a name is not known; a name once is enough for calls
        // of a function by itself.
        let mut last: Option<&String> = None;
        for name in stack.iter().rev() {
            if last == Some(name) {
                continue;
            }
            at = at.called.entry(name.clone()).or_default();
            at.samples += 1;
            last = Some(name);
        }
    }

    /// How many rows are drawn of it, where it has at least `least` samples.
    fn rows(&self, least: u64) -> usize {
        let called = self.called.values().filter(|of| of.samples >= least);
        called.map(|of| 1 + of.rows(least)).max().unwrap_or(0)
    }

    /// The graph, called `title`.
    #[must_use]
    pub fn draw(&self, title: &str) -> String {
        let least = (self.samples as f64 * SHARE_MIN).ceil().max(1.0) as u64;
        let mut graph = Graph {
            samples: self.samples.max(1),
            rows: self.rows(least),
            drawn: String::new(),
        };
        graph.draw(self, 0, 0, least);
        let height = TOP + graph.rows as f64 * ROW + 10.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"monospace\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"20\" font-size=\"14\">{}: {} samples of the processors' time; what takes \
             less than {} % is left out</text>\n",
            escaped(title),
            self.samples,
            SHARE_MIN * 100.0,
        );
        for (place, (_, colour, whose)) in WHOSE.iter().enumerate() {
            let x = 10 + 150 * place;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"28\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"38\">{whose}</text>",
                x + 16
            );
        }
        svg.push_str(&graph.drawn);
        svg.push_str("</svg>\n");
        svg
    }
}

// === impl Graph ===

impl Graph {
    /// What `of` called, side by side, from the sample `first` on and so many rows up.
    fn draw(&mut self, of: &Stacks, first: u64, row: usize, least: u64) {
        let mut first = first;
        for (name, called) in &of.called {
            if called.samples >= least {
                self.rectangle(name, called.samples, first, row);
                self.draw(called, first, row + 1, least);
            }
            first += called.samples;
        }
    }

    fn rectangle(&mut self, name: &str, samples: u64, first: u64, row: usize) {
        let scale = (WIDTH - 20.0) / self.samples as f64;
        let (x, width) = (10.0 + first as f64 * scale, samples as f64 * scale);
        let y = TOP + (self.rows - row - 1) as f64 * ROW;
        let percent = samples as f64 * 100.0 / self.samples as f64;
        let colour = WHOSE
            .iter()
            .find(|(of, ..)| of.iter().any(|part| name.contains(part)))
            .map_or(OTHERS, |(_, colour, _)| colour);
        let _ = write!(
            self.drawn,
            "<g><title>{} ({percent:.1} %)</title><rect x=\"{x:.1}\" y=\"{y:.0}\" \
             width=\"{width:.1}\" height=\"{:.0}\" fill=\"{colour}\"/>",
            escaped(name),
            ROW - 1.0
        );
        let letters = (width / LETTER) as usize;
        if letters >= 4 {
            let shown = escaped(&shortened(name, letters));
            let _ = write!(
                self.drawn,
                "<text x=\"{:.1}\" y=\"{:.0}\">{shown}</text>",
                x + 2.0,
                y + 11.0
            );
        }
        self.drawn.push_str("</g>\n");
    }
}

/// A function's name without what tells its instances apart: parameters, and the digest at its end.
fn plain(name: &str) -> String {
    let name = name.trim();
    let mut kept = String::new();
    let mut depth = 0_usize;
    let mut before = ' ';
    for letter in name.chars() {
        match letter {
            // The arrow of a function's type closes nothing.
            '>' if before == '-' => {}
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => kept.push(letter),
            _ => {}
        }
        before = letter;
    }
    // A trait's method on a type begins with `<`: then all of its path is in there.
    let kept = match (kept.trim_start_matches("::"), name.strip_prefix('<')) {
        (method, Some(inside)) => {
            let path: String = inside
                .chars()
                .take_while(|letter| !matches!(letter, '<' | '>' | ' '))
                .collect();
            format!("{path}::{method}")
        }
        (whole, None) => whole.to_owned(),
    };
    let digest = |end: &str| end.len() == 17 && end.starts_with('h');
    let kept = match kept.rsplit_once("::") {
        Some((path, end)) if digest(end) => path.to_owned(),
        _ => kept,
    };
    let kept = kept.replace("::::", "::").replace("{{closure}}", "{}");
    shortened(&kept, LETTERS_MAX)
}

/// The end of a name says more than its beginning.
fn shortened(name: &str, letters: usize) -> String {
    let count = name.chars().count();
    match count <= letters {
        true => name.to_owned(),
        false => name.chars().skip(count - letters).collect(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

const WIDTH: f64 = 1_200.0;
const ROW: f64 = 15.0;
/// Above it stand the title and what the colours mean.
const TOP: f64 = 48.0;
/// How wide a letter is.
const LETTER: f64 = 6.7;
const LETTERS_MAX: usize = 90;
/// Of all samples; less is too narrow to be seen.
const SHARE_MIN: f64 = 0.002;
const OTHERS: &str = "#f0c040";
/// Parts of names, the colour of those functions, and whose they are; the first that fits.
const WHOSE: &[(&[&str], &str, &str)] = &[
    (&["onlyonce_bench"], "#c0c0c0", "the measuring"),
    (&["onlyonce"], "#7ab0e8", "onlyonce"),
    (&["tokio", "mio::"], "#8fd0a0", "tokio"),
    (
        &["hyper", "axum", "tower", "http::", "httparse"],
        "#d0a0e0",
        "hyper, axum, tower",
    ),
    (
        &["malloc", "free", "realloc", "calloc"],
        "#f08080",
        "allocating",
    ),
    (&["::"], OTHERS, "other crates"),
    (&[""], "#e8a860", "system, C"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "\n\
        \x20   55d0 onlyonce_storage::memory::store::Map<K,V>::get::h0123456789abcdef\n\
        \x20   55d1 <onlyonce_middleware::stack::Serve<S> as tower_service::Service<R>>::call::h0123456789abcdef\n\
        \x20   55d2 main\n\
        \n\
        \x20   55d3 __libc_malloc\n\
        \x20   55d2 main\n\
        \n\n";

    #[test]
    fn stacks_are_counted_from_the_outermost_function() {
        let stacks = Stacks::read(SEEN);
        assert_eq!(stacks.samples(), 2);
        let main = &stacks.called["main"];
        assert_eq!(main.samples, 2);
        let called: Vec<_> = main.called.keys().map(String::as_str).collect();
        assert_eq!(
            called,
            ["__libc_malloc", "onlyonce_middleware::stack::Serve::call"]
        );
    }

    #[test]
    fn a_function_is_as_wide_as_its_share_and_carries_its_name() {
        let svg = Stacks::read(SEEN).draw("a < b");
        assert!(svg.contains("a &lt; b: 2 samples"));
        assert!(svg.contains("<title>main (100.0 %)</title>"));
        assert!(svg.contains("<title>__libc_malloc (50.0 %)</title>"));
        assert!(svg.contains("onlyonce_storage::memory::store::Map::get (50.0 %)"));
    }

    #[test]
    fn what_takes_too_little_is_left_out() {
        let mut text = "  1 rare\n  2 main\n\n".to_owned();
        for _ in 0..1_000 {
            text.push_str("  1 often\n  2 main\n\n");
        }
        let svg = Stacks::read(&text).draw("calls");
        assert!(svg.contains("often") && !svg.contains("rare"));
    }
}
