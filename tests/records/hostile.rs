//! What whoever reaches the socket can do with it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::admin::{self, AdminError, AdminFailure, AdminReply, AdminRequest, AdminSocket};
use onlyonce::storage::{Inspect, KeyState, MemoryStore, Store};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::store::{claimed, key};

const MAGIC: &[u8] = b"\x801xadmin";

struct Rig {
    folder: TempDir,
    store: Arc<MemoryStore>,
    _socket: AdminSocket,
}

impl Rig {
    /// A store in memory, with one call in doubt.
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Arc::new(MemoryStore::new());
        drop(claimed(&*store, &key("alice", "doubted")).await);
        let socket = AdminSocket::serve(store.clone(), folder.path()).unwrap();
        Self {
            folder,
            store,
            _socket: socket,
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("ADMIN"))
            .await
            .unwrap()
    }

    /// A connection whose hands are shaken.
    async fn greeted(&self) -> UnixStream {
        let mut stream = self.connect().await;
        stream.write_all(&[MAGIC, &[2, 0]].concat()).await.unwrap();
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(greeting[..], [MAGIC, &[2, 0, 0]].concat());
        stream
    }

    /// It still answers, and the doubt is still there.
    async fn assert_well(&self) {
        let reply = admin::ask(self.folder.path(), &AdminRequest::Stats).await;
        let Ok(AdminReply::Stats(stats)) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!((stats.in_doubt, stats.settled), (1, 0));
    }
}

/// What the server says until it closes the connection, which it must do.
async fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await;
    // A reset is an end as well.
    let _ = read.expect("the server ends the conversation");
    said
}

#[tokio::test]
async fn a_peer_that_greets_otherwise_is_let_go_and_learns_nothing() {
    let rig = Rig::start().await;
    for greeting in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x801xadmim\x01\x00",
        &[0; 4_096],
        &[0xff; 4_096],
    ] {
        let mut stream = rig.connect().await;
        let _ = stream.write_all(greeting).await;
        assert_eq!(rest(&mut stream).await, b"", "{greeting:?}");
    }
    rig.assert_well().await;
}

#[tokio::test]
async fn another_version_is_refused_before_anything_is_read() {
    let rig = Rig::start().await;
    for version in [0_u16, 1, 3, u16::MAX] {
        let mut stream = rig.connect().await;
        let greeting = [MAGIC, &version.to_le_bytes()].concat();
        stream.write_all(&greeting).await.unwrap();
        assert_eq!(rest(&mut stream).await, [MAGIC, &[2, 0, 3]].concat());
    }
    rig.assert_well().await;
}

#[tokio::test]
async fn frames_that_are_too_long_or_cut_off_end_the_conversation() {
    let rig = Rig::start().await;
    for length in [u32::MAX, 17 * 1024 * 1024] {
        let mut stream = rig.greeted().await;
        stream.write_all(&length.to_le_bytes()).await.unwrap();
        // At once, not when what was announced has not come.
        let closed = timeout(Duration::from_secs(5), rest(&mut stream)).await;
        assert_eq!(closed, Ok(Vec::new()), "{length}");
    }
    for frame in [&[16, 0, 0, 0, 1][..], &[16, 0], &[]] {
        let mut stream = rig.greeted().await;
        stream.write_all(frame).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{frame:?}");
    }
    rig.assert_well().await;
}

#[tokio::test]
async fn questions_that_cannot_be_read_are_refused_in_words_and_change_nothing() {
    let rig = Rig::start().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    println!("seed {seed}");
    let mut byte = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    // Lists, resolutions and seals begin with 0, 3 and 4; a sweep and figures are no harm.
    for round in 0..300_usize {
        let mut payload: Vec<u8> = (0..round % 60).map(|_| byte()).collect();
        if let Some(first) = payload.first_mut() {
            *first = [0, 1, 3, 4, 7, 251, 253][round % 7];
        }
        let mut stream = rig.greeted().await;
        let length = u32::try_from(payload.len()).unwrap();
        stream.write_all(&length.to_le_bytes()).await.unwrap();
        stream.write_all(&payload).await.unwrap();
        assert!(!rest(&mut stream).await.is_empty(), "{round}: {payload:?}");
    }
    // A text of 2^63 bytes in a list's filter.
    let mut lie = vec![0, 0, 1, 253];
    lie.extend_from_slice(&(1_u64 << 63).to_le_bytes());
    let mut stream = rig.greeted().await;
    stream.write_all(&[12, 0, 0, 0]).await.unwrap();
    stream.write_all(&lie).await.unwrap();
    assert!(!rest(&mut stream).await.is_empty());
    rig.assert_well().await;
    let state = rig.store.peek(key("alice", "doubted")).await.unwrap();
    assert!(matches!(state, KeyState::InDoubt(_)), "{state:?}");
}

