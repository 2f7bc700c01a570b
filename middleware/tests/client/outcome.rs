//! What a call's end says of its effect.

use onlyonce_middleware::client::{
    Executed, Last, Outcome, Pushback, RetryBudget, Stopped, Ticket, Verdict,
};
use onlyonce_storage::{IdempotencyKey, Timestamp};

use crate::protocol::*;

/// What an attempt of a sequence may come to.
const ENDS: [&str; 9] = [
    "accepted",
    "lost",
    "not sent",
    "busy",
    "in progress",
    "in doubt",
    "stale",
    "mismatch",
    "error, final, unknown",
];

fn line(end: &str) -> Line {
    match end {
        "accepted" => accepted(),
        "lost" => lost(),
        "not sent" => refused(),
        "busy" => answers(busy(Pushback::Silent)),
        "in progress" => answers(in_progress(Pushback::Silent)),
        "in doubt" => answers(Verdict::InDoubt),
        "stale" => answers(Verdict::Refuse(Executed::NotThisAttempt)),
        "mismatch" => answers(Verdict::Refuse(Executed::Never)),
        _ => fails(Verdict::Refuse(Executed::Unknown)),
    }
}

/// What a call that meets these ends, one after the other, has to come to. Written apart from the
/// code: `Ok` is an answer.
fn expected(ends: &[&str], resumed: bool) -> std::result::Result<(), Outcome> {
    let mut unknown = resumed;
    let unanswered = |unknown| {
        Err(if unknown {
            Outcome::Unknown
        } else {
            Outcome::NotExecuted
        })
    };
    let (mut costly, mut at) = (0, 0);
    loop {
        let end = ends[at.min(ends.len() - 1)];
        at += 1;
        match end {
            "accepted" => return Ok(()),
            // What was sent before may have been another request.
            "mismatch" if resumed => return Err(Outcome::Unknown),
            "mismatch" => return Ok(()),
            "in doubt" => return Err(Outcome::InDoubt),
            "stale" if unknown => return Err(Outcome::Unknown),
            "stale" => return Ok(()),
            "error, final, unknown" => return Err(Outcome::Unknown),
            // For ever, if it is the last line.
            "in progress" if at >= ends.len() => return Err(Outcome::Unknown),
            "in progress" => unknown = true,
            "lost" => (unknown, costly) = (true, costly + 1),
            _ => costly += 1,
        }
        if costly == 3 {
            return unanswered(unknown);
        }
    }
}

// H10
#[tokio::test(start_paused = true)]
async fn unknown_is_never_washed_away_whatever_the_attempts_come_to() {
    let retry = retry()
        .assume_dedupe()
        .with_budget(RetryBudget::unlimited());
    for first in ENDS {
        for second in ENDS {
            for third in ENDS {
                for resumed in [false, true] {
                    let ends = [first, second, third];
                    let peer = Peer::new(ends.map(line));
                    let ticket = Ticket::never_sent(IdempotencyKey::unique());
                    let ticket = if resumed {
                        ticket.maybe_executed()
                    } else {
                        ticket
                    };
                    let request = Request::new("pay").with_ticket(ticket.clone());
                    let result = peer.call(&retry, request).await;
                    if let Err(error) = &result {
                        assert_eq!(error.ticket.key, ticket.key);
                    }
                    let came_to = result.map(drop).map_err(|error| error.outcome);
                    assert_eq!(came_to, expected(&ends, resumed), "{ends:?} {resumed}");
                }
            }
        }
    }
}

// H10
#[tokio::test(start_paused = true)]
async fn a_spent_budget_ends_in_outcome_unknown_with_the_ticket() {
    let none = RetryBudget::new(onlyonce_middleware::client::RetryBudgetOptions {
        reserve_per_second: 0,
        ..Default::default()
    });
    let peer = Peer::new([lost()]);
    let ticket = Ticket::new(IdempotencyKey::unique());
    let request = Request::new("pay").with_ticket(ticket.clone());
    let retry = retry().assume_dedupe().with_budget(none);
    let error = peer.call(&retry, request).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::Budget);
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(error.ticket.key, ticket.key);
    assert!(matches!(error.last, Last::Error(_)));
}

#[tokio::test(start_paused = true)]
async fn attempts_that_were_all_refused_a_connection_were_not_executed() {
    let peer = Peer::new([refused()]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert!(!error.ticket.maybe_executed);
}

#[tokio::test(start_paused = true)]
async fn a_call_resumed_by_its_ticket_is_unknown_although_nothing_is_sent_any_more() {
    let key = IdempotencyKey::unique;
    let first = Peer::new([lost()]);
    let unanswered = first.call(&retry(), Request::new("pay")).await.unwrap_err();
    for ticket in [
        unanswered.ticket,
        Ticket::new(key()),
        Ticket::new(key()).first_sent(Timestamp::from_millis(1)),
        Ticket::new(key()).store(store()),
    ] {
        let request = Request::new("pay").with_ticket(ticket.clone());
        let down = Peer::new([refused()]);
        let error = down.call(&retry(), request.clone()).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{ticket:?}");

        let refusing = Peer::new([answers(Verdict::Refuse(Executed::NotThisAttempt))]);
        let error = refusing.call(&retry(), request).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{ticket:?}");
        assert!(matches!(error.last, Last::Response(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_resumed_call_that_named_a_store_is_repeated_to_it() {
    let peer = Peer::new([lost(), accepted()]);
    let ticket = Ticket::new(IdempotencyKey::unique()).store(store());
    let request = Request::new("pay").with_ticket(ticket);
    peer.call(&retry(), request).await.unwrap();
    let first = peer.received().remove(0).stamped.unwrap();
    assert_eq!(first.store, Some(store()));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_cut_off_by_its_timeout_may_have_been_executed() {
    let peer = Peer::new([silence()]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::PeerNotKnownToDedupe);
    assert_eq!(error.outcome, Outcome::Unknown);
    assert!(matches!(error.last, Last::Elapsed));
}

#[tokio::test(start_paused = true)]
async fn the_error_says_the_outcome_and_what_to_do() {
    let peer = Peer::new([lost()]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "outcome unknown; resume with the same key after 1 attempt: peer is not known to dedupe; \
         the last attempt failed: connection lost"
    );
}
