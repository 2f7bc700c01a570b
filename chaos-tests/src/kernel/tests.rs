//! Each fault against a real server and a real client in the namespaces, and against none.
//!
//! Both are this test program again, started within. What a machine cannot run says `not run` with
//! the reason, past what captures the output of tests.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Namespaces, Rules, SERVER_ADDRESS, Side, Tools, render};
use crate::executor::NotRun;
use crate::fault::{Fault, Phase, Place, What, When};
use crate::seed::Seed;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Came {
    /// By the server: requests that it has carried out.
    effects: u64,
    /// By the client: right answers, wrong ones, and attempts that ended otherwise.
    answered: u64,
    wrong: u64,
    silent: u64,
    reset: u64,
    /// Segments that the server's, and the client's, kernel had already.
    twins: u64,
    struck: u64,
}

fn fault(what: What, phase: Option<Phase>, share: f64) -> Fault {
    let when = When {
        phase,
        ..When::default()
    };
    Fault::new("it", Place::Wire, what).when(when.share(share))
}

fn world() -> Option<Namespaces> {
    let world = Namespaces::pair();
    if let Err(reason) = &world {
        // OK because a test without a place to say so has nobody to tell.
        let _ = writeln!(std::io::stderr(), "packets in the kernel: {reason}");
        let required =
            std::env::var_os("ONLYONCE_REQUIRE_KERNEL").is_some_and(|value| value == "1");
        assert!(
            !required,
            "ONLYONCE_REQUIRE_KERNEL says that it must be run: {reason}"
        );
    }
    world.ok()
}

/// 400 requests on 20 connections under this fault, or without any.
fn run(fault: Option<&Fault>) -> Option<Came> {
    let world = world()?;
    let mut server = KillOnDrop(start(&world, Side::Server, "server"));
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    while lines.next().unwrap().unwrap() != "serving" {}
    world.apply(&Rules::of(fault, PORT).unwrap()).unwrap();
    let client = start(&world, Side::Client, "client")
        .wait_with_output()
        .unwrap();
    let mut came = Came::default();
    came.read(&String::from_utf8_lossy(&client.stdout));
    drop(server.0.stdin.take());
    lines.for_each(|line| came.read(&line.unwrap()));
    came.struck = world.struck().unwrap().get("it").copied().unwrap_or(0);
    println!("{fault:?}: {came:?}");
    Some(came)
}

