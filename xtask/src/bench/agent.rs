//! The agent under measurement: started, scraped, and looked at from outside.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};
use serde_json::Value;

use super::{
    exposition::Exposition,
    http::Client,
    kernel_objects::{self, MapFacts, ProgramFacts},
    progress,
    running::{self, Running},
    spread::float,
    stop,
};
use crate::{folder, process, workspace};

const PATIENCE: Duration = Duration::from_mins(1);

/// Builds the agent as it is released, and returns where it is.
pub(crate) fn build() -> Result<PathBuf> {
    progress("building the agent");
    process::run(
        process::cargo()?
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--package", "tcpstate-agent"]),
    )?;
    Ok(target_folder()?.join("release/tcpstate-agent"))
}

/// Where cargo puts what it builds here.
pub(crate) fn target_folder() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => Ok(workspace::root()?.join(folder)),
        None => Ok(workspace::root()?.join("target")),
    }
}

/// A running `tcpstate-agent run`.
pub(crate) struct Agent {
    running: Running,
    client: Client,
    address: SocketAddr,
    control: PathBuf,
    binary: PathBuf,
    /// From its start until the first scrape was answered.
    pub(crate) first_scrape_after: Duration,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Agent {
    /// Starts it and waits until it has answered a scrape and has counted every namespace.
    pub(crate) fn start(binary: &Path, arguments: &[&str]) -> Result<Self> {
        // A port that nobody has, asked of the kernel.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .context("cannot find a free port")?;
        let log = scratch("agent.log")?;
        let log_file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let control = control_socket();
        let started = Instant::now();
        let mut running = Running::start(
            "the agent",
            running::bound(&binary.to_string_lossy())
                .arg("run")
                .arg(format!("--web.listen-address={address}"))
                .arg(format!("--control.socket={}", control.display()))
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log_file),
        )?;
        let client = Client::new();
        let url = format!("http://{address}/metrics");
        stop::until(PATIENCE, "the agent answers a scrape", || {
            if let Some(status) = running.has_ended()? {
                let log = fs::read_to_string(&log).unwrap_or_default();
                bail!("the agent has ended: {status}\n{log}");
            }
            Ok(client.get(&url).ok())
        })?;
        let first_scrape_after = started.elapsed();
        let agent = Self {
            running,
            client,
            address,
            control,
            binary: binary.to_owned(),
            first_scrape_after,
        };
        let ready = format!("http://{address}/-/ready");
        stop::until(PATIENCE, "the agent has counted every namespace", || {
            Ok(agent.client.get(&ready).ok())
        })?;
        Ok(agent)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// One scrape, and how long it took.
    pub(crate) fn scrape(&self) -> Result<(Exposition, Duration)> {
        let start = Instant::now();
        let page = self.client.get(&format!("http://{}/metrics", self.address));
        let took = start.elapsed();
        let page = page.context("cannot scrape the agent")?;
        Ok((Exposition(page), took))
    }

    /// Whether it says that all its parts work.
    pub(crate) fn is_healthy(&self) -> bool {
        let url = format!("http://{}/-/healthy", self.address);
        self.client.get(&url).is_ok()
    }

    /// Scrapes until `wanted` gives something. If it never does, the last page is kept.
    pub(crate) fn until<T>(
        &self,
        patience: Duration,
        what: &str,
        mut wanted: impl FnMut(&Exposition) -> Option<T>,
    ) -> Result<T> {
        let mut last = None;
        let found = stop::until(patience, what, || {
            let (page, _) = self.scrape()?;
            let found = wanted(&page);
            last = Some(page);
            Ok(found)
        });
        if let (Err(_), Some(Exposition(page))) = (&found, &last) {
            let path = scratch("agent.page")?;
            fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
            return found.with_context(|| {
                let folder = path.parent().unwrap_or(&path).display();
                format!("what the agent showed last and its log are in {folder}")
            });
        }
        found
    }

    /// Runs another command of the agent that asks this one, and returns how long that took.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Duration> {
        self.ask_by(Command::new(&self.binary), arguments)
    }

    /// The same on one CPU.
    pub(crate) fn ask_on(&self, cpu: usize, arguments: &[&str]) -> Result<Duration> {
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", &cpu.to_string()])
            .arg(&self.binary);
        self.ask_by(command, arguments)
    }

    fn ask_by(&self, mut command: Command, arguments: &[&str]) -> Result<Duration> {
        let start = Instant::now();
        let command = Running::start(
            "a command of the agent",
            command
                .args(arguments)
                .arg(format!("--control.socket={}", self.control.display()))
                .stdout(Stdio::null()),
        )?;
        command.succeed(PATIENCE)?;
        Ok(start.elapsed())
    }

