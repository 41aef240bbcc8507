//! Bytes as text.

use sha2::{Digest as _, Sha256};

use crate::Failure;

pub fn bytes(text: &str) -> Result<Vec<u8>, Failure> {
    if !text.is_ascii() || text.len() % 2 == 1 {
        return Err(format!("{text:?} is not hex").into());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?))
        .collect()
}

pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn digest(data: &[u8]) -> String {
    text(&Sha256::digest(data))
}
