//! WebSockets over TCP; the certificates of wss come from files that the environment names.

use std::env;

use libp2p::{
    tcp,
    websocket::{self, tls},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::Failure;

pub fn transport() -> Result<websocket::Config<tcp::tokio::Transport>, Failure> {
    let below = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let mut transport = websocket::Config::new(below);
    if let Ok(authority) = env::var("WEB_AUTHORITY") {
        transport.set_tls_config(tls_config(&authority)?);
    }
    Ok(transport)
}

fn tls_config(authority: &str) -> Result<tls::Config, Failure> {
    let mut config = tls::Config::builder();
    config.add_trust(&certificate(authority)?)?;
    let key = PrivateKeyDer::from_pem_file(env::var("WEB_KEY")?)?;
    let chain = certificate(&env::var("WEB_CHAIN")?)?;
    config.server(tls::PrivateKey::new(key.secret_der().to_vec()), [chain])?;
    Ok(config.finish())
}

fn certificate(path: &str) -> Result<tls::Certificate, Failure> {
    let der = CertificateDer::from_pem_file(path)?;
    Ok(tls::Certificate::new(der.to_vec()))
}
