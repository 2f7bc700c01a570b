//! What the command is told.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use onlyonce::admin::{KeyName, StateView};

use super::Failed;
use crate::{exit, schema};

#[derive(Subcommand)]
pub(crate) enum RecordsCommand {
    /// Calls that are in progress and in doubt. What is settled is counted by `stats`
    List(ListArguments),
    /// What is known of one key, with the token that `resolve` asks for
    Show {
        #[command(flatten)]
        store: StoreArguments,
        #[command(flatten)]
        key: KeyArguments,
        /// Writes the answer's bytes to this file, which must not be there yet
        #[arg(long, value_name = "FILE")]
        answer_to: Option<PathBuf>,
    },
    /// Ends a doubt with what became known of the call, or says what became of one of its steps
    Resolve(ResolveArguments),
    /// Makes a key impossible that nobody has used
    Seal {
        #[command(flatten)]
        store: StoreArguments,
        #[command(flatten)]
        key: KeyArguments,
        /// Asks nothing back
        #[arg(long)]
        yes: bool,
    },
    /// Removes answers past their retention and tombstones past the horizon
    Sweep {
        #[command(flatten)]
        store: StoreArguments,
        /// Somebody has looked at the clock of the server and found it right
        #[arg(long)]
        confirm_clock: bool,
    },
    /// The figures of the store
    Stats {
        #[command(flatten)]
        store: StoreArguments,
    },
}

/// Which store, and how it is reached.
#[derive(Args)]
pub(crate) struct StoreArguments {
    /// sled:PATH, whose server is asked through its admin socket, or
    /// postgres://USER@HOST/DATABASE, which is asked directly
    #[arg(long, value_name = "URL")]
    pub(crate) store: String,
    /// With postgres://: the schema that the store is in
    #[arg(long, value_name = "NAME", default_value = schema::DEFAULT)]
    pub(crate) schema: String,
    /// With sled: opens the store where no server owns it. That changes it: calls that were left in progress
    /// are in doubt from then on
    #[arg(long)]
    pub(crate) open: bool,
    /// With --open, and with postgres://: how long the store's servers keep answers
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) retention_hours: Option<u32>,
    /// With --open, and with postgres://: how long the store's servers remember settled calls
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) horizon_hours: Option<u32>,
    /// One JSON document on standard output, words on standard error
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether a command opens the store itself, rather than ask a server that has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opens {
    No,
    Yes,
}

/// Which key. Its scope must be said.
#[derive(Args)]
pub(crate) struct KeyArguments {
    /// The idempotency key
    #[arg(long)]
    key: String,
    /// The principal whose key it is
    #[arg(long, required_unless_present = "global")]
    principal: Option<String>,
    /// The key is in the global scope
    #[arg(long, conflicts_with = "principal")]
    global: bool,
    /// The operation, where scopes are narrowed to one
    #[arg(long)]
    operation: Option<String>,
}

#[derive(Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Only these
    #[arg(long)]
    pub(super) state: Option<Listed>,
    /// Only those of this principal
    #[arg(long)]
    pub(super) principal: Option<String>,
    /// Only those of this operation
    #[arg(long)]
    pub(super) operation: Option<String>,
    /// Only what is in doubt, or was claimed, for at least as long: 90s, 15m, 2h, 3d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(super) older_than: Option<Age>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) limit: u32,
    /// Goes on where an earlier list has ended: what it said as `next`
    #[arg(long, value_name = "PLACE")]
    pub(super) after: Option<String>,
}

#[derive(Args)]
pub(crate) struct ResolveArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    pub(super) key: KeyArguments,
    /// The token that is in doubt, as `show` and `list` say it
    #[arg(long)]
    pub(super) token: String,
    /// The effect happened; its answer is in --answer-file
    #[arg(
        long,
        requires = "answer_file",
        required_unless_present_any = ["not_applied", "step"]
    )]
    applied: bool,
    /// The effect did not happen and cannot happen any more: the key can be used again
    #[arg(long, conflicts_with = "applied")]
    not_applied: bool,
    /// With --yes, of a call whose steps are partly finished: the next call with this key executes those
    /// again
    #[arg(long, requires = "not_applied")]
    pub(super) repeat_steps: bool,
    /// The answer, as the protocol's adapter encodes it
    #[arg(long, value_name = "FILE", requires = "applied")]
    pub(super) answer_file: Option<PathBuf>,
    /// Of a call that keeps a journal: only this step is resolved, which was begun and not finished. The
    /// call stays in doubt, and goes on when it was the only such step
    #[arg(long, value_name = "NAME", conflicts_with_all = ["applied", "not_applied"], requires = "of_step")]
    pub(super) step: Option<String>,
    /// The step was not executed and cannot be any more: the call goes on with it
    #[arg(long, group = "of_step", requires = "step")]
    not_executed: bool,
    /// The step took effect: the call goes on behind it, with the result in this file
    #[arg(long, value_name = "FILE", group = "of_step", requires = "step")]
    pub(super) result_file: Option<PathBuf>,
    /// The number of the answer's encoding; the native RPC's has 1
    #[arg(long, default_value_t = 1, requires = "applied")]
    pub(super) format: u16,
    /// Who resolves: kept with the record. The operating system's user by default
    #[arg(long, value_name = "NAME")]
    pub(super) by: Option<String>,
    /// Asks nothing back
    #[arg(long)]
    pub(super) yes: bool,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Listed {
    InDoubt,
    InProgress,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age(pub(super) u64);

// === impl RecordsCommand ===

impl RecordsCommand {
    pub(super) const fn store(&self) -> &StoreArguments {
        match self {
            Self::List(arguments) => &arguments.store,
            Self::Resolve(arguments) => &arguments.store,
            Self::Seal { store, .. }
            | Self::Show { store, .. }
            | Self::Stats { store }
            | Self::Sweep { store, .. } => store,
        }
    }

    /// What clap cannot say. `opens` is whether this command opens the store itself.
    pub(super) fn check(&self, opens: Opens) -> Result<(), Failed> {
        let store = self.store();
        let told = [store.retention_hours, store.horizon_hours];
        if opens == Opens::No && told.iter().any(Option::is_some) {
            let words = "--retention-hours and --horizon-hours are for a store that this command \
                         opens: say --open too, or leave them to the server";
            return Err(Failed::new(exit::MISUSED, words));
        }
        if matches!(self, Self::Sweep { .. })
            && opens == Opens::Yes
            && told.iter().any(Option::is_none)
        {
            let words = "this sweep needs --retention-hours and --horizon-hours, as the store's \
                         servers have them: with shorter ones it would forget calls that they \
                         promise to remember";
            return Err(Failed::new(exit::MISUSED, words));
        }
        Ok(())
    }
}

impl From<KeyArguments> for KeyName {
    fn from(arguments: KeyArguments) -> Self {
        Self {
            principal: arguments.principal,
            operation: arguments.operation,
            key: arguments.key,
        }
    }
}

impl From<Listed> for StateView {
    fn from(listed: Listed) -> Self {
        match listed {
            Listed::InDoubt => Self::InDoubt,
            Listed::InProgress => Self::InProgress,
        }
    }
}

fn age(text: &str) -> Result<Age, String> {
    let wrong = || "an age is a number and s, m, h or d, such as 15m".to_owned();
    let seconds = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Age(u64::from(count) * seconds * 1_000))
}
