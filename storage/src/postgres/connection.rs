//! One connection: how it is made, and what is made sure of before it is used.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, SimpleQueryMessage, Statement};

use super::address::{self, Encryption};
use super::direct;
use super::error::{Failure, OpenError};
use super::kept::{Kept, Worth};
use super::migrations::{self, Schema};
use super::options::PostgresOptions;
use super::statement::Told;
use crate::StoreId;

/// A connection. Dropping it closes it, whatever it is waiting for: an answer that comes later is
/// nobody's.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    io: JoinHandle<()>,
    /// Nothing where a pooler may lie between.
    kept: Option<Kept>,
}

/// Why a handler's statement was not answered.
pub(super) struct Unanswered {
    pub(super) error: tokio_postgres::Error,
    /// What was kept of the statement was of no use any more; nothing of it was done.
    pub(super) has_lapsed: bool,
}

/// The address as it was given, one for each host that it names.
fn addresses(options: &PostgresOptions) -> Result<(Vec<Config>, Encryption), OpenError> {
    let (config, encryption) = address::parse(&options.url)?;
    let ssl_mode = match encryption {
        Encryption::None => SslMode::Disable,
        Encryption::Unverified | Encryption::Verified { .. } => SslMode::Require,
    };
    if ssl_mode == SslMode::Require && !cfg!(feature = "postgres-tls") {
        return Err(OpenError::TlsDemanded);
    }
    let hosts = config.get_hosts();
    if hosts.is_empty() {
        let reason = "it names no host".to_owned();
        return Err(OpenError::Address { reason });
    }
    let of_host = |(place, host): (usize, &Host)| {
        let mut one = Config::new();
        match host {
            Host::Tcp(name) => one.host(name).ssl_mode(ssl_mode),
            // It does not leave the machine, and nobody is named by it.
            #[cfg(unix)]
            Host::Unix(path) => one.host_path(path).ssl_mode(SslMode::Disable),
        };
        if let Some(address) = config.get_hostaddrs().get(place) {
            one.hostaddr(*address);
        }
        let ports = config.get_ports();
        if let Some(port) = ports.get(place).or(ports.first()) {
            one.port(*port);
        }
        if let Some(user) = config.get_user() {
            one.user(user);
        }
        if let Some(password) = config.get_password() {
            one.password(password);
        }
        if let Some(name) = config.get_dbname() {
            one.dbname(name);
        }
        if let Some(more) = config.get_options() {
            one.options(more);
        }
        one.application_name(config.get_application_name().unwrap_or("onlyonce"))
            .target_session_attrs(config.get_target_session_attrs())
            .channel_binding(config.get_channel_binding())
            // A connection whose other end is gone without a word is noticed while nobody asks.
            .keepalives(true)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE / 3)
            .keepalives_retries(3)
            .tcp_user_timeout(options.answer_within)
            .ssl_negotiation(config.get_ssl_negotiation());
        one
    };
    Ok((hosts.iter().enumerate().map(of_host).collect(), encryption))
}

/// What is done with a word that somebody has told.
pub(super) type Heard = Box<dyn FnMut(&str) + Send>;

/// Ends when the connection does.
pub(super) type Ended = oneshot::Receiver<()>;

/// A connection that nothing is known of yet, to the first host that gives one. Each has its share of
/// the time, and some is left for what is asked: one that takes the connection and then says nothing
/// must not keep us from the next.
pub(super) async fn connect(options: &PostgresOptions) -> Result<Connection, OpenError> {
    let (connection, _) = connect_hearing(options, Box::new(|_| {})).await?;
    Ok(connection)
}

/// The same, with an ear for what others tell.
pub(super) async fn connect_hearing(
    options: &PostgresOptions,
    mut heard: Heard,
) -> Result<(Connection, Ended), OpenError> {
    let (configs, encryption) = addresses(options)?;
    let share = match u32::try_from(configs.len()) {
        Ok(1) => options.answer_within,
        Ok(hosts) => options.answer_within / hosts.saturating_add(1),
        Err(_) => Duration::ZERO,
    };
    let mut refused = None;
    for config in configs {
        match tokio::time::timeout(share, connect_to(&config, options, &encryption)).await {
            Ok(Ok((client, mut messages))) => {
                let (ends, ended) = oneshot::channel();
                let io = tokio::spawn(async move {
                    // OK to ignore how it ends because whoever waits for an answer is told that it has.
                    while let Some(Ok(message)) = poll_fn(|context| messages(context)).await {
                        if let AsyncMessage::Notification(told) = message {
                            heard(told.payload());
                        }
                    }
                    drop(ends);
                });
                let connection = Connection {
                    client,
                    io,
                    kept: None,
                };
                return Ok((connection, ended));
            }
            Ok(Err(error)) => refused = Some(error),
            Err(_) => {
                let reason = format!("no answer within {share:?}");
                refused.get_or_insert(OpenError::Unreachable { reason });
            }
        }
    }
    Err(refused.unwrap_or(OpenError::Unreachable {
        reason: "no host was asked".to_owned(),
    }))
}

