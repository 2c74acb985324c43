//! A running Envoy: its start, what it says, its updates and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use crate::alone::{Permit, permit};
use crate::bootstrap::{Files, render_endpoints};
use crate::fragile::make_fragile;
use crate::last_panic;
use crate::watchdog::Watched;
use crate::{Client, EnvoyOptions, PATIENCE, Policy, SendError, TimedOut, eventually};

/// How much of the log a failing test shows.
const SHOWN_LOG_LINES: usize = 60;

/// Between two readings of counters that are to agree: longer than Holdfast's workers wait to tell what they have counted.
const STANDS_STILL: Duration = Duration::from_millis(200);

/// How long such readings go on where something counts all the time.
const SETTLES: Duration = Duration::from_secs(2);

/// Workers take up a new listener shortly after the main thread has accepted it, and no statistic says when.
const SETTLE: Duration = Duration::from_millis(100);

/// The Envoy binary that `HOLDFAST_ENVOY` names.
///
/// # Errors
/// When the variable is not set; the message says what to run.
pub fn envoy_binary() -> Result<PathBuf, StartError> {
    from_environment("HOLDFAST_ENVOY", "an Envoy binary")
}

/// The major and minor version of the Envoy that `HOLDFAST_ENVOY` names, for what differs between versions.
///
/// # Panics
/// When the variable is not set, or the binary does not tell its version.
#[must_use]
pub fn envoy_version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let binary = envoy_binary().unwrap();
        let told = Command::new(&binary).arg("--version").output().expect("the Envoy binary runs");
        let told = String::from_utf8_lossy(&told.stdout);
        version_in(&told).unwrap_or_else(|| panic!("{} tells no version: {told}", binary.display()))
    })
}

/// The version in what `envoy --version` prints: `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn version_in(told: &str) -> Option<(u32, u32)> {
    let mut numbers = told.split_once("version: ")?.1.split('/').nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The module that `HOLDFAST_WASM` names.
///
/// # Errors
/// When the variable is not set; the message says what to run.
pub fn wasm_module() -> Result<PathBuf, StartError> {
    from_environment("HOLDFAST_WASM", "the built module")
}

/// The program `holdfast` that `HOLDFAST_PROGRAM` names.
///
/// # Errors
/// When the variable is not set; the message says what to run.
pub fn holdfast_program() -> Result<PathBuf, StartError> {
    from_environment("HOLDFAST_PROGRAM", "the program `holdfast`")
}

pub(crate) fn from_environment(variable: &str, what: &str) -> Result<PathBuf, StartError> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty()).ok_or_else(|| {
        StartError::before(format!("{variable} is not set (it names {what}): run ./build.sh test, which sets it"))
    })?;
    // Envoy runs in a directory of its own.
    std::path::absolute(&path).map_err(|error| StartError::before(format!("{variable}: {error}")))
}

/// Envoy, or a Prometheus beside it, did not start.
pub struct StartError {
    /// What went wrong, in a sentence.
    pub reason: String,
    /// How Envoy ended, if it did.
    pub status: Option<ExitStatus>,
    /// All that Envoy wrote.
    pub log: String,
}

impl StartError {
    pub(crate) fn before(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), status: None, log: String::new() }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not started: {}", self.reason)?;
        if let Some(status) = self.status {
            write!(f, " ({status})")?;
        }
        if self.log.is_empty() { Ok(()) } else { write!(f, "\n{}", last_lines(&self.log)) }
    }
}

// `unwrap` and `expect` print this: the log is worth reading as lines.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StartError {}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Every listener runs its new configuration.
    Accepted,
    /// Envoy refused a listener, which runs on as it was. This is what the log says since the update: the module's
    /// complaint and Envoy's.
    Rejected(String),
}

