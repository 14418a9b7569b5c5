//! Making foreign text fit to be shown.

/// The most characters of foreign text that are ever shown.
const SHOWN_CHARS: usize = 200;

/// `text` as one line of at most 200 characters that cannot steer a terminal.
///
/// Control characters (C0, DEL, C1) and the characters that reorder text are dropped, white space becomes single
/// spaces, and what was cut off is marked with `…`. Everything a server says passes here before it is printed,
/// logged or put into an error.
pub fn sanitize(text: &str) -> String {
    let mut shown = String::new();
    let mut len_chars = 0;
    let mut space_before = false;
    for c in text.chars() {
        if c.is_whitespace() {
            space_before = len_chars > 0;
            continue;
        }
        if c.is_control() || reorders_text(c) {
            continue;
        }
        let needed = 1 + usize::from(space_before);
        if len_chars + needed > SHOWN_CHARS - 1 {
            shown.push('…');
            return shown;
        }
        if std::mem::take(&mut space_before) {
            shown.push(' ');
        }
        shown.push(c);
        len_chars += needed;
    }
    shown
}

/// Bidirectional controls, invisible joiners, line separators and tags: they make text look like other text.
fn reorders_text(c: char) -> bool {
    matches!(
        c,
        '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        assert_eq!(sanitize("\x1b[2Jred\x07 \u{9b}31m\u{202e}txt\u{2066}\r\nnext\0"), "[2Jred 31mtxt next");
        assert_eq!(sanitize("  Grüße,\t Öl  "), "Grüße, Öl");
        assert_eq!(sanitize("\u{200b}\u{feff}\u{85}"), "");
    }

    #[test]
    fn long_text_is_cut_to_a_line() {
        let cut = sanitize(&"ab ".repeat(10_000));
        assert!(cut.chars().count() <= SHOWN_CHARS, "{}", cut.chars().count());
        assert!(cut.ends_with('…'));
    }
}
