//! Several proxies on one store.

use super::postgres_rig;
use super::programs::{Place, Program, curl, free_port, proxy};

const CALL: &str = "<methodCall><methodName>withdraw</methodName><params><param><value><int>10\
                    </int></value></param></params></methodCall>";

async fn withdrawn(at: std::net::SocketAddr, key: String) -> String {
    let (url, key) = (
        format!("http://{at}/RPC2"),
        format!("Idempotency-Key: {key}"),
    );
    let written = "%{http_code} %header{idempotency-status}";
    let arguments = [
        "-o",
        "/dev/null",
        "-w",
        written,
        "--data-raw",
        CALL,
        "-H",
        &key,
    ];
    let content = ["-H", "Content-Type: text/xml", &url];
    curl(&[&arguments[..], &content[..]].concat()).await
}

async fn ingress(listen: &str, bank: &Program, store: &str) -> Program {
    let upstream = format!("http://{}", bank.at);
    let mut arguments = vec!["--listen", listen, "--upstream", &upstream, "--migrate"];
    arguments.extend(["--store", store, "--global-scope"]);
    proxy(&arguments).await
}

// A2, B2
#[tokio::test]
async fn two_proxies_on_one_store_execute_a_key_once_also_when_one_is_killed() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    let place = Place::new();
    let bank = place.bank_at(0, "0.3").await;
    let listen = format!("127.0.0.1:{}", free_port());
    let store = server.url();
    let first = ingress(&listen, &bank, &store).await;
    let second = ingress("127.0.0.1:0", &bank, &store).await;
    let both = [first.at, second.at];
    for key in 0..3 {
        let calls = (0..6).map(|call| tokio::spawn(withdrawn(both[call % 2], format!("k{key}"))));
        let mut executed = 0;
        for call in calls.collect::<Vec<_>>() {
            let said = call.await.unwrap();
            assert!(said.starts_with("200 "), "{said}");
            executed += usize::from(said == "200 executed");
        }
        assert_eq!((executed, place.effects().len()), (1, key + 1));
    }

    // The one that executes it is killed: the other one does not run it as well.
    let lost = tokio::spawn(withdrawn(first.at, "lost".to_owned()));
    while place.effects().len() < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    first.kill().await;
    assert_eq!(lost.await.unwrap(), "000 ");
    let said = withdrawn(second.at, "lost".to_owned()).await;
    assert!(
        said == "409 in-progress" || said == "409 in-doubt",
        "{said}"
    );
    assert_eq!(place.effects().len(), 4);
}