fn start(world: &Namespaces, side: Side, role: &str) -> Child {
    world
        .command(side, std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kernel::tests::is_the_server_or_the_client_when_told",
        ])
        .args(["--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn without_faults_every_request_is_answered_once() {
    let Some(came) = run(None) else { return };
    let all = Came {
        effects: REQUESTS,
        answered: REQUESTS,
        ..Came::default()
    };
    assert_eq!(came, all);
}

#[test]
fn lost_packets_are_noticed_and_sent_again() {
    for phase in [None, Some(Phase::RequestSent), Some(Phase::ReplySent)] {
        let Some(came) = run(Some(&fault(What::PacketLoss, phase, 0.2))) else {
            return;
        };
        // The client gives up before TCP sends again; the server gets it all in the end.
        assert!(came.struck > 10 && came.silent > 0, "{came:?}");
        assert!(came.answered > 0 && came.wrong == 0, "{came:?}");
    }
}

#[test]
fn a_lost_answer_is_lost_after_its_effect() {
    let Some(came) = run(Some(&fault(What::Drop, Some(Phase::ReplySent), 0.1))) else {
        return;
    };
    assert!(came.struck > 3 && came.silent > 3, "{came:?}");
    // On each struck connection, and on no other, one effect or more was not told.
    assert!(came.effects >= came.answered + came.struck, "{came:?}");
}

#[test]
fn a_lost_request_has_no_effect() {
    let Some(came) = run(Some(&fault(What::Drop, Some(Phase::RequestSent), 0.1))) else {
        return;
    };
    assert!(came.struck > 3 && came.silent > 3, "{came:?}");
    assert_eq!(came.effects, came.answered, "{came:?}");
}

#[test]
fn a_reset_is_a_reset_for_the_client() {
    let Some(came) = run(Some(&fault(What::Reset, Some(Phase::RequestSent), 0.1))) else {
        return;
    };
    assert!(came.struck > 3 && came.reset >= came.struck, "{came:?}");
    assert_eq!(came.effects, came.answered, "{came:?}");
    // Of the answer: the effect has happened, and the server's side is reset at once.
    let Some(came) = run(Some(&fault(What::Reset, Some(Phase::ReplySent), 0.1))) else {
        return;
    };
    assert!(came.struck > 3 && came.effects > came.answered, "{came:?}");
}

#[test]
fn a_blackhole_swallows_a_connection_in_both_directions() {
    let Some(came) = run(Some(&fault(What::Blackhole, Some(Phase::RequestSent), 0.1))) else {
        return;
    };
    assert!(came.struck > 3 && came.silent > 3, "{came:?}");
    assert!(came.reset == 0 && came.effects == came.answered, "{came:?}");
}

#[test]
fn a_partition_is_of_one_way_or_of_both() {
    let partition = |phase| run(Some(&fault(What::Partition, phase, 1.0)));
    for phase in [None, Some(Phase::RequestSent), Some(Phase::ReplySent)] {
        let Some(came) = partition(phase) else { return };
        assert!(came.struck > 0, "{came:?}");
        assert_eq!((came.effects, came.answered), (0, 0), "{came:?}");
    }
}

#[test]
fn duplicates_arrive_and_are_told_from_the_first() {
    for phase in [Phase::RequestSent, Phase::ReplySent] {
        let twice = What::Duplicate { later_ms: 0 };
        let Some(came) = run(Some(&fault(twice, Some(phase), 0.3))) else {
            return;
        };
        assert!(came.struck > 50 && came.twins > 20, "{came:?}");
        assert_eq!((came.effects, came.answered), (REQUESTS, REQUESTS));
    }
}

#[test]
fn a_corrupted_message_arrives_as_another_one() {
    let Some(came) = run(Some(&fault(What::Corrupt, Some(Phase::ReplySent), 0.1))) else {
        return;
    };
    assert!(came.struck > 10 && came.wrong == came.struck, "{came:?}");
    assert_eq!(came.effects, REQUESTS, "{came:?}");
}

#[test]
fn a_partition_that_begins_and_ends_is_counted_through_and_through() {
    let Some(world) = world() else { return };
    let mut server = KillOnDrop(start(&world, Side::Server, "server"));
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    while lines.next().unwrap().unwrap() != "serving" {}
    let partition = fault(What::Partition, None, 1.0);
    for _ in 0..2 {
        world
            .apply(&Rules::of([&partition], PORT).unwrap())
            .unwrap();
        let cut = start(&world, Side::Client, "client")
            .wait_with_output()
            .unwrap();
        assert!(String::from_utf8_lossy(&cut.stdout).contains("answered 0"));
        world.apply(&Rules::none()).unwrap();
    }
    let struck = world.struck().unwrap()["it"];
    let whole = start(&world, Side::Client, "client")
        .wait_with_output()
        .unwrap();
    assert!(String::from_utf8_lossy(&whole.stdout).contains(&format!("answered {REQUESTS}")));
    assert!(
        struck >= 40 && world.struck().unwrap()["it"] == struck,
        "{struck}"
    );
}

#[test]
fn the_namespaces_end_with_the_value_that_holds_them() {
    let Some(world) = world() else { return };
    let listing = world
        .command(Side::Server, "cat")
        .arg("/proc/net/dev")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&listing.stdout).contains("va:"));
    let enter = world.command(Side::Server, "true");
    let (program, arguments) = (enter.get_program().to_owned(), enter.get_args());
    let arguments: Vec<_> = arguments.map(std::ffi::OsStr::to_owned).collect();
    drop(world);
    let gone = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    assert!(!gone.status.success(), "{gone:?}");
}

#[test]
fn a_program_that_is_missing_is_the_reason() {
    let reason = Namespaces::pair_with(Tools::within([])).unwrap_err();
    assert_eq!(
        reason.to_string(),
        "not run: `unshare` is not on the PATH; the package is usually called util-linux"
    );
}

