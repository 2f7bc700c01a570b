//! The program `onlyonce`: parses arguments and calls the library.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use onlyonce::demo::{self, DemoOptions, DemoServerOptions, Progress};
use parking_lot::Mutex;

/// A reliability layer that makes any remote call safe to retry.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The same bank transfers with naive retries and with onlyonce, over a bad network and a
    /// server that is killed
    Demo {
        /// Decides transfers, faults and kills
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Calls in each column
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
        calls: u64,
        /// How often the server is killed in each column
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=100))]
        kills: u64,
        /// One JSON document on standard output, words on standard error
        #[arg(long)]
        json: bool,
    },
    /// The server of the demo, in a process of its own
    #[command(hide = true)]
    DemoServer {
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        naive: bool,
    },
}

/// A bar on a terminal, a line a column elsewhere.
struct Bar(Mutex<Option<ProgressBar>>);

fn main() -> ExitCode {
    // Clap ends the process with 2 on bad usage, as this program promises.
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match arguments.command {
        Command::Demo {
            seed,
            calls,
            kills,
            json,
        } => runtime.block_on(run_demo(DemoOptions { seed, calls, kills }, json)),
        Command::DemoServer { folder, naive } => {
            match runtime.block_on(demo::serve(DemoServerOptions { folder, naive })) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&*error),
            }
        }
    }
}

async fn run_demo(options: DemoOptions, json: bool) -> ExitCode {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return fail(&error),
    };
    let bar = Bar(Mutex::new(None));
    let report = demo::run(options, folder.path(), &bar).await;
    bar.clear();
    let report = match report {
        Ok(report) => report,
        Err(error) => return fail(&error),
    };
    if json {
        eprint!("{}", report.to_table());
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_table());
    }
    if report.promises_held() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(BROKEN)
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("onlyonce: {error}");
    ExitCode::from(UNKNOWN)
}

impl Bar {
    fn clear(&self) {
        if let Some(bar) = self.0.lock().take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn begin(&self, column: &str, calls: u64) {
        self.clear();
        if !std::io::stderr().is_terminal() {
            eprintln!("{column}: {calls} calls");
            return;
        }
        let style = ProgressStyle::with_template("{msg:>8} {wide_bar} {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(calls)
            .with_style(style)
            .with_message(column.to_owned());
        *self.0.lock() = Some(bar);
    }

    fn at(&self, ended: u64) {
        if let Some(bar) = &*self.0.lock() {
            bar.set_position(ended);
        }
    }
}

/// A promise was broken.
const BROKEN: u8 = 1;

/// The demo itself could not be run, so nothing is known.
const UNKNOWN: u8 = 3;
