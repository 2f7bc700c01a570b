//! The client that is compared with: it retries as people write it.

use std::time::Duration;

use onlyonce_chaos::history::{Ending, Happened};
use onlyonce_chaos::sometimes;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use super::clients::{ChaosClientsOptions, Ears, TRIED_AGAIN};
use super::order::{Asked, Declined, ORDER, Receipt};
use crate::rpc::{Channel, ChannelOptions, Request, value};

/// Sends a request until it has an answer: each attempt is a new one to the server.
pub(super) struct Naive {
    number: u32,
    channel: Channel,
    attempt: Duration,
    deadline: Duration,
    ears: Ears,
}

// === impl Naive ===

impl Naive {
    pub(super) fn new(number: u32, options: &ChaosClientsOptions, ears: &Ears) -> Self {
        let attempt = Duration::from_millis(options.attempt_ms);
        let channel_options = ChannelOptions {
            connect_timeout: attempt,
            ..ChannelOptions::default()
        };
        Self {
            number,
            channel: Channel::new(options.address.as_str(), channel_options),
            attempt,
            deadline: Duration::from_millis(options.deadline_ms),
            ears: ears.clone(),
        }
    }

    pub(super) async fn call(&self, call: u64, mut asked: Asked) {
        let say = |attempt, what| (self.ears.say)(call, attempt, what);
        let invoked = Happened::Invoked {
            client: self.number,
            key: asked.key.clone(),
            payload: asked.order.clone(),
        };
        say(0, invoked);
        let give_up_at = Instant::now() + self.deadline;
        let mut ending = Ending::Unknown;
        while ending == Ending::Unknown && Instant::now() < give_up_at {
            asked.attempt += 1;
            say(asked.attempt, Happened::Sent);
            sometimes!(self.ears.goals, asked.attempt > 1, TRIED_AGAIN);
            ending = self.attempt(&asked).await;
            if ending == Ending::Unknown {
                sleep(PAUSE).await;
            }
        }
        say(0, Happened::Ended { ending });
    }

    async fn attempt(&self, asked: &Asked) -> Ending {
        let Ok(arguments) = value::encode(asked) else {
            return Ending::Unknown;
        };
        let request = Request::new(ORDER.name(), arguments);
        match timeout(self.attempt, self.channel.clone().oneshot(request)).await {
            Ok(Ok(reply)) if reply.status.carries_answer() => {
                match value::decode_result::<Receipt, Declined>(&reply.body) {
                    Ok(Ok(receipt)) => Ending::Answered(receipt.answer()),
                    Ok(Err(Declined { why })) => Ending::Declined(why),
                    Err(_) => Ending::Unknown,
                }
            }
            _ => Ending::Unknown,
        }
    }
}

const PAUSE: Duration = Duration::from_millis(20);