#[test]
fn what_packets_cannot_do_is_refused_with_the_reason() {
    let refused = |fault: Fault| Rules::of([&fault], PORT).unwrap_err().to_string();
    let drop = || fault(What::Drop, None, 1.0);
    let reason = refused(drop().when(When::default().call(3)));
    assert!(
        reason.ends_with("packets do not tell which call and attempt they carry; the proxy can")
    );
    let reason = refused(drop().when(When::phase(Phase::EffectDurable)));
    assert!(
        reason.ends_with("packets are seen when they are sent, at no other phase"),
        "{reason}"
    );
    let delay = What::Delay {
        min_ms: 1,
        max_ms: 2,
    };
    assert!(refused(fault(delay, None, 1.0)).ends_with("the proxy delays"));
    assert!(refused(fault(What::Partition, None, 0.5)).ends_with("is packet-loss"));
    assert!(refused(Fault::new("it", Place::Disk, What::PowerCut)).contains("on the wire"));
    let many: Vec<_> = (0..65).map(|_| drop()).collect();
    assert!(Rules::of(&many, PORT).is_err());
}

#[test]
fn a_fault_s_name_never_reaches_the_kernel_s_rules() {
    let named = Fault {
        name: "x; flush ruleset".into(),
        ..fault(What::PacketLoss, Some(Phase::RequestSent), 0.05)
    };
    let text = render(&Rules::of([&named], PORT).unwrap(), Side::Server);
    assert!(!text.contains("flush"));
    let line = "} counter name f0 drop\n";
    assert!(text.contains("tcp dport 7411 numgen inc mod 10000 { ") && text.contains(line));
}

#[test]
fn which_packets_are_struck_is_drawn_from_the_seed_the_name_and_the_direction() {
    let lost = |name: &str, seed, side, share| {
        let named = Fault {
            name: name.into(),
            ..fault(What::PacketLoss, None, share)
        };
        let rules = Rules::of([&named], PORT).unwrap();
        let text = render(&rules.with_seed(Seed::new(seed)), side);
        let set = text.split_once("mod 10000 { ").unwrap().1;
        let set = set.split_once(" }").unwrap().0.to_owned();
        set.split(", ")
            .map(|ordinal| ordinal.parse::<u32>().unwrap())
            .collect::<Vec<_>>()
    };
    let some = lost("a", 7, Side::Server, 0.05);
    assert!((400..600).contains(&some.len()), "{} of 10000", some.len());
    assert_eq!(some, lost("a", 7, Side::Server, 0.05));
    for other in [
        lost("b", 7, Side::Server, 0.05),
        lost("a", 8, Side::Server, 0.05),
        lost("a", 7, Side::Client, 0.05),
    ] {
        assert_ne!(some, other);
    }
    // A higher share strikes these and others; the lowest strikes one, and none strikes no packet.
    let more = lost("a", 7, Side::Server, 0.3);
    assert!(some.iter().all(|ordinal| more.contains(ordinal)));
    assert_eq!(lost("a", 7, Side::Server, 0.0), [10_000]);
    assert!(lost("a", 7, Side::Server, 0.0001).len() < 8);
}

#[test]
fn the_packets_that_the_seed_names_are_those_that_are_lost() {
    let Some(world) = world() else { return };
    // No connection, so that there is one packet a try: each that is lost is a refusal that stays
    // away.
    let all = fault(What::PacketLoss, Some(Phase::RequestSent), 0.5);
    let rules = Rules::of([&all], PORT).unwrap().with_seed(Seed::new(7));
    let text = render(&rules, Side::Server);
    let set = text.split_once("mod 10000 { ").unwrap().1;
    let set = set.split_once(" }").unwrap().0;
    let named: Vec<u64> = set.split(", ").map(|one| one.parse().unwrap()).collect();
    for _ in 0..2 {
        let before = world.struck().unwrap().get("it").copied().unwrap_or(0);
        world.apply(&rules).unwrap();
        let mut client = start(&world, Side::Client, "knocker");
        let status = client.wait().unwrap();
        assert!(status.success());
        let lost = world.struck().unwrap()["it"] - before;
        let wanted = named.iter().filter(|&&ordinal| ordinal < KNOCKS).count();
        // A try that gets no answer is not made again before the next one has.
        assert_eq!(lost, wanted as u64);
    }
}