/// One line of the access log.
#[derive(Clone, Debug)]
pub struct AccessLogEntry {
    /// The request's method.
    pub method: String,
    /// The request's path.
    pub path: String,
    /// The response code; 0 when the client went away first.
    pub code: u16,
    /// Envoy's response flags (`UF`, `UC`, `UT`, `URX`, ...), or `-`.
    pub flags: String,
    /// Envoy's response code details.
    pub details: String,
    /// The filter state `wasm.holdfast`.
    pub holdfast: Option<String>,
    /// The host that served.
    pub host: Option<String>,
    /// How many times the router tried.
    pub attempts: u64,
    /// The whole entry: also `route`, `cluster`, `grpc_status`, `duration_ms`.
    pub all: Value,
}

impl AccessLogEntry {
    fn parse(line: &str) -> Option<Self> {
        let all: Value = serde_json::from_str(line).ok()?;
        let optional = |name: &str| all[name].as_str().map(str::to_owned);
        let text = |name: &str| optional(name).unwrap_or_else(|| "-".to_owned());
        Some(Self {
            method: text("method"),
            path: text("path"),
            code: all["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
            flags: text("flags"),
            details: text("details"),
            holdfast: optional("holdfast").filter(|state| state != "-"),
            host: optional("host").filter(|host| host != "-"),
            attempts: all["attempts"].as_u64().unwrap_or_default(),
            all,
        })
    }

    /// One field of the filter state: `admitted` for `decision` in `policy=orders; decision=admitted`.
    #[must_use]
    pub fn holdfast_field(&self, name: &str) -> Option<&str> {
        let fields = self.holdfast.as_deref()?.split("; ");
        fields.filter_map(|field| field.split_once('=')).find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

/// An Envoy of its own: a temporary directory, free ports, no shared memory with another. Killed when dropped, and when the
/// process that started it is gone.
pub struct Envoy {
    process: Process,
    dir: TempDir,
    files: Files,
    admin: Client,
    admin_addr: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    first_listener: Option<String>,
    current: tokio::sync::Mutex<(u64, EnvoyOptions)>,
    _permit: Permit,
}

impl fmt::Debug for Envoy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envoy(pid {}, admin {}, {:?})", self.pid(), self.admin_addr, self.listeners)
    }
}

impl Envoy {
    /// Starts Envoy and waits until every listener serves. Before that it waits while another test is [`alone`](crate::alone()).
    ///
    /// # Errors
    /// When the configuration is refused, or Envoy is not ready within [`PATIENCE`]. The error holds the log.
    pub async fn start(options: EnvoyOptions) -> Result<Self, StartError> {
        let permit = permit().await;
        let dir = TempDir::with_prefix("holdfast-envoy-").map_err(|error| StartError::before(error.to_string()))?;
        let (process, files) = launch(&options, dir.path(), &[])?;
        Self::ready(options, dir, process, files, permit).await
    }

    /// Runs `envoy --mode validate`, which configures the module too but opens no port.
    ///
    /// # Errors
    /// When the configuration is refused. The error holds the log.
    pub async fn validate(options: EnvoyOptions) -> Result<(), StartError> {
        let _permit = permit().await;
        let dir = TempDir::with_prefix("holdfast-envoy-").map_err(|error| StartError::before(error.to_string()))?;
        let (process, _files) = launch(&options, dir.path(), &["--mode", "validate"])?;
        match eventually(PATIENCE, || async { process.exit_status() }).await {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(process.error("it refused the configuration")),
            Err(_) => Err(process.error("the validation did not end")),
        }
    }

