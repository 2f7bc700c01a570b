//! Python's `xmlrpc.client`, which sends again by itself what was not answered.

use std::net::SocketAddr;

use onlyonce_chaos::proxy::{Direction, Fault, FaultKind, Plan, Proxy, Rule};

use super::programs::{Place, Program, egress, printed};

/// One withdrawal, and what was taken in all.
const WITHDRAW: &str = "
import sys, xmlrpc.client
bank = xmlrpc.client.ServerProxy(sys.argv[1])
print(bank.withdraw(10))
";

async fn withdraw(at: SocketAddr) -> String {
    printed(WITHDRAW, &[&format!("http://{at}")]).await
}

/// A link to `server` that does this to the answers of the first `connections`, after so many
/// bytes.
async fn link(server: SocketAddr, fault: Fault, connections: u64, after_bytes: u64) -> Proxy {
    let rule = Rule::new(Direction::ToClient, fault)
        .first(connections)
        .after_bytes(after_bytes);
    let builder = Proxy::builder(server).plan(Plan::none().rule(rule));
    builder.listen("127.0.0.1:0").await.unwrap()
}

/// Bank, ingress, a link that loses the answers of the first five connections half-way, and egress.
async fn pair(place: &Place, fault: Fault) -> (Program, Program, Proxy, Program) {
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, &[]).await;
    // The answer to the question whether it dedupes is shorter, that to a call is longer.
    let link = link(ingress.at, fault, 5, 220).await;
    let patience = ["--attempt-timeout", "400ms", "--retries-per-second", "100"];
    let egress = egress(link.addr(), &patience).await;
    (bank, ingress, link, egress)
}

#[tokio::test]
async fn without_a_proxy_a_lost_answer_takes_twenty_of_ten() {
    for fault in [Fault::Close, Fault::Reset] {
        let place = Place::new();
        let bank = place.bank().await;
        let link = link(bank.at, fault, 1, 0).await;
        assert_eq!(withdraw(link.addr()).await, "20", "{fault:?}");
        assert_eq!(place.taken(), 20, "{fault:?}");
    }
}

async fn four_lost_answers_in_a_row_take_ten(fault: Fault, kind: FaultKind) {
    let place = Place::new();
    let (_bank, _ingress, link, egress) = pair(&place, fault).await;
    assert_eq!(withdraw(egress.at).await, "10");
    assert_eq!(place.taken(), 10);
    assert!(link.stats().fired(kind) >= 4, "{:?}", link.stats());
    // And the next genuine call is one of its own.
    assert_eq!(withdraw(egress.at).await, "20");
    assert_eq!(place.effects().len(), 2);
}

// H1, H11, P25
#[tokio::test]
async fn through_the_pair_four_answers_lost_by_fin_take_ten() {
    four_lost_answers_in_a_row_take_ten(Fault::Close, FaultKind::Close).await;
}

#[tokio::test]
async fn through_the_pair_four_answers_lost_by_reset_take_ten() {
    four_lost_answers_in_a_row_take_ten(Fault::Reset, FaultKind::Reset).await;
}

#[tokio::test]
async fn through_the_pair_four_answers_lost_in_silence_take_ten() {
    four_lost_answers_in_a_row_take_ten(Fault::DropRest, FaultKind::DropRest).await;
}

// H1, P25: a connection of HTTP/2 is used by all calls, and one that is dead by each of them.
#[tokio::test]
async fn through_a_pair_of_http_2_an_answer_lost_in_silence_is_fetched_over_a_new_connection() {
    let place = Place::new();
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, &[]).await;
    let link = link(ingress.at, Fault::DropRest, 1, 220).await;
    let patience = ["--attempt-timeout", "1s", "--timeout", "12s"];
    // As where others call all the time, so that it is never idle.
    let http2 = ["--upstream-http2", "--upstream-idle", "60s"];
    let egress = egress(link.addr(), &[&http2[..], &patience].concat()).await;
    assert_eq!(withdraw(egress.at).await, "10");
    assert_eq!(withdraw(egress.at).await, "20");
    assert_eq!(place.effects().len(), 2);
    assert_eq!(link.stats().fired(FaultKind::DropRest), 1);
}

