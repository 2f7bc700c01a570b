//! A bank and its client over gRPC, both of tonic: a transfer that is sent twice is made once.
//!
//! ```text
//! cargo run --example tonic_transfer --features grpc
//! ```

mod bank;
mod client;
mod server;
mod twice;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in twice::send_twice().await? {
        println!("{line}");
    }
    Ok(())
}
