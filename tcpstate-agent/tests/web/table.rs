//! What each configuration means, case by case, as a table: against this server here, and against
//! node_exporter in [`node_exporter`](crate::node_exporter).

use std::process::Command;

use crate::{
    client::{curl, openssl},
    server::{Folder, Server},
};

/// A configuration and what follows.
pub(crate) struct Row {
    pub(crate) config: String,
    pub(crate) expected: Expected,
}

pub(crate) enum Expected {
    /// It does not start, and says this.
    NoStart(&'static str),
    /// It answers.
    Answers(Vec<Ask>),
}

/// A request and its end.
pub(crate) struct Ask {
    /// Of curl, with the URL's scheme and path; of openssl.
    pub(crate) with: With,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) ends: End,
    /// Why node_exporter answers otherwise.
    pub(crate) theirs: Option<&'static str>,
}

pub(crate) enum With {
    Curl(&'static str, &'static str),
    Openssl,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Status(u16),
    /// No answer, and this in what the client says.
    Says(&'static str),
}

fn curls(
    scheme: &'static str,
    path: &'static str,
    arguments: &'static [&'static str],
    ends: End,
) -> Ask {
    Ask {
        with: With::Curl(scheme, path),
        arguments,
        ends,
        theirs: None,
    }
}

fn shakes(arguments: &'static [&'static str], says: &'static str) -> Ask {
    Ask {
        with: With::Openssl,
        arguments,
        ends: End::Says(says),
        theirs: None,
    }
}

pub(crate) const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

pub(crate) fn tls(more: &str) -> String {
    format!("{TLS}{more}")
}

fn no_start(config: impl Into<String>, says: &'static str) -> Row {
    Row {
        config: config.into(),
        expected: Expected::NoStart(says),
    }
}

fn answers(config: impl Into<String>, asks: Vec<Ask>) -> Row {
    Row {
        config: config.into(),
        expected: Expected::Answers(asks),
    }
}

/// `{{hash:PASSWORD}}` in a configuration is a hash of it.
pub(crate) fn with_hashes(config: &str) -> String {
    let mut text = String::new();
    let mut rest = config;
    while let Some((before, behind)) = rest.split_once("{{hash:") {
        let (password, behind) = behind.split_once("}}").unwrap();
        text.push_str(before);
        text.push_str(&bcrypt::hash(password, 4).unwrap());
        rest = behind;
    }
    text + rest
}

pub(crate) const USERS: &str = "basic_auth_users:\n  alice: {{hash:alice123}}\n  dave: {{hash:dave123}}\n  fakeuser2: {{hash:x}}\n";

/// The row does here what it says.
fn holds(row: &Row) {
    let folder = Folder::new("");
    folder.replace("web.yml", filled(&row.config, &folder));
    match &row.expected {
        Expected::NoStart(says) => {
            let output = agent()
                .args(["--web.listen-address=127.0.0.1:0", "--web.config.file"])
                .arg(folder.config())
                .output()
                .unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains(says), "not {says:?}: {stderr}");
        }
        Expected::Answers(asks) => {
            let server = Server::start(Some(&folder.config()));
            for ask in asks {
                let ended = end(&folder, server.address, ask, false);
                assert!(ended.is_ok(), "{}", ended.unwrap_err());
            }
        }
    }
}

fn indented(pem: &str) -> String {
    pem.replace('\n', "\n    ")
}

/// `tcpstate-agent run`, for a start that fails: one that does not is ended.
pub(crate) fn agent() -> Command {
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_tcpstate-agent"), "run"]);
    command
}

/// Whether a request ends as it should. Where the server `hangs_up` on who is not let in, the
/// client may not hear why.
pub(crate) fn end(
    folder: &Folder,
    address: std::net::SocketAddr,
    ask: &Ask,
    hangs_up: bool,
) -> Result<(), String> {
    let arguments = ask.arguments;
    match ask.with {
        With::Openssl => {
            let said = openssl(folder.path(), address, arguments);
            match ask.ends {
                End::Says(words) if said.contains(words) => Ok(()),
                ends => Err(format!("openssl {arguments:?}: not {ends:?}: {said}")),
            }
        }
        With::Curl(scheme, path) => {
            let url = format!("{scheme}://{address}{path}");
            let outcome = curl(folder.path(), &url, arguments);
            let ends = match ask.ends {
                End::Status(status) => outcome.status == Some(status),
                End::Says(words) => {
                    let hung_up = ["(16)", "(55)", "(56)"].map(|code| format!("curl: {code}"));
                    let hung_up = hung_up.iter().any(|words| outcome.said.contains(words));
                    let is_told = outcome.said.contains(words) || hangs_up && hung_up;
                    outcome.status.is_none() && is_told
                }
            };
            let text = String::from_utf8_lossy(&outcome.body);
            let text = text.chars().take(300).collect::<String>();
            ends.then_some(()).ok_or_else(|| {
                format!(
                    "curl {arguments:?} {url}: not {:?}: {} {text}",
                    ask.ends, outcome.said
                )
            })
        }
    }
}