/// B8: also for whoever asks without having looked.
#[tokio::test]
async fn a_resolution_of_another_token_changes_nothing_and_is_told_how_the_key_is() {
    let rig = Rig::start().await;
    let resolve = |token: &str| AdminRequest::Resolve {
        key: admin::KeyName {
            principal: Some("alice".to_owned()),
            operation: None,
            key: "doubted".to_owned(),
        },
        token: token.to_owned(),
        outcome: admin::Outcome::NotApplied,
        by: "mallory".to_owned(),
    };
    for token in ["0.0", "1.0", "1.2", "2.1"] {
        let reply = admin::ask(rig.folder.path(), &resolve(token)).await;
        let Ok(AdminReply::Superseded(view)) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(view.state, admin::StateView::InDoubt);
        assert_eq!(view.record.unwrap().token, "1.1");
    }
    rig.assert_well().await;
    let reply = admin::ask(rig.folder.path(), &resolve("1.1")).await;
    assert!(matches!(reply, Ok(AdminReply::Key(_))), "{reply:?}");
}

/// I3.
#[tokio::test]
async fn a_question_is_refused_with_a_reason_that_repeats_no_key() {
    let rig = Rig::start().await;
    let request = AdminRequest::Show {
        key: admin::KeyName {
            principal: Some("alice".to_owned()),
            operation: None,
            key: "secret key".to_owned(),
        },
        with_answer: false,
    };
    let refused = admin::ask(rig.folder.path(), &request).await.unwrap_err();
    let AdminError::Failed(AdminFailure::Invalid(words)) = &refused else {
        panic!("{refused:?}");
    };
    assert!(!words.contains("secret"), "{words}");
    assert!(!format!("{request:?}").contains("secret"));
}

#[tokio::test]
async fn those_who_hold_all_places_keep_others_out_with_a_reason_until_one_is_free() {
    let rig = Rig::start().await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(rig.greeted().await);
    }
    let refused = admin::ask(rig.folder.path(), &AdminRequest::Stats).await;
    assert!(matches!(refused, Err(AdminError::Busy)), "{refused:?}");
    drop(held.pop());
    // The server notices that one is gone.
    for _ in 0..200 {
        match admin::ask(rig.folder.path(), &AdminRequest::Stats).await {
            Err(AdminError::Busy) => tokio::time::sleep(Duration::from_millis(5)).await,
            reply => return assert!(reply.is_ok(), "{reply:?}"),
        }
    }
    panic!("a place that is free is not given");
}

/// Before the greeting and after it. Time is paused: it passes when nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_let_go() {
    let rig = Rig::start().await;
    let begin = tokio::time::Instant::now();
    let mut silent = rig.connect().await;
    assert_eq!(rest(&mut silent).await, b"");
    let mut greeted = rig.connect().await;
    let greeting = [MAGIC, &[2, 0]].concat();
    greeted.write_all(&greeting).await.unwrap();
    assert_eq!(rest(&mut greeted).await, [MAGIC, &[2, 0, 0]].concat());
    assert!(begin.elapsed() < Duration::from_secs(20), "{begin:?}");
}

#[tokio::test]
async fn a_second_server_does_not_take_the_socket_of_a_living_one() {
    let rig = Rig::start().await;
    let store: Arc<dyn Inspect> = rig.store.clone();
    let refused = AdminSocket::serve(store.clone(), rig.folder.path()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse, "{refused}");
    rig.assert_well().await;
    let deep = rig.folder.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let refused = AdminSocket::serve(store, &deep).unwrap_err();
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::InvalidInput,
        "{refused}"
    );
}

/// Also where the mode of the socket is opened by mistake. Only root can be another user.
#[tokio::test]
async fn another_user_is_refused_by_name_whatever_the_mode_of_the_socket() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let rig = Rig::start().await;
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(rig.folder.path(), 0o755);
    open(&rig.folder.path().join("ADMIN"), 0o666);
    let format = "onlyonce sled store, format 1\n";
    std::fs::write(rig.folder.path().join("FORMAT"), format).unwrap();
    // A copy that the other user may run.
    let program = rig.folder.path().join("onlyonce");
    std::fs::copy(env!("CARGO_BIN_EXE_onlyonce"), &program).unwrap();
    open(&program, 0o755);
    let mut command = std::process::Command::new(&program);
    let url = format!("sled:{}", rig.folder.path().display());
    command.args(["records", "stats", "--store", &url]);
    command.uid(65_534).gid(65_534);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("another user"), "{words}");
    assert_eq!(output.stdout, b"");
    rig.assert_well().await;
}
