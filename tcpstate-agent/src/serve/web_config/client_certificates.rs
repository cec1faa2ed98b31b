//! Whom a client certificate lets in.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_cert::{
    Certificate,
    der::{
        Decode as _,
        oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_CLIENT_AUTH},
    },
    ext::pkix::{ExtendedKeyUsage, SubjectAltName, name::GeneralName},
};

/// `client_auth_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// None is asked for.
    None,
    /// One is asked for; any will do, and none.
    Request,
    /// Any will do.
    RequireAny,
    /// Where there is one, it must be of one of the authorities.
    VerifyIfGiven,
    /// There must be one of the authorities'.
    RequireAndVerify,
}

impl Policy {
    pub(super) fn named(name: &str) -> Result<Self, String> {
        Ok(match name {
            "" | "NoClientCert" => Self::None,
            "RequestClientCert" => Self::Request,
            "RequireAnyClientCert" | "RequireClientCert" => Self::RequireAny,
            "VerifyClientCertIfGiven" => Self::VerifyIfGiven,
            "RequireAndVerifyClientCert" => Self::RequireAndVerify,
            _ => return Err(name.to_owned()),
        })
    }

    const fn verifies(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }
}

/// Verifies client certificates as Go's TLS library does, which takes one that is its own
/// authority; the library here alone would refuse it.
#[derive(Debug)]
pub(super) struct ClientCertificates {
    policy: Policy,
    /// Absent where there is no authority.
    by_authority: Option<Arc<dyn ClientCertVerifier>>,
    authorities: Vec<CertificateDer<'static>>,
    subjects: Vec<DistinguishedName>,
    /// One of these must be among the certificate's names, where there are any.
    allowed_names: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertificates {
    /// `authorities` are PEM. What in there is no certificate is passed over.
    pub(super) fn new(
        policy: Policy,
        authorities: &[u8],
        allowed_names: Vec<String>,
        provider: &Arc<CryptoProvider>,
    ) -> Self {
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(authorities)
            .filter_map(Result::ok)
            .collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().cloned());
        let subjects = roots.subjects();
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Self {
            policy,
            by_authority: builder.build().ok(),
            authorities,
            subjects,
            allowed_names,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(by_authority) = &self.by_authority else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match by_authority.verify_client_cert(certificate, intermediates, now) {
            Ok(_) => Ok(()),
            // Byte for byte one of the authorities: nobody has to vouch for it.
            Err(_)
                if self
                    .authorities
                    .iter()
                    .any(|authority| authority == certificate) =>
            {
                vouches_for_itself(certificate, now)
            }
            Err(error) => Err(error),
        }
    }

    fn has_allowed_name(&self, certificate: &CertificateDer<'_>) -> bool {
        let names = parse(certificate).map(|certificate| names(&certificate));
        names.is_ok_and(|names| names.iter().any(|name| self.allowed_names.contains(name)))
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn offer_client_auth(&self) -> bool {
        self.policy != Policy::None
    }

    fn client_auth_mandatory(&self) -> bool {
        // Who has no certificate has none of the names either.
        matches!(self.policy, Policy::RequireAny | Policy::RequireAndVerify)
            || (self.policy != Policy::None && !self.allowed_names.is_empty())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.policy.verifies() {
            self.verify(end_entity, intermediates, now)?;
        }
        if !self.allowed_names.is_empty() && !self.has_allowed_name(end_entity) {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// Whether a certificate that is known holds at this time and for this use. That the client has its
/// key, the handshake's signature shows.
fn vouches_for_itself(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let certificate = parse(certificate)?;
    let certificate = certificate.tbs_certificate();
    let validity = certificate.validity();
    let now = now.as_secs();
    let wrong = if now < validity.not_before.to_unix_duration().as_secs() {
        CertificateError::NotValidYet
    } else if now > validity.not_after.to_unix_duration().as_secs() {
        CertificateError::Expired
    } else {
        let usage = certificate.get_extension::<ExtendedKeyUsage>();
        match usage {
            Ok(None) => return Ok(()),
            Ok(Some((_, ExtendedKeyUsage(usages))))
                if usages.contains(&ID_KP_CLIENT_AUTH)
                    || usages.contains(&ANY_EXTENDED_KEY_USAGE) =>
            {
                return Ok(());
            }
            Ok(Some(_)) => CertificateError::InvalidPurpose,
            Err(error) => CertificateError::Other(OtherError(Arc::new(error))),
        }
    };
    Err(Error::InvalidCertificate(wrong))
}

/// The alternative names of a certificate, as the configuration writes them.
fn names(certificate: &Certificate) -> Vec<String> {
    let found = certificate
        .tbs_certificate()
        .get_extension::<SubjectAltName>();
    let Ok(Some((_, SubjectAltName(names)))) = found else {
        return Vec::new();
    };
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.to_string()),
            GeneralName::Rfc822Name(address) => Some(address.to_string()),
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
            GeneralName::IpAddress(octets) => address(octets.as_bytes()),
            _ => None,
        })
        .collect()
}

fn address(octets: &[u8]) -> Option<String> {
    let address = <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    address.ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_certificate_has_none_of_the_names() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let is_needed = |policy, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            ClientCertificates::new(policy, &[], names, &provider).client_auth_mandatory()
        };
        for policy in [Policy::Request, Policy::VerifyIfGiven] {
            assert!(!is_needed(policy, &[]));
            assert!(is_needed(policy, &["a.example"]));
        }
        assert!(!is_needed(Policy::None, &["a.example"]));
    }
}
