//! The command `records`.

mod arguments;
mod care;
mod reach;
mod table;
mod user;

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use onlyonce::admin::{
    AdminReply, AdminRequest, KeyName, KeyView, ListQuery, Outcome, PageView, RecordView,
    StateView, StatsView, StepOutcome, SweptView,
};
use serde::Serialize;

pub(crate) use self::arguments::RecordsCommand;
use self::arguments::{KeyArguments, ListArguments, ResolveArguments};
use self::reach::Reached;
use super::schema::Unusable;
use super::{exit, output};

/// Why the command has ended otherwise than well: the code, and words for people.
#[derive(Debug)]
struct Failed {
    code: u8,
    words: String,
}

/// What an operator says of a call in doubt.
enum Word {
    OfCall(Outcome),
    OfStep { step: String, outcome: StepOutcome },
}

/// How it shows what it found.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Table,
}

pub(crate) async fn run(command: RecordsCommand) -> ExitCode {
    match ran(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => output::fail(failed.code, &failed.words),
    }
}

async fn ran(command: RecordsCommand) -> Result<(), Failed> {
    let form = if command.store().json {
        Form::Json
    } else {
        Form::Table
    };
    let named = reach::named(command.store())?;
    command.check(reach::opens(&named, command.store()))?;
    let reached = Reached::reach(named, command.store()).await?;
    let done = done(&reached, command, form).await;
    let closed = reached.close().await;
    done.and(closed)
}

async fn done(reached: &Reached, command: RecordsCommand, form: Form) -> Result<(), Failed> {
    match command {
        RecordsCommand::List(arguments) => list(reached, arguments, form).await,
        RecordsCommand::Show { key, answer_to, .. } => {
            show(reached, key, answer_to.as_deref(), form).await
        }
        RecordsCommand::Resolve(arguments) => resolve(reached, arguments, form).await,
        RecordsCommand::Seal { key, yes, .. } => seal(reached, key, yes, form).await,
        RecordsCommand::Sweep { confirm_clock, .. } => {
            let request = AdminRequest::Sweep { confirm_clock };
            match reached.ask(request).await? {
                AdminReply::Swept(swept) => swept_as(&swept, form),
                other => Err(unexpected(&other)),
            }
        }
        RecordsCommand::Stats { .. } => match reached.ask(AdminRequest::Stats).await? {
            AdminReply::Stats(stats) => stats_as(&stats, form),
            other => Err(unexpected(&other)),
        },
    }
}

async fn list(reached: &Reached, arguments: ListArguments, form: Form) -> Result<(), Failed> {
    let mut query = ListQuery {
        state: arguments.state.map(StateView::from),
        principal: arguments.principal,
        operation: arguments.operation,
        age_min_ms: arguments.older_than.map_or(0, |age| age.0),
        after: arguments.after,
        ..ListQuery::default()
    };
    let mut whole: Option<PageView> = None;
    loop {
        let have = whole.as_ref().map_or(0, |whole| whole.records.len());
        query.records_max = u32::try_from(arguments.limit as usize - have).unwrap_or(u32::MAX);
        let page = match reached.ask(AdminRequest::List(query.clone())).await? {
            AdminReply::Page(page) => page,
            other => return Err(unexpected(&other)),
        };
        let next = page.next.clone();
        let whole = match &mut whole {
            None => whole.insert(page),
            Some(whole) => {
                whole.records.extend(page.records);
                whole.next = page.next;
                whole
            }
        };
        if next.is_none() || whole.records.len() >= arguments.limit as usize {
            return print(whole, form, table::page);
        }
        query.after = next;
    }
}

async fn show(
    reached: &Reached,
    key: KeyArguments,
    answer_to: Option<&Path>,
    form: Form,
) -> Result<(), Failed> {
    let mut view = look(reached, key.into(), answer_to.is_some()).await?;
    if let Some(path) = answer_to {
        let answer = view
            .record
            .as_mut()
            .and_then(|record| record.answer.as_mut());
        let content = answer.and_then(|answer| answer.content.take());
        let Some(content) = content else {
            print(&view, form, table::key)?;
            let words = format!("no answer is kept; {} was not made", path.display());
            return Err(Failed::new(exit::BROKEN, words));
        };
        care::write_new(path, &content)?;
    }
    print(&view, form, table::key)
}

async fn resolve(reached: &Reached, arguments: ResolveArguments, form: Form) -> Result<(), Failed> {
    let word = word(&arguments)?;
    let key = KeyName::from(arguments.key);
    let by = match arguments.by {
        Some(by) => by,
        None => user::name(),
    };
    let seen = look(reached, key.clone(), false).await?;
    let is_it = |record: &&RecordView| {
        record.state == StateView::InDoubt && record.token == arguments.token
    };
    let Some(record) = seen.record.as_ref().filter(is_it) else {
        return superseded(&seen, form);
    };
    if let Word::OfStep { step, .. } = &word
        && !is_begun(record, step)
    {
        return not_begun(&seen, form);
    }
    // Who is asked is told; who is not asked has to say that he knows.
    if arguments.yes && matches!(word, Word::OfCall(Outcome::NotApplied)) {
        steps_to_repeat(record, arguments.repeat_steps)?;
    }
    if !arguments.yes {
        output::tell(&table::key(&seen));
        care::confirm(&table::question(&word, record, &by))?;
    }
    let is_of_step = matches!(word, Word::OfStep { .. });
    let token = arguments.token.clone();
    let request = match word {
        Word::OfCall(outcome) => AdminRequest::Resolve {
            key,
            token,
            outcome,
            by,
        },
        Word::OfStep { step, outcome } => AdminRequest::ResolveStep {
            key,
            token,
            step,
            outcome,
            by,
        },
    };
    match reached.ask(request).await? {
        AdminReply::Key(view) => {
            output::tell("resolved\n");
            print(&view, form, table::key)
        }
        AdminReply::Superseded(view) if is_of_step => not_begun(&view, form),
        AdminReply::Superseded(view) => superseded(&view, form),
        other => Err(unexpected(&other)),
    }
}

