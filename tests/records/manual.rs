//! The example session of the manual, line by line.

use tempfile::TempDir;

use super::program::{Server, run};
use super::store;

/// Every command that the manual shows is run as it stands there, with the token that `show` says.
#[tokio::test]
async fn the_session_of_the_manual_goes_as_it_says() {
    let manual = include_str!("../../src/manual/records.md");
    let folder = TempDir::new().unwrap();
    store::make(folder.path()).await;
    let server = Server::start(folder.path()).await;
    let path = folder.path().display().to_string();
    std::fs::write(folder.path().join("receipt.bin"), "paid").unwrap();
    let mut commands = 0;
    for line in manual
        .lines()
        .filter_map(|line| line.strip_prefix("$ onlyonce records "))
    {
        let (command, code) = line.split_once("   # ends with ").unwrap_or((line, "0"));
        let command = command.replace("/var/lib/bank", &path);
        let words: Vec<_> = command.split_whitespace().collect();
        let ended = run(&words).await;
        assert_eq!(ended.code.to_string(), code, "{line}: {ended:?}");
        commands += 1;
    }
    assert!(commands >= 6, "only {commands} commands were seen");
    drop(server);
}
