//! `chaos proxy`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use onlyonce::chaos::native_naming;
use onlyonce_chaos::fault::Fault;
use onlyonce_chaos::proxy::{
    Counts, Endianness, FrameProxy, FrameStats, Framing, LengthPrefix, Naming, header,
};
use serde_json::json;
use tokio::net::lookup_host;

use crate::stop::Stop;
use crate::{exit, output};

/// What stands below the options.
pub(super) const HELP: &str = "\
A fault is written as NAME:FIELD=VALUE,...  With `what` being one of drop, duplicate[,later_ms=N], \
delay,min_ms=N,max_ms=N, corrupt, truncate, reset, close, blackhole, partition; and narrowed by phase \
(request-sent or reply-sent; both without), share (0 to 1), call, attempt, first_attempts, \
after_bytes, from_ms, until_ms. For instance, the answer of every first attempt is lost:
  --fault 'lost:what=reset,phase=reply-sent,attempt=1'

Of HTTP a call is known by its key (--key-header): requests without one pass unharmed. Of other \
protocols each request is a call, in the order in which they come.

Exit codes: 0 when it was stopped (by a signal); 2 bad usage, or an address that cannot be had";

#[derive(Args)]
pub(crate) struct ProxyArguments {
    /// Where to listen, as ADDRESS:PORT; port 0 takes a free one
    #[arg(long)]
    listen: SocketAddr,
    /// The server, as HOST:PORT
    #[arg(long)]
    upstream: String,
    /// What goes by: `http1`, `onlyonce`, or
    /// `length:offset=0,width=4,endian=big,counts=rest,max=1048576`
    #[arg(long, default_value = "http1")]
    protocol: Protocol,
    /// The header that has a call's key, for HTTP; `-` counts every request as a call
    #[arg(long, default_value = "idempotency-key")]
    key_header: String,
    /// What goes wrong; can be said several times
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,
    /// What decisions are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON document on standard output at the end
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Length(LengthPrefix),
    Native,
}

pub(super) async fn run(arguments: ProxyArguments) -> ExitCode {
    let misused = |text: &dyn std::fmt::Display| output::fail(exit::MISUSED, &text.to_string());
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let upstream = match lookup_host(&arguments.upstream)
        .await
        .map(|mut found| found.next())
    {
        Ok(Some(upstream)) => upstream,
        Ok(None) => return misused(&"the upstream has no address"),
        Err(error) => return misused(&format!("upstream {}: {error}", arguments.upstream)),
    };
    let mut names = std::collections::BTreeSet::new();
    if let Some(twice) = arguments
        .faults
        .iter()
        .find(|fault| !names.insert(&fault.name))
    {
        return misused(&format!("two faults are called `{}`", twice.name));
    }
    let (framing, naming) = arguments.protocol.framing(&arguments.key_header);
    let builder = FrameProxy::builder(upstream, framing)
        .naming(naming)
        .seed(arguments.seed);
    let builder = match builder.faults(arguments.faults) {
        Ok(builder) => builder,
        Err(reason) => return misused(&reason.reason()),
    };
    let proxy = match builder.listen(arguments.listen).await {
        Ok(proxy) => proxy,
        Err(error) => return misused(&format!("cannot listen at {}: {error}", arguments.listen)),
    };
    let listening = format!("listening {}\n", proxy.addr());
    // With --json standard output has one document and nothing else.
    if arguments.json {
        output::tell(&listening);
    } else if let Err(error) = output::print(&listening) {
        return output::fail(exit::UNKNOWN, &error);
    }
    tokio::select! {
        _ = stop.asked() => {}
        () = show(&proxy) => {}
    }
    let stats = proxy.stats();
    proxy.stop().await;
    let text = match arguments.json {
        true => format!("{}\n", to_json(&stats)),
        false => to_text(&stats),
    };
    super::ended(0, &text)
}

