//! Clients and services of others: each makes one withdrawal through the pair, and five answers are
//! lost half-way.
//!
//! `ONLYONCE_PYTHON` names a Python that has jsonrpclib-pelix, Flask and Twisted, and
//! `ONLYONCE_NODE_MODULES` a folder with `jayson` and `xmlrpc`: `.ci/run` makes both. With
//! `ONLYONCE_REQUIRE_PYTHON=1` and `ONLYONCE_REQUIRE_NODE=1` their absence is a failure.

use std::process::Stdio;
use std::time::Duration;

use onlyonce_chaos::proxy::{Direction, Fault, FaultKind, Plan, Proxy, Rule};
use tokio::process::Command;
use tokio::time::timeout;

use super::programs::{Place, curl, egress, not_run, printed, run_python};

/// A client, and what it needs.
enum Client {
    /// With this call in JSON.
    Curl(&'static str),
    Node(&'static str),
    Python(&'static str),
}

const CURL: Client =
    Client::Curl(r#"{"jsonrpc": "2.0", "id": 1, "method": "withdraw", "params": [10]}"#);

const URLLIB: Client = Client::Python(
    "
import json, sys, urllib.request
call = {'jsonrpc': '2.0', 'id': 1, 'method': 'withdraw', 'params': [10]}
request = urllib.request.Request(sys.argv[1], json.dumps(call).encode(), {'Content-Type': 'application/json'})
print(json.load(urllib.request.urlopen(request, timeout=60))['result'])
",
);

const JSONRPCLIB: Client = Client::Python(
    "
import sys, jsonrpclib
print(jsonrpclib.ServerProxy(sys.argv[1]).withdraw(10))
",
);

const XMLRPC: Client = Client::Python(
    "
import sys, xmlrpc.client
print(xmlrpc.client.ServerProxy(sys.argv[1]).withdraw(10))
",
);

const JAYSON: Client = Client::Node(
    "
const address = new URL(process.argv[1]);
const client = require('jayson').Client.http({ host: address.hostname, port: address.port });
client.request('withdraw', [10], (error, answer) => {
  if (error) throw error;
  console.log(answer.result);
});
",
);

const NODE_XMLRPC: Client = Client::Node(
    "
const address = new URL(process.argv[1]);
const client = require('xmlrpc').createClient({ host: address.hostname, port: address.port, path: '/' });
client.methodCall('withdraw', [10], (error, total) => {
  if (error) throw error;
  console.log(total);
});
",
);

/// How answers are lost.
const FIN: (Fault, FaultKind) = (Fault::Close, FaultKind::Close);
const RESET: (Fault, FaultKind) = (Fault::Reset, FaultKind::Reset);
const SILENCE: (Fault, FaultKind) = (Fault::DropRest, FaultKind::DropRest);

// H1
#[tokio::test]
async fn jsonrpclib_through_the_pair_withdraws_once_from_its_own_server() {
    withdraws_once(&JSONRPCLIB, "json_bank.py", "import jsonrpclib", FIN).await;
}

// H1
#[tokio::test]
async fn jsonrpclib_whose_answers_are_lost_by_reset_withdraws_once() {
    withdraws_once(&JSONRPCLIB, "json_bank.py", "import jsonrpclib", RESET).await;
}

// H1
#[tokio::test]
async fn jsonrpclib_whose_answers_are_lost_in_silence_withdraws_once() {
    withdraws_once(&JSONRPCLIB, "json_bank.py", "import jsonrpclib", SILENCE).await;
}

#[tokio::test]
async fn urllib_through_the_pair_withdraws_once_from_flask() {
    withdraws_once(&URLLIB, "flask_bank.py", "import flask", FIN).await;
}

#[tokio::test]
async fn urllib_whose_answers_are_lost_by_reset_withdraws_once_from_flask() {
    withdraws_once(&URLLIB, "flask_bank.py", "import flask", RESET).await;
}

#[tokio::test]
async fn urllib_whose_answers_are_lost_in_silence_withdraws_once_from_flask() {
    withdraws_once(&URLLIB, "flask_bank.py", "import flask", SILENCE).await;
}

#[tokio::test]
async fn xmlrpc_client_through_the_pair_withdraws_once_from_twisted() {
    withdraws_once(&XMLRPC, "twisted_bank.py", "import twisted", FIN).await;
}

#[tokio::test]
async fn xmlrpc_client_whose_answers_are_lost_by_reset_withdraws_once_from_twisted() {
    withdraws_once(&XMLRPC, "twisted_bank.py", "import twisted", RESET).await;
}

#[tokio::test]
async fn xmlrpc_client_whose_answers_are_lost_in_silence_withdraws_once_from_twisted() {
    withdraws_once(&XMLRPC, "twisted_bank.py", "import twisted", SILENCE).await;
}

// H1
#[tokio::test]
async fn curl_whose_answers_are_lost_withdraws_once_from_flask() {
    for fault in [FIN, RESET, SILENCE] {
        withdraws_once(&CURL, "flask_bank.py", "import flask", fault).await;
    }
}

// H1
#[tokio::test]
async fn jayson_whose_answers_are_lost_withdraws_once_from_flask() {
    for fault in [FIN, RESET, SILENCE] {
        withdraws_once(&JAYSON, "flask_bank.py", "import flask", fault).await;
    }
}

// H1
#[tokio::test]
async fn the_xmlrpc_of_npm_whose_answers_are_lost_withdraws_once_from_twisted() {
    for fault in [FIN, RESET, SILENCE] {
        withdraws_once(&NODE_XMLRPC, "twisted_bank.py", "import twisted", fault).await;
    }
}

async fn withdraws_once(
    client: &Client,
    service: &str,
    needs: &str,
    (fault, kind): (Fault, FaultKind),
) {
    if !run_python(needs, &[]).await.status.success() {
        let why = format!("{needs} fails; ONLYONCE_PYTHON names no Python that has it");
        return not_run("ONLYONCE_REQUIRE_PYTHON", &why);
    }
    let modules = std::env::var("ONLYONCE_NODE_MODULES");
    if matches!(client, Client::Node(_)) && modules.is_err() {
        let why = "ONLYONCE_NODE_MODULES names no folder with jayson and xmlrpc";
        return not_run("ONLYONCE_REQUIRE_NODE", why);
    }
    let place = Place::new();
    let bank = place.service(service, 0, "0").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let rule = Rule::new(Direction::ToClient, fault);
    let plan = Plan::none().rule(rule.first(5).after_bytes(220));
    let link = Proxy::builder(ingress.at).plan(plan);
    let link = link.listen("127.0.0.1:0").await.unwrap();
    let patience = ["--attempt-timeout", "500ms", "--retries-per-second", "100"];
    let egress = egress(link.addr(), &patience).await;
    let address = format!("http://{}/", egress.at);
    let total = match client {
        Client::Curl(call) => withdrawn_by_curl(call, &address).await,
        Client::Python(program) => printed(program, &[&address]).await,
        Client::Node(program) => printed_by_node(program, &address, &modules.unwrap()).await,
    };
    assert_eq!(total, "10");
    assert_eq!(place.taken(), 10);
    assert!(link.stats().fired(kind) >= 4, "{:?}", link.stats());
}

async fn withdrawn_by_curl(call: &str, address: &str) -> String {
    let kind = "Content-Type: application/json";
    let answer = curl(&["--data-raw", call, "-H", kind, address]).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    answer["result"].to_string()
}

async fn printed_by_node(program: &str, address: &str, modules: &str) -> String {
    let mut node = Command::new("node");
    node.args(["-e", program, address])
        .env("NODE_PATH", modules)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(60), node.output()).await;
    let output = output.expect("in time").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