/// What the database says of itself, until the connection ends.
type Messages = Box<
    dyn FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> + Send,
>;

/// A connection to one host, encrypted where that is demanded.
async fn connect_to(
    config: &Config,
    options: &PostgresOptions,
    encryption: &Encryption,
) -> Result<(Client, Messages), OpenError> {
    #[cfg(feature = "postgres-tls")]
    if let Some(connector) = options.tls.connector(encryption)? {
        let begun = connector.begun();
        let connected = config.connect(connector).await;
        let (client, mut io) = connected.map_err(|error| {
            super::tls::refused(&error, &begun).unwrap_or_else(|| OpenError::of(&error))
        })?;
        return Ok((client, Box::new(move |context| io.poll_message(context))));
    }
    let _ = (options, encryption);
    let connected = config.connect(NoTls).await;
    let (client, mut io) = connected.map_err(|error| OpenError::of(&error))?;
    Ok((client, Box::new(move |context| io.poll_message(context))))
}

/// A connection to a store: of the right version, and known to it. Within the patience of who asks.
pub(super) async fn arrive(
    options: &PostgresOptions,
    schema: &Schema,
) -> Result<(Connection, StoreId), OpenError> {
    let within = options.answer_within;
    let arrived = tokio::time::timeout(within, arrive_at(options, schema)).await;
    arrived.unwrap_or_else(|_| {
        let reason = format!("no answer within {within:?}");
        Err(OpenError::Unreachable { reason })
    })
}

async fn arrive_at(
    options: &PostgresOptions,
    schema: &Schema,
) -> Result<(Connection, StoreId), OpenError> {
    let mut connection = connect(options).await?;
    let within = options.answer_within.as_millis();
    // A commit that is acknowledged before it is written would be no acknowledgement. What waits for
    // a row reads it anew once it has it. And no statement outlives the patience of who asked. A plan
    // is kept for as long as the statistics are: one that was made while a table was empty must not
    // read all of it an hour later (enable_seqscan), and what that costs on paper must not have it
    // compiled (jit).
    let settings = format!(
        "SELECT pg_backend_pid(), set_config('statement_timeout', '{within}', false),
            set_config('default_transaction_isolation', 'read committed', false),
            set_config('enable_seqscan', 'off', false),
            set_config('jit', 'off', false),
            CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', false) END"
    );
    let rows = connection.rows(&Told::new(settings)).await?;
    let backend: Option<i32> = rows.first().and_then(|row| row.try_get(0).ok());
    if !options.behind_pooler
        && backend.is_some()
        && direct::greeted_by(&connection.client).await == backend
    {
        connection.kept = Some(Kept::default());
        // What was said for a transaction alone is gone when that is aborted: this is what holds then.
        let within = (within * ABORTED_IDLE).min(MILLISECONDS_MAX);
        let settings =
            format!("SELECT set_config('idle_in_transaction_session_timeout', '{within}', false)");
        connection.rows(&Told::new(settings)).await?;
    }
    migrations::check(&connection, schema).await?;
    let ask = Told::new(schema.sql("SELECT {schema}.arrive($1)"));
    let rows = connection.rows(&ask.time(options.told_now())).await?;
    let id = rows.first().and_then(|row| row.try_get(0).ok());
    let id = id.and_then(|id: Vec<u8>| id.try_into().ok());
    let Some(id) = id else {
        let reason = "the row of the store cannot be read".to_owned();
        return Err(OpenError::Failed { reason });
    };
    Ok((connection, StoreId::from_bytes(id)))
}

