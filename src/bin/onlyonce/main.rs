//! The program `onlyonce`: parses arguments and calls the library.

mod chaos;
mod demo;
mod exit;
mod output;
mod progress;
mod proxy;
mod records;
mod schema;
mod stop;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
#[cfg(unix)]
use onlyonce::demo::{ClusterGuarantee, ClusterOptions, ClusterServerOptions};
use onlyonce::demo::{DemoOptions, DemoServerOptions};

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
    #[command(after_help = exit::CODES)]
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
        /// Several servers on one database: postgres://USER@HOST/DATABASE, or postgres for one that is
        /// started for the run, and restarted on the way. Schemas are made in it and removed again
        #[cfg(unix)]
        #[arg(long, value_name = "URL")]
        store: Option<String>,
        /// With --store: how many servers; --kills then says how often one is killed, one is paused,
        /// and the database restarted
        #[cfg(unix)]
        #[arg(long, requires = "store", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=16))]
        servers: u64,
        /// With --store: claimed, where the bank is an outside system that is asked about doubts, or
        /// transactional, where transfer, claim and answer are one commit
        #[cfg(unix)]
        #[arg(long, requires = "store", default_value = "claimed", value_parser = guarantee)]
        guarantee: ClusterGuarantee,
        /// One JSON document on standard output, words on standard error
        #[arg(long)]
        json: bool,
    },
    /// Makes any HTTP service safe to retry: in front of it, or beside its client
    #[command(after_help = exit::PROXY_CODES)]
    Proxy(Box<proxy::ProxyArguments>),
    /// Fault injection: scenarios run from seeds, judged and reported
    #[command(subcommand)]
    Chaos(chaos::ChaosCommand),
    /// What a store holds: lists and resolves calls in doubt, seals keys, sweeps, counts
    #[command(subcommand, after_help = exit::RECORDS_CODES)]
    Records(records::RecordsCommand),
    /// The schema of a store that servers share
    #[command(subcommand, after_help = exit::STORE_CODES)]
    Store(schema::StoreCommand),
    /// One of the servers of the demo, in a process of its own. The database is in
    /// ONLYONCE_DEMO_DATABASE
    #[cfg(unix)]
    #[command(hide = true)]
    DemoClusterServer {
        #[arg(long)]
        schemas: String,
        #[arg(long)]
        naive: bool,
        #[arg(long)]
        transactional: bool,
    },
    /// The server of the demo, in a process of its own
    #[command(hide = true)]
    DemoServer {
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        naive: bool,
    },
    /// The server of a fault injection run, in a process of its own
    #[command(hide = true)]
    ChaosServer(chaos::ServerArguments),
    /// The clients of a fault injection run, in a process of their own
    #[command(hide = true)]
    ChaosClients(chaos::ClientsArguments),
}

fn main() -> ExitCode {
    // Clap ends the process with 2 on bad usage, as this program promises.
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    match arguments.command {
        Command::Demo {
            seed,
            calls,
            kills,
            #[cfg(unix)]
            store,
            #[cfg(unix)]
            servers,
            #[cfg(unix)]
            guarantee,
            json,
        } => {
            #[cfg(unix)]
            if let Some(store) = store {
                let options = ClusterOptions {
                    guarantee,
                    seed,
                    calls,
                    kills,
                    servers,
                };
                return runtime.block_on(demo::run_cluster(options, &store, json));
            }
            runtime.block_on(demo::run(DemoOptions { seed, calls, kills }, json))
        }
        Command::Proxy(arguments) => runtime.block_on(proxy::run(*arguments)),
        Command::Chaos(command) => chaos::run(command, &runtime),
        Command::Records(command) => runtime.block_on(records::run(command)),
        Command::Store(command) => runtime.block_on(schema::run(command)),
        #[cfg(unix)]
        Command::DemoClusterServer {
            schemas,
            naive,
            transactional,
        } => {
            let guarantee = match transactional {
                true => ClusterGuarantee::Transactional,
                false => ClusterGuarantee::Claimed,
            };
            let serving = onlyonce::demo::serve_cluster(ClusterServerOptions {
                url: std::env::var("ONLYONCE_DEMO_DATABASE").unwrap_or_default(),
                prefix: schemas,
                guarantee: (!naive).then_some(guarantee),
            });
            match runtime.block_on(serving) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => output::fail(exit::UNKNOWN, &*error),
            }
        }
        Command::DemoServer { folder, naive } => {
            let serving = onlyonce::demo::serve(DemoServerOptions { folder, naive });
            match runtime.block_on(serving) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => output::fail(exit::UNKNOWN, &*error),
            }
        }
        Command::ChaosServer(arguments) => runtime.block_on(chaos::serve(arguments)),
        Command::ChaosClients(arguments) => {
            let code = runtime.block_on(chaos::call(arguments));
            // A read of standard input is under way, for which its end would wait.
            runtime.shutdown_background();
            code
        }
    }
}

#[cfg(unix)]
fn guarantee(word: &str) -> Result<ClusterGuarantee, String> {
    let all = [ClusterGuarantee::Claimed, ClusterGuarantee::Transactional];
    let found = all.into_iter().find(|guarantee| guarantee.name() == word);
    found.ok_or_else(|| "say claimed or transactional".to_owned())
}