/// How often what has struck so far, for whoever looks on. Never ends.
async fn show(proxy: &FrameProxy) {
    if !std::io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let mut shown = String::new();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let line = line(&proxy.stats());
        if line != shown {
            output::tell(&format!("\r\x1b[K{line}"));
            shown = line;
        }
    }
}

fn line(stats: &FrameStats) -> String {
    let mut line = format!("{} requests, {} replies", stats.requests, stats.replies);
    for (name, fired) in &stats.fired {
        // OK because a string takes everything that is written to it.
        let _ = write!(line, "; {name} {}", fired.struck);
    }
    line
}

fn to_text(stats: &FrameStats) -> String {
    let FrameStats {
        connections,
        requests,
        replies,
        ..
    } = stats;
    let mut text = format!("{connections} connections, {requests} requests, {replies} replies\n");
    for (name, fired) in &stats.fired {
        let (struck, affected) = (fired.struck, fired.affected);
        let _ = writeln!(text, "{name}: struck {struck} times, {affected} calls");
    }
    for (count, what) in [
        (stats.refused, "connections refused: too many"),
        (
            stats.upstream_failures,
            "connections reset: the upstream could not be reached",
        ),
        (stats.unreadable, "connections reset: not understood"),
    ] {
        if count > 0 {
            let _ = writeln!(text, "{count} {what}");
        }
    }
    text
}

fn to_json(stats: &FrameStats) -> serde_json::Value {
    json!({
        "connections": stats.connections,
        "requests": stats.requests,
        "replies": stats.replies,
        "refused": stats.refused,
        "upstream_failures": stats.upstream_failures,
        "unreadable": stats.unreadable,
        "fired": stats.fired,
    })
}

// === impl Protocol ===

impl Protocol {
    fn framing(self, key_header: &str) -> (Framing, Naming) {
        match self {
            Self::Http1 if key_header == "-" => (Framing::Http1, Naming::counted()),
            Self::Http1 => {
                let name = key_header.to_owned();
                let key = move |request: &[u8]| Some(header(request, &name)?.as_bytes().to_vec());
                (Framing::Http1, Naming::keyed(key))
            }
            Self::Length(frames) => {
                let framing = Framing::LengthPrefixed {
                    opening: None,
                    frames,
                };
                (framing, Naming::counted())
            }
            Self::Native => (Framing::onlyonce(), native_naming()),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http1" => return Ok(Self::Http1),
            "onlyonce" => return Ok(Self::Native),
            _ => {}
        }
        let Some(fields) = text.strip_prefix("length:") else {
            return Err("it is one of http1, onlyonce, length:...".to_owned());
        };
        let mut prefix = LengthPrefix {
            offset: 0,
            width: 4,
            endianness: Endianness::Big,
            counts: Counts::Rest,
            frame_bytes_max: 1024 * 1024,
        };
        for field in fields.split(',') {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| format!("`{field}` is no FIELD=VALUE"))?;
            let number = || value.parse().map_err(|_| format!("`{field}` is no number"));
            match (name, value) {
                ("offset", _) => prefix.offset = number()?,
                ("width", _) => prefix.width = number()?,
                ("max", _) => prefix.frame_bytes_max = number()?,
                ("endian", "big") => prefix.endianness = Endianness::Big,
                ("endian", "little") => prefix.endianness = Endianness::Little,
                ("counts", "rest") => prefix.counts = Counts::Rest,
                ("counts", "whole") => prefix.counts = Counts::Whole,
                _ => {
                    return Err(format!(
                        "`{field}` is not offset, width, endian, counts or max"
                    ));
                }
            }
        }
        if !(1..=8).contains(&prefix.width) {
            return Err("`width` is 1 to 8 bytes".to_owned());
        }
        if prefix.offset > 4096 || prefix.frame_bytes_max > 64 * 1024 * 1024 {
            return Err("`offset` is at most 4096, `max` at most 67108864".to_owned());
        }
        Ok(Self::Length(prefix))
    }
}
