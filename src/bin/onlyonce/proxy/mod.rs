//! The command `proxy`.

mod arguments;
mod settings;

use std::process::ExitCode;

use onlyonce::proxy::{Proxy, ProxyConfig, ProxyError};

pub(crate) use self::arguments::ProxyArguments;
use crate::stop::Stop;
use crate::{exit, output};

pub(crate) async fn run(arguments: ProxyArguments) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_target(false)
        .init();
    let read = arguments.with_file().and_then(|arguments| {
        let config = settings::config(&arguments);
        config.map_err(|error| error.to_string())
    });
    match read {
        Ok(config) => serve(config).await,
        Err(words) => output::fail(exit::MISUSED, &words),
    }
}

async fn serve(config: ProxyConfig) -> ExitCode {
    // Before anything is opened: a signal that comes meanwhile is heard.
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let proxy = match Proxy::start(config).await {
        Ok(proxy) => proxy,
        Err(error @ ProxyError::Config(_)) => return output::fail(exit::MISUSED, &error),
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    output::tell(&format!("listening at {}\n", proxy.listens_at()));
    if let Some(admin) = proxy.admin_at() {
        output::tell(&format!("operators at http://{admin}/\n"));
    }
    stop.asked().await;
    output::tell("draining\n");
    let stopping = proxy.stop();
    let stopped = tokio::select! {
        stopped = stopping => stopped,
        // Asked twice.
        code = stop.asked() => return output::fail(code, "stopped without waiting"),
    };
    match stopped {
        Ok(left) if left.requests == 0 && left.calls == 0 && left.kept == 0 => {
            output::tell("drained: nothing was left over\n");
            ExitCode::SUCCESS
        }
        Ok(left) => output::fail(
            exit::UNKNOWN,
            &format!(
                "left over: {} requests without an answer, {} calls that the service is executing, \
                 which are in doubt, {} calls in the outbox, which are driven on when this starts again",
                left.requests, left.calls, left.kept
            ),
        ),
        Err(error) => output::fail(exit::UNKNOWN, &error),
    }
}
