//! curl and openssl.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

/// How a request ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Absent where there was no answer.
    pub(crate) status: Option<u16>,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// What curl says of it.
    pub(crate) said: String,
}

/// curl in a folder, with a certificate that nobody checks.
pub(crate) fn curl(folder: &Path, url: &str, arguments: &[&str]) -> Outcome {
    let output = Command::new("curl")
        .current_dir(folder)
        .args([
            "--silent",
            "--show-error",
            "--verbose",
            "--insecure",
            "--noproxy",
            "*",
        ])
        .args(["--max-time", "20", "--dump-header", "head"])
        .args(arguments)
        .arg(url)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let head = std::fs::read_to_string(folder.join("head")).unwrap_or_default();
    let _ = std::fs::remove_file(folder.join("head"));
    // Whether it has got an answer whole.
    let complete = output.status.success();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Outcome {
        status: status.filter(|_| complete),
        head,
        body: output.stdout,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Outcome {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A TLS handshake, and nothing more.
pub(crate) fn openssl(folder: &Path, address: SocketAddr, arguments: &[&str]) -> String {
    let Output { stdout, stderr, .. } = Command::new("openssl")
        .current_dir(folder)
        .args(["s_client", "-connect", &address.to_string(), "-brief"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}