/// That the next call with this key executes steps again which are finished has to be said.
fn steps_to_repeat(record: &RecordView, is_said: bool) -> Result<(), Failed> {
    let steps = record.steps.iter();
    let finished = steps.filter(|step| step.result_bytes.is_some()).count();
    if finished == 0 || is_said {
        return Ok(());
    }
    let words = format!(
        "finished steps of this call: {finished}. The next call with this key would execute them again: \
         say --repeat-steps as well where they are undone, or say --applied. Nothing was changed"
    );
    Err(Failed::new(exit::MISUSED, words))
}

/// What the operator says.
fn word(arguments: &ResolveArguments) -> Result<Word, Failed> {
    if let Some(step) = &arguments.step {
        let outcome = match &arguments.result_file {
            Some(path) => StepOutcome::Done {
                result: care::read_result(path)?,
            },
            None => StepOutcome::NotExecuted,
        };
        let step = step.clone();
        return Ok(Word::OfStep { step, outcome });
    }
    Ok(Word::OfCall(match &arguments.answer_file {
        Some(path) => Outcome::Applied {
            format: arguments.format,
            answer: care::read_answer(path)?,
        },
        None => Outcome::NotApplied,
    }))
}

fn is_begun(record: &RecordView, step: &str) -> bool {
    let mut steps = record.steps.iter();
    steps.any(|other| other.name == step && other.result_bytes.is_none())
}

fn not_begun(view: &KeyView, form: Form) -> Result<(), Failed> {
    print(view, form, table::key)?;
    let words = "the call in doubt under that token has no such step that was begun and not \
                 finished (any more), as shown. Nothing was changed";
    Err(Failed::new(exit::BROKEN, words))
}

fn superseded(view: &KeyView, form: Form) -> Result<(), Failed> {
    print(view, form, table::key)?;
    let words = "the key is not in doubt under that token (any more): somebody has ended the doubt \
                 or it has moved on, as shown. Nothing was changed";
    Err(Failed::new(exit::BROKEN, words))
}

async fn seal(reached: &Reached, key: KeyArguments, yes: bool, form: Form) -> Result<(), Failed> {
    let key = KeyName::from(key);
    if !yes {
        let seen = look(reached, key.clone(), false).await?;
        output::tell(&table::key(&seen));
        care::confirm("Make this key impossible? It cannot be undone.")?;
    }
    let view = match reached.ask(AdminRequest::Seal { key }).await? {
        AdminReply::Key(view) => view,
        other => return Err(unexpected(&other)),
    };
    print(&view, form, table::key)?;
    if view.state == StateView::Sealed {
        return Ok(());
    }
    let words = "the key was used before and is as shown; it was not sealed";
    Err(Failed::new(exit::BROKEN, words))
}

fn swept_as(swept: &SweptView, form: Form) -> Result<(), Failed> {
    print(swept, form, table::swept)?;
    match &swept.paused {
        None => Ok(()),
        Some(why) => {
            let words = format!(
                "nothing was removed: {why}. Look at the clock of the server; if it is right, say \
                 --confirm-clock"
            );
            Err(Failed::new(exit::BROKEN, words))
        }
    }
}

fn stats_as(stats: &StatsView, form: Form) -> Result<(), Failed> {
    print(stats, form, table::stats)?;
    match &stats.poisoned {
        None => Ok(()),
        Some(why) => {
            let words = format!(
                "the store acknowledges nothing more since a write has failed: {}. See to the \
                 disk, then start its server anew",
                table::shown(why)
            );
            Err(Failed::new(exit::BROKEN, words))
        }
    }
}

async fn look(reached: &Reached, key: KeyName, with_answer: bool) -> Result<KeyView, Failed> {
    match reached.ask(AdminRequest::Show { key, with_answer }).await? {
        AdminReply::Key(view) => Ok(view),
        other => Err(unexpected(&other)),
    }
}

fn print<T: Serialize>(what: &T, form: Form, table: impl Fn(&T) -> String) -> Result<(), Failed> {
    let text = match form {
        Form::Table => table(what),
        Form::Json => {
            let text = serde_json::to_string(what);
            let text = text.map_err(|error| Failed::new(exit::UNKNOWN, error))?;
            format!("{text}\n")
        }
    };
    output::print(&text).map_err(|error| {
        let words = format!("standard output cannot be written: {error}");
        Failed::new(exit::UNKNOWN, words)
    })
}

fn unexpected(_: &AdminReply) -> Failed {
    Failed::new(exit::UNKNOWN, "the server answered another question")
}

impl From<Unusable> for Failed {
    fn from(unusable: Unusable) -> Self {
        Self::new(unusable.code, unusable)
    }
}

// === impl Failed ===

impl Failed {
    fn new(code: u8, words: impl Display) -> Self {
        Self {
            code,
            words: words.to_string(),
        }
    }
}
