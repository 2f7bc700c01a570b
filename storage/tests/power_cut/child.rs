//! The process that works on a disk, and what it has said.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// A running child. It is killed when this is dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    said: Arc<Said>,
    reader: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

/// Runs `work` when this process is the child that is to do `test`; does nothing when it is run
/// as a test.
pub fn work(test: &str, work: impl FnOnce(&Path, &str)) {
    let (Ok(role), Ok(directory), Ok(run)) = (
        std::env::var(ROLE),
        std::env::var(DIRECTORY),
        std::env::var(RUN),
    ) else {
        return;
    };
    assert_eq!(role, test);
    work(Path::new(&directory), &run);
}

/// Says a line to the parent: in one write, so that it gets whole lines or none.
pub fn say(line: &str) {
    let line = format!("!{line}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Waits to be killed.
pub fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}

// === impl Child ===

impl Child {
    /// Starts a child that does `test` in `directory`. `run` names what it does it for.
    pub fn start(test: &str, directory: &Path, run: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(ROLE, test)
            .env(DIRECTORY, directory)
            .env(RUN, run)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Said::default());
        let output = BufReader::new(process.stdout.take().unwrap());
        let heard = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in output.split(b'\n') {
                let line = String::from_utf8(line.unwrap()).unwrap();
                // The first may stand behind what the test harness prints.
                if let Some((_, line)) = line.split_once('!') {
                    heard.lines.lock().lines.push(line.to_owned());
                    heard.more.notify_all();
                }
            }
            heard.lines.lock().ended = true;
            heard.more.notify_all();
        });
        Self {
            process,
            said,
            reader: Some(reader),
        }
    }

    /// How many lines it has said.
    pub fn count(&self) -> usize {
        self.said.lines.lock().lines.len()
    }

    /// Waits until it has said `count` lines, or the line `last`, or has ended. Whether there is
    /// more to come.
    pub fn wait_for(&self, count: usize, last: &str) -> bool {
        let mut said = self.said.lines.lock();
        let over = |said: &Lines| said.ended || said.lines.last().is_some_and(|line| line == last);
        while said.lines.len() < count && !over(&said) {
            self.said.more.wait(&mut said);
        }
        !over(&said)
    }

    /// The first `count` lines that it said.
    pub fn lines(&self, count: usize) -> Vec<String> {
        self.said.lines.lock().lines[..count].to_vec()
    }

    /// Stops it. What it has asked the kernel for is still done, and nothing after that.
    pub fn stop(&self) {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    }

    pub fn has_ended(&self) -> bool {
        self.said.lines.lock().ended
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // OK to ignore because a child that has ended is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

const DIRECTORY: &str = "ONLYONCE_POWER_DIRECTORY";
const ROLE: &str = "ONLYONCE_POWER_ROLE";
const RUN: &str = "ONLYONCE_POWER_RUN";
