//! The recovery key as 24 words, the file they are written to, and six words for a password.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bip39::{Language, Mnemonic};
use espejo::entropy::{Entropy, OsEntropy};
use zeroize::Zeroizing;

use crate::context::{absolute, is_in_vault_or_mirror};
use crate::failure::{Code, Failure};

/// 66 bits: years of guessing for whoever has a copy, at what one guess costs.
const PHRASE_WORDS: usize = 6;
const BITS_PER_WORD: u32 = 11;

/// The words for a secret.
pub fn words(secret: &[u8; 32]) -> Zeroizing<String> {
    let mnemonic = Mnemonic::from_entropy_in(Language::English, secret).expect("32 bytes are 24 words");
    Zeroizing::new(mnemonic.words().collect::<Vec<_>>().join(" "))
}

/// The secret behind words, however they are spaced; numbers before them are ignored.
pub fn parse(text: &str) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let words = text.split_whitespace().filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()));
    let words = Zeroizing::new(words.collect::<Vec<_>>().join(" ").to_lowercase());
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).map_err(|error| {
        Failure::new(Code::Password, "bad_recovery_key", format!("these are not recovery words: {error}"))
            .hint("24 English words, in order")
    })?;
    let entropy = Zeroizing::new(mnemonic.to_entropy());
    let secret = <[u8; 32]>::try_from(&entropy[..]);
    secret
        .map(Zeroizing::new)
        .map_err(|_| Failure::new(Code::Password, "bad_recovery_key", "24 words are needed"))
}

/// A new secret to be the recovery key.
pub fn secret() -> Result<Zeroizing<[u8; 32]>, Failure> {
    random().map(Zeroizing::new)
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    OsEntropy.array().map_err(|error| espejo::vault::Error::from(error).into())
}

/// Six random words of the same list.
pub fn phrase() -> Result<Zeroizing<String>, Failure> {
    let bits = Zeroizing::new(random::<16>()?);
    let bits = Zeroizing::new(u128::from_be_bytes(*bits));
    let list = Language::English.word_list();
    let word = |n: usize| list[(*bits >> (n as u32 * BITS_PER_WORD)) as usize % list.len()];
    Ok(Zeroizing::new((0..PHRASE_WORDS).map(word).collect::<Vec<_>>().join(" ")))
}

/// Two different words to ask for, by their place from 0.
pub fn two_places() -> Result<[usize; 2], Failure> {
    let [a, b] = random::<2>()?.map(usize::from);
    let first = a % 24;
    let mut places = [first, (first + 1 + b % 23) % 24];
    places.sort_unstable();
    Ok(places)
}

/// Refuses a place for the words that is no place for them: in a vault they open, in what is copied to a mirror.
pub fn check_out(out: &Path, vault: &Path, mirror: Option<&Path>) -> Result<(), Failure> {
    let out = absolute(out)?;
    let dir = out.parent().map_or_else(|| Ok(out.clone()), absolute)?;
    if is_in_vault_or_mirror(&dir, vault, mirror) {
        return Err(Failure::usage(
            "the recovery key must not lie in the vault it opens, nor in a mirror; nothing was changed",
        )
        .hint("name a file outside of both, and move it off this machine"));
    }
    match out.exists() {
        true => Err(Failure::usage(format!("{} exists already; nothing was changed", out.display()))
            .hint("name a new file")),
        false => Ok(()),
    }
}

/// Writes the words to a new file that nobody else can read.
pub fn write(path: &Path, words: &str) -> Result<(), Failure> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| {
        writeln!(file, "{words}")?;
        file.sync_all()?;
        // Its name too: nothing else knows the words.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(dir)?.sync_all()
    })
    .map_err(|error| Failure::io("writing the recovery key", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_however_they_are_written() {
        let words = words(&[7; 32]);
        assert_eq!(words.split(' ').count(), 24);
        let numbered =
            words.split(' ').enumerate().map(|(n, word)| format!("{}. {}\n", n + 1, word.to_uppercase()));
        assert_eq!(*parse(&numbered.collect::<String>()).unwrap(), [7; 32]);
        assert!(parse(&words.replacen(' ', " abandon ", 1)).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn a_phrase_is_six_words_of_the_list_and_never_the_same() {
        let list = Language::English.word_list();
        let phrases =
            (0..200).map(|_| phrase().unwrap().to_string()).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(phrases.len(), 200);
        let words = phrases.iter().flat_map(|phrase| phrase.split(' ')).collect::<Vec<_>>();
        assert!(words.len() == 1_200 && words.iter().all(|word| list.contains(word)));
        // Every place of a phrase takes words from the whole list.
        for place in 0..6 {
            let here = words
                .iter()
                .skip(place)
                .step_by(6)
                .map(|word| list.iter().position(|it| it == word).unwrap());
            assert!(here.clone().any(|at| at < 512) && here.clone().any(|at| at >= 1_536), "place {place}");
        }
    }

    #[test]
    fn two_words_are_asked_for_and_never_one_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2_000 {
            let [a, b] = two_places().unwrap();
            assert!(a < b && b < 24);
            seen.extend([a, b]);
        }
        assert_eq!(seen.len(), 24);
    }
}
