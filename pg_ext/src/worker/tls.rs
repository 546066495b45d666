//! TLS to Redis (`rediss://`). The server's certificate is checked against `tandem.tls_ca_file`, or the system's
//! authorities where that is empty; with `tandem.tls_cert_file` and `tandem.tls_key_file` the worker shows one itself.

use super::connection::{Broken, broken};
use super::patient::Patient;
use crate::settings;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::Socket;
use std::sync::Arc;

/// An encrypted stream.
pub type TlsStream = StreamOwned<ClientConnection, Patient<Socket>>;

/// Begins TLS on a connected socket. The handshake is done with the first bytes.
pub fn wrap(host: &str, socket: Patient<Socket>) -> Result<TlsStream, Broken> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| broken("the host's name", error))?;
    let connection =
        ClientConnection::new(Arc::new(config()?), name).map_err(|error| broken("beginning TLS", error))?;
    Ok(StreamOwned::new(connection, socket))
}

/// How TLS is done, by the settings.
pub fn config() -> Result<ClientConfig, Broken> {
    // Named, as a library in Postgres must not set a default for the whole process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| broken("preparing TLS", error))?
        .with_root_certificates(authorities()?);
    let files = settings::tls_files();
    let config = match (files.cert, files.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(&key)
                .map_err(|error| broken(&format!("tandem.tls_key_file {key}"), error))?;
            builder.with_client_auth_cert(certificates("tandem.tls_cert_file", &cert)?, key)
        }
        _ => return Err(Broken("set tandem.tls_cert_file and tandem.tls_key_file, or neither".into())),
    };
    config.map_err(|error| broken("the worker's certificate", error))
}

fn authorities() -> Result<RootCertStore, Broken> {
    let mut store = RootCertStore::empty();
    let found = match settings::tls_files().ca {
        Some(path) => certificates("tandem.tls_ca_file", &path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    store.add_parsable_certificates(found);
    if store.is_empty() {
        return Err(Broken("no certificate authority is known: set tandem.tls_ca_file".into()));
    }
    Ok(store)
}

fn certificates(setting: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, Broken> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| broken(&format!("{setting} {path}"), error))
}
