//! The five commands of docs/add.md, run as they stand there with the release archive and a real Envoy, lead to an open breaker with
//! a fallback.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use holdfast_release_tests::{Release, root};

/// The commands below a heading of a page.
fn commands(page: &str, heading: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let section = text.split(heading).nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().map(str::to_owned).collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An Envoy configuration as somebody has it, whose service is down.
fn configuration(listener: u16) -> String {
    let text = fs::read_to_string(root().join("tests/add/shapes/random.yaml")).unwrap();
    let port = |text: String, from: &str| {
        let from = format!("port_value: {from}");
        text.split(&from)
            .map(str::to_owned)
            .reduce(|text, rest| format!("{text}port_value: {}{rest}", free_port()))
            .unwrap()
    };
    let text = ["9901", "8081", "8082", "8083"].into_iter().fold(text, port);
    text.replace("port_value: 10000", &format!("port_value: {listener}"))
}

/// Whatever happens, no Envoy is left behind.
struct Running(PathBuf);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(id) = fs::read_to_string(self.0.join("envoy.pid")) {
            let _ = Command::new("kill").arg(id.trim()).status();
        }
    }
}

#[test]
fn five_commands_lead_to_an_open_breaker_with_a_fallback() {
    let envoy = PathBuf::from(
        env::var_os("HOLDFAST_ENVOY").expect("HOLDFAST_ENVOY names the Envoy binary: ./build.sh test dist"),
    );
    let release = Release::from_environment().unwrap();
    let folder = crate::folder("newcomer");
    let archive = release.path("-linux-x86_64.tar.gz");
    fs::copy(&archive, folder.join(archive.file_name().unwrap())).unwrap();
    let listener = free_port();
    fs::write(folder.join("envoy.yaml"), configuration(listener)).unwrap();
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(envoy, bin.join("envoy")).unwrap();

    let commands = commands("docs/add.md", "\n## Five commands\n");
    assert_eq!(commands.len(), 5, "{commands:#?}");
    let mut lines = vec!["set -e".to_owned(), format!("PATH={}:$PATH", bin.display())];
    for command in commands {
        let starts = command.ends_with(" &");
        // Another Envoy may run on this machine.
        let id = std::process::id();
        let command = command.replace("127.0.0.1:10000", &format!("127.0.0.1:{listener}"));
        lines.push(if starts { command.replace(" &", &format!(" --base-id {id} 2>envoy.log &")) } else { command });
        if starts {
            // A person is slower than Envoy.
            lines.push(
                "echo $! >envoy.pid; for wait in $(seq 600); do [ ! -e listening ] || break; sleep 0.1; done"
                    .to_owned(),
            );
        }
    }
    fs::write(folder.join("commands.sh"), lines.join("\n")).unwrap();
    let (out, err) = (File::create(folder.join("out")).unwrap(), File::create(folder.join("err")).unwrap());
    let running = Running(folder.clone());
    let mut child =
        Command::new("bash").arg("commands.sh").current_dir(&folder).stdout(out).stderr(err).spawn().unwrap();
    let said = || fs::read_to_string(folder.join("out")).unwrap() + &fs::read_to_string(folder.join("err")).unwrap();
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", listener)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "Envoy does not listen: {}", said());
        assert!(child.try_wait().unwrap().is_none(), "a command failed: {}", said());
        thread::sleep(Duration::from_millis(50));
    }
    fs::write(folder.join("listening"), "").unwrap();
    let status = child.wait().unwrap();
    drop(running);
    let said = said();
    assert!(status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("HTTP/1.1 503")).count(), 30, "{said}");
    let fallbacks = said.matches("x-holdfast-fallback: static; reason=open; policy=orders").count();
    assert_eq!(fallbacks, 10, "20 requests find the service down, then none goes there: {said}");
}
