//! The recovery key as 24 words.

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

use crate::failure::{Code, Failure};

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
}