    async fn ready(
        options: EnvoyOptions,
        dir: TempDir,
        process: Process,
        files: Files,
        permit: Permit,
    ) -> Result<Self, StartError> {
        let address_file = dir.path().join("admin-address");
        // The file appears empty before it is written.
        let admin_addr = process
            .until("its admin listener did not open", || async {
                fs::read_to_string(&address_file).ok()?.trim().parse::<SocketAddr>().ok()
            })
            .await?;
        let admin = Client::http1(admin_addr);
        process
            .until("it did not become ready", || async {
                admin.get("/ready").await.ok().filter(|response| response.status == 200)
            })
            .await?;
        let names = options.listener_names();
        let listeners = process
            .until("it refused a listener", || async {
                let bound = bound_listeners(&admin).await?;
                if !bound.is_empty() && names.iter().all(|name| bound.contains_key(name)) {
                    return Some(Ok(bound));
                }
                // With listeners from a file Envoy runs on without those that it refuses.
                let refused = ["update_rejected", "update_failure"];
                let stats = stats(&admin, "?filter=^listener_manager.lds").await.ok()?;
                refused
                    .iter()
                    .any(|name| stats.get(&format!("listener_manager.lds.{name}")) > Some(&0))
                    .then_some(Err(()))
            })
            .await?
            .map_err(|()| process.error("it refused a listener"))?;
        let first_listener = names.into_iter().next().or_else(|| listeners.keys().next().cloned());
        let admin_clusters: Vec<String> = options.admin_clusters().map(str::to_owned).collect();
        let current = tokio::sync::Mutex::new((1, options));
        let envoy =
            Self { process, dir, files, admin, admin_addr, listeners, first_listener, current, _permit: permit };
        for cluster in admin_clusters {
            envoy
                .set_endpoints(&cluster, &[admin_addr])
                .await
                .map_err(|error| envoy.process.error(&error.to_string()))?;
        }
        Ok(envoy)
    }

    /// The address of the first listener.
    ///
    /// # Panics
    /// When the bootstrap has no listener.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listener(self.first_listener.as_deref().expect("the bootstrap has a listener"))
    }

