//! Certificates and keys, inline or from files whose paths are relative to the configuration's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::file::{TlsSection, is_given};

/// What TLS is made of, as it was read: PEM, so far as anybody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Material {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

/// Something is not there.
#[derive(Debug, Error)]
pub enum MaterialError {
    /// Neither inline nor in a file.
    #[error("missing one of {0} or {0}_file")]
    Missing(&'static str),
    /// In a file that cannot be read.
    #[error("failed to read {key} ({path}): {source}", path = path.display())]
    Unreadable {
        /// The key that names the file.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
}

/// A file that cannot be read.
#[derive(Debug, Error)]
#[error("open {path}: {error}", path = path.display(), error = plain(error))]
pub struct OpenError {
    path: PathBuf,
    error: io::Error,
}

/// The system's words for an error, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    fs::read(path).map_err(|error| OpenError {
        path: path.to_owned(),
        error,
    })
}

impl Material {
    /// Reads what `section` names; its paths are relative to `folder`.
    pub(super) fn read(section: &TlsSection, folder: &Path) -> Result<Self, MaterialError> {
        let cert = [&section.cert_file, &section.cert].map(Option::as_deref);
        let key = [&section.key_file, &section.key].map(Option::as_deref);
        let client_ca = [&section.client_ca_file, &section.client_ca].map(Option::as_deref);
        // Both are asked for before either is read.
        for (name, places) in [("cert", cert), ("key", key)] {
            if !places.into_iter().any(is_given) {
                return Err(MaterialError::Missing(name));
            }
        }
        Ok(Self {
            certificate: one("cert_file", cert, folder)?.unwrap_or_default(),
            key: one("key_file", key, folder)?.unwrap_or_default(),
            client_ca: one("client_ca_file", client_ca, folder)?,
        })
    }
}

/// A file comes before what is inline.
fn one(
    key: &'static str,
    [file, inline]: [Option<&str>; 2],
    folder: &Path,
) -> Result<Option<Vec<u8>>, MaterialError> {
    if let Some(file) = file.filter(|file| !file.is_empty()) {
        let path = folder.join(file);
        return match read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) => Err(MaterialError::Unreadable { key, path, source }),
        };
    }
    let inline = inline.filter(|text| !text.is_empty());
    Ok(inline.map(|text| text.as_bytes().to_owned()))
}
