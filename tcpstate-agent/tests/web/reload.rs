//! The web configuration file, changed while it is used.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
};

use crate::{
    client::curl,
    server::{Folder, Server},
};

const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

struct Changed {
    folder: Folder,
    server: Server,
}

impl Changed {
    fn start(config: &str) -> Self {
        let folder = Folder::new(config);
        let server = Server::start(Some(&folder.config()));
        Self { folder, server }
    }

    /// The status of an answer, or what curl says of there being none.
    fn get(&self, scheme: &str, arguments: &[&str]) -> Result<u16, String> {
        let url = format!("{scheme}://{}/metrics", self.server.address);
        let outcome = curl(self.folder.path(), &url, arguments);
        outcome.status.ok_or(outcome.said)
    }

    fn fails(&self, words: &str) {
        let said = self.get("https", &[]).unwrap_err();
        assert!(said.contains(words), "{said}");
    }

    /// The server's certificate as a client sees it.
    fn certificate(&self) -> String {
        let address = self.server.address.to_string();
        let shown = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-showcerts"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        let begin = text.find("-----BEGIN").unwrap();
        let end = text.find("-----END").unwrap();
        text[begin..end].lines().skip(1).collect()
    }
}

fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

#[test]
fn users_are_those_of_the_moment() {
    let hash = bcrypt::hash("x", 4).unwrap();
    let changed = Changed::start(&format!("basic_auth_users:\n  alice: {hash}\n"));
    assert_eq!(changed.get("http", &[]), Ok(401));
    changed.folder.replace("web.yml", "basic_auth_users: {}\n");
    assert_eq!(changed.get("http", &[]), Ok(200));
    changed
        .folder
        .replace("web.yml", format!("basic_auth_users:\n  bob: {hash}\n"));
    assert_eq!(changed.get("http", &["--user", "alice:x"]), Ok(401));
    assert_eq!(changed.get("http", &["--user", "bob:x"]), Ok(200));
    // One that is broken lets its user in no more.
    changed
        .folder
        .replace("web.yml", "basic_auth_users:\n  bob: nohash\n");
    assert_eq!(changed.get("http", &["--user", "bob:x"]), Ok(401));
}

#[test]
fn a_file_that_cannot_be_used_lets_nobody_in_until_it_can() {
    let changed = Changed::start("");
    for broken in ["basic_auth_users: [", "unknown: 1\n"] {
        changed.folder.replace("web.yml", broken);
        assert_eq!(changed.get("http", &[]), Ok(500));
    }
    std::fs::remove_file(changed.folder.config()).unwrap();
    assert_eq!(changed.get("http", &[]), Ok(500));
    changed.folder.replace("web.yml", "");
    assert_eq!(changed.get("http", &[]), Ok(200));
}

#[test]
fn a_file_that_cannot_be_used_ends_handshakes_until_it_can() {
    let changed = Changed::start(TLS);
    for broken in ["basic_auth_users: [", "tls_server_config: {}\n", ""] {
        changed.folder.replace("web.yml", broken);
        changed.fails("internal error");
    }
    std::fs::remove_file(changed.folder.config()).unwrap();
    changed.fails("internal error");
    changed.folder.replace("web.yml", TLS);
    assert_eq!(changed.get("https", &[]), Ok(200));
}

/// A client that has shaken hands, and asks when it is told to.
struct Open(Child);

impl Open {
    fn connect(changed: &Changed) -> Self {
        let child = Command::new("openssl")
            .args(["s_client", "-connect", &changed.server.address.to_string()])
            .args(["-quiet", "-no_ign_eof", "-alpn", "http/1.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // One answer shows that the connection is there.
        let mut open = Self(child);
        assert_eq!(open.get(), 200);
        open
    }

    fn get(&mut self) -> u16 {
        let stdin = self.0.stdin.as_mut().unwrap();
        stdin
            .write_all(b"HEAD /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let stdout = self.0.stdout.as_mut().unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "no answer: {head}");
            head.push(byte[0].into());
        }
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn open_connections_are_told_that_the_file_cannot_be_used() {
    let changed = Changed::start(TLS);
    let mut open = Open::connect(&changed);
    changed.folder.replace("web.yml", "unknown: 1\n");
    assert_eq!(open.get(), 500);
    changed.folder.replace("web.yml", TLS);
    assert_eq!(open.get(), 200);
}

#[test]
fn a_new_certificate_is_used_at_the_next_handshake() {
    let changed = Changed::start(TLS);
    assert_eq!(
        changed.certificate(),
        body(&changed.folder.read("cert.pem"))
    );
    let new = changed.folder.read("cert2.pem");
    // Between the two the pair does not fit.
    changed.folder.replace("cert.pem", &new);
    changed.fails("internal error");
    changed
        .folder
        .replace("key.pem", changed.folder.read("key2.pem"));
    assert_eq!(changed.certificate(), body(&new));
    assert_eq!(changed.get("https", &[]), Ok(200));
    std::fs::remove_file(changed.folder.path().join("key.pem")).unwrap();
    changed.fails("internal error");
}

#[test]
fn a_new_list_of_curves_is_used_at_the_next_handshake() {
    let blocking = format!("{TLS}  min_version: TLS13\n  curve_preferences: [CurveP384]\n");
    let changed = Changed::start(&blocking);
    let p256 = ["--curves", "P-256"];
    assert!(changed.get("https", &p256).is_err());
    changed.folder.replace("web.yml", TLS);
    assert_eq!(changed.get("https", &p256), Ok(200));
}

#[test]
fn new_authorities_are_used_at_the_next_handshake() {
    let config =
        format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n");
    let changed = Changed::start(&config);
    let stranger = ["--cert", "stranger.pem", "--key", "stranger.key"];
    assert!(changed.get("https", &stranger).is_err());
    changed
        .folder
        .replace("ca.pem", changed.folder.read("stranger.pem"));
    assert_eq!(changed.get("https", &stranger), Ok(200));
}

#[test]
fn whether_tls_is_spoken_and_the_rate_limit_change_with_a_restart_only() {
    let changed = Changed::start("");
    changed.folder.replace(
        "web.yml",
        format!("{TLS}rate_limit: {{interval: 1h, burst: 0}}\n"),
    );
    assert_eq!(changed.get("http", &[]), Ok(200));
    assert!(changed.get("https", &[]).is_err());
}