    /// The address of the listener of this name.
    ///
    /// # Panics
    /// When there was none at the start.
    #[must_use]
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self.listeners.get(name).unwrap_or_else(|| panic!("no listener {name} in {:?}", self.listeners))
    }

    /// The listeners there were at the start, by name.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.listeners.iter().map(|(name, addr)| (name.as_str(), *addr))
    }

    /// The address of the admin interface.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The body of an admin page.
    ///
    /// # Errors
    /// When the page does not answer 200.
    pub async fn admin_get(&self, path: &str) -> Result<String, SendError> {
        admin_page(&self.admin, Client::request(path)).await
    }

    /// Posts to an admin page, as changes of state (`/logging?wasm=debug`, `/reset_counters`) need.
    ///
    /// # Errors
    /// When the page does not answer 200.
    pub async fn admin_post(&self, path: &str) -> Result<String, SendError> {
        let mut request = Client::request(path);
        *request.method_mut() = http::Method::POST;
        admin_page(&self.admin, request).await
    }

    /// All counters and gauges, with the names that Envoy shows (label values still inside them).
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>, SendError> {
        stats(&self.admin, "").await
    }

    /// The counters and gauges whose names hold a match of this regular expression: far quicker where there are many others.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn stats_like(&self, pattern: &str) -> Result<BTreeMap<String, u64>, SendError> {
        stats(&self.admin, &format!("?filter={}", utf8_percent_encode(pattern, NON_ALPHANUMERIC))).await
    }

    /// The counters and gauges whose names begin so, when they stand still or two seconds are over: Holdfast's workers tell what
    /// they have counted within 100 ms.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn settled_stats(&self, prefix: &str) -> Result<BTreeMap<String, u64>, SendError> {
        let read = async || {
            let mut stats = self.stats().await?;
            stats.retain(|name, _| name.starts_with(prefix));
            Ok(stats)
        };
        let began = Instant::now();
        let mut last = read().await?;
        loop {
            tokio::time::sleep(STANDS_STILL).await;
            let now = read().await?;
            if now == last || began.elapsed() >= SETTLES {
                return Ok(now);
            }
            last = now;
        }
    }

    /// One counter or gauge; 0 when it does not exist.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64, SendError> {
        Ok(self.stats().await?.get(name).copied().unwrap_or_default())
    }

    /// Waits until a counter or gauge (0 when it does not exist) satisfies `wanted`, and returns its value.
    ///
    /// # Errors
    /// When that does not happen within [`PATIENCE`].
    pub async fn wait_for_stat(&self, name: &str, wanted: impl Fn(u64) -> bool) -> Result<u64, TimedOut> {
        eventually(PATIENCE, || async {
            let value = self.stat(name).await.map_err(|error| error.to_string())?;
            if wanted(value) { Ok(value) } else { Err(format!("{name} was {value}")) }
        })
        .await
    }

    /// The statistics as Prometheus scrapes them, with labels.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn prometheus(&self) -> Result<String, SendError> {
        self.admin_get("/stats/prometheus").await
    }

    /// Everything Envoy and the module have logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits for a log line that holds `text`, and returns the first one.
    ///
    /// # Errors
    /// When there is none within [`PATIENCE`].
    pub async fn wait_for_log(&self, text: &str) -> Result<String, TimedOut> {
        eventually(PATIENCE, || async {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(text)).map(str::to_owned);
            line.ok_or_else(|| format!("no log line with {text:?}"))
        })
        .await
    }

    /// The access log so far. Envoy writes an entry when its request ends, some milliseconds after the client sees it.
    #[must_use]
    pub fn access_log(&self) -> Vec<AccessLogEntry> {
        let text = fs::read(&self.files.access_log).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter_map(AccessLogEntry::parse).collect()
    }

    /// Waits until the access log has at least `count` entries, and returns all.
    ///
    /// # Errors
    /// When it has fewer after [`PATIENCE`].
    pub async fn wait_for_access_log(&self, count: usize) -> Result<Vec<AccessLogEntry>, TimedOut> {
        eventually(PATIENCE, || async {
            let entries = self.access_log();
            if entries.len() >= count { Ok(entries) } else { Err(format!("{} of {count} entries", entries.len())) }
        })
        .await
    }

    /// The same for the requests of one path, query included, and these alone. Envoy writes what came before a little later.
    ///
    /// # Errors
    /// When it has fewer after [`PATIENCE`].
    pub async fn wait_for_access_log_of(&self, path: &str, count: usize) -> Result<Vec<AccessLogEntry>, TimedOut> {
        eventually(PATIENCE, || async {
            let mut entries = self.access_log();
            entries.retain(|entry| entry.path == path);
            if entries.len() >= count { Ok(entries) } else { Err(format!("{} of {count} entries", entries.len())) }
        })
        .await
    }

    /// Gives the first listener another policy; see [`update`](Self::update).
    ///
    /// # Errors
    /// When Envoy neither accepts nor rejects it within [`PATIENCE`].
    pub async fn update_policy(&self, document: impl Into<Policy>) -> Result<Update, TimedOut> {
        let document = document.into();
        self.update(|options| options.policy(document)).await
    }

    /// Replaces the listeners while Envoy runs, and waits until Envoy has accepted or rejected them. Only what
    /// concerns listeners takes effect. The ports stay. A kept connection goes on with the old configuration until it
    /// is drained: use [`Client::reconnected`].
    ///
    /// # Errors
    /// When Envoy neither accepts nor rejects within [`PATIENCE`].
    ///
    /// # Panics
    /// When Envoy was not started with [`EnvoyOptions::dynamic_listeners`].
    pub async fn update(&self, change: impl FnOnce(EnvoyOptions) -> EnvoyOptions) -> Result<Update, TimedOut> {
        let mut current = self.current.lock().await;
        let (version, options) = &mut *current;
        assert!(options.dynamic_listeners, "an update needs EnvoyOptions::dynamic_listeners");
        let before = LdsCounts::read(&self.admin).await.map_err(lost)?;
        let logged = self.log().len();
        let changed = change(options.clone());
        *version += 1;
        write_listeners(&changed, *version, &self.files).map_err(lost)?;
        let after = eventually(PATIENCE, || async {
            let counts = LdsCounts::read(&self.admin).await.map_err(|error| error.to_string())?;
            if counts.total() > before.total() && counts.warming == 0 {
                Ok(counts)
            } else {
                Err(format!("before the update {before:?}, now {counts:?}"))
            }
        })
        .await?;
        if after.success > before.success {
            *options = changed;
            tokio::time::sleep(SETTLE).await;
            return Ok(Update::Accepted);
        }
        // The page `/config_dump` repeats Envoy's own sentence; what the module complained about is only in the log.
        Ok(Update::Rejected(self.log().get(logged..).unwrap_or_default().to_owned()))
    }

    /// Replaces the hosts of a cluster while Envoy runs, and waits until it has them.
    ///
    /// # Errors
    /// When it does not get them within [`PATIENCE`], as when it has no [`dynamic_endpoints`](crate::Cluster::dynamic_endpoints).
    pub async fn set_endpoints(&self, cluster: &str, endpoints: &[SocketAddr]) -> Result<(), TimedOut> {
        let mut current = self.current.lock().await;
        current.0 += 1;
        let wanted = render_endpoints(cluster, current.0, endpoints);
        replace(&self.files.endpoints(cluster), &wanted).map_err(lost)?;
        let wanted: BTreeSet<SocketAddr> = endpoints.iter().copied().collect();
        eventually(PATIENCE, || async {
            let now = self.hosts(cluster).await.map_err(|error| error.to_string())?;
            if now.keys().copied().eq(wanted.iter().copied()) { Ok(()) } else { Err(format!("{cluster} has {now:?}")) }
        })
        .await?;
        tokio::time::sleep(SETTLE).await;
        Ok(())
    }

    /// The hosts of a cluster as Envoy's main thread knows them, each with whether Envoy's own outlier detection has it
    /// out.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn hosts(&self, cluster: &str) -> Result<BTreeMap<SocketAddr, bool>, SendError> {
        let page = self.admin_get("/clusters?format=json").await?;
        let page: Value = serde_json::from_str(&page).unwrap_or_default();
        let clusters = page["cluster_statuses"].as_array().into_iter().flatten();
        let mine = clusters.filter(|status| status["name"].as_str() == Some(cluster));
        let hosts = mine.filter_map(|status| status["host_statuses"].as_array()).flatten();
        let known = hosts.filter_map(|host| {
            let is_out = host["health_status"]["failed_outlier_check"].as_bool().unwrap_or_default();
            Some((socket_address(&host["address"])?, is_out))
        });
        Ok(known.collect())
    }

    /// Envoy's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Processor time used so far by all threads, to the resolution of the kernel's clock tick (10 ms).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let stat = self.process.stat()?;
        let ticks = u32::try_from(stat.utime + stat.stime).map_err(io::Error::other)?;
        let per_second = u32::try_from(procfs::ticks_per_second()).map_err(io::Error::other)?;
        Ok(Duration::from_secs(1) * ticks / per_second)
    }

    /// How often worker threads have been given a core so far: each time they wake they are.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn worker_wakes(&self) -> io::Result<u64> {
        let mut wakes = 0;
        for task in self.process.in_proc()?.tasks().map_err(io::Error::other)? {
            let task = task.map_err(io::Error::other)?;
            if task.stat().map_err(io::Error::other)?.comm.starts_with("wrk:worker") {
                wakes += task.schedstat().map_err(io::Error::other)?.pcount;
            }
        }
        Ok(wakes)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.process.stat()?.rss * procfs::page_size())
    }

    /// What Envoy's allocator has given out and not got back, in bytes. The memory of wasm VMs is not in it.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn allocated_bytes(&self) -> Result<u64, SendError> {
        let page = self.admin_get("/memory").await?;
        let page: Value = serde_json::from_str(&page).unwrap_or_default();
        let told = page["allocated"].as_str().and_then(|bytes| bytes.parse().ok());
        told.ok_or_else(|| SendError { status: None, message: format!("/memory says {page}") })
    }

    /// How the process ended; `None` while it runs.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    /// Asks Envoy to end, waits for it, and returns its status and its whole log.
    ///
    /// # Errors
    /// When it has not ended within [`PATIENCE`].
    pub async fn stop(self) -> Result<(ExitStatus, String), TimedOut> {
        // The answer may be cut off by the end it asks for.
        let _ = self.admin_post("/quitquitquit").await;
        let status = eventually(PATIENCE, || async { self.exit_status() }).await?;
        Ok((status, self.log()))
    }

    /// The directory with everything this Envoy reads and writes. It goes when the value is dropped.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// The child process. Its log is a file, so that it can be read after the end and never blocks the process.
