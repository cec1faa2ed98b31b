//! From `tls_server_config` to what the TLS library needs.
//!
//! Its names are those of Go's TLS library. Of what they can mean rustls knows a part: no CBC
//! suites, no P-521, nothing below TLS 1.2, and no order of the server's own between suites.

use std::sync::Arc;

use rustls::{
    CipherSuite, NamedGroup, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};
use thiserror::Error;

use super::{
    client_certificates::{ClientCertificates, Policy},
    file::TlsSection,
    material::Material,
};

/// What HTTP/2 is without one of which.
const REQUIRED_BY_HTTP2: [&str; 2] = [
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
];

/// Go's names of suites, and what they are here. Those of TLS 1.3 cannot be chosen in Go: they are
/// on where TLS 1.3 is.
const SUITES: [(&str, Option<CipherSuite>); 13] = [
    (
        "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256),
    ),
    (
        "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384),
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ),
    (
        REQUIRED_BY_HTTP2[0],
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        REQUIRED_BY_HTTP2[1],
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
];

const CURVES: [(&str, Option<NamedGroup>); 4] = [
    ("CurveP256", Some(NamedGroup::secp256r1)),
    ("CurveP384", Some(NamedGroup::secp384r1)),
    ("CurveP521", None),
    ("X25519", Some(NamedGroup::X25519)),
];

/// The oldest first.
const VERSIONS: [(&str, Option<&SupportedProtocolVersion>); 4] = [
    ("TLS10", None),
    ("TLS11", None),
    ("TLS12", Some(&TLS12)),
    ("TLS13", Some(&TLS13)),
];

/// What cannot be meant, or cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsError {
    /// No version of that name.
    #[error("unknown TLS version: {0} (known: TLS10, TLS11, TLS12, TLS13)")]
    UnknownVersion(String),
    /// No suite of that name that is thought safe.
    #[error("unknown cipher: {0}")]
    UnknownCipher(String),
    /// No curve of that name.
    #[error("unknown curve: {0} (known: CurveP256, CurveP384, CurveP521, X25519)")]
    UnknownCurve(String),
    /// No policy of that name.
    #[error("invalid ClientAuth: {0}")]
    UnknownPolicy(String),
    /// Who is to be verified by these?
    #[error("client CA's have been configured without a Client Auth Policy")]
    AuthoritiesWithoutPolicy,
    /// HTTP/2 says that it must be there.
    #[error(
        "http2: cipher_suites is missing an HTTP/2-required AES_128_GCM_SHA256 cipher (need at \
         least one of {}, {}; or set http2: false)",
        REQUIRED_BY_HTTP2[0],
        REQUIRED_BY_HTTP2[1]
    )]
    NoCipherForHttp2,
    /// The TLS library has nothing of it.
    #[error("{key}: {entries} cannot be used here, and nothing else is listed")]
    NothingLeft {
        /// The key.
        key: &'static str,
        /// What it lists.
        entries: String,
    },
    /// Not a certificate, not a key, or not of one another.
    #[error("failed to load X509KeyPair: {0}")]
    KeyPair(String),
}

/// What is agreed on with clients.
#[derive(Debug)]
struct Choice {
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Vec<SupportedCipherSuite>,
    curves: Vec<&'static dyn SupportedKxGroup>,
    /// What was asked for and cannot be had.
    left_out: Vec<String>,
}

impl Choice {
    fn of(section: &TlsSection) -> Result<Self, TlsError> {
        let provider = ring::default_provider();
        let mut left_out = Vec::new();
        let (oldest, newest) = (
            version(section.min_version.as_deref(), "TLS12")?,
            version(section.max_version.as_deref(), "TLS13")?,
        );
        let versions = VERSIONS.get(oldest..=newest).unwrap_or_default();
        for (name, _) in versions.iter().filter(|(_, known)| known.is_none()) {
            left_out.push((*name).to_owned());
        }
        let versions: Vec<_> = versions.iter().filter_map(|(_, known)| *known).collect();
        if versions.is_empty() {
            return Err(TlsError::NothingLeft {
                key: "min_version, max_version",
                entries: format!("{} to {}", VERSIONS[oldest].0, VERSIONS[newest].0),
            });
        }
        let suites = section.cipher_suites.as_deref().unwrap_or_default();
        let chosen = known(
            "cipher_suites",
            suites,
            &SUITES,
            TlsError::UnknownCipher,
            &mut left_out,
        )?;
        let is_on = |suite: &SupportedCipherSuite| {
            suites.is_empty() || suite.tls13().is_some() || chosen.contains(&suite.suite())
        };
        let curves = section.curve_preferences.as_deref().unwrap_or_default();
        let preferred = known(
            "curve_preferences",
            curves,
            &CURVES,
            TlsError::UnknownCurve,
            &mut left_out,
        )?;
        Ok(Self {
            versions,
            suites: provider.cipher_suites.into_iter().filter(is_on).collect(),
            curves: if curves.is_empty() {
                provider.kx_groups
            } else {
                let of_name = |name: &NamedGroup| {
                    provider
                        .kx_groups
                        .iter()
                        .find(|group| group.name() == *name)
                        .copied()
                };
                preferred.iter().filter_map(of_name).collect()
            },
            left_out,
        })
    }
}

