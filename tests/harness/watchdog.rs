//! No Envoy outlives the process that started it, even if that is killed: a shell beside it reads from a pipe which Envoys run,
//! and when the pipe ends, as it does with its writer, it ends them.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Reads lines of `began PID` and `ended PID`. What asks the whole session to end is no reason for it: the pipe is.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
running=' '
while read -r what pid; do
    case $what$running in
        began*) running="$running$pid " ;;
        ended*" $pid "*) running="${running%% "$pid" *} ${running#* "$pid" }" ;;
    esac
done
for pid in $running; do
    kill -KILL "$pid"
done
"#;

/// A process that is watched. Drop it before the process is waited for, when its number may become another's.
#[derive(Debug)]
pub(crate) struct Watched(u32);

impl Watched {
    pub(crate) fn begin(pid: u32) -> Self {
        tell("began", pid);
        Self(pid)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        tell("ended", self.0);
    }
}

/// One shell for this process, from its first Envoy to its end.
fn tell(what: &str, pid: u32) {
    static PIPE: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    let started = || match start() {
        Ok(pipe) => Some(Mutex::new(pipe)),
        Err(error) => {
            eprintln!("sh does not start ({error}): if this process is killed, its Envoys run on");
            None
        }
    };
    if let Some(pipe) = PIPE.get_or_init(started) {
        let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
        // In one piece: this process may end at any time. A shell that is gone has nothing to hear.
        let _ = pipe.write_all(format!("{what} {pid}\n").as_bytes());
    }
}

fn start() -> io::Result<ChildStdin> {
    let mut shell = Command::new("sh");
    // A group of its own, so that it is not killed with this process's.
    shell.args(["-c", SCRIPT]).current_dir("/").process_group(0);
    let child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    child.stdin.ok_or_else(|| io::Error::other("it has no standard input"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::{PATIENCE, eventually};

    #[tokio::test]
    async fn when_the_pipe_ends_what_still_runs_is_killed_and_nothing_else() {
        let mut pipe = start().unwrap();
        let mut sleepers: Vec<_> = (0..5).map(|_| Command::new("sleep").arg("600").spawn().unwrap()).collect();
        let pids: Vec<u32> = sleepers.iter().map(std::process::Child::id).collect();
        // The last does not begin at all.
        for pid in &pids[..4] {
            writeln!(pipe, "began {pid}").unwrap();
        }
        for pid in [pids[0], pids[2], pids[2], pids[4]] {
            writeln!(pipe, "ended {pid}").unwrap();
        }
        assert!(sleepers.iter_mut().all(|sleeper| sleeper.try_wait().unwrap().is_none()), "as long as it is open");

        drop(pipe);
        for killed in [1, 3] {
            let status = eventually(PATIENCE, || std::future::ready(sleepers[killed].try_wait().unwrap())).await;
            assert_eq!(status.unwrap().signal(), Some(9));
        }
        for other in [0, 2, 4] {
            assert_eq!(sleepers[other].try_wait().unwrap(), None, "sleeper {other} is left alone");
            sleepers[other].kill().unwrap();
            sleepers[other].wait().unwrap();
        }
    }
}