struct Process {
    /// Watched until it is known to have ended.
    child: Mutex<(Child, Option<Watched>)>,
    pid: u32,
    log: PathBuf,
}

impl Process {
    fn exit_status(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        let status = child.0.try_wait().ok().flatten();
        if status.is_some() {
            child.1 = None;
        }
        status
    }

    fn child(&self) -> MutexGuard<'_, (Child, Option<Watched>)> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn stat(&self) -> io::Result<procfs::process::Stat> {
        self.in_proc()?.stat().map_err(io::Error::other)
    }

    /// What the kernel tells of it.
    fn in_proc(&self) -> io::Result<procfs::process::Process> {
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        procfs::process::Process::new(pid).map_err(io::Error::other)
    }

    fn error(&self, reason: &str) -> StartError {
        StartError { reason: reason.to_owned(), status: self.exit_status(), log: self.log() }
    }

    /// Waits for a condition as long as the process lives.
    async fn until<T, F, Fut>(&self, complaint: &str, mut condition: F) -> Result<T, StartError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Option<T>>,
    {
        eventually(PATIENCE, || {
            let attempt = condition();
            async {
                if self.exit_status().is_some() {
                    return Some(Err(self.error("it ended")));
                }
                attempt.await.map(Ok)
            }
        })
        .await
        .unwrap_or_else(|_| Err(self.error(complaint)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.0.kill();
        child.1 = None;
        let _ = child.0.wait();
        drop(child);
        if std::thread::panicking() {
            eprintln!("--- the end of the Envoy log ---\n{}", last_lines(&self.log()));
            // Once more below it: where only the end of a long output is kept, this is what matters.
            eprintln!("--- the test {} ---", last_panic::said());
        }
    }
}

fn launch(options: &EnvoyOptions, dir: &Path, more: &[&str]) -> Result<(Process, Files), StartError> {
    last_panic::watch();
    let binary = match &options.binary {
        Some(given) => given.clone(),
        None => envoy_binary()?,
    };
    let wasm = match &options.wasm {
        Some(given) => std::path::absolute(given).map_err(|error| StartError::before(error.to_string()))?,
        None if options.needs_wasm() => wasm_module()?,
        None => PathBuf::new(),
    };
    let wasm = if options.fragile {
        make_fragile(&wasm, dir).map_err(|error| StartError::before(format!("{}: {error}", wasm.display())))?
    } else {
        wasm
    };
    let files = Files {
        wasm,
        access_log: dir.join("access.jsonl"),
        listeners: dir.join("listeners.json"),
        dir: dir.to_owned(),
    };
    spawn(options, &binary, dir, &files, more)
        .map(|process| (process, files))
        .map_err(|error| StartError::before(format!("{}: {error}", binary.display())))
}

fn spawn(options: &EnvoyOptions, binary: &Path, dir: &Path, files: &Files, more: &[&str]) -> io::Result<Process> {
    // Envoy goes by the extension, and JSON is YAML.
    let config = dir.join("bootstrap.yaml");
    fs::write(&config, options.render_bootstrap(files))?;
    write_listeners(options, 1, files)?;
    for (cluster, endpoints) in options.endpoints_in_files() {
        replace(&files.endpoints(cluster), &render_endpoints(cluster, 1, endpoints))?;
    }
    let log_path = dir.join("envoy.log");
    // Appending, because Envoy may open its standard output a second time as an access log.
    let log = File::options().create(true).append(true).open(&log_path)?;
    let mut command = Command::new(binary);
    command
        .arg("--config-path")
        .arg(&config)
        .arg("--admin-address-path")
        .arg(dir.join("admin-address"))
        .args(["--concurrency", &options.concurrency.to_string()])
        .args(["--log-level", &options.log_level])
        .args(["--drain-time-s", &options.drain_time.as_secs().max(1).to_string()])
        // Else an old connection is told to close at random moments of the drain time.
        .args(["--drain-strategy", "immediate"])
        .args(["--file-flush-interval-msec", "20"])
        .arg("--disable-hot-restart")
        .args(more)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // At its start the component `main` lists every extension it has.
    let levels = options.component_log_level.as_deref().map_or_else(String::new, |levels| format!(",{levels}"));
    command.args(["--component-log-level", &format!("main:warning{levels}")]);
    let child = command.spawn()?;
    let pid = child.id();
    Ok(Process { child: Mutex::new((child, Some(Watched::begin(pid)))), pid, log: log_path })
}

fn write_listeners(options: &EnvoyOptions, version: u64, files: &Files) -> io::Result<()> {
    replace(&files.listeners, &options.render_listeners(version, files))
}

/// Envoy watches for the file to be moved into place: it never reads half a file.
fn replace(path: &Path, content: &Value) -> io::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content.to_string())?;
    fs::rename(fresh, path)
}

