//! What the terminal's commands say that ask a running agent.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{AGENT, run};

/// Where the agent of one test is asked.
pub(crate) struct ControlSocket(PathBuf);

impl ControlSocket {
    pub(crate) fn new(name: &str) -> Self {
        let file = format!("tcpstate-test-{}-{name}.sock", std::process::id());
        Self(std::env::temp_dir().join(file))
    }

    pub(crate) fn flags(&self) -> [&str; 2] {
        ["--control.socket", self.0.to_str().unwrap()]
    }

    /// What a command says as JSON.
    pub(crate) fn ask(&self, command: &str, more: &[&str]) -> Value {
        let mut arguments = vec![command, "--output", "json"];
        arguments.extend(self.flags());
        arguments.extend(more);
        let output = run(AGENT, &arguments);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // The agent that has ended takes it away itself.
        let _ = std::fs::remove_file(&self.0);
    }
}
