//! What is in answers, beside their status: headers, and words.

use crate::{
    client::curl,
    server::{Folder, Server},
    table::{TLS, USERS, agent, tls, with_hashes},
};

#[test]
fn a_file_that_is_not_there_does_not_start() {
    let output = agent()
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--web.config.file=somefile",
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("open somefile: no such file or directory"),
        "{stderr}"
    );
}

#[test]
fn all_five_headers_can_be_set() {
    let folder = Folder::new(
        "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'self'\n    \
         X-Frame-Options: deny\n    X-Content-Type-Options: nosniff\n    X-XSS-Protection: '1'\n    \
         Strict-Transport-Security: max-age=31536000\n",
    );
    let server = Server::start(Some(&folder.config()));
    for path in ["/metrics", "/", "/no-such-page"] {
        let answer = curl(
            folder.path(),
            &format!("http://{}{path}", server.address),
            &[],
        );
        for (name, value) in [
            ("Content-Security-Policy", "default-src 'self'"),
            ("X-Frame-Options", "deny"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-XSS-Protection", "1"),
            ("Strict-Transport-Security", "max-age=31536000"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {}", answer.head);
        }
    }
}

#[test]
fn plain_http_where_tls_is_spoken_is_told_so() {
    let folder = Folder::new(TLS);
    let server = Server::start(Some(&folder.config()));
    let answer = curl(folder.path(), &format!("http://{}/", server.address), &[]);
    assert_eq!(
        answer.text(),
        "Client sent an HTTP request to an HTTPS server.\n"
    );
    assert!(
        answer.head.starts_with("HTTP/1.0 400 Bad Request"),
        "{}",
        answer.head
    );
}

#[test]
fn http2_is_spoken_unless_it_is_off() {
    for (more, version) in [
        ("", "HTTP/2"),
        ("http_server_config:\n  http2: false\n", "HTTP/1.1"),
    ] {
        let folder = Folder::new(&tls(more));
        let server = Server::start(Some(&folder.config()));
        let url = format!("https://{}/metrics", server.address);
        let answer = curl(folder.path(), &url, &["--http2"]);
        assert!(answer.head.starts_with(version), "{}", answer.head);
    }
}

#[test]
fn who_has_no_login_is_asked_for_one() {
    let folder = Folder::new(&with_hashes(USERS));
    let server = Server::start(Some(&folder.config()));
    let answer = curl(folder.path(), &format!("http://{}/", server.address), &[]);
    assert_eq!(answer.header("WWW-Authenticate"), Some("Basic"));
    assert_eq!(answer.text(), "Unauthorized\n");
}