#[tokio::test]
async fn through_the_pair_a_multi_call_whose_answers_are_lost_runs_once() {
    for (fault, kind) in [
        (Fault::Close, FaultKind::Close),
        (Fault::Reset, FaultKind::Reset),
        (Fault::DropRest, FaultKind::DropRest),
    ] {
        a_multi_call_runs_once(fault, kind).await;
    }
}

async fn a_multi_call_runs_once(fault: Fault, kind: FaultKind) {
    let place = Place::new();
    let (_bank, _ingress, link, egress) = pair(&place, fault).await;
    let program = "
import sys, xmlrpc.client
calls = xmlrpc.client.MultiCall(xmlrpc.client.ServerProxy(sys.argv[1]))
calls.withdraw(1)
calls.withdraw(2)
calls.withdraw(4)
print(list(calls()))
";
    let totals = printed(program, &[&format!("http://{}", egress.at)]).await;
    assert_eq!(totals, "[1, 3, 7]");
    assert_eq!(place.effects().len(), 3);
    assert!(link.stats().fired(kind) >= 4, "{:?}", link.stats());
}

#[tokio::test]
async fn two_genuine_calls_that_are_equal_stay_two() {
    let place = Place::new();
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, &[]).await;
    let egress = egress(ingress.at, &[]).await;
    let program = "
import sys, xmlrpc.client
bank = xmlrpc.client.ServerProxy(sys.argv[1])
print(bank.withdraw(10), bank.withdraw(10))
";
    let address = format!("http://{}", egress.at);
    assert_eq!(printed(program, &[&address]).await, "10 20");
    let effects = place.effects();
    assert_eq!(effects.len(), 2);
    assert_ne!(effects[0].key, effects[1].key);
}

#[tokio::test]
async fn introspection_goes_through_the_pair() {
    let place = Place::new();
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, &[]).await;
    let egress = egress(ingress.at, &[]).await;
    let program = "
import sys, xmlrpc.client
bank = xmlrpc.client.ServerProxy(sys.argv[1])
print('withdraw' in bank.system.listMethods(), bank.system.methodHelp('taken') == '')
try:
    bank.no_such_method()
except xmlrpc.client.Fault as fault:
    print('not supported' in fault.faultString)
";
    let address = format!("http://{}", egress.at);
    assert_eq!(printed(program, &[&address]).await, "True True\nTrue");
}

// C1, C6
#[tokio::test]
async fn a_client_with_one_key_for_all_its_calls_never_gets_the_answer_of_another() {
    let place = Place::new();
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, &[]).await;
    let program = "
import sys, xmlrpc.client
bank = xmlrpc.client.ServerProxy(sys.argv[1], headers=[('Idempotency-Key', 'always-the-same')])
print(bank.withdraw(10), bank.withdraw(10))
try:
    print(bank.withdraw(7))
except xmlrpc.client.ProtocolError as error:
    print(error.errcode, error.headers['idempotency-status'])
";
    let said = printed(program, &[&format!("http://{}", ingress.at)]).await;
    assert_eq!(said, "10 10\n422 mismatch");
    assert_eq!(place.taken(), 10);
}

#[tokio::test]
async fn a_client_that_sends_a_key_is_safe_behind_one_proxy() {
    let place = Place::new();
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, &[]).await;
    let link = link(ingress.at, Fault::Close, 1, 0).await;
    let program = "
import sys, uuid, xmlrpc.client
key = ('Idempotency-Key', str(uuid.uuid4()))
print(xmlrpc.client.ServerProxy(sys.argv[1], headers=[key]).withdraw(10))
";
    let address = format!("http://{}", link.addr());
    assert_eq!(printed(program, &[&address]).await, "10");
    assert_eq!(place.taken(), 10);
    assert_eq!(link.stats().fired(FaultKind::Close), 1);
}

#[tokio::test]
async fn an_answer_to_a_client_that_sends_again_closes_its_connection() {
    let place = Place::new();
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, &[]).await;
    let egress = egress(ingress.at, &[]).await;
    let program = "
import http.client, sys
host = sys.argv[1]
body = b'<methodCall><methodName>taken</methodName></methodCall>'
connection = http.client.HTTPConnection(host)
connection.request('POST', '/RPC2', body, {'Content-Type': 'text/xml'})
print(connection.getresponse().getheader('Connection'))
";
    assert_eq!(printed(program, &[&egress.at.to_string()]).await, "close");
}
