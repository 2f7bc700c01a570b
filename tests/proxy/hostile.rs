//! Clients and services that mean harm, or are broken.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::programs::{Place, Program, curl, egress, proxy};
use super::scripted::{Reply, Scripted};

async fn ingress(upstream: SocketAddr, more: &[&str]) -> Program {
    let upstream = format!("http://{upstream}");
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
    arguments.extend(["--store", "memory:", "--global-scope"]);
    arguments.extend(more);
    proxy(&arguments).await
}

/// What the proxy says to these bytes until it closes, or is silent for a second.
async fn said(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    while let Ok(Ok(read)) = timeout(Duration::from_secs(1), stream.read_buf(&mut said)).await {
        if read == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Requests in which two readers could see different ones. Whatever is made of them, the service
/// sees at most one, framed anew, and never the hidden one.
#[tokio::test]
async fn a_request_that_hides_another_shows_the_service_only_one() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: xyz\r\n\r\n";
    assert_eq!(hidden.len(), 35);
    let head = "POST /pay HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n";
    let shapes = [
        format!("{head}Content-Length: 0\r\nContent-Length: 35\r\n\r\n{hidden}"),
        format!("{head}Content-Length: 0, 35\r\n\r\n{hidden}"),
        format!("{head}Content-Length: +35\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: xchunked\r\nContent-Length: 35\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding : chunked\r\nContent-Length: 35\r\n\r\n{hidden}"),
        format!("{head} Transfer-Encoding: chunked\r\nContent-Length: 35\r\n\r\n{hidden}"),
        format!("{head}Content-Length: 35\r\n\r\n{hidden}"),
        format!("{head}X: a\0b\r\nContent-Length: 35\r\n\r\n{hidden}"),
        format!("{head}Content-Length: 35\n\n{hidden}"),
    ];
    for shape in shapes {
        let service = Scripted::always(Reply::ok("paid")).await;
        let ingress = ingress(service.at, &[]).await;
        let answers = said(ingress.at, shape.as_bytes()).await;
        let heard = service.heard();
        let seen = heard
            .iter()
            .any(|request| request.starts_with("GET /hidden"));
        assert!(!seen, "{shape:?}: {heard:?}");
        assert!(heard.len() <= 1, "{shape:?}: {heard:?}");
        assert!(
            answers.matches("HTTP/1.1 ").count() <= 1,
            "{shape:?}: {answers}"
        );
    }
}

/// Of two hosts the proxy could take the one and the service the other.
#[tokio::test]
async fn a_request_with_two_hosts_is_refused_by_either_half_and_reaches_no_service() {
    let service = Scripted::always(Reply::ok("paid")).await;
    let ingress = ingress(service.at, &["--keyless", "pass"]).await;
    let egress = egress(ingress.at, &[]).await;
    for head in ["POST /pay", "GET /paid"] {
        for hosts in ["Host: x\r\nHost: y\r\n", "Host: x\r\nHost: x\r\n"] {
            let request = format!(
                "{head} HTTP/1.1\r\n{hosts}Idempotency-Key: k\r\nContent-Length: 0\r\n\r\n"
            );
            for at in [ingress.at, egress.at] {
                let answer = said(at, request.as_bytes()).await;
                assert!(answer.starts_with("HTTP/1.1 400"), "{request:?}: {answer}");
            }
        }
    }
    assert!(service.heard().is_empty(), "{:?}", service.heard());
}

/// Both framings at once: the length is dropped and chunks count, for the proxy and, since it frames
/// anew, for the service.
#[tokio::test]
async fn a_request_with_both_framings_is_framed_anew() {
    let service = Scripted::always(Reply::ok("paid")).await;
    let ingress = ingress(service.at, &[]).await;
    let both = "POST /pay HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 4\r\n\
                Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = said(ingress.at, both.as_bytes()).await;
    let heard = service.heard();
    if answer.starts_with("HTTP/1.1 200") {
        assert_eq!(heard.len(), 1);
        let request = heard[0].to_ascii_lowercase();
        assert!(request.contains("content-length: 3\r\n"), "{request}");
        assert!(!request.contains("transfer-encoding"), "{request}");
        assert!(request.ends_with("\r\n\r\nabc"), "{request}");
    } else {
        assert!(heard.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_or_its_body_is_left() {
    let service = Scripted::always(Reply::ok("paid")).await;
    let ingress = ingress(service.at, &["--client-timeout", "500ms"]).await;
    for start in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "POST /pay HTTP/1.1\r\nHost: x\r\n",
        "POST /pay HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 9\r\n\r\nhalf",
    ] {
        let mut stream = TcpStream::connect(ingress.at).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let began = Instant::now();
        let mut heard = Vec::new();
        let closed = timeout(Duration::from_secs(8), stream.read_to_end(&mut heard)).await;
        assert!(
            closed.is_ok(),
            "{start:?} is still open after {:?}",
            began.elapsed()
        );
    }
    assert!(service.heard().is_empty());
}

#[tokio::test]
async fn a_head_or_a_body_over_the_bound_is_refused_before_anything_is_executed() {
    let service = Scripted::always(Reply::ok("paid")).await;
    let bounds = ["--body-bytes-max", "1000", "--head-bytes-max", "8192"];
    let ingress = ingress(service.at, &bounds).await;
    let body = "x".repeat(1001);
    let code = |body: String, more: Vec<String>| {
        let url = format!("http://{}/pay", ingress.at);
        async move {
            let mut arguments = vec!["-o", "/dev/null", "-w", "%{http_code}", "--data-raw", &body];
            arguments.extend(["-H", "Idempotency-Key: k"]);
            arguments.extend(more.iter().map(String::as_str));
            arguments.push(&url);
            curl(&arguments).await
        }
    };
    assert_eq!(code(body.clone(), vec![]).await, "413");
    let chunked = vec!["-H".to_owned(), "Transfer-Encoding: chunked".to_owned()];
    assert_eq!(code(body, chunked).await, "413");
    let long = vec!["-H".to_owned(), format!("X: {}", "x".repeat(10_000))];
    assert_eq!(code("pay".to_owned(), long).await, "431");
    let many = (0..200).flat_map(|line| ["-H".to_owned(), format!("x-{line}: 1")]);
    assert_eq!(code("pay".to_owned(), many.collect()).await, "431");
    assert!(service.heard().is_empty());
    assert_eq!(code("pay".to_owned(), vec![]).await, "200");
}

#[tokio::test]
async fn a_service_that_never_answers_or_never_ends_holds_nobody_past_the_time() {
    for endless in [Reply::Silence, Reply::Trickle] {
        let service = Scripted::always(endless).await;
        let ingress = ingress(service.at, &["--timeout", "1s"]).await;
        let url = format!("http://{}/pay", ingress.at);
        let written = "%{http_code} %header{idempotency-status}";
        let began = Instant::now();
        let arguments = [
            "-o",
            "/dev/null",
            "-w",
            written,
            "-d",
            "x",
            "-H",
            "Idempotency-Key: k",
        ];
        let call: Vec<&str> = arguments.into_iter().chain([url.as_str()]).collect();
        assert_eq!(curl(&call).await, "409 in-doubt");
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(curl(&call).await, "409 in-doubt");
        assert_eq!(service.heard().len(), 1);
    }
}

// F4
#[tokio::test]
async fn an_answer_over_the_bound_is_delivered_once_and_its_key_is_in_doubt() {
    let long = "x".repeat(300_000);
    let service = Scripted::always(Reply::ok(&long)).await;
    let ingress = ingress(service.at, &["--answer-bytes-max", "100000"]).await;
    let url = format!("http://{}/pay", ingress.at);
    let written = "%{http_code} %{size_download} %header{idempotency-status}";
    let arguments = [
        "-o",
        "/dev/null",
        "-w",
        written,
        "-d",
        "x",
        "-H",
        "Idempotency-Key: k",
        &url,
    ];
    assert_eq!(curl(&arguments).await, "200 300000 executed; unrecorded");
    let again = curl(&arguments).await;
    assert!(
        again.starts_with("409") && again.ends_with("in-doubt"),
        "{again}"
    );
    assert_eq!(service.heard().len(), 1);
}

#[tokio::test]
async fn connections_over_the_bound_are_told_so_and_those_within_go_on() {
    let service = Scripted::always(Reply::ok("paid")).await;
    let bounds = ["--connections-max", "2", "--admin", "127.0.0.1:0"];
    let ingress = ingress(service.at, &bounds).await;
    let request =
        "POST /pay HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(ingress.at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut heard = [0; 1024];
        let read = stream.read(&mut heard).await.unwrap();
        assert!(heard[..read].starts_with(b"HTTP/1.1 200"));
        open.push(stream);
    }
    let refused = said(ingress.at, request.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(
        refused.contains("Idempotency-Status: not-executed"),
        "{refused}"
    );
    let figures = curl(&[&format!("http://{}/metrics", ingress.admin.unwrap())]).await;
    assert!(
        figures.contains("onlyonce_proxy_connections 2"),
        "{figures}"
    );
    assert!(
        figures.contains("onlyonce_proxy_connections_refused_total 1"),
        "{figures}"
    );
    drop(open);
}

#[tokio::test]
async fn a_method_that_would_make_a_tunnel_and_an_upgrade_are_not_passed_on() {
    let place = Place::new();
    let service = Scripted::always(Reply::ok("paid")).await;
    let ingress = ingress(service.at, &["--keyless", "pass"]).await;
    let tunnel = said(
        ingress.at,
        b"CONNECT host:1 HTTP/1.1\r\nHost: host:1\r\n\r\n",
    )
    .await;
    assert!(tunnel.starts_with("HTTP/1.1 405"), "{tunnel}");
    let upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let upgrade = said(ingress.at, upgrade).await;
    assert!(upgrade.starts_with("HTTP/1.1 200"), "{upgrade}");
    let heard = service.heard();
    assert_eq!(heard.len(), 1);
    assert!(
        !heard[0].to_ascii_lowercase().contains("upgrade"),
        "{heard:?}"
    );
    drop(place);
}

#[tokio::test]
async fn a_request_over_the_bound_is_refused_and_executes_nothing() {
    let service = Scripted::always(Reply::Silence).await;
    let bounds = ["--requests-max", "1", "--timeout", "3s"];
    let ingress = ingress(service.at, &bounds).await;
    let url = format!("http://{}/pay", ingress.at);
    let written = "%{http_code} %header{idempotency-status}";
    let call = |key: &'static str| {
        let url = url.clone();
        async move {
            let key = format!("Idempotency-Key: {key}");
            curl(&[
                "-o",
                "/dev/null",
                "-w",
                written,
                "-d",
                "x",
                "-H",
                &key,
                &url,
            ])
            .await
        }
    };
    let first = tokio::spawn(call("a"));
    while service.heard().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(call("b").await, "503 not-executed");
    assert_eq!(first.await.unwrap(), "409 in-doubt");
    assert_eq!(service.heard().len(), 1);
}

// A call goes on when its client has gone, and still takes a place.
#[tokio::test]
async fn a_call_whose_client_has_gone_counts_until_the_service_has_ended_it() {
    let service = Scripted::always(Reply::Silence).await;
    let bounds = ["--requests-max", "2", "--timeout", "4s"];
    let ingress = ingress(service.at, &bounds).await;
    let url = format!("http://{}/pay", ingress.at);
    let call = |key: &'static str, seconds: &'static str| {
        let url = url.clone();
        async move {
            let key = format!("Idempotency-Key: {key}");
            let written = "%{http_code} %header{idempotency-status}";
            let patience = ["--http2-prior-knowledge", "-m", seconds, "-o", "/dev/null"];
            let call = ["-w", written, "-d", "x", "-H", &key, &url];
            curl(&[&patience[..], &call[..]].concat()).await
        }
    };
    for (number, key) in ["a", "b"].into_iter().enumerate() {
        assert_eq!(call(key, "0.5").await, "000 ");
        assert_eq!(service.heard().len(), number + 1);
    }
    assert_eq!(call("c", "2").await, "503 not-executed");
    assert_eq!(service.heard().len(), 2);
    // It is in doubt then, and its place is free.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(call("a", "2").await, "409 in-doubt");
    assert_eq!(call("c", "0.5").await, "000 ");
    assert_eq!(service.heard().len(), 3);
}