    /// Leaves it one CPU.
    pub(crate) fn stay_on(&self, cpu: usize) -> Result<()> {
        let mut cpus = CpuSet::new();
        cpus.set(cpu);
        for task in self.threads()? {
            let number = folder::name(&task).parse().ok();
            let thread = number.and_then(Pid::from_raw);
            sched_setaffinity(thread, &cpus)
                .with_context(|| format!("cannot leave CPU {cpu} to {}", task.display()))?;
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        self.running.signal(signal)
    }

    /// CPU time of all its threads, in seconds, also of those that have ended; to a hundredth.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let stat = read(Path::new(&format!("/proc/{}/stat", self.pid())))?;
        Ok(float(ticks(&stat)?) / float(rustix::param::clock_ticks_per_second()))
    }

    /// CPU time of one thread in seconds, and how often it has waited.
    pub(crate) fn thread(&self, name: &str) -> Result<(f64, u64)> {
        let threads = self.threads()?;
        let task = threads
            .iter()
            .find(|task| read(&task.join("comm")).is_ok_and(|comm| comm.trim() == name))
            .with_context(|| format!("the agent has no thread {name}"))?;
        let waits = field(&read(&task.join("status"))?, "voluntary_ctxt_switches:")?;
        Ok((cpu_of(task)?, waits))
    }

    fn threads(&self) -> Result<Vec<PathBuf>> {
        folder::entries(Path::new(&format!("/proc/{}/task", self.pid())))
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        memory_of(self.pid())
    }

    pub(crate) fn maps(&self) -> Result<Vec<MapFacts>> {
        kernel_objects::maps_of(self.pid())
    }

    pub(crate) fn programs(&self) -> Result<Vec<ProgramFacts>> {
        kernel_objects::programs_of(self.pid())
    }

    /// The id of one of its programs.
    pub(crate) fn program(&self, name: &str) -> Result<Option<u32>> {
        let programs = self.programs()?;
        let found = programs.iter().find(|program| program.name == name);
        Ok(found.map(|program| program.id))
    }

    pub(crate) fn end(self) -> Result<()> {
        self.running.end()
    }
}

/// Runs a command of the agent that looks for itself, because no agent runs. Returns what it printed,
/// as JSON, and how long that took.
pub(crate) fn look(binary: &Path, arguments: &[&str]) -> Result<(Value, Duration)> {
    let output = scratch("command.json")?;
    let file =
        File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
    let start = Instant::now();
    let command = Running::start(
        "a command of the agent",
        Command::new(binary)
            .args(arguments)
            .arg("--output=json")
            .stdout(file),
    )?;
    command.succeed(PATIENCE)?;
    let took = start.elapsed();
    let found = serde_json::from_str(&read(&output)?).context("a command's output is no JSON")?;
    Ok((found, took))
}

/// A file of the benchmarks' own.
pub(crate) fn scratch(name: &str) -> Result<PathBuf> {
    let folder = workspace::root()?.join("target/bench");
    folder::create(&folder)?;
    Ok(folder.join(name))
}

/// A place for an agent's control socket. The path of a unix socket has little room, so it is not
/// in the target folder. An agent that ends removes it.
pub(crate) fn control_socket() -> PathBuf {
    std::env::temp_dir().join(format!("tcpstate-bench-{}.sock", std::process::id()))
}

/// Memory of any process.
pub(crate) fn memory_of(pid: u32) -> Result<Memory> {
    let status = read(Path::new(&format!("/proc/{pid}/status")))?;
    Ok(Memory {
        resident: 1024 * field(&status, "VmRSS:")?,
        peak: 1024 * field(&status, "VmHWM:")?,
    })
}

/// In seconds, with a nanosecond's precision; `/proc/PID/stat` has only ticks.
fn cpu_of(task: &Path) -> Result<f64> {
    // A thread of the pool for blocking work may have ended meanwhile.
    let Ok(text) = fs::read_to_string(task.join("schedstat")) else {
        return Ok(0.0);
    };
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    nanoseconds
        .map(|nanoseconds| float(nanoseconds) * 1e-9)
        .context("cannot understand schedstat")
}

/// `utime` and `stime` of `/proc/PID/stat`, in ticks. The name before them may hold anything.
fn ticks(stat: &str) -> Result<u64> {
    let (_, behind_name) = stat.rsplit_once(')').context("a process without a name")?;
    let times = behind_name.split_whitespace().skip(11).take(2);
    let times: Vec<u64> = times.map(str::parse).collect::<Result<_, _>>()?;
    let [user, system] = times[..] else {
        bail!("cannot understand /proc/PID/stat");
    };
    Ok(user + system)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn field(status: &str, name: &str) -> Result<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("the status of a process has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory() -> Result<()> {
        let memory = memory_of(std::process::id())?;
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        Ok(())
    }

    #[test]
    fn the_time_of_a_process_is_found_behind_its_name() -> Result<()> {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 98 0 0 0 41 13 5 6 20 0 1 0 5210";
        assert_eq!(ticks(stat)?, 54);
        assert!(ticks("7 (a) R 1").is_err());
        Ok(())
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status =
            "VmHWM:\t    2048 kB\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t9\n";
        assert_eq!(field(status, "VmHWM:").ok(), Some(2048));
        assert_eq!(field(status, "voluntary_ctxt_switches:").ok(), Some(9));
        assert!(field(status, "VmRSS:").is_err());
    }
}