// === impl Connection ===

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Statements without values, while a store is opened or migrated.
    pub(super) async fn run(&self, sql: &str) -> Result<(), OpenError> {
        let ran = self.client.batch_execute(sql).await;
        ran.map_err(|error| OpenError::of(&error))
    }

    /// A statement while a store is opened or migrated.
    pub(super) async fn rows(&self, told: &Told) -> Result<Vec<Row>, OpenError> {
        let asked = self.client.query_typed(told.sql(), &told.values()).await;
        asked.map_err(|error| OpenError::of(&error))
    }

    /// A word that begins or ends a transaction, or a part of one.
    pub(super) async fn begin_or_end(&self, sql: &str) -> Result<(), Failure> {
        let ran = self.client.batch_execute(sql).await;
        ran.map_err(|error| Failure::of(&error))
    }

    /// The same, of which the last statement asks something: the first value of its first row, as text.
    pub(super) async fn begin_and_ask(&self, sql: &str) -> Result<Option<String>, Failure> {
        let ran = self.client.simple_query(sql).await;
        let told = ran.map_err(|error| Failure::of(&error))?;
        Ok(told.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// Whether it keeps statements: it leads to one backend.
    pub(super) const fn keeps_statements(&self) -> bool {
        self.kept.is_some()
    }

    /// The rows of a handler's statement.
    pub(super) async fn query(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Unanswered> {
        let named = self.named(sql, values, Worth::WhenAskedAgain).await;
        let answer = match named.map_err(Unanswered::as_it_is)? {
            None => self.client.query_typed(sql, values).await,
            Some(statement) => {
                let asked = self.client.query(&statement, &without_kinds(values)).await;
                return asked.map_err(|error| self.unanswered(error));
            }
        };
        answer.map_err(Unanswered::as_it_is)
    }

    /// How many rows a handler's statement has changed.
    pub(super) async fn execute(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, Unanswered> {
        let named = self.named(sql, values, Worth::WhenAskedAgain).await;
        let answer = match named.map_err(Unanswered::as_it_is)? {
            None => self.client.execute_typed(sql, values).await,
            Some(statement) => {
                let asked = self
                    .client
                    .execute(&statement, &without_kinds(values))
                    .await;
                return asked.map_err(|error| self.unanswered(error));
            }
        };
        answer.map_err(Unanswered::as_it_is)
    }

    /// A statement of a call.
    pub(super) async fn ask(&self, told: &Told) -> Result<Vec<Row>, Failure> {
        let statement = self.ready(told).await?;
        self.ask_as(statement.as_ref(), told).await
    }

    /// Makes a statement known to the backend, where that is of use. Asked apart where the statement must be
    /// on its way before another word: [`ask_as`](Self::ask_as) then sends it when it is first polled.
    pub(super) async fn ready(&self, told: &Told) -> Result<Option<Statement>, Failure> {
        let named = self.named(told.sql(), &told.values(), Worth::AtOnce).await;
        named.map_err(|error| Failure::of(&error))
    }

    /// A statement of a call that was made ready.
    pub(super) async fn ask_as(
        &self,
        named: Option<&Statement>,
        told: &Told,
    ) -> Result<Vec<Row>, Failure> {
        let values = told.values();
        let Some(statement) = named else {
            let asked = self.client.query_typed(told.sql(), &values).await;
            return asked.map_err(|error| Failure::of(&error));
        };
        let asked = self.client.query(statement, &without_kinds(&values)).await;
        asked.map_err(|error| {
            let Unanswered { error, has_lapsed } = self.unanswered(error);
            match Failure::of(&error) {
                Failure::Refused(reason) if has_lapsed => Failure::Conflict(reason),
                failure => failure,
            }
        })
    }

    async fn named(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
        worth: Worth,
    ) -> Result<Option<Statement>, tokio_postgres::Error> {
        let Some(kept) = &self.kept else {
            return Ok(None);
        };
        let kinds: Vec<Type> = values.iter().map(|(_, kind)| kind.clone()).collect();
        kept.statement(&self.client, sql, &kinds, worth).await
    }

    /// What the refusal of a statement with a name means.
    fn unanswered(&self, error: tokio_postgres::Error) -> Unanswered {
        let has_lapsed = self
            .kept
            .as_ref()
            .is_some_and(|kept| kept.has_lapsed(&error));
        Unanswered { error, has_lapsed }
    }
}

// === impl Unanswered ===

impl Unanswered {
    const fn as_it_is(error: tokio_postgres::Error) -> Self {
        Self {
            error,
            has_lapsed: false,
        }
    }
}

fn without_kinds<'a>(values: &[(&'a (dyn ToSql + Sync), Type)]) -> Vec<&'a (dyn ToSql + Sync)> {
    values.iter().map(|(value, _)| *value).collect()
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.io.abort();
    }
}

/// How long a transaction may stand that the database has aborted, with the key of its call, in `answer_within`s: as
/// long as a lease, as both come.
const ABORTED_IDLE: u128 = 6;

/// As long as the database can count.
const MILLISECONDS_MAX: u128 = i32::MAX as u128;

/// Shorter than most firewalls forget a connection that is quiet.
const KEEPALIVE: Duration = Duration::from_secs(30);
