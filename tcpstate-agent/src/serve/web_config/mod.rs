//! The web configuration file: TLS, passwords, headers and a rate limit, as every Prometheus
//! exporter takes them.
//!
//! The file is read again for each request and each TLS handshake, with all the files it names, so
//! that a certificate or a user is changed without a restart. What is fixed at the start is whether
//! TLS is spoken, whether HTTP/2 is, and the rate limit. A file that cannot be used ends the start;
//! if it becomes so later, nobody is let in until it can be used again.

mod client_certificates;
mod file;
mod logins;
mod material;
mod passwords;
mod rate_limit;
mod tls;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::ServerConfig;
use thiserror::Error;
use tracing::{error, info, warn};

use self::{
    file::{File, FileError, TlsSection},
    logins::Logins,
    material::{Material, MaterialError, OpenError},
    passwords::NoHash,
    rate_limit::RateLimit,
    tls::TlsError,
};
use super::{counters::Refusal, source::Source};

/// Others than the owner and the group may read.
const READABLE_BY_OTHERS: u32 = 0o004;

/// Why the web configuration cannot be used.
#[derive(Debug, Error)]
pub enum WebConfigError {
    /// The file itself cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It says what cannot be.
    #[error(transparent)]
    File(#[from] FileError),
    /// A user without a usable password.
    #[error("basic_auth_users: {user}: {wrong}")]
    User {
        /// The name.
        user: String,
        /// What is in the place of the hash.
        wrong: NoHash,
    },
    /// A certificate or a key is missing.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// TLS cannot be spoken like that.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS is spoken, and no longer configured.
    #[error("TLS is no longer configured (whether it is spoken changes with a restart only)")]
    TlsRemoved,
    /// The system refuses what is needed.
    #[error("cannot compare passwords: {0}")]
    System(io::Error),
}

/// The file, and what was made of it last.
#[derive(Debug)]
pub struct WebConfig {
    path: PathBuf,
    speaks_tls: bool,
    http2: bool,
    rate_limit: Option<RateLimit>,
    logins: Logins,
    last: Mutex<Last>,
}

/// What was read last, so that what has not changed is not parsed again.
#[derive(Debug)]
struct Last {
    text: Vec<u8>,
    file: Arc<File>,
    tls: Option<MadeTls>,
    /// What cannot be done with it now.
    broken: Broken,
}

/// Requests and handshakes take different parts of the configuration.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    requests: bool,
    handshakes: bool,
}

#[derive(Debug)]
struct MadeTls {
    section: TlsSection,
    material: Material,
    config: Arc<ServerConfig>,
}

/// Reads a file of these bytes, as far as it needs no others. Whether the
/// server would start with it.
#[cfg(feature = "fuzzing")]
#[must_use]
pub fn is_understood(text: &[u8]) -> bool {
    File::parse(text).is_ok_and(|file| file.check_users().is_ok())
}

impl WebConfig {
    /// Reads the file at `path`, and fails unless all of it can be used. To be called within the
    /// async runtime.
    pub fn start(path: &Path) -> Result<Self, WebConfigError> {
        let text = material::read(path)?;
        let file = Arc::new(File::parse(&text)?);
        file.check_users()
            .map_err(|(user, wrong)| WebConfigError::User { user, wrong })?;
        if file.has_secret && is_readable_by_others(path) {
            warn!(path = %path.display(), "everybody can read the web configuration file, which holds a key");
        }
        let mut last = Last {
            text,
            tls: None,
            broken: Broken::default(),
            file: Arc::clone(&file),
        };
        if file.tls.is_some() {
            last.tls(folder(path), file.http2)?;
        }
        Ok(Self {
            path: path.to_owned(),
            speaks_tls: file.tls.is_some(),
            http2: file.tls.is_some() && file.http2,
            rate_limit: file.rate_limit.map(RateLimit::new),
            logins: Logins::start().map_err(WebConfigError::System)?,
            last: Mutex::new(last),
        })
    }

    /// Whether TLS is spoken.
    pub(super) const fn speaks_tls(&self) -> bool {
        self.speaks_tls
    }

