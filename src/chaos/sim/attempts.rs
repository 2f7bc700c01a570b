//! Which attempt of its call a request is, over the whole run.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use parking_lot::Mutex;

use super::native::Naming;
use crate::rpc::Request;

/// Counts the attempts of calls.
///
/// A client that asks again numbers its attempts from 1, and faults are drawn by the number: what had
/// been lost would be lost again, however often it asks. Here the numbers go on, also when its process
/// has crashed and come back.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts(Arc<Mutex<BTreeMap<u64, u32>>>);

// === impl Attempts ===

impl Attempts {
    /// Gives the attempt that this request is its number, on its way to the channel.
    pub(super) fn number(&self, naming: &Naming, mut request: Request) -> Request {
        if let (Some(call), Some(stamp)) = (naming.call(&request.arguments), &mut request.stamp) {
            stamp.attempt = self.next(call);
        }
        request
    }

    fn next(&self, call: u64) -> NonZeroU32 {
        let mut made = self.0.lock();
        let made = made.entry(call).or_insert(0);
        *made = made.saturating_add(1);
        // OK because it is above zero.
        NonZeroU32::new(*made).unwrap_or(NonZeroU32::MIN)
    }
}
