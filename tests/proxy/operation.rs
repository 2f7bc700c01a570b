//! How a proxy is run: settings, signals, figures, logs, TLS.

use std::process::Stdio;
use std::time::Duration;

use tokio::time::sleep;

use super::programs::{Place, command, curl, egress, not_run, proxy, refused};

const CALL: &str = "<methodCall><methodName>withdraw</methodName><params><param><value><int>10\
                    </int></value></param></params></methodCall>";

/// The code, and the status, that a withdrawal under this key gets.
async fn withdrawn(url: &str, key: &str, more: &[&str]) -> String {
    let key = format!("Idempotency-Key: {key}");
    let written = "%{http_code} %header{idempotency-status}";
    let mut arguments = vec!["-o", "/dev/null", "-w", written, "--data-raw", CALL];
    arguments.extend(["-H", "Content-Type: text/xml", "-H", &key]);
    arguments.extend(more);
    arguments.push(url);
    curl(&arguments).await
}

#[tokio::test]
async fn a_wrong_setting_ends_the_proxy_with_its_name_wherever_it_was_said() {
    let place = Place::new();
    let (code, words) = refused(&["--upstream", "http://127.0.0.1:1"]).await;
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("listen: "), "{words}");

    let file = place.path("proxy.toml");
    let file_name = file.display().to_string();
    std::fs::write(
        &file,
        "listen = '127.0.0.1:0'\nupstrem = 'http://127.0.0.1:1'\n",
    )
    .unwrap();
    let (code, words) = refused(&["--config", &file_name]).await;
    assert_eq!(code, Some(2), "{words}");
    assert!(
        words.contains("upstrem") && words.contains("line 2"),
        "{words}"
    );

    std::fs::write(
        &file,
        "listen = '127.0.0.1:0'\nupstream = 'http://127.0.0.1:1'\n",
    )
    .unwrap();
    let mut environment = command(&["--config", &file_name]);
    environment.env("ONLYONCE_PROXY_STORE", "mysql://secret@host");
    let output = environment.output().await.unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(
        words.contains("store: ") && !words.contains("secret"),
        "{words}"
    );
}

#[tokio::test]
async fn flags_count_before_the_environment_and_that_before_the_file() {
    let place = Place::new();
    let bank = place.bank().await;
    let file = place.path("proxy.toml");
    let text = format!(
        "listen = 'nowhere'\nupstream = 'http://{}'\nstore = 'nothing'\nglobal-scope = true\n",
        bank.at
    );
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let mut proxy = command(&["--config", &file, "--listen", "127.0.0.1:0"]);
    proxy
        .env("ONLYONCE_PROXY_LISTEN", "nowhere either")
        .env("ONLYONCE_PROXY_STORE", "memory:");
    let proxy = super::programs::Program::start(&mut proxy, true).await;
    let url = format!("http://{}/RPC2", proxy.at);
    assert_eq!(withdrawn(&url, "a", &[]).await, "200 executed");
}

// G1
#[tokio::test]
async fn a_store_that_another_process_has_is_not_shared() {
    let place = Place::new();
    let bank = place.bank().await;
    let _first = place.ingress(bank.at, &[]).await;
    let (upstream, store) = (format!("http://{}", bank.at), place.store());
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
    arguments.extend(["--store", &store, "--global-scope"]);
    let (code, words) = refused(&arguments).await;
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains("store: "), "{words}");
}

// B17
#[tokio::test]
async fn a_proxy_that_is_terminated_answers_what_is_under_way() {
    let place = Place::new();
    let bank = place.bank_at(0, "1").await;
    let ingress = place.ingress(bank.at, &["--admin", "127.0.0.1:0"]).await;
    let egress = egress(ingress.at, &["--admin", "127.0.0.1:0"]).await;
    for program in [&ingress, &egress] {
        let admin = program.admin.unwrap();
        let asked = |path| async move { curl(&[&format!("http://{admin}{path}")]).await };
        assert_eq!(asked("/healthz").await, "alive\n");
        assert_eq!(asked("/readyz").await, "ready\n");
    }
    let url = format!("http://{}/RPC2", egress.at);
    let call = tokio::spawn(async move { withdrawn(&url, "a", &[]).await });
    while place.effects().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    egress.signal("TERM").await;
    ingress.signal("TERM").await;
    assert_eq!(call.await.unwrap(), "200 executed");
    for program in [egress, ingress] {
        let (status, words) = program.ended().await;
        assert_eq!(status.code(), Some(0), "{words}");
        assert!(words.contains("nothing was left over"), "{words}");
    }
}