fn version(name: Option<&str>, default: &str) -> Result<usize, TlsError> {
    let name = name.unwrap_or(default);
    VERSIONS
        .iter()
        .position(|(known, _)| *known == name)
        .ok_or_else(|| TlsError::UnknownVersion(name.to_owned()))
}

/// What the entries of a list are, as far as the TLS library has them.
fn known<T: Copy>(
    key: &'static str,
    entries: &[String],
    table: &[(&str, Option<T>)],
    unknown: fn(String) -> TlsError,
    left_out: &mut Vec<String>,
) -> Result<Vec<T>, TlsError> {
    let mut found = Vec::new();
    for entry in entries {
        let Some((_, meaning)) = table.iter().find(|(name, _)| name == entry) else {
            return Err(unknown(entry.clone()));
        };
        match meaning {
            Some(meaning) => found.push(*meaning),
            None => left_out.push(entry.clone()),
        }
    }
    if found.is_empty() && !entries.is_empty() {
        return Err(TlsError::NothingLeft {
            key,
            entries: entries.join(", "),
        });
    }
    Ok(found)
}

/// The library's configuration, and what was asked for that it cannot do.
pub(super) fn server_config(
    section: &TlsSection,
    material: &Material,
    http2: bool,
) -> Result<(Arc<ServerConfig>, Vec<String>), TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&material.certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::KeyPair(error.to_string()))?;
    if certificates.is_empty() {
        let error = "failed to find any PEM data in certificate input";
        return Err(TlsError::KeyPair(error.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&material.key)
        .map_err(|error| TlsError::KeyPair(format!("no private key: {error}")))?;
    let policy = Policy::named(section.client_auth_type.as_deref().unwrap_or_default())
        .map_err(TlsError::UnknownPolicy)?;
    if material.client_ca.is_some() && policy == Policy::None {
        return Err(TlsError::AuthoritiesWithoutPolicy);
    }
    let Choice {
        versions,
        suites,
        curves,
        left_out,
    } = Choice::of(section)?;
    if http2 && !can_be_http2(section) {
        return Err(TlsError::NoCipherForHttp2);
    }
    let provider = Arc::new(CryptoProvider {
        cipher_suites: suites,
        kx_groups: curves,
        ..ring::default_provider()
    });
    let clients = ClientCertificates::new(
        policy,
        material.client_ca.as_deref().unwrap_or_default(),
        section.client_allowed_sans.clone().unwrap_or_default(),
        &provider,
    );
    let failed = |error: rustls::Error| TlsError::KeyPair(error.to_string());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(failed)?
        .with_client_cert_verifier(Arc::new(clients))
        .with_single_cert(certificates, key)
        .map_err(failed)?;
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    // Each handshake goes by the configuration of its moment, so none is resumed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), left_out))
}

/// With TLS 1.2 HTTP/2 has a suite that must be there.
fn can_be_http2(section: &TlsSection) -> bool {
    let suites = section.cipher_suites.as_deref().unwrap_or_default();
    suites.is_empty()
        || section.min_version.as_deref() == Some("TLS13")
        || suites
            .iter()
            .any(|suite| REQUIRED_BY_HTTP2.contains(&&**suite))
}

#[cfg(test)]
mod tests {
    use super::{super::file::File, *};

    fn choice(keys: &str) -> Result<Choice, TlsError> {
        let text = format!("tls_server_config: {{cert: x, key: x, {keys}}}");
        let file = File::parse(text.as_bytes()).unwrap();
        Choice::of(&file.tls.unwrap())
    }

    #[test]
    fn what_the_library_cannot_do_is_left_out_and_named() {
        let choice = choice(
            "min_version: TLS10, curve_preferences: [CurveP521, CurveP384], cipher_suites: \
             [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]",
        )
        .unwrap();
        assert_eq!(
            choice.left_out,
            [
                "TLS10",
                "TLS11",
                "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
                "CurveP521"
            ]
        );
        assert_eq!(choice.versions.len(), 2);
        // Those of TLS 1.3, and the one.
        assert_eq!(choice.suites.len(), 4);
        assert_eq!(choice.curves.len(), 1);
    }

    #[test]
    fn a_list_of_which_nothing_is_left_is_an_error_that_names_it() {
        for (keys, words) in [
            ("min_version: TLS10, max_version: TLS11", "TLS10 to TLS11"),
            ("max_version: TLS11", "TLS12 to TLS11"),
            ("min_version: TLS13, max_version: TLS12", "TLS13 to TLS12"),
            (
                "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]",
                "cipher_suites: TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
            ),
            (
                "curve_preferences: [CurveP521]",
                "curve_preferences: CurveP521",
            ),
            (
                "cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]",
                "unknown cipher: TLS_RSA_WITH_RC4_128_SHA",
            ),
            ("curve_preferences: [CurveP512]", "unknown curve: CurveP512"),
            ("min_version: TLS9", "unknown TLS version: TLS9"),
        ] {
            let error = choice(keys).unwrap_err().to_string();
            assert!(error.contains(words), "{keys}: {error}");
        }
    }

    #[test]
    fn nothing_said_leaves_all_that_the_library_has() {
        let choice = choice("").unwrap();
        assert_eq!(choice.suites.len(), 9);
        assert_eq!(choice.curves.len(), 3);
        assert_eq!(choice.left_out, [""; 0]);
    }
}
