//! The page, from its verdict to what was not run.

use std::fmt::Write;

use super::markup::{count, duration, escaped, short};
use super::{Context, lanes, matrix, page, plot};
use crate::campaign::{Campaign, Control, Finding, Part};
use crate::ledger::Verdict;
use crate::scenario::Mode;

/// One self-contained page about a campaign, of at most two mebibytes. What does not fit is counted
/// in its place.
#[must_use]
pub fn html(campaign: &Campaign, context: &Context) -> String {
    let name = escaped(&campaign.scenario.name);
    let mut page = page::head(&format!("{name}: {}", campaign.verdict()));
    let _ = write!(
        page,
        "<header>\n<div class=\"eyebrow\">Fault injection report</div>\n<h1>{name}</h1>\n\
         <p class=\"about\">{}</p>\n<div class=\"chips\">",
        escaped(&campaign.scenario.about)
    );
    let scenario = &campaign.scenario;
    let seeds = match campaign.seeds_from == campaign.seeds_to {
        true => format!("seed {}", campaign.seeds_from),
        false => format!("seeds {} to {}", campaign.seeds_from, campaign.seeds_to),
    };
    let naive = scenario.mode == Mode::Naive;
    for (chip, class) in [
        (scenario.workload.name().to_owned(), "none"),
        (format!("{} calls a run", count(scenario.calls)), "none"),
        (format!("{} clients", scenario.clients), "none"),
        (seeds, "none"),
        (
            scenario.mode.name().to_owned(),
            if naive { "bad" } else { "none" },
        ),
    ] {
        let _ = write!(page, "<span class=\"tag {class}\">{chip}</span>");
    }
    page.push_str("</div>\n</header>\n");
    verdict(&mut page, campaign);
    figures(&mut page, campaign);
    violations(&mut page, campaign, context);
    matrix::section(&mut page, campaign);
    executors(&mut page, campaign);
    timelines(&mut page, campaign);
    goals(&mut page, campaign);
    not_run(&mut page, campaign);
    again(&mut page, campaign, context);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

// `write!` to a string cannot fail, so that its results are dropped throughout.

fn verdict(page: &mut String, campaign: &Campaign) {
    let (class, word, sign) = match campaign.verdict() {
        Verdict::Valid => ("valid", "Every promise held", "M8 17l6 6 11-13"),
        Verdict::Violated => ("violated", "A promise was broken", "M9 9l14 14M23 9L9 23"),
        Verdict::Unknown => (
            "unknown",
            "Not proven",
            "M11 12a5 5 0 1 1 7 4.5c-1.6.8-2 1.5-2 3M16 25v.1",
        ),
    };
    let _ = write!(
        page,
        "<section class=\"card verdict {class}\">\n<div class=\"sign\"><svg style=\"min-width:0;width:38px\" \
         viewBox=\"0 0 32 32\" aria-hidden=\"true\"><path d=\"{sign}\"/></svg></div>\n<div>\
         <div class=\"word\">{word}</div>\n<p>{}</p>\n",
        escaped(&campaign.bound())
    );
    let reasons = campaign.reasons();
    if !reasons.is_empty() {
        page.push_str("<ul>");
        for reason in reasons.iter().take(ROWS_MAX) {
            let _ = write!(page, "<li>{}</li>", escaped(reason));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</div>\n</section>\n");
}

fn figures(page: &mut String, campaign: &Campaign) {
    let figures = campaign.figures();
    let struck: u64 = campaign
        .parts
        .iter()
        .flat_map(|part| part.fired.values())
        .map(|fired| fired.struck)
        .sum();
    let all = [
        (campaign.runs(), "runs", false),
        (figures.calls, "calls", false),
        (figures.attempts, "attempts", false),
        (struck, "faults struck", false),
        (figures.effects, "effects", false),
        (figures.duplicated, "duplicated", true),
        (figures.lost, "lost", true),
        (figures.in_doubt, "in doubt, and said so", false),
    ];
    page.push_str("<section class=\"figures\">\n");
    for (number, name, alarming) in all {
        let class = if alarming && number > 0 {
            "figure alarm"
        } else {
            "figure"
        };
        let _ = writeln!(
            page,
            "<div class=\"{class}\"><b>{}</b><span>{name}</span></div>",
            count(number)
        );
    }
    page.push_str("</section>\n");
}

fn violations(page: &mut String, campaign: &Campaign, context: &Context) {
    let found: Vec<(&Part, &Finding)> = campaign
        .parts
        .iter()
        .flat_map(|part| part.findings.iter().map(move |finding| (part, finding)))
        .collect();
    if found.is_empty() {
        return;
    }
    page.push_str(
        "<h2>What was broken</h2>\n<p class=\"note\">Each violated run with its seed, the command \
         that runs it again, and the life of the keys that it is about, from the client over the \
         wire to the server and its disk.</p>\n",
    );
    let mut stories = 0;
    for (part, finding) in found.iter().take(FINDINGS_MAX) {
        let _ = write!(
            page,
            "<section class=\"card\">\n<h3>Seed {} <span class=\"tag none\">{}</span></h3>\n\
             <ul class=\"plain\">",
            finding.seed,
            escaped(&part.executor)
        );
        for violation in &finding.violations {
            let _ = write!(
                page,
                "<li><span class=\"tag bad\">{}</span> <code>{}</code></li>",
                escaped(violation.split(' ').next().unwrap_or_default()),
                short(violation.split_once(' ').map_or("", |(_, rest)| rest), 160)
            );
        }
        if finding.more > 0 {
            let _ = write!(
                page,
                "<li class=\"note\">and {} more</li>",
                count(finding.more)
            );
        }
        let _ = write!(
            page,
            "</ul>\n<pre>{}\n{}</pre>\n",
            escaped(&replay(context, part, finding.seed)),
            escaped(&shrink(context, part, finding.seed).unwrap_or_default())
        );
        for story in &finding.stories {
            stories += 1;
            if stories > STORIES_MAX {
                page.push_str("<p class=\"note\">Further lives of keys are left out here; the command above shows them.</p>\n");
                break;
            }
            lanes::story(page, story);
        }
        page.push_str("</section>\n");
    }
    let left: u64 = campaign
        .violated()
        .saturating_sub(found.len().min(FINDINGS_MAX) as u64);
    if left > 0 {
        let _ = writeln!(
            page,
            "<p class=\"note\">{} more violated runs are not shown.</p>",
            count(left)
        );
    }
}

fn executors(page: &mut String, campaign: &Campaign) {
    page.push_str(
        "<h2>Who ran it</h2>\n<p class=\"note\">The naive control meets the same faults with a service \
         that does nothing about duplicates, and answers before it syncs where power is cut. Where it shows \
         none, and loses nothing, the faults prove nothing.</p>\n\
         <div class=\"card wide\"><table>\n<tr><th>Executor</th><th>Verdict</th>\
         <th class=\"number\">Runs</th><th class=\"number\">Calls</th><th class=\"number\">p50</th>\
         <th class=\"number\">p99</th><th>Naive control</th><th>Repeats</th></tr>\n",
    );
    for part in &campaign.parts {
        let name = escaped(&part.executor);
        if let Some(reason) = &part.not_run {
            let _ = writeln!(
                page,
                "<tr><td><b>{name}</b></td><td colspan=\"7\"><span class=\"tag none\">not run</span> {}</td></tr>",
                escaped(reason.reason())
            );
            continue;
        }
        let quantile = |share| {
            part.latencies
                .quantile(share)
                .map_or("–".to_owned(), duration)
        };
        let repeats = match (part.repeated, part.differing.len()) {
            (0, _) => "<span class=\"tag none\">faults only</span>".to_owned(),
            (all, 0) => format!(
                "<span class=\"tag good\">{} of {}</span>",
                count(all),
                count(all)
            ),
            (all, not) => {
                let did = all.saturating_sub(not as u64);
                format!(
                    "<span class=\"tag bad\">{} of {}</span>",
                    count(did),
                    count(all)
                )
            }
        };
        let _ = writeln!(
            page,
            "<tr><td><b>{name}</b></td><td>{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td>{}</td><td>{repeats}<span class=\"small\">trace {:016x}</span></td></tr>",
            verdict_tag(part.verdict()),
            count(part.runs),
            count(part.figures.calls),
            quantile(0.5),
            quantile(0.99),
            control(&part.control),
            part.trace_hash,
        );
    }
    page.push_str("</table></div>\n");
    for part in &campaign.parts {
        for differing in part.differing.iter().take(3) {
            let _ = writeln!(
                page,
                "<p class=\"note\">{}: seed {} went two ways at event {}:</p><pre>{}\n{}</pre>",
                escaped(&part.executor),
                differing.seed,
                differing.event,
                short(&differing.one, LINE_CHARS_MAX),
                short(&differing.other, LINE_CHARS_MAX),
            );
        }
    }
}

fn control(control: &Control) -> String {
    match control {
        Control::NotAsked => "<span class=\"tag none\">not asked for</span>".to_owned(),
        Control::NotRun(reason) => format!(
            "<span class=\"tag none\">not run</span><span class=\"small\">{}</span>",
            escaped(reason.reason())
        ),
        Control::Ran {
            duplicated,
            operations,
            runs,
            lost,
            missing,
        } => {
            let class = if missing.is_empty() { "good" } else { "bad" };
            let runs = if *runs == 1 {
                "1 run".to_owned()
            } else {
                format!("{} runs", count(*runs))
            };
            format!(
                "<span class=\"tag {class}\">{} duplicated, {} lost</span><span class=\"small\">of {} keys in {runs}</span>",
                count(*duplicated),
                count(*lost),
                count(*operations),
            )
        }
    }
}

fn timelines(page: &mut String, campaign: &Campaign) {
    let with: Vec<_> = campaign
        .parts
        .iter()
        .filter_map(|part| {
            part.timeline
                .as_ref()
                .map(|(seed, timeline)| (part, *seed, timeline))
        })
        .filter(|(_, _, timeline)| !timeline.dots.is_empty())
        .collect();
    if with.is_empty() {
        return;
    }
    page.push_str("<h2>Calls over time</h2>\n<p class=\"note\">One run of each executor: when calls began and how long they took, how many ended, and when faults struck.</p>\n");
    page.push_str(plot::LEGEND);
    for (part, seed, timeline) in with {
        let _ = write!(
            page,
            "<section class=\"card wide\">\n<h3>{} <span class=\"tag none\">seed {seed}</span></h3>\n",
            escaped(&part.executor)
        );
        plot::timeline(page, timeline);
        if timeline.left_out > 0 {
            let _ = writeln!(
                page,
                "<p class=\"note\">{} calls are left out of the picture, evenly.</p>",
                count(timeline.left_out)
            );
        }
        page.push_str("</section>\n");
    }
}

fn goals(page: &mut String, campaign: &Campaign) {
    let goals = campaign.goals();
    let wanted = &campaign.scenario.goals;
    page.push_str("<h2>What arose</h2>\n<p class=\"note\">A run in which the feared situation never arose proves nothing about it. Wanted situations that never arose make the whole unknown.</p>\n<div class=\"card wide\"><table>\n<tr><th>Situation</th><th></th><th class=\"number\">Times</th></tr>\n");
    let others = goals
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !wanted.iter().any(|goal| goal == name));
    let rows = wanted
        .iter()
        .map(|name| (name.as_str(), true))
        .chain(others.map(|name| (name, false)));
    for (name, is_wanted) in rows.take(ROWS_MAX) {
        let times = goals.count(name);
        let mut missed = campaign.goals_missed().into_iter();
        let tag = match missed.find(|missed| missed.goal == name) {
            _ if !is_wanted => String::new(),
            None => "<span class=\"tag good\">wanted</span>".to_owned(),
            Some(missed) => format!(
                "<span class=\"tag bad\">wanted, never arose</span><span class=\"small\">{}</span>",
                escaped(missed.executor.unwrap_or_default())
            ),
        };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{tag}</td><td class=\"number\">{}</td></tr>",
            escaped(name),
            count(times)
        );
    }
    page.push_str("</table></div>\n");
}

fn not_run(page: &mut String, campaign: &Campaign) {
    let mut rows = String::new();
    let mut row = |who: &str, what: &str, why: &str| {
        let _ = writeln!(
            rows,
            "<tr><td><b>{}</b></td><td>{}</td><td>{}</td></tr>",
            escaped(who),
            escaped(what),
            short(why, LINE_CHARS_MAX)
        );
    };
    for part in &campaign.parts {
        if let Some(reason) = &part.not_run {
            row(&part.executor, "everything", reason.reason());
        }
        for (fault, reason) in &part.faults_not_run {
            row(&part.executor, fault, reason.reason());
        }
        for (goal, reason) in &part.goals_not_asked {
            row(&part.executor, goal, reason.reason());
        }
        if let Control::NotRun(reason) = &part.control {
            row(&part.executor, "the naive control", reason.reason());
        }
        for failure in &part.failures {
            row(
                &part.executor,
                &format!("seed {}", failure.seed),
                &failure.why,
            );
        }
        for (seed, doubts) in &part.doubts {
            row(
                &part.executor,
                &format!("seed {seed}, in full"),
                &doubts.join("; "),
            );
        }
    }
    if rows.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "<h2>What was not run, or not judged, and why</h2>\n<p class=\"note\">Nothing of this counts as \
         passed.</p>\n<div class=\"card wide\"><table>\n<tr><th>Executor</th><th>What</th>\
         <th>Why</th></tr>\n{rows}</table></div>\n"
    );
}

