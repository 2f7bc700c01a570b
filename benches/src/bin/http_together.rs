//! Two requests with one key that are sent at the same time, and a third one afterwards: how often the
//! handler runs, which takes 50 ms, and what each is answered.
//!
//! Run as [`http`](../http/index.html), without arguments.

use std::time::Duration;

use onlyonce_bench::http::{Connection, Route, Service};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    println!("route,executions,answers");
    for &route in Route::ALL {
        runtime.block_on(async {
            let handling = Duration::from_millis(50);
            let service = Service::start(route, &std::env::temp_dir(), handling).await;
            let mut one = Connection::open(service.address()).await;
            let mut other = Connection::open(service.address()).await;
            let (first, second) = tokio::join!(one.call(1), other.call(1));
            let third = one.call(1).await;
            println!(
                "{},{},{first} {second} {third}",
                route.name(),
                service.executed()
            );
        });
    }
}
