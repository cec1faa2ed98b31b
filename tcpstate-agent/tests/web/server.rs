//! A server in this process, of a page that is made up.

use std::{
    error::Error,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tcpstate_agent::{
    engine::Unwell,
    serve::{
        self, HttpReading, Limits, Subject, WebConfig, WebSettings,
        control::{Answer, Question},
    },
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::certificates;

/// What is served.
pub(crate) struct Made {
    /// Bytes of a page.
    pub(crate) size: usize,
    /// How long it takes to make one.
    pub(crate) takes: Duration,
    pub(crate) count: AtomicU64,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            size: 50_000,
            takes: Duration::ZERO,
            count: AtomicU64::new(0),
        }
    }
}

impl Subject for Made {
    fn metrics(&self, http: &HttpReading) -> Result<String, Box<dyn Error + Send + Sync>> {
        thread::sleep(self.takes);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let series = |name: &str, label: &str, counts: &[(&'static str, u64)]| -> String {
            let lines = counts.iter();
            let lines: Vec<String> = lines
                .map(|(value, count)| format!("{name}{{{label}=\"{value}\"}} {count}\n"))
                .collect();
            lines.concat()
        };
        let mut page = [
            format!("made_pages_total {count}\n"),
            series("dropped", "reason", &http.drops),
            series("refused", "reason", &http.refusals),
            series("scrapes", "code", &http.scrapes),
            format!("in_flight {}\nopen {}\n", http.scrapes_in_flight, http.open),
        ]
        .concat();
        while page.len() < self.size {
            page.push_str("made_line{number=\"1\"} 1\n");
        }
        Ok(page)
    }

    fn landing_page(&self, telemetry_path: &str) -> String {
        format!("<a href=\"{telemetry_path}\">Metrics</a>\n")
    }

    fn health(&self) -> Result<(), Unwell> {
        Ok(())
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn answer(&self, _: Question) -> Option<Answer> {
        None
    }
}

/// A folder with certificates and a configuration.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        certificates::write_to(folder.path());
        fs::write(folder.path().join("web.yml"), config).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn config(&self) -> std::path::PathBuf {
        self.path().join("web.yml")
    }

    /// Puts a file in the place of another, as administrators' tools do: at once.
    pub(crate) fn replace(&self, name: &str, text: impl AsRef<[u8]>) {
        let new = self.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path().join(name)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }
}

/// A running server, stopped when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) made: Arc<Made>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(config: Option<&Path>) -> Self {
        Self::start_with(config, Made::default(), |_| {})
    }

    pub(crate) fn start_with(
        config: Option<&Path>,
        made: Made,
        change: impl FnOnce(&mut WebSettings),
    ) -> Self {
        let mut settings = WebSettings {
            telemetry_path: "/metrics".to_owned(),
            max_requests: 40,
            config_file: config.map(Path::to_owned),
            limits: Limits::default(),
        };
        change(&mut settings);
        let made = Arc::new(made);
        let subject: Arc<dyn Subject> = Arc::clone(&made) as _;
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = mpsc::channel();
        let thread = thread::spawn(move || {
            // As the agent does it.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(4)
                .build()
                .unwrap();
            runtime.block_on(async {
                let listeners = serve::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
                let config = settings
                    .config_file
                    .as_deref()
                    .map(|path| WebConfig::start(path).unwrap());
                bound.send(listeners[0].local_addr().unwrap()).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                let served = serve::run(listeners, subject, config, &settings, stopped).await;
                served.expect("the server panicked");
            });
        });
        Self {
            address: address.recv().expect("the server does not start"),
            made,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the server panicked");
    }
}
