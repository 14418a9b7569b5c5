//! `espejo.json`: the small clear file that says "this is a vault (or its mirror), and which one".

use serde::{Deserialize, Serialize};

use super::Malformed;
use crate::id::VaultId;

/// The file's name, in a vault, on a mirror and in a backup.
pub const MARKER_NAME: &str = "espejo.json";

/// No marker is longer; what is, is not read.
pub const MAX_MARKER_BYTES: usize = 4_096;

const FORMAT: u32 = 1;

/// What the marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// A vault in the format of this program.
    Vault(VaultId),
    /// A vault in a newer format.
    Newer,
}

#[derive(Serialize, Deserialize)]
struct Json {
    espejo: u32,
    vault: String,
}

/// The marker of `vault`.
pub fn encode(vault: VaultId) -> Vec<u8> {
    let json = Json { espejo: FORMAT, vault: vault.to_string() };
    let mut bytes = serde_json::to_vec(&json).expect("two plain fields");
    bytes.push(b'\n');
    bytes
}

/// Reads a marker.
pub fn decode(bytes: &[u8]) -> Result<Marker, Malformed> {
    let malformed = Malformed("marker");
    let json: Json = serde_json::from_slice(bytes).map_err(|_| malformed)?;
    if json.espejo > FORMAT {
        return Ok(Marker::Newer);
    }
    json.vault.parse().map(Marker::Vault).map_err(|_| malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_back_and_a_newer_one_says_so() {
        let vault = VaultId::from_bytes([5; 16]);
        assert_eq!(decode(&encode(vault)), Ok(Marker::Vault(vault)));
        assert_eq!(decode(br#"{"espejo":2,"vault":"x","more":1}"#), Ok(Marker::Newer));
        assert!(decode(b"<html>").is_err() && decode(br#"{"espejo":1,"vault":"x"}"#).is_err());
    }
}