#[test]
fn what_cannot_be_made_says_what_the_machine_answered() {
    // As on a machine without namespaces: the program is there, and refuses.
    let folder = tempfile::tempdir().unwrap();
    for program in ["nsenter", "ip", "nft", "cat", "unshare"] {
        std::os::unix::fs::symlink("/bin/false", folder.path().join(program)).unwrap();
    }
    let reason: NotRun = Namespaces::pair_with(Tools::within([folder.path().into()])).unwrap_err();
    assert!(
        reason
            .reason()
            .starts_with("no namespace can be made: as a user: "),
        "{reason}"
    );
}

#[test]
fn is_the_server_or_the_client_when_told() {
    match std::env::var(ROLE).as_deref() {
        Ok("server") => serve(),
        Ok("client") => ask(),
        Ok("knocker") => knock(),
        _ => {}
    }
}

/// Counts requests and gives each back, until its input ends.
fn serve() {
    let listener = TcpListener::bind((SERVER_ADDRESS, PORT)).unwrap();
    let effects = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&effects);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, effects) = (stream.unwrap(), Arc::clone(&counting));
            std::thread::spawn(move || {
                let mut request = MESSAGE;
                while stream.read_exact(&mut request).is_ok() {
                    effects.fetch_add(1, Ordering::Relaxed);
                    if stream.write_all(&request).is_err() {
                        return;
                    }
                }
            });
        }
    });
    println!("\nserving");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    println!(
        "\neffects {} twins {}",
        effects.load(Ordering::Relaxed),
        twins()
    );
}

/// On twenty connections at once, each up to its first silence.
fn ask() {
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| std::thread::spawn(talk)).collect();
    let mut came = Came::default();
    for connection in connections {
        let one = connection.join().unwrap();
        came.answered += one.answered;
        came.wrong += one.wrong;
        came.silent += one.silent;
        came.reset += one.reset;
    }
    let Came {
        answered,
        wrong,
        silent,
        reset,
        ..
    } = came;
    let twins = twins();
    println!("\nanswered {answered} wrong {wrong} silent {silent} reset {reset} twins {twins}");
}

fn talk() -> Came {
    let mut came = Came::default();
    let address = SocketAddr::from((SERVER_ADDRESS, PORT));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else {
        came.silent += 1;
        return came;
    };
    // Less than what TCP waits before it sends again.
    stream
        .set_read_timeout(Some(Duration::from_millis(150)))
        .unwrap();
    for _ in 0..REQUESTS / CONNECTIONS {
        let mut answer = [0; MESSAGE.len()];
        let asked = stream
            .write_all(&MESSAGE)
            .and_then(|()| stream.read_exact(&mut answer));
        match asked {
            Ok(()) if answer == MESSAGE => came.answered += 1,
            Ok(()) => came.wrong += 1,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                came.silent += 1;
                return came;
            }
            Err(_) => {
                came.reset += 1;
                return came;
            }
        }
    }
    came
}

/// One packet a try, which nobody answers but with a reset: TCP sends it again only after a second.
fn knock() {
    let address = SocketAddr::from((SERVER_ADDRESS, PORT));
    for _ in 0..KNOCKS {
        // OK because that it is refused, or that nothing comes, is what it is for.
        let _ = TcpStream::connect_timeout(&address, Duration::from_millis(100));
    }
}

/// How often this namespace's TCP has told a peer that it had a segment already.
fn twins() -> u64 {
    let netstat = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split_whitespace().zip(numbers.split_whitespace());
    let found = both.find(|(name, _)| *name == "TCPDSACKOldSent");
    found.unwrap().1.parse().unwrap()
}

/// Ends the process with the test, also where it fails.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Came {
    fn read(&mut self, text: &str) {
        let words: Vec<_> = text.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[1].parse::<u64>() else {
                continue;
            };
            match pair[0] {
                "effects" => self.effects = number,
                "answered" => self.answered = number,
                "wrong" => self.wrong = number,
                "silent" => self.silent = number,
                "reset" => self.reset = number,
                "twins" => self.twins += number,
                _ => {}
            }
        }
    }
}

const ROLE: &str = "ONLYONCE_KERNEL_TEST_ROLE";
const PORT: u16 = 7411;
const CONNECTIONS: u64 = 20;
const REQUESTS: u64 = 400;
const KNOCKS: u64 = 40;
const MESSAGE: [u8; 16] = *b"sixteen bytes...";
