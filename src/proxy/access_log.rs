//! One line for each request, on standard output.
//!
//! In it stand address, method, path, status and time: no query, no body, no key, no credential.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use super::config::AccessLogFormat;
use super::figures;
use crate::http::Status;
use crate::storage::{Clock, SystemClock};

/// Where lines go. Writing never waits: a line for which there is no room is counted and lost.
#[derive(Clone)]
pub(super) struct AccessLog {
    format: AccessLogFormat,
    lines: Option<SyncSender<String>>,
}

/// What a line says.
pub(super) struct Entry<'a> {
    pub(super) client: SocketAddr,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) code: StatusCode,
    pub(super) status: Option<Status>,
    pub(super) took: Duration,
}

// === impl AccessLog ===

impl AccessLog {
    /// Starts a thread that writes, where there is something to be written. It ends when all
    /// clones are gone.
    pub(super) fn start(format: AccessLogFormat) -> Self {
        if format == AccessLogFormat::Off {
            return Self {
                format,
                lines: None,
            };
        }
        let (lines, receiver) = sync_channel(LINES_MAX);
        let started = std::thread::Builder::new()
            .name("access log".to_owned())
            .spawn(move || write_all(&receiver));
        if let Err(error) = &started {
            tracing::warn!(target: "onlyonce", %error, "there is no access log");
        }
        Self {
            format,
            lines: started.is_ok().then_some(lines),
        }
    }

    pub(super) fn write(&self, entry: &Entry<'_>) {
        let Some(lines) = &self.lines else { return };
        let time = SystemClock.now().as_millis();
        let line = match self.format {
            AccessLogFormat::Off => return,
            AccessLogFormat::Json => entry.json(time),
            AccessLogFormat::Text => entry.text(time),
        };
        if let Err(TrySendError::Full(_)) = lines.try_send(line) {
            metrics::counter!(figures::LOG_LINES_LOST).increment(1);
        }
    }
}

// === impl Entry ===

impl Entry<'_> {
    fn json(&self, time: u64) -> String {
        let document = json!({
            "time_ms": time,
            "client": self.client.ip().to_string(),
            "method": self.method.as_str(),
            "path": self.path,
            "code": self.code.as_u16(),
            "status": self.status.map(Status::as_str),
            "took_us": u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
        });
        format!("{document}\n")
    }

    fn text(&self, time: u64) -> String {
        let status = self.status.map_or("-", Status::as_str);
        // A path can hold whatever its client likes, but neither blank nor control characters:
        // those do not parse as one.
        format!(
            "{time} {} {} {} {} {} {:.3}ms\n",
            self.client.ip(),
            self.method,
            self.path,
            self.code.as_u16(),
            status.replace("; ", ";"),
            self.took.as_secs_f64() * 1_000.0,
        )
    }
}

fn write_all(lines: &Receiver<String>) {
    while let Ok(first) = lines.recv() {
        let mut batch = first;
        while let Ok(next) = lines.try_recv() {
            batch.push_str(&next);
            if batch.len() > BATCH_BYTES {
                break;
            }
        }
        // A reader that is gone wants no more of it; the proxy goes on.
        if std::io::stdout()
            .lock()
            .write_all(batch.as_bytes())
            .is_err()
        {
            return;
        }
    }
}

/// Some hundred milliseconds of a busy proxy.
const LINES_MAX: usize = 8_192;
const BATCH_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_asked_and_how_it_ended() {
        let entry = Entry {
            client: "10.0.0.7:1234".parse().unwrap(),
            method: &Method::POST,
            path: "/pay",
            code: StatusCode::OK,
            status: Some(Status::ExecutedUnrecorded),
            took: Duration::from_micros(1_500),
        };
        let text = entry.text(7);
        assert_eq!(
            text,
            "7 10.0.0.7 POST /pay 200 executed;unrecorded 1.500ms\n"
        );
        let json: serde_json::Value = serde_json::from_str(&entry.json(7)).unwrap();
        assert_eq!(json["status"], "executed; unrecorded");
        assert_eq!(json["took_us"], 1_500);
    }
}
