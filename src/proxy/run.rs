//! A proxy from its start to its end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::access_log::AccessLog;
use super::admin::Admin;
use super::config::{Mode, ProxyConfig};
use super::egress::EgressProxy;
use super::front::{Front, Half};
use super::ingress::IngressProxy;
use super::listen::Listening;
use super::opened::Opened;
use super::outbox::{Closing, KeptCalls};
use super::{ProxyError, figures};
use crate::middleware::server::Executions;
use crate::storage::Inspect;

/// A proxy that listens.
///
/// Dropping it closes all its connections, and what is under way may be in doubt:
/// [`stop`](Self::stop) it.
#[must_use = "a proxy that is dropped closes its connections"]
pub struct Proxy {
    listens_at: SocketAddr,
    admin_at: Option<SocketAddr>,
    drain: Duration,
    stop: watch::Sender<bool>,
    draining: Arc<AtomicBool>,
    front: Arc<Front>,
    listening: JoinHandle<()>,
    admin: Option<JoinHandle<()>>,
    chores: JoinHandle<()>,
    executions: Option<Executions>,
    opened: Option<Opened>,
    outbox: Option<Closing>,
    driving_on: Option<JoinHandle<()>>,
}

/// What was under way when the time to stop was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOver {
    /// Requests that got no answer.
    pub requests: usize,
    /// Calls that are being executed by the service, and are in doubt.
    pub calls: usize,
    /// Calls in the outbox of an egress that have not ended: its next run drives them on.
    pub kept: usize,
}

// === impl Proxy ===

impl Proxy {
    /// Opens the store, and listens.
    ///
    /// # Errors
    ///
    /// See [`ProxyError`]. Nothing is left open.
    pub async fn start(config: ProxyConfig) -> Result<Self, ProxyError> {
        let listener = listen("listen", config.listen).await?;
        let admin = match config.admin {
            None => None,
            Some(address) => Some(listen("admin", address).await?),
        };
        let handle = admin.as_ref().map(|_| figures::keep()).transpose()?;
        let opened = match &config.mode {
            Mode::Egress(_) => None,
            Mode::Ingress(ingress) => {
                Some(Opened::open(ingress, config.limits.answer_bytes_max).await?)
            }
        };
        let mut kept = None;
        let half = match (&config.mode, &opened) {
            (Mode::Ingress(ingress), Some(opened)) => {
                IngressProxy::new(&config, ingress, opened).map(Half::Ingress)
            }
            (Mode::Egress(egress), _) => match EgressProxy::new(&config, egress) {
                Ok(mut proxy) => {
                    if let Some(path) = &egress.outbox {
                        let opened =
                            KeptCalls::open(path, egress, &config.limits, proxy.client()).await?;
                        proxy.keep_calls_in(opened.calling());
                        kept = Some(opened);
                    }
                    Ok(Half::Egress(proxy))
                }
                Err(error) => Err(error),
            },
            (Mode::Ingress(_), None) => unreachable!("an ingress has a store"),
        };
        let half = match half {
            Ok(half) => half,
            Err(error) => {
                if let Some(opened) = opened {
                    opened.close().await?;
                }
                return Err(error.into());
            }
        };
        let executions = match &half {
            Half::Egress(_) => None,
            Half::Ingress(ingress) => Some(ingress.executions()),
        };
        let log = AccessLog::start(config.access_log);
        let front = Arc::new(Front::new(half, log, &config.limits));
        let (stop, stopped) = watch::channel(false);
        let inspect = opened.as_ref().map(Opened::inspect);
        let draining = Arc::<AtomicBool>::default();
        let chores = tokio::spawn(chores(inspect.clone(), handle.clone()));
        let address_of = |listener: &TcpListener, field| {
            let address = listener.local_addr();
            address.map_err(|source| ProxyError::Listen { field, source })
        };
        let listens_at = address_of(&listener, "listen")?;
        let admin_at = match &admin {
            None => None,
            Some(listener) => Some(address_of(listener, "admin")?),
        };
        let admin = admin.map(|listener| {
            let admin = Admin {
                front: Arc::clone(&front),
                inspect,
                handle,
                draining: Arc::clone(&draining),
                token: config.admin_token,
            };
            tokio::spawn(admin.serve(listener))
        });
        let listening = Listening {
            listener,
            front: Arc::clone(&front),
            limits: config.limits,
            tls: config.tls,
            stop: stopped,
        };
        let outbox = kept.as_ref().map(KeptCalls::closing);
        let driving_on = kept.map(|kept| tokio::spawn(kept.drive_on()));
        Ok(Self {
            listens_at,
            admin_at,
            drain: config.limits.drain,
            stop,
            draining,
            front,
            listening: tokio::spawn(listening.run()),
            admin,
            chores,
            executions,
            opened,
            outbox,
            driving_on,
        })
    }

