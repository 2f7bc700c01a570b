//! `chaos run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::Args;
use onlyonce::chaos::{Executor, scenario};
use onlyonce::demo::Progress;
use onlyonce_chaos::campaign::{self, Campaign, Options};
use onlyonce_chaos::report::{self, Context};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::super::progress::Bar;
use super::super::stop::Stop;
use super::super::{exit, output};
use super::recorded::Recorded;
use super::{ended, executors, write, write_history};

#[derive(Args)]
pub(crate) struct RunArguments {
    /// The name of a scenario that comes along, or a TOML file
    scenario: String,
    /// Which seeds: `7`, or `1..2000` with both ends
    #[arg(long, default_value = "1..20")]
    seeds: Seeds,
    /// Which executors, with commas in between; all of them where this is not said
    #[arg(long, value_delimiter = ',')]
    exec: Vec<String>,
    /// How many runs go on side by side
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// How many calls a run makes, instead of what the scenario says
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    calls: Option<u64>,
    /// Runs the service without dedupe, which must go wrong
    #[arg(long)]
    naive: bool,
    /// Leaves the naive control out
    #[arg(long)]
    no_control: bool,
    /// Writes a page
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Writes JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Writes what happened as lines of JSON: of one seed and one executor. Control, goals and faults are
    /// asked for as in any other run
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Lines of JSON on standard output, words on standard error
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seeds {
    from: u64,
    to: u64,
}

pub(super) fn run(arguments: &RunArguments, runtime: &Runtime) -> ExitCode {
    let misused = |text: &str| output::fail(exit::MISUSED, text);
    let mut wanted = match scenario(&arguments.scenario) {
        Ok(scenario) => scenario,
        Err(error) => return misused(&error.to_string()),
    };
    if let Some(calls) = arguments.calls {
        wanted.calls = calls;
    }
    if arguments.naive {
        wanted = wanted.naive();
    }
    let executors = match executors(&arguments.exec) {
        Ok(executors) => executors,
        Err(text) => return misused(&text),
    };
    let Seeds { from, to } = arguments.seeds;
    if arguments.history.is_some() && executors.len() != 1 {
        return misused("--history is of one executor: name it with --exec");
    }
    if arguments.history.is_some() && from != to {
        return misused("--history is of one seed: name it with --seeds");
    }
    let stopped = watch_for_stop(runtime);
    let bar = Bar::default();
    let current = Mutex::new(String::new());
    let runs = to.saturating_sub(from).saturating_add(1);
    let progress = |executor: &str, done: u64| {
        let mut current = current.lock();
        if *current != executor {
            executor.clone_into(&mut current);
            bar.begin_of(executor, runs, "runs");
        }
        bar.at(done);
        stopped.load(Ordering::Relaxed) == 0
    };
    let executors: Vec<Recorded<'_>> = executors
        .iter()
        .map(|executor| Recorded::new(executor.as_ref(), wanted.mode))
        .collect();
    let options = Options {
        seeds_from: from,
        seeds_to: to,
        jobs: arguments.jobs.into(),
        control: !arguments.no_control && !arguments.naive,
    };
    let all: Vec<&dyn Executor> = executors.iter().map(|one| one as &dyn Executor).collect();
    let campaign = campaign::run(&wanted, &all, &options, &progress);
    bar.clear();
    match stopped.load(Ordering::Relaxed) {
        0 => {}
        code => return ExitCode::from(code),
    }
    if let Some(path) = &arguments.history
        && let Some(record) = executors.into_iter().next().and_then(Recorded::into_run)
        && let Err(error) = write_history(record, &wanted, path)
    {
        return output::fail(exit::UNKNOWN, &error);
    }
    tell(arguments, &campaign)
}

fn tell(arguments: &RunArguments, campaign: &Campaign) -> ExitCode {
    let context = context(arguments);
    let files = [
        (
            &arguments.report,
            report::html as fn(&Campaign, &Context) -> String,
        ),
        (&arguments.junit, report::junit),
    ];
    for (path, told) in files {
        let Some(path) = path else { continue };
        if let Err(text) = write(path, &told(campaign, &context)) {
            return output::fail(exit::UNKNOWN, &text);
        }
    }
    let text = report::text(campaign, &context);
    if arguments.json {
        output::tell(&text);
        return ended(campaign.exit_code(), &report::json(campaign, &context));
    }
    ended(campaign.exit_code(), &text)
}

fn context(arguments: &RunArguments) -> Context {
    let mut scenario = in_a_shell(&arguments.scenario);
    if let Some(calls) = arguments.calls {
        scenario.push_str(&format!(" --calls {calls}"));
    }
    if arguments.naive {
        scenario.push_str(" --naive");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Context {
        scenario,
        program: "onlyonce chaos".to_owned(),
        facts: vec![
            (
                "on".to_owned(),
                format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            ),
            ("with".to_owned(), format!("{cores} cores")),
        ],
    }
}

/// As a shell takes it for one word.
fn in_a_shell(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The exit code of whoever asks this to stop, from then on; 0 before.
fn watch_for_stop(runtime: &Runtime) -> Arc<AtomicU8> {
    let stopped = Arc::new(AtomicU8::new(0));
    let code = Arc::clone(&stopped);
    runtime.spawn(async move {
        // Where it cannot be listened for, the system ends the process by itself.
        if let Ok(mut stop) = Stop::listen() {
            code.store(stop.asked().await, Ordering::Relaxed);
        }
    });
    stopped
}

// === impl Seeds ===

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let number = text.strip_prefix('=').unwrap_or(text).parse::<u64>();
            number.map_err(|_| {
                format!(
                    "`{text}` is no seed: one is a number from 0 to {}",
                    u64::MAX
                )
            })
        };
        let (from, to) = match text.split_once("..") {
            None => (number(text)?, number(text)?),
            Some((from, to)) => (number(from)?, number(to)?),
        };
        if from > to {
            return Err(format!("{from} is after {to}"));
        }
        Ok(Self { from, to })
    }
}