    /// What a handshake that begins now goes by. Why there is none the log says.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        let tls = |last: &mut Last| last.tls(folder(&self.path), self.http2);
        self.now(tls, |broken| &mut broken.handshakes)
    }

    /// Whether a request may pass, and the headers that its answer has to have.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        source: Source,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Refused> {
        let file = |last: &mut Last| Ok(Arc::clone(&last.file));
        let Some(file) = self.now(file, |broken| &mut broken.requests) else {
            return Err(Refused::plain(Refusal::Config));
        };
        if self
            .rate_limit
            .as_ref()
            .is_some_and(|limit| !limit.allows())
        {
            return Err(Refused::plain(Refusal::RateLimited));
        }
        let answer_headers = file.headers.clone();
        if file.users.is_empty() || self.knows(&file, headers, source).await {
            return Ok(answer_headers);
        }
        let mut refused = Refused::plain(Refusal::Unauthorized);
        refused.headers = answer_headers;
        refused
            .headers
            .push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic")));
        Err(refused)
    }

    async fn knows(&self, file: &File, headers: &HeaderMap, source: Source) -> bool {
        let Some((user, password)) = credentials(headers) else {
            return false;
        };
        let hash = std::str::from_utf8(&user)
            .ok()
            .and_then(|user| file.users.get(user));
        // It takes as long to refuse a user who is not there.
        let compared = hash.map_or(passwords::NOBODY, |hash| hash);
        let are_right = self.logins.are_right(&user, compared, &password, source);
        are_right.await && hash.is_some()
    }

    /// Does `work` with what the file says now. Says once that it cannot, and once that it can
    /// again.
    fn now<T>(
        &self,
        work: impl FnOnce(&mut Last) -> Result<T, WebConfigError>,
        place: fn(&mut Broken) -> &mut bool,
    ) -> Option<T> {
        let mut last = self.last();
        let done = last.read(&self.path).and_then(|()| work(&mut last));
        let was_broken = std::mem::replace(place(&mut last.broken), done.is_err());
        match &done {
            Err(error) if !was_broken => {
                error!(path = %self.path.display(), %error, "the web configuration file cannot be used, nobody is let in");
            }
            Ok(_) if was_broken => {
                info!(path = %self.path.display(), "the web configuration file can be used again");
            }
            _ => {}
        }
        done.ok()
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Last {
    /// Reads the file again.
    fn read(&mut self, path: &Path) -> Result<(), WebConfigError> {
        let text = material::read(path)?;
        if text != self.text {
            self.file = Arc::new(File::parse(&text)?);
            self.text = text;
        }
        Ok(())
    }

    /// What a handshake goes by, from the files as they are now.
    fn tls(&mut self, folder: &Path, http2: bool) -> Result<Arc<ServerConfig>, WebConfigError> {
        let section = self.file.tls.as_ref().ok_or(WebConfigError::TlsRemoved)?;
        let material = Material::read(section, folder)?;
        if let Some(made) = &self.tls
            && made.material == material
            && made.section == *section
        {
            return Ok(Arc::clone(&made.config));
        }
        let (config, left_out) = tls::server_config(section, &material, http2)?;
        let is_new = self
            .tls
            .as_ref()
            .is_none_or(|made| made.section != *section);
        if is_new && !left_out.is_empty() {
            let left_out = left_out.join(", ");
            warn!(
                left_out,
                "the TLS library does not have all that tls_server_config lists"
            );
        }
        self.tls = Some(MadeTls {
            section: section.clone(),
            material,
            config: Arc::clone(&config),
        });
        Ok(config)
    }
}

/// An answer in the place of what was asked for.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: Refusal,
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refused {
    fn plain(why: Refusal) -> Self {
        Self {
            why,
            status: match why {
                Refusal::RateLimited => StatusCode::TOO_MANY_REQUESTS,
                Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            headers: Vec::new(),
        }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn is_readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.permissions().mode() & READABLE_BY_OTHERS != 0)
}

/// Name and password of basic authentication.
fn credentials(headers: &HeaderMap) -> Option<(Vec<u8>, Vec<u8>)> {
    const SCHEME: &[u8] = b"Basic ";
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = value.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let decoded = STANDARD.decode(encoded).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at(colon);
    Some((user.to_owned(), password[1..].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_everybody_can_read_is_noticed() {
        for (text, has_secret) in [
            ("tls_server_config: {cert: x, key: x}", true),
            ("tls_server_config: {cert_file: x, key_file: x}", false),
            ("", false),
        ] {
            assert_eq!(File::parse(text.as_bytes()).unwrap().has_secret, has_secret);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, is_readable) in [(0o644, true), (0o640, false), (0o600, false)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_others(file.path()), is_readable, "{mode:o}");
        }
    }

    #[test]
    fn names_and_passwords_are_taken_apart_at_the_first_colon() {
        for (value, expected) in [
            ("Basic YTpi", Some(("a", "b"))),
            ("basic YTpi", Some(("a", "b"))),
            ("Basic YTpiOmM=", Some(("a", "b:c"))),
            ("Basic Og==", Some(("", ""))),
            ("Basic YWI=", None),
            ("Basic YTpi=", None),
            ("Basic", None),
            ("Bearer YTpi", None),
            ("", None),
        ] {
            let headers =
                HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
            let expected =
                expected.map(|(user, password): (&str, &str)| (user.into(), password.into()));
            assert_eq!(credentials(&headers), expected, "{value}");
        }
    }
}
