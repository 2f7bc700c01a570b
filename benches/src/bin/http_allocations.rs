//! How often a call over HTTP allocates, with the server, the layer and the store in one process. The
//! client allocates nothing, so that the difference to the bare route is the layer's.
//!
//! Run as [`http`](../http/index.html), with `[ROUTE ...]` as the only arguments. With `CALLS=0` and some
//! other number of calls under callgrind, the difference is what a call costs in instructions.

use std::alloc::System;
use std::time::Duration;

use onlyonce_bench::http::{Connection, Route, Service};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let count: u64 = std::env::var("CALLS").map_or(CALLS, |text| text.parse().expect("a number"));
    println!("calls,route,allocations,bytes");
    for &route in Route::ALL {
        if !chosen.is_empty() && !chosen.iter().any(|chosen| chosen == route.name()) {
            continue;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let service = Service::start(route, &std::env::temp_dir(), Duration::ZERO).await;
            let mut connection = Connection::open(service.address()).await;
            for (calls, numbers) in [("first", 0..count), ("again", 0..count)] {
                for number in numbers.clone().take(WARMING) {
                    connection.call(WARMED_FROM + number).await;
                }
                let region = Region::new(ALLOCATOR);
                for number in numbers {
                    assert_eq!(connection.call(number).await, 201);
                }
                let seen = region.change();
                let times = (seen.allocations + seen.reallocations) as f64 / count as f64;
                let bytes = seen.bytes_allocated as f64 / count as f64;
                println!("{calls},{},{times:.1},{bytes:.0}", route.name());
            }
        });
    }
}

const CALLS: u64 = 2_000;
const WARMING: usize = 200;
const WARMED_FROM: u64 = 1 << 32;
