//! The page, in a browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{chaos, ends_with, text};

#[test]
fn the_page_is_shown_by_a_browser_in_light_and_dark() {
    let Some(browser) = chromium() else {
        let required = std::env::var_os("ONLYONCE_REQUIRE_CHROMIUM").is_some();
        assert!(
            !required,
            "ONLYONCE_REQUIRE_CHROMIUM is set, and there is no chromium"
        );
        println!("not run: chromium not found");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let run = [
        "run",
        "bad-network",
        "--exec",
        "tower",
        "--seeds",
        "1..3",
        "--naive",
    ];
    ends_with(&chaos(&[&run[..], &["--report", text(&page)]].concat()), 1);
    let bytes = fs::read(&page).unwrap();
    assert!(bytes.len() < 2 << 20, "{} bytes", bytes.len());

    let dom = open(&browser, &page, &["--dump-dom"]);
    for shown in [
        "A promise was broken",
        "What was survived",
        "the life of a key",
        "</footer>",
    ] {
        assert!(dom.contains(shown), "{shown} is missing in {dom}");
    }
    // It needs nothing else, and nothing in it runs.
    for absent in ["<script", "http://", "https://", "src=", "@import"] {
        assert!(!dom.contains(absent), "{absent} is in {dom}");
    }
    let picture = |name: &str, scheme: &str| {
        let file = folder.path().join(name);
        let shot = format!("--screenshot={}", file.display());
        open(&browser, &page, &[&shot, "--window-size=1160,1400", scheme]);
        fs::read(file).unwrap()
    };
    let light = picture("light.png", "--blink-settings=preferredColorScheme=1");
    let dark = picture("dark.png", "--blink-settings=preferredColorScheme=0");
    for picture in [&light, &dark] {
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() > 20_000,
            "{}",
            picture.len()
        );
    }
    assert_ne!(light, dark);
}

fn open(browser: &Path, page: &Path, arguments: &[&str]) -> String {
    // A profile of its own, so that no browser of somebody else's is asked to open it.
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn chromium() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file())
}
