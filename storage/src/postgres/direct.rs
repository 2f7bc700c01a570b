//! Whether a connection leads to one backend, or to a pooler that gives each transaction to another one.
//!
//! A backend greets with its process id, and answers the same one when it is asked. A pooler greets with a
//! number that it has made up, since it has no backend yet. So where the two are the same nothing lies
//! between but wires; where they are not, or cannot be compared, a pooler is presumed.

use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio_postgres::{Client, NoTls};

/// The process id with which the other end has greeted. `None` where it cannot be known.
pub(super) async fn greeted_by(client: &Client) -> Option<i32> {
    // The driver tells it to nobody, but writes it into the request by which a statement is given up. That
    // request goes to ourselves.
    let (written, read) = duplex(CANCEL_REQUEST_BYTES);
    let request = client.cancel_token();
    let (wrote, id) = tokio::join!(request.cancel_query_raw(written, NoTls), process_id(read));
    wrote.ok().and(id)
}

/// Length, code, process id and secret, of four bytes each, the highest first.
async fn process_id(mut request: DuplexStream) -> Option<i32> {
    let mut bytes = [0; CANCEL_REQUEST_BYTES];
    request.read_exact(&mut bytes).await.ok()?;
    let [length, code, id, _secret] = bytes.as_chunks::<4>().0 else {
        return None;
    };
    let is_request = i32::from_be_bytes(*length) == 16 && i32::from_be_bytes(*code) == CANCEL_CODE;
    is_request.then(|| i32::from_be_bytes(*id))
}

const CANCEL_REQUEST_BYTES: usize = 16;
const CANCEL_CODE: i32 = 80_877_102;
