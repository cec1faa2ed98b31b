//! Prometheus, and the tool that checks pages for it.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::harness::Running;

/// Fails unless promtool finds nothing wrong with a page. Ask whether it [is excused] before.
///
/// [is excused]: crate::harness::is_excused
pub(crate) fn check(page: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot run promtool (package prometheus)");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(page.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{page}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}\n{page}"
    );
}

/// A Prometheus that scrapes one agent every second.
pub(crate) struct Prometheus {
    _process: Running,
    _folder: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    pub(crate) fn start(agent: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s}}\n\
                 scrape_configs: [{{job_name: tcpstate, static_configs: [{{targets: ['{agent}']}}]}}]\n"
            ),
        )
        .unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let process = Running::start(
            Command::new("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    folder.path().join("data").display()
                ))
                .arg(format!("--web.listen-address={address}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        Self {
            _process: process,
            _folder: folder,
            address,
        }
    }

    /// What it answers: the samples, each with its labels in `metric` and its value as text in
    /// `value[1]`.
    pub(crate) fn query(&self, expression: &str) -> Result<serde_json::Value, String> {
        let url = format!("http://{}/api/v1/query", self.address);
        let text = ureq::get(url)
            .query("query", expression)
            .call()
            .and_then(|mut response| response.body_mut().read_to_string())
            .map_err(|error| error.to_string())?;
        let answer: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        Ok(answer["data"]["result"].clone())
    }
}