    /// Where clients are listened to.
    #[must_use]
    pub const fn listens_at(&self) -> SocketAddr {
        self.listens_at
    }

    /// Where operators are listened to.
    #[must_use]
    pub const fn admin_at(&self) -> Option<SocketAddr> {
        self.admin_at
    }

    /// Takes no more connections, lets what is under way be answered, waits for the calls that the
    /// service is executing, or that are made by an outbox for clients that have gone, and closes the store: within the time to drain. What is left over then
    /// is cut off and said.
    ///
    /// # Errors
    ///
    /// When the store cannot be closed well.
    pub async fn stop(mut self) -> Result<LeftOver, ProxyError> {
        let now = Instant::now();
        let until = now.checked_add(self.drain).unwrap_or(now);
        self.draining.store(true, Ordering::Release);
        let _ = self.stop.send(true);
        let drained = timeout_at(until, &mut self.listening).await.is_ok();
        if let Some(executions) = &self.executions {
            // OK because what is left is counted below.
            let _ = timeout_at(until, executions.idle()).await;
        }
        if let Some(outbox) = &self.outbox {
            // OK because what is left is counted below.
            let _ = timeout_at(until, outbox.idle()).await;
        }
        let mut left = LeftOver {
            requests: if drained { 0 } else { self.front.open() },
            calls: self.executions.as_ref().map_or(0, Executions::count),
            kept: 0,
        };
        if let Some(opened) = self.opened.take() {
            opened.close().await?;
        }
        if let Some(driving_on) = self.driving_on.take() {
            driving_on.abort();
        }
        if let Some(outbox) = self.outbox.take() {
            left.kept = outbox.unended().await?;
            outbox.close().await?;
        }
        Ok(left)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("listens_at", &self.listens_at)
            .field("admin_at", &self.admin_at)
            .finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.chores.abort();
        if let Some(driving_on) = &self.driving_on {
            driving_on.abort();
        }
        if let Some(admin) = &self.admin {
            admin.abort();
        }
    }
}

async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, ProxyError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| ProxyError::Listen { field, source })
}

/// What is done from time to time: what the store need not keep any longer goes, what is in doubt is
/// counted, and the figures are put together.
async fn chores(inspect: Option<Arc<dyn Inspect>>, handle: Option<PrometheusHandle>) {
    let mut swept = Instant::now();
    loop {
        if let Some(handle) = &handle {
            handle.run_upkeep();
        }
        if let Some(inspect) = &inspect {
            if let Ok(stats) = inspect.stats().await {
                #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
                metrics::gauge!(figures::IN_DOUBT).set(stats.open.in_doubt as f64);
            }
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                match inspect.sweep().await {
                    Ok(swept) => {
                        if let Some(suspicion) = swept.paused {
                            tracing::warn!(target: "onlyonce", %suspicion, "nothing is swept until the clock is confirmed");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(target: "onlyonce", %error, "nothing was swept");
                    }
                }
            }
        }
        sleep(CHORES_EVERY).await;
    }
}

/// Figures are looked at every few seconds.
const CHORES_EVERY: Duration = Duration::from_secs(5);

/// A sweep finds little to do and costs little, and answers are kept for hours.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
