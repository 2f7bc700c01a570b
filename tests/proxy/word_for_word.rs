//! The commands of README and manual, run as they stand there.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use super::programs::{not_run, python};

#[tokio::test]
async fn the_readmes_five_lines_take_twenty_without_and_ten_through_the_pair() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let section = section(&readme, "## In front of a service in any language");
    let five = block(section, "python");
    let file = std::fs::read_to_string(root.join("examples/proxy/withdraw.py")).unwrap();
    assert_eq!(five, file);
    prints(root, section).await;
}

#[tokio::test]
async fn the_recipe_for_flask_works_word_for_word() {
    if !runs(&python(), &["-c", "import flask"]).await {
        return not_run("ONLYONCE_REQUIRE_PYTHON", "this Python has no Flask");
    }
    recipe("## Flask").await;
}

#[tokio::test]
async fn the_recipe_for_node_works_word_for_word() {
    if !runs("node", &["--version"]).await {
        return not_run("ONLYONCE_REQUIRE_NODE", "there is no Node");
    }
    recipe("## Node").await;
}

#[tokio::test]
async fn the_recipe_for_perl_works_word_for_word() {
    if !runs("perl", &["-MIO::Socket::INET", "-e", "1"]).await {
        return not_run("ONLYONCE_REQUIRE_PERL", "there is no Perl");
    }
    recipe("## Perl").await;
}

#[tokio::test]
async fn the_recipe_behind_nginx_works_word_for_word() {
    if !runs("nginx", &["-v"]).await {
        return not_run("ONLYONCE_REQUIRE_NGINX", "there is no nginx");
    }
    recipe("## Behind nginx").await;
}

async fn recipe(heading: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("src/manual/proxy_recipes.md")).unwrap();
    let folder = TempDir::new().unwrap();
    prints(folder.path(), section(&manual, heading)).await;
}

/// Runs the commands of a section in this folder, and compares what they print.
async fn prints(folder: &Path, section: &str) {
    let (commands, expected) = (block(section, "sh"), block(section, "text"));
    let mut shell = if runs("unshare", &["-rn", "bash", "-c", &alone("true")]).await {
        // With ports of its own, whoever else runs this at the same time.
        let mut shell = Command::new("unshare");
        shell.args(["-rn", "bash", "-c", &alone("exec bash -c \"$COMMANDS\"")]);
        shell
    } else {
        let mut shell = Command::new("bash");
        shell.args(["-c", commands]);
        shell
    };
    shell
        .current_dir(folder)
        .env("PATH", path())
        .env("COMMANDS", commands)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(60), shell.output());
    let output = output.await.expect("it ends in time").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, expected, "{errors}");
}

/// In a network of its own, and there as nobody in particular.
fn alone(command: &str) -> String {
    format!(
        "ip link set lo up && exec unshare -U --map-user=1000 --map-group=1000 -- {}",
        command.replace("exec ", "")
    )
}

/// With the program, and the Python of the tests.
fn path() -> std::ffi::OsString {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_onlyonce"));
    let mut folders = vec![program.parent().unwrap().to_owned()];
    let python = PathBuf::from(python());
    folders.extend(python.parent().map(Path::to_owned));
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&inherited));
    std::env::join_paths(folders).unwrap()
}

async fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// From this heading to the next.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(heading).expect("the section is there");
    let rest = &text[start..];
    let end = rest[2..].find("\n## ").map_or(rest.len(), |end| end + 2);
    &rest[..end]
}

/// The first block in this language.
fn block<'a>(section: &'a str, language: &str) -> &'a str {
    let fence = format!("```{language}\n");
    let start = section.find(&fence).expect("the block is there") + fence.len();
    let end = section[start..].find("```\n").expect("it ends");
    &section[start..start + end]
}
