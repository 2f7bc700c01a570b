//! How often a call over HTTP allocates, with the server, the layer and the store in one process. The
//! client allocates nothing, so that the difference to the bare route is the layer's.
//!
//! Run as [`http`](../http/index.html), without arguments.

use std::alloc::System;
use std::time::Duration;

use onlyonce_bench::http::{Connection, Route, Service};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    println!("calls,route,allocations,bytes");
    for &route in Route::ALL {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let service = Service::start(route, &std::env::temp_dir(), Duration::ZERO).await;
            let mut connection = Connection::open(service.address()).await;
            for (calls, numbers) in [("first", 0..CALLS), ("again", 0..CALLS)] {
                for number in numbers.clone().take(WARMING) {
                    connection.call(WARMED_FROM + number).await;
                }
                let region = Region::new(ALLOCATOR);
                for number in numbers {
                    assert_eq!(connection.call(number).await, 201);
                }
                let seen = region.change();
                let count = (seen.allocations + seen.reallocations) as f64 / CALLS as f64;
                let bytes = seen.bytes_allocated as f64 / CALLS as f64;
                println!("{calls},{},{count:.1},{bytes:.0}", route.name());
            }
        });
    }
}

const CALLS: u64 = 2_000;
const WARMING: usize = 200;
const WARMED_FROM: u64 = 1 << 32;