/// Rows with names: each is a test of its own, and all are there for others to go through.
macro_rules! rows {
    ($($name:ident => $row:expr;)*) => {
        $(
            #[test]
            fn $name() {
                holds(&$row);
            }
        )*

        /// All of them.
        pub(crate) fn all() -> Vec<(&'static str, Row)> {
            vec![$((stringify!($name), $row)),*]
        }
    };
}

/// A configuration with hashes, and with the certificates of the folder's files.
pub(crate) fn filled(config: &str, folder: &Folder) -> String {
    with_hashes(config)
        .replace("{{cert}}", &indented(&folder.read("cert.pem")))
        .replace("{{key}}", &indented(&folder.read("key.pem")))
        .replace("{{ca}}", &indented(&folder.read("ca.pem")))
}

const LISTED: &[&str] = &[
    "--cert",
    "client_selfsigned.pem",
    "--key",
    "client_selfsigned.key",
];
const SIGNED: &[&str] = &["--cert", "client.pem", "--key", "client.key"];
const STRANGER: &[&str] = &["--cert", "stranger.pem", "--key", "stranger.key"];
const VERIFY: &str = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";

rows! {
    an_empty_file_is_plain_http => answers("", vec![
        curls("http", "/metrics", &[], End::Status(200)),
        curls("https", "/metrics", &[], End::Says("SSL")),
    ]);
    junk_does_not_start => no_start("hello\n", "yaml");
    a_key_that_is_not_known_does_not_start =>
        no_start("tls_server_config:\n  cert_files: cert.pem\n", "field cert_files not found");
    a_key_given_twice_does_not_start => no_start(tls("  key_file: key.pem\n"), "key_file");
    a_value_of_another_type_does_not_start =>
        no_start(tls("http_server_config:\n  http2: 'true'\n"), "yaml");
    no_certificate_does_not_start =>
        no_start("tls_server_config:\n  key_file: key.pem\n", "missing one of cert or cert_file");
    an_empty_certificate_does_not_start =>
        no_start("tls_server_config:\n  cert: ''\n  key_file: key.pem\n", "missing one of cert or cert_file");
    neither_certificate_nor_key_does_not_start => no_start(
        "tls_server_config:\n  cert_file: ''\n  key_file: ''\n  client_auth_type: x\n",
        "missing one of cert or cert_file",
    );
    no_key_does_not_start =>
        no_start("tls_server_config:\n  cert_file: cert.pem\n", "missing one of key or key_file");
    an_empty_key_does_not_start =>
        no_start("tls_server_config:\n  cert_file: cert.pem\n  key: ''\n", "missing one of key or key_file");
    a_certificate_file_that_is_not_there_does_not_start => no_start(
        "tls_server_config:\n  cert_file: nofile\n  key_file: key.pem\n",
        "nofile): open ",
    );
    a_key_file_that_is_not_there_does_not_start => no_start(
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: nofile\n",
        "nofile): open ",
    );
    neither_file_there_does_not_start => no_start(
        "tls_server_config:\n  cert_file: nofile\n  key_file: nofile\n",
        "nofile): open ",
    );
    a_key_of_another_certificate_does_not_start => no_start(
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: key2.pem\n",
        "failed to load X509KeyPair",
    );
    what_is_no_certificate_does_not_start => no_start(
        "tls_server_config:\n  cert_file: web.yml\n  key_file: key.pem\n",
        "failed to load X509KeyPair",
    );
    authorities_without_a_policy_do_not_start => no_start(
        tls("  client_ca_file: ca.pem\n"),
        "client CA's have been configured without a Client Auth Policy",
    );
    authorities_for_nobody_do_not_start => no_start(
        tls("  client_ca_file: ca.pem\n  client_auth_type: NoClientCert\n"),
        "client CA's have been configured without a Client Auth Policy",
    );
    an_authority_that_is_not_there_does_not_start => no_start(
        tls("  client_ca_file: nofile\n  client_auth_type: RequireAndVerifyClientCert\n"),
        "no such file or directory",
    );
    a_policy_that_is_not_known_does_not_start =>
        no_start(tls("  client_auth_type: Sometimes\n"), "invalid ClientAuth: Sometimes");
    verified_by_nobody_nobody_gets_in => answers(
        tls("  client_auth_type: RequireAndVerifyClientCert\n"),
        vec![
            curls("http", "/metrics", &[], End::Status(400)),
            curls("https", "/metrics", &[], End::Says("alert")),
            curls("https", "/metrics", STRANGER, End::Says("alert")),
        ],
    );
    a_password_in_the_place_of_a_hash_does_not_start => no_start(
        "basic_auth_users:\n  alice: alice123\n",
        "hashedSecret too short to be a bcrypted password",
    );
    a_hash_of_another_kind_does_not_start => no_start(
        "basic_auth_users:\n  alice: $6$rounds=5000$usesomesillystri$D4IrlXatmP7rx3P3InaxBeoomnAihCKRVQAr/36PyvyFFIA2Pm\n",
        "algorithm version '6'",
    );
    a_cipher_that_is_not_known_does_not_start =>
        no_start(tls("  cipher_suites: [TLS_INVENTED]\n"), "unknown cipher: TLS_INVENTED");
    a_curve_that_is_not_known_does_not_start =>
        no_start(tls("  curve_preferences: [CurveP999]\n"), "unknown curve: CurveP999");
    a_version_that_is_not_known_does_not_start =>
        no_start(tls("  min_version: TLS111\n"), "unknown TLS version: TLS111");
    http2_without_its_cipher_does_not_start => no_start(
        tls("  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n  max_version: TLS12\n"),
        "HTTP/2-required",
    );
    without_http2_its_cipher_is_not_needed => answers(
        tls("  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n  max_version: TLS12\nhttp_server_config:\n  http2: false\n"),
        vec![
            curls("https", "/metrics", &[], End::Status(200)),
            curls("https", "/metrics", &["--http2", "--fail", "--write-out", "%{http_version}"], End::Status(200)),
            shakes(&["-alpn", "h2,http/1.1", "-tls1_2"], "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ],
    );
    a_value_that_a_header_may_not_have_does_not_start => no_start(
        "http_server_config:\n  headers:\n    X-Content-Type-Options: sniff\n",
        "invalid value for X-Content-Type-Options",
    );
    a_frame_option_that_is_not_one_does_not_start => no_start(
        "http_server_config:\n  headers:\n    X-Frame-Options: allow\n",
        "invalid value for X-Frame-Options",
    );
    another_header_does_not_start => no_start(
        "http_server_config:\n  headers:\n    X-Extra: value\n",
        "HTTP header \"X-Extra\" can not be configured",
    );
    a_certificate_is_all_it_takes => answers(TLS, vec![
        curls("http", "/metrics", &[], End::Status(400)),
        curls("https", "/metrics", &["--http2", "--fail"], End::Status(200)),
        curls("https", "/metrics", &["--http1.1"], End::Status(200)),
        shakes(&["-alpn", "h2", "-tls1_3"], "TLSv1.3"),
        shakes(&["-tls1_2"], "TLSv1.2"),
        curls(
            "https",
            "/metrics",
            &["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"],
            End::Says("protocol version"),
        ),
        shakes(&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "protocol version"),
    ]);
    a_certificate_can_stand_in_the_file => answers(
        "tls_server_config:\n  cert: |\n    {{cert}}\n  key: |\n    {{key}}\n",
        vec![curls("https", "/metrics", &["--http2"], End::Status(200))],
    );
    every_cipher_can_be_listed => answers(
        tls("  cipher_suites:\n\
            \x20 - TLS_AES_128_GCM_SHA256\n  - TLS_AES_256_GCM_SHA384\n\
            \x20 - TLS_CHACHA20_POLY1305_SHA256\n\
            \x20 - TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA\n  - TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA\n\
            \x20 - TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA\n  - TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA\n\
            \x20 - TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n  - TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\n\
            \x20 - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  - TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\n\
            \x20 - TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256\n\
            \x20 - TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256\n"),
        vec![
            curls("https", "/metrics", &[], End::Status(200)),
            shakes(&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], "CHACHA20"),
            Ask {
                theirs: Some("CBC suites are there"),
                ..shakes(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "handshake failure")
            },
        ],
    );
    every_curve_can_be_listed => answers(
        tls("  curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]\n"),
        vec![
            curls("https", "/metrics", &[], End::Status(200)),
            curls("https", "/metrics", &["--curves", "P-384"], End::Status(200)),
            Ask {
                theirs: Some("P-521 is there"),
                ..curls("https", "/metrics", &["--curves", "P-521"], End::Says("handshake failure"))
            },
        ],
    );
    ciphers_that_are_not_listed_are_not_spoken => answers(
        tls("  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"),
        vec![
            curls("https", "/metrics", &["--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"], End::Status(200)),
            curls("https", "/metrics", &["--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"], End::Says("handshake failure")),
        ],
    );
    of_two_ciphers_the_clients_first_is_spoken => answers(
        tls("  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n"),
        vec![shakes(
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"],
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        )],
    );
    the_servers_order_is_known_and_has_no_effect => answers(
        tls("  prefer_server_cipher_suites: false\n  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"),
        vec![shakes(
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"],
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        )],
    );
    curves_that_are_not_listed_are_not_spoken => answers(
        tls("  min_version: TLS13\n  curve_preferences: [CurveP384]\n"),
        vec![
            curls("https", "/metrics", &["--curves", "P-384"], End::Status(200)),
            curls("https", "/metrics", &["--curves", "P-256"], End::Says("handshake failure")),
            curls("https", "/metrics", &["--tls-max", "1.2"], End::Says("protocol version")),
        ],
    );
    a_certificate_may_be_asked_for_and_not_given => answers(
        tls("  client_auth_type: RequestClientCert\n"),
        vec![
            curls("https", "/metrics", &[], End::Status(200)),
            curls("https", "/metrics", STRANGER, End::Status(200)),
        ],
    );
    any_certificate_may_do => answers(
        tls("  client_auth_type: RequireAnyClientCert\n"),
        vec![
            curls("https", "/metrics", SIGNED, End::Status(200)),
            curls("https", "/metrics", STRANGER, End::Status(200)),
            curls("https", "/metrics", &[], End::Says("certificate required")),
        ],
    );
    any_certificate_may_do_by_its_other_name => answers(
        "tls_server_config:\n  cert: |\n    {{cert}}\n  key: |\n    {{key}}\n  client_auth_type: RequireClientCert\n",
        vec![
            curls("https", "/metrics", STRANGER, End::Status(200)),
            curls("https", "/metrics", &[], End::Says("certificate required")),
        ],
    );
    a_certificate_given_may_have_to_be_verified => answers(
        tls("  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n"),
        vec![
            curls("https", "/metrics", &[], End::Status(200)),
            curls("https", "/metrics", SIGNED, End::Status(200)),
            curls("https", "/metrics", STRANGER, End::Says("alert")),
        ],
    );
    only_verified_certificates_get_in => answers(
        tls(VERIFY),
        vec![
            curls("https", "/metrics", SIGNED, End::Status(200)),
            curls("https", "/metrics", LISTED, End::Status(200)),
            curls("https", "/metrics", STRANGER, End::Says("alert")),
            curls("https", "/metrics", &[], End::Says("certificate required")),
            curls("https", "/metrics", &["--tls-max", "1.2"], End::Says("alert")),
            curls("https", "/metrics", &["--tls-max", "1.2", "--cert", "client_selfsigned.pem", "--key", "client_selfsigned.key"], End::Status(200)),
        ],
    );
    authorities_can_stand_in_the_file => answers(
        tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca: |\n    {{ca}}\n"),
        vec![
            curls("https", "/metrics", LISTED, End::Status(200)),
            curls("https", "/metrics", STRANGER, End::Says("alert")),
        ],
    );
    a_certificate_of_its_own_authority_must_hold_for_clients_and_now => answers(
        tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: expired_ca.pem\n"),
        vec![
            curls("https", "/metrics", &["--cert", "client_expired.pem", "--key", "client_expired.key"], End::Says("alert")),
            curls("https", "/metrics", &["--cert", "client_server.pem", "--key", "client_server.key"], End::Says("alert")),
        ],
    );
    a_name_that_is_allowed_gets_in_dns => answers(
        tls(&format!("{VERIFY}  client_allowed_sans: [other.example, client.example]\n")),
        vec![
            curls("https", "/metrics", SIGNED, End::Status(200)),
            curls("https", "/metrics", LISTED, End::Says("bad certificate")),
        ],
    );
    a_name_that_is_allowed_gets_in_email => answers(
        tls(&format!("{VERIFY}  client_allowed_sans: [me@client.example]\n")),
        vec![curls("https", "/metrics", SIGNED, End::Status(200))],
    );
    a_name_that_is_allowed_gets_in_uri => answers(
        tls(&format!("{VERIFY}  client_allowed_sans: ['spiffe://client.example/me']\n")),
        vec![curls("https", "/metrics", SIGNED, End::Status(200))],
    );
    a_name_that_is_allowed_gets_in_address => answers(
        tls(&format!("{VERIFY}  client_allowed_sans: [192.0.2.7]\n")),
        vec![curls("https", "/metrics", SIGNED, End::Status(200))],
    );
    a_name_that_is_allowed_gets_in_ipv6 => answers(
        tls(&format!("{VERIFY}  client_allowed_sans: ['2001:db8::7']\n")),
        vec![curls("https", "/metrics", SIGNED, End::Status(200))],
    );
    a_name_that_is_not_allowed_does_not_get_in => answers(
        tls(&format!("{VERIFY}  client_allowed_sans: [test3, CLIENT.example, example]\n")),
        vec![curls("https", "/metrics", SIGNED, End::Says("bad certificate"))],
    );
    headers_are_in_every_answer => answers(
        format!("{USERS}http_server_config:\n  headers:\n    X-Frame-Options: deny\n"),
        vec![
            curls("http", "/metrics", &["--user", "dave:dave123"], End::Status(200)),
            curls("http", "/metrics", &[], End::Status(401)),
        ],
    );
    who_has_no_login_does_not_get_in => answers(USERS, vec![
        curls("http", "/metrics", &[], End::Status(401)),
        curls("http", "/", &[], End::Status(401)),
        curls("http", "/no-such-page", &[], End::Status(401)),
        curls("http", "/metrics", &["--user", "dave:wrong"], End::Status(401)),
        curls("http", "/metrics", &["--user", "nobody:dave123"], End::Status(401)),
        curls("http", "/metrics", &["--user", "fakeuser:fakepassword"], End::Status(401)),
        curls("http", "/metrics", &["--user", "fakeuser:fakepassword"], End::Status(401)),
        curls("http", "/metrics", &["--user", "dave:dave123"], End::Status(200)),
        curls("http", "/metrics", &["--user", "dave:dave123"], End::Status(200)),
        curls("http", "/metrics", &["--user", "alice:alice123"], End::Status(200)),
        curls("http", "/metrics", &["--user", "alice:dave123"], End::Status(401)),
    ]);
    a_login_over_tls_gets_in => answers(format!("{TLS}{USERS}"), vec![
        curls("https", "/metrics", &["--user", "alice:alice123"], End::Status(200)),
        curls("https", "/metrics", &["--user", "alice:alice12"], End::Status(401)),
        curls("https", "/", &[], End::Status(401)),
    ]);
    no_interval_is_no_limit => answers(
        "rate_limit:\n  interval: 0\n  burst: 0\n",
        vec![
            curls("http", "/metrics", &[], End::Status(200)),
            curls("http", "/metrics", &[], End::Status(200)),
        ],
    );
    no_burst_refuses_everything => answers(
        format!("{USERS}rate_limit:\n  interval: 1s\n  burst: 0\n"),
        vec![
            // Before any login is asked for.
            curls("http", "/metrics", &[], End::Status(429)),
            curls("http", "/metrics", &["--user", "dave:dave123"], End::Status(429)),
        ],
    );
    a_burst_passes_and_no_more => answers(
        "rate_limit:\n  interval: 1h\n  burst: 2\n",
        vec![
            curls("http", "/metrics", &[], End::Status(200)),
            curls("http", "/", &[], End::Status(200)),
            curls("http", "/metrics", &[], End::Status(429)),
        ],
    );
    any_method_is_answered => answers("", vec![
        curls("http", "/metrics", &["--head"], End::Status(200)),
        curls("http", "/metrics", &["--data", "x=1"], End::Status(200)),
        curls("http", "/metrics", &["--compressed"], End::Status(200)),
        curls("http", "/no-such-page", &[], End::Status(404)),
    ]);
}
