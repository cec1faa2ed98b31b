//! `Accept-Encoding`, and gzip.

use std::io::Write as _;

use axum::http::{HeaderMap, header};
use flate2::{Compression, write::GzEncoder};

/// Whether a client would rather have it in gzip.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|encoding| {
            let mut parts = encoding.split(';').map(str::trim);
            let is_gzip = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            is_gzip && !parts.any(is_refusal)
        })
}

/// Whether a parameter is a weight of 0.
fn is_refusal(parameter: &str) -> bool {
    let weight = parameter
        .strip_prefix("q=")
        .and_then(|weight| weight.parse::<f32>().ok());
    weight.is_some_and(|weight| weight <= 0.0)
}

/// A page shrinks to a tenth even at the fastest level; more effort would cost milliseconds.
pub(super) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn gzip_is_given_to_who_accepts_it() {
        for (value, accepts) in [
            ("gzip", true),
            ("GZIP", true),
            ("deflate, gzip;q=0.5", true),
            ("br;q=1.0,gzip ; q=0.8, *;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("identity", false),
            ("zstd", false),
            ("xgzip", false),
            ("", false),
        ] {
            let headers =
                HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), accepts, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn what_is_compressed_is_there_again() {
        let text = "tcpstate_sockets 1\n".repeat(1000);
        let compressed = gzip(text.as_bytes());
        assert!(compressed.len() < text.len() / 10);
        let mut again = String::new();
        flate2::read::GzDecoder::new(&*compressed)
            .read_to_string(&mut again)
            .unwrap();
        assert_eq!(again, text);
    }
}