#[derive(Debug)]
struct LdsCounts {
    success: u64,
    rejected: u64,
    failure: u64,
    warming: u64,
}

impl LdsCounts {
    async fn read(admin: &Client) -> Result<Self, SendError> {
        let stats = stats(admin, "?filter=^listener_manager").await?;
        let get = |name: &str| stats.get(&format!("listener_manager.{name}")).copied().unwrap_or_default();
        Ok(Self {
            success: get("lds.update_success"),
            rejected: get("lds.update_rejected"),
            failure: get("lds.update_failure"),
            warming: get("total_listeners_warming"),
        })
    }

    fn total(&self) -> u64 {
        self.success + self.rejected + self.failure
    }
}

fn lost(error: impl fmt::Display) -> TimedOut {
    TimedOut { waited: Duration::ZERO, last: error.to_string() }
}

async fn bound_listeners(admin: &Client) -> Option<BTreeMap<String, SocketAddr>> {
    let page = admin.get("/listeners?format=json").await.ok()?.json();
    let mut bound = BTreeMap::new();
    for status in page["listener_statuses"].as_array().into_iter().flatten() {
        bound.insert(status["name"].as_str()?.to_owned(), socket_address(&status["local_address"])?);
    }
    Some(bound)
}

/// An address as admin pages show it.
fn socket_address(address: &Value) -> Option<SocketAddr> {
    let address = &address["socket_address"];
    let ip = address["address"].as_str()?.parse().ok()?;
    let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
    Some(SocketAddr::new(ip, port))
}

