//! The admin page, in a browser that clicks, and asked by others than its page.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::programs::{Place, Program, curl, not_run, proxy, python};
use super::scripted::{Reply, Scripted};

const TOKEN: &str = "a-token-of-the-operators";

/// An ingress with a call in doubt under `lost-order`.
async fn with_a_doubt(place: &Place, service: &Scripted) -> Program {
    let upstream = format!("http://{}", service.at);
    let file = place.path("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.display().to_string();
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
    arguments.extend(["--store", "memory:", "--global-scope"]);
    arguments.extend(["--admin", "127.0.0.1:0", "--admin-token-file", &file]);
    let ingress = proxy(&arguments).await;
    assert_eq!(call(&ingress).await, "409 in-doubt");
    ingress
}

async fn call(ingress: &Program) -> String {
    let url = format!("http://{}/pay", ingress.at);
    let written = "%{http_code} %header{idempotency-status}";
    let key = "Idempotency-Key: lost-order";
    curl(&[
        "-o",
        "/dev/null",
        "-w",
        written,
        "-d",
        "10",
        "-H",
        key,
        &url,
    ])
    .await
}

/// The code, when asked so.
async fn asked(ingress: &Program, what: &str, headers: &[&str], body: &str) -> String {
    let url = format!("http://{}/api/{what}", ingress.admin.unwrap());
    let mut arguments = vec!["-o", "/dev/null", "-w", "%{http_code}", "-d", body];
    arguments.extend(headers.iter().flat_map(|header| ["-H", header]));
    arguments.push(&url);
    curl(&arguments).await
}

#[tokio::test]
async fn nobody_sees_or_ends_a_doubt_without_the_token_and_no_other_site_does() {
    let place = Place::new();
    let service = Scripted::always(Reply::Close).await;
    let ingress = with_a_doubt(&place, &service).await;
    let json = "Content-Type: application/json";
    let right = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(asked(&ingress, "list", &[json], "{}").await, "401");
    let wrong = "Authorization: Bearer another";
    assert_eq!(asked(&ingress, "list", &[json, wrong], "{}").await, "401");
    // What a form of another site can send.
    assert_eq!(asked(&ingress, "list", &[&right], "{}").await, "403");
    let other = "Sec-Fetch-Site: cross-site";
    assert_eq!(
        asked(&ingress, "list", &[json, &right, other], "{}").await,
        "403"
    );
    let odd = "{\"kee\": 1}";
    assert_eq!(asked(&ingress, "show", &[json, &right], odd).await, "400");
    assert_eq!(asked(&ingress, "sweep", &[json, &right], "{}").await, "404");
    assert_eq!(asked(&ingress, "list", &[json, &right], "{}").await, "200");
    let page = curl(&["-i", &format!("http://{}/", ingress.admin.unwrap())]).await;
    assert!(page.contains("frame-ancestors 'none'"), "{page}");
    assert!(
        !page.contains("src=") && !page.contains("href="),
        "it loads nothing from elsewhere"
    );
}

#[tokio::test]
async fn an_operator_ends_a_doubt_by_clicks_in_light_and_in_dark() {
    let Some(chromium) = chromium().await else {
        return not_run("ONLYONCE_REQUIRE_CHROMIUM", "there is no Chromium");
    };
    let place = Place::new();
    let service = Scripted::always(Reply::Close).await;
    let ingress = with_a_doubt(&place, &service).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxy/drive_page.py");
    let url = format!("http://{}/", ingress.admin.unwrap());
    let shots = std::env::var("ONLYONCE_SHOTS").map_or_else(|_| place.path(""), Into::into);
    let mut driver = Command::new(python());
    driver
        .arg(script)
        .args([&chromium, &url, TOKEN, "lost-order"])
        .arg(&shots)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(120), driver.output()).await;
    let output = output.expect("in time").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["without_token"], 0);
    assert_eq!(seen["doubts"][0], "lost-order");
    assert_ne!(seen["light"], seen["dark"]);
    let story = seen["story"].as_str().unwrap();
    for part in [
        "claimed, under token",
        "an attempt: told 409 in-doubt",
        "resolved by ann",
        "an answer of",
    ] {
        assert!(story.contains(part), "{part} in {story}");
    }
    assert!(
        seen["sealed"].as_str().unwrap().contains("now: sealed"),
        "{seen}"
    );
    assert!(seen["bars"].as_u64().unwrap() > 10, "{seen}");
    for shot in ["light.png", "dark.png"] {
        let length = std::fs::metadata(shots.join(shot)).unwrap().len();
        assert!(length > 10_000, "{shot} has {length} bytes");
    }
    // What the operator said is the answer from now on.
    assert_eq!(call(&ingress).await, "201 replayed");
    assert_eq!(service.heard().len(), 1);
}

async fn chromium() -> Option<String> {
    for name in ["chromium", "chromium-browser", "google-chrome"] {
        let mut version = Command::new(name);
        version
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if version.status().await.is_ok_and(|status| status.success()) {
            return Some(name.to_owned());
        }
    }
    None
}
