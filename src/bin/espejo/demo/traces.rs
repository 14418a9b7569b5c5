//! Looking for what must not be there: plaintext, as it is or thinly disguised.

use std::collections::HashSet;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// Bytes of plaintext that count as a find. Eight random bytes never match by chance, and titles are no shorter.
const FRAGMENT_BYTES: usize = 8;
const HEX_CHARS: usize = 2 * FRAGMENT_BYTES;
/// Characters of base64 that eight bytes decide alone, wherever among its groups of three they begin.
const BASE64_CHARS: usize = 10;

/// Fewer different bytes than this are a line, a blank or padding.
const MIN_VARIETY: usize = 4;

/// Every stretch of eight bytes of some plaintexts: raw, in hexadecimal, and in base64.
#[derive(Debug, Default)]
pub struct Traces {
    raw: HashSet<Vec<u8>>,
    hex: HashSet<Vec<u8>>,
    base64: HashSet<Vec<u8>>,
}

impl Traces {
    /// Learns what to look for.
    pub fn add(&mut self, plaintext: &[u8]) {
        learn(&mut self.raw, plaintext, FRAGMENT_BYTES);
        for hex in [HEXLOWER.encode(plaintext), HEXUPPER.encode(plaintext)] {
            learn(&mut self.hex, hex.as_bytes(), HEX_CHARS);
        }
        for base64 in in_base64(plaintext) {
            learn(&mut self.base64, base64.as_bytes(), BASE64_CHARS);
        }
    }

    /// How many stretches of plaintext are looked for.
    pub fn count(&self) -> usize {
        self.raw.len()
    }

    /// Whether any of it shows.
    pub fn show_in(&self, bytes: &[u8]) -> bool {
        let finds = |wanted: &HashSet<Vec<u8>>, len| bytes.windows(len).any(|window| wanted.contains(window));
        finds(&self.raw, FRAGMENT_BYTES) || finds(&self.hex, HEX_CHARS) || finds(&self.base64, BASE64_CHARS)
    }
}

fn learn(wanted: &mut HashSet<Vec<u8>>, text: &[u8], len: usize) {
    let varied = |window: &&[u8]| window.iter().collect::<HashSet<_>>().len() >= MIN_VARIETY;
    wanted.extend(text.windows(len).filter(varied).map(<[u8]>::to_vec));
}

/// What base64 makes of `plaintext` inside something longer: three ways, by where it begins, in two alphabets.
/// Characters that its neighbours have a part in are left out.
fn in_base64(plaintext: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    for encoding in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
        for bytes_before in 0..3 {
            let shifted = [&[0; 2][..bytes_before], plaintext].concat();
            let first = (bytes_before * 8).div_ceil(6);
            let end = shifted.len() * 8 / 6;
            forms.push(encoding.encode(&shifted)[first..end].to_owned());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_are_found_in_every_disguise_and_at_every_place() {
        let mut traces = Traces::default();
        traces.add("a page about the lemon tree ¿no?".as_bytes());
        assert_eq!(traces.count(), 26);
        for before in 0..7 {
            let shown = [&vec![b'#'; before], &b"ut the l"[..], b"###"].concat();
            assert!(traces.show_in(&shown));
            assert!(traces.show_in(HEXLOWER.encode(&shown).as_bytes()));
            assert!(traces.show_in(HEXUPPER.encode(&shown).as_bytes()));
            assert!(traces.show_in(BASE64_NOPAD.encode(&shown).as_bytes()));
            let shown = [&vec![b'#'; before], &"ee ¿no?".as_bytes()[..8]].concat();
            assert!(traces.show_in(BASE64URL_NOPAD.encode(&shown).as_bytes()));
            assert!(!traces.show_in(&[&vec![b'#'; before], &b"ut the "[..], b"###"].concat()));
        }
    }

    #[test]
    fn blanks_and_lines_give_nothing_away() {
        let mut traces = Traces::default();
        traces.add(&[b"------------------", &[0; 40][..]].concat());
        assert_eq!(traces.count(), 0);
    }
}