async fn stats(admin: &Client, query: &str) -> Result<BTreeMap<String, u64>, SendError> {
    let separator = if query.is_empty() { '?' } else { '&' };
    let page = admin_page(admin, Client::request(&format!("/stats{query}{separator}format=json"))).await?;
    let page: Value = serde_json::from_str(&page).unwrap_or_default();
    let number = |stat: &Value| Some((stat["name"].as_str()?.to_owned(), stat["value"].as_u64()?));
    Ok(page["stats"].as_array().into_iter().flatten().filter_map(number).collect())
}

async fn admin_page(admin: &Client, request: Request<Bytes>) -> Result<String, SendError> {
    let response = admin.send(request).await?;
    if response.status == 200 {
        Ok(response.text())
    } else {
        Err(SendError { status: Some(response.status), message: response.text() })
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_part_says_what_to_run() {
        let error = from_environment("HOLDFAST_NEVER_SET", "nothing").unwrap_err();
        assert!(error.to_string().contains("HOLDFAST_NEVER_SET is not set"), "{error}");
        assert!(error.to_string().contains("run ./build.sh test"), "{error}");
    }

    #[test]
    fn the_version_stands_behind_the_commit() {
        let of =
            |version: &str| version_in(&format!("\n/bin/envoy  version: 9e55809/{version}/Clean/RELEASE/BoringSSL\n"));
        assert_eq!([of("1.36.2"), of("1.41.0-dev")], [Some((1, 36)), Some((1, 41))]);
        assert_eq!([version_in("envoy 1.40.0"), of("next")], [None; 2]);
        assert!((1, 9) < (1, 36), "numbers are compared, not texts");
    }
}
