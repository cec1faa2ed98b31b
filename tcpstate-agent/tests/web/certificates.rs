//! Certificates made for one test, in files beside each other.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// Writes what the tests' configurations name:
///
/// | file | is |
/// | --- | --- |
/// | `cert.pem`, `key.pem` | the server's |
/// | `cert2.pem`, `key2.pem` | another for the same name |
/// | `ca.pem` | the authority of some clients, `client_selfsigned.pem` behind it |
/// | `client.pem`, `client.key` | by that authority, with a name of each kind |
/// | `client_selfsigned.pem`, `.key` | its own authority, as `openssl req -x509` makes them |
/// | `client_expired.pem`, `.key` | the same, a year ago; in `expired_ca.pem` too |
/// | `client_server.pem`, `.key` | the same, for servers only; in `expired_ca.pem` too |
/// | `stranger.pem`, `stranger.key` | by nobody that is known |
pub(crate) fn write_to(folder: &Path) {
    let (certificate, key) = server();
    save(folder, "cert.pem", &certificate.pem());
    save(folder, "key.pem", &key.serialize_pem());
    let (certificate, key) = server();
    save(folder, "cert2.pem", &certificate.pem());
    save(folder, "key2.pem", &key.serialize_pem());

    let authority_key = KeyPair::generate().unwrap();
    let mut params = named("authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);

    let mut params = named("client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![
        SanType::DnsName("client.example".try_into().unwrap()),
        SanType::Rfc822Name("me@client.example".try_into().unwrap()),
        SanType::URI("spiffe://client.example/me".try_into().unwrap()),
        SanType::IpAddress("192.0.2.7".parse().unwrap()),
        SanType::IpAddress("2001:db8::7".parse().unwrap()),
    ];
    let key = KeyPair::generate().unwrap();
    let client = params.signed_by(&key, &issuer).unwrap();
    save_pair(folder, "client", &client, &key);

    let selfsigned = own_authority(folder, "client_selfsigned", |_| {});
    save(folder, "ca.pem", &(authority.pem() + &selfsigned.pem()));
    let expired = own_authority(folder, "client_expired", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 12, 31);
    });
    let server = own_authority(folder, "client_server", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    save(folder, "expired_ca.pem", &(expired.pem() + &server.pem()));
    own_authority(folder, "stranger", |_| {});
}

fn server() -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = named("server");
    params.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into().unwrap()),
        SanType::IpAddress("127.0.0.1".parse().unwrap()),
    ];
    (params.self_signed(&key).unwrap(), key)
}

fn own_authority(
    folder: &Path,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    save_pair(folder, name, &certificate, &key);
    certificate
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}

fn save_pair(folder: &Path, name: &str, certificate: &Certificate, key: &KeyPair) {
    save(folder, &format!("{name}.pem"), &certificate.pem());
    save(folder, &format!("{name}.key"), &key.serialize_pem());
}

fn save(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}
