//! What stands in front of two servers: it sends everybody to the first one until it is told otherwise.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

pub struct Front {
    pub address: SocketAddr,
    loses: Arc<AtomicBool>,
}

impl Front {
    pub async fn of([first, second]: [SocketAddr; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let loses = Arc::<AtomicBool>::default();
        let losing = Arc::clone(&loses);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let gone = losing.load(Ordering::SeqCst);
                let far = if gone {
                    TcpStream::connect(second).await
                } else {
                    TcpStream::connect(first).await
                };
                let far = match far {
                    Ok(far) => far,
                    // It was killed.
                    Err(_) => TcpStream::connect(second).await.unwrap(),
                };
                tokio::spawn(carry(near, far, Arc::clone(&losing), gone));
            }
        });
        Self { address, loses }
    }

    /// Whatever the first server says from now on is lost, with its connection, and everybody who comes
    /// anew goes to the second one.
    pub fn lose_what_the_first_one_says(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }
}

async fn carry(near: TcpStream, far: TcpStream, loses: Arc<AtomicBool>, of_second: bool) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let up = tokio::spawn(async move { copy(&mut from_near, &mut to_far).await });
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = from_far.read(&mut piece).await {
        if !of_second && loses.load(Ordering::SeqCst) {
            break;
        }
        if to_near.write_all(&piece[..length]).await.is_err() {
            break;
        }
    }
    up.abort();
}