#[tokio::test]
async fn a_proxy_that_may_not_wait_any_longer_says_what_is_left_over() {
    let place = Place::new();
    let bank = place.bank_at(0, "20").await;
    let ingress = place.ingress(bank.at, &["--drain", "200ms"]).await;
    let url = format!("http://{}/RPC2", ingress.at);
    let call = tokio::spawn(async move { withdrawn(&url, "a", &[]).await });
    while place.effects().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    ingress.signal("TERM").await;
    let (status, words) = ingress.ended().await;
    assert_eq!(status.code(), Some(3), "{words}");
    assert!(
        words.contains("1 requests without an answer, 1 calls"),
        "{words}"
    );
    assert_eq!(call.await.unwrap(), "000 ");
    // It is known as in doubt from then on.
    let ingress = place.ingress(bank.at, &[]).await;
    let url = format!("http://{}/RPC2", ingress.at);
    assert_eq!(withdrawn(&url, "a", &[]).await, "409 in-doubt");
}

// I3
#[tokio::test]
async fn the_access_log_and_the_figures_hold_no_key_no_credential_and_no_body() {
    let place = Place::new();
    let bank = place.bank().await;
    for format in ["json", "text"] {
        let (upstream, store) = (format!("http://{}", bank.at), "memory:");
        let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
        arguments.extend(["--store", store, "--scope-basic-user-trusted"]);
        arguments.extend(["--access-log", format, "--admin", "127.0.0.1:0"]);
        let log = std::fs::File::create(place.path(format)).unwrap();
        let mut ingress = command(&arguments);
        ingress.stdout(Stdio::from(log));
        let ingress = super::programs::Program::start(&mut ingress, true).await;
        let url = format!("http://{}/RPC2?secret=query", ingress.at);
        let user = ["--user", "principal:password"];
        // The bank knows no such path.
        assert_eq!(withdrawn(&url, "the-key", &user).await, "404 executed");
        let figures = curl(&[&format!("http://{}/metrics", ingress.admin.unwrap())]).await;
        ingress.signal("TERM").await;
        let (_, words) = ingress.ended().await;
        let log = std::fs::read_to_string(place.path(format)).unwrap();
        assert!(log.contains("/RPC2") && log.contains("404"), "{log}");
        for text in [&log, &figures, &words] {
            for secret in ["the-key", "principal", "password", "query", "withdraw"] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_pair_speaks_tls_and_lets_nobody_in_without_a_certificate() {
    let place = Place::new();
    let made = certificates(&place).await;
    if let Err(reason) = made {
        return not_run("ONLYONCE_REQUIRE_OPENSSL", &reason);
    }
    let path = |name: &str| place.path(name).display().to_string();
    let bank = place.bank().await;
    let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let tls = [
        "--tls-certificate",
        &certificate,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
    ];
    let ingress = place.ingress(bank.at, &tls).await;
    let upstream = format!("https://localhost:{}", ingress.at.port());
    let (own, own_key) = (path("client.pem"), path("client.key"));
    let mut arguments = vec!["--mode", "egress", "--listen", "127.0.0.1:0"];
    arguments.extend(["--upstream", &upstream, "--upstream-ca", &ca]);
    arguments.extend(["--upstream-certificate", &own, "--upstream-key", &own_key]);
    let egress = proxy(&arguments).await;
    let url = format!("http://{}/RPC2", egress.at);
    // By the name that it is asked for directly below: a key belongs to a host.
    let host = ["-H", "Host: localhost"];
    assert_eq!(withdrawn(&url, "a", &host).await, "200 executed");

    // Somebody without one, over HTTP/2 where that is negotiated, and in the clear.
    let url = format!("{upstream}/RPC2");
    let with = ["--cacert", ca.as_str(), "--cert", &own, "--key", &own_key];
    assert_eq!(withdrawn(&url, "a", &with).await, "200 replayed");
    assert_eq!(withdrawn(&url, "b", &with[..2]).await, "000 ");
    let clear = format!("http://localhost:{}/RPC2", ingress.at.port());
    assert_eq!(withdrawn(&clear, "b", &[]).await, "000 ");
    let mut arguments = vec!["--mode", "egress", "--listen", "127.0.0.1:0"];
    arguments.extend(["--upstream", &upstream, "--timeout", "2s"]);
    let stranger = proxy(&arguments).await;
    let url = format!("http://{}/RPC2", stranger.at);
    // Whether or not the time was over while it asked.
    let refused = withdrawn(&url, "b", &[]).await;
    assert!(refused.starts_with("50"), "{refused}");
    assert_eq!(place.effects().len(), 1);
}

#[tokio::test]
async fn a_certificate_that_is_over_or_of_another_name_or_authority_lets_nothing_through() {
    let place = Place::new();
    if let Err(reason) = certificates(&place).await {
        return not_run("ONLYONCE_REQUIRE_OPENSSL", &reason);
    }
    let path = |name: &str| place.path(name).display().to_string();
    let bank = place.bank().await;
    let ca = path("ca.pem");
    for wrong in ["expired", "elsewhere", "stranger"] {
        // Shown to an egress that asks for `localhost`.
        let (certificate, key) = (path(&format!("{wrong}.pem")), path(&format!("{wrong}.key")));
        let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
        let ingress = place.ingress(bank.at, &tls).await;
        let upstream = format!("https://localhost:{}", ingress.at.port());
        let mut arguments = vec!["--mode", "egress", "--listen", "127.0.0.1:0"];
        arguments.extend([
            "--upstream",
            &upstream,
            "--upstream-ca",
            &ca,
            "--attempts-max",
            "2",
        ]);
        let egress = proxy(&arguments).await;
        let url = format!("http://{}/RPC2", egress.at);
        let said = withdrawn(&url, "a", &[]).await;
        // Nothing was sent from here; what its client sent before under its own key, it knows itself.
        assert_eq!(said, "504 ", "{wrong}");
        drop(egress);
        ingress.signal("TERM").await;
        ingress.ended().await;
    }
    // Shown to an ingress that lets in only whoever has one of its authority.
    let (certificate, key) = (path("server.pem"), path("server.key"));
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let ingress = place
        .ingress(bank.at, &[&tls[..], &["--tls-client-ca", &ca]].concat())
        .await;
    let url = format!("https://localhost:{}/RPC2", ingress.at.port());
    for wrong in ["expired", "stranger"] {
        let (own, own_key) = (path(&format!("{wrong}.pem")), path(&format!("{wrong}.key")));
        let with = ["--cacert", ca.as_str(), "--cert", &own, "--key", &own_key];
        assert_eq!(withdrawn(&url, "a", &with).await, "000 ", "{wrong}");
    }
    assert!(place.effects().is_empty());
}

/// An authority, and certificates of it: for a server, for a client, one that is over, and one for
/// another name; and one of an authority of its own.
async fn certificates(place: &Place) -> Result<(), String> {
    let script = "set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
for name in server client; do
  openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > $name.ext
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile $name.ext
done
for name in expired elsewhere; do openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name; done
touch index.txt; echo 01 > serial; mkdir -p made
printf '[ca]\\ndefault_ca=own\\n[own]\\ndatabase=index.txt\\nserial=serial\\nnew_certs_dir=made\\ndefault_md=sha256\\npolicy=any\\n[any]\\ncommonName=supplied\\n' > ca.cnf
openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in expired.csr -out expired.pem -extfile server.ext \\
  -startdate 20200101000000Z -enddate 20210101000000Z -notext
printf 'subjectAltName=DNS:elsewhere.example\\n' > elsewhere.ext
openssl x509 -req -in elsewhere.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out elsewhere.pem -days 2 -extfile elsewhere.ext
openssl req -x509 -newkey rsa:2048 -nodes -keyout stranger.key -out stranger.pem -days 2 -subj /CN=stranger \\
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1";
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-c", script]).current_dir(place.path(""));
    match shell.output().await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("no openssl: {error}")),
    }
}