fn again(page: &mut String, campaign: &Campaign, context: &Context) {
    let executors: Vec<&str> = campaign
        .parts
        .iter()
        .map(|part| part.executor.as_str())
        .collect();
    let command = format!(
        "{} run {} --seeds {}..{} --exec {}",
        context.program,
        context.scenario,
        campaign.seeds_from,
        campaign.seeds_to,
        executors.join(",")
    );
    let _ = write!(
        page,
        "<h2>Run it again</h2>\n<pre>{}</pre>\n",
        escaped(&command)
    );
    let _ = write!(page, "<footer>onlyonce-chaos {}", env!("CARGO_PKG_VERSION"));
    for (name, text) in &context.facts {
        let _ = write!(page, " · {} {}", escaped(name), short(text, LINE_CHARS_MAX));
    }
    page.push_str("</footer>\n");
}

/// The command that runs one seed again.
pub(super) fn replay(context: &Context, part: &Part, seed: u64) -> String {
    format!(
        "{} run {} --exec {} --seeds {seed}",
        context.program, context.scenario, part.executor
    )
}

/// The command that makes one seed small, for an executor whose runs repeat.
pub(super) fn shrink(context: &Context, part: &Part, seed: u64) -> Option<String> {
    let Context {
        program, scenario, ..
    } = context;
    (part.repeated > 0).then(|| format!("{program} shrink {seed} --scenario {scenario}"))
}

pub(super) fn verdict_tag(verdict: Verdict) -> String {
    let class = match verdict {
        Verdict::Valid => "good",
        Verdict::Violated => "bad",
        Verdict::Unknown => "open",
    };
    format!("<span class=\"tag {class}\">{verdict}</span>")
}

/// So that a page stays within two mebibytes and a reader within an hour.
const FINDINGS_MAX: usize = 20;
const STORIES_MAX: usize = 16;
const ROWS_MAX: usize = 100;
const LINE_CHARS_MAX: usize = 400;
