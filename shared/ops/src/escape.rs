//! Text from outside, made safe to show on one line of a log or a terminal.

use std::fmt::{self, Write};

/// Most bytes of one field of a log line or one cell of a listing.
pub const FIELD: usize = 1024;
const CUT: char = '…';

/// Shows a text on one line: what would control a terminal or end a line is escaped (`\n`, `\u{1b}`), and what is
/// longer than the limit is cut and ends with `…`.
///
/// Escaped are the control characters of ASCII and Latin-1, the separators U+2028 and U+2029, and the marks that turn
/// or hide text (bidirectional controls, zero-width characters, the byte order mark). A backslash stays as it is: the
/// result is for eyes, not for decoding.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a> {
    text: &'a str,
    most: usize,
}

impl<'a> Escaped<'a> {
    /// `text`, shown in at most `most` bytes.
    #[must_use]
    pub fn new(text: &'a str, most: usize) -> Self {
        Self { text, most }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bounded = Bounded::new(f, self.most);
        bounded.write_str(self.text)?;
        bounded.finish()
    }
}

/// `value` as JSON for people, indented, in which everything that [`Escaped`] would escape stands as JSON's own `\\u` escapes:
/// whoever reads it as JSON reads the same.
#[must_use]
pub fn json(value: &serde_json::Value) -> String {
    let mut shown = String::new();
    for c in format!("{value:#}").chars() {
        // line feeds stand between strings only
        if is_harmless(c) || c == '\n' {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // writing to a String cannot fail
            let _infallible = write!(shown, "\\u{unit:04x}");
        }
    }
    shown
}

/// Escapes and cuts what is written through it.
///
/// Up to `most` bytes pass; the last three of them are used for the sign that something was cut.
#[derive(Debug)]
pub(crate) struct Bounded<W> {
    to: W,
    left: usize,
    tail: String,
    cut: bool,
}

impl<W: Write> Bounded<W> {
    pub(crate) fn new(to: W, most: usize) -> Self {
        let left = most.saturating_sub(CUT.len_utf8());
        Self {
            to,
            left,
            tail: String::new(),
            cut: false,
        }
    }

    /// Writes what was held back until it was known whether all fits.
    pub(crate) fn finish(mut self) -> fmt::Result {
        if self.cut {
            self.to.write_char(CUT)
        } else {
            self.to.write_str(&self.tail)
        }
    }

    /// Writes the plain beginning of a text, as far as it certainly fits, at once; gives the rest.
    fn put_plain<'a>(&mut self, text: &'a str) -> Result<&'a str, fmt::Error> {
        if !self.tail.is_empty() || self.cut {
            return Ok(text);
        }
        let mut plain = text.bytes().take(self.left);
        let end = plain
            .position(|byte| !matches!(byte, b' '..=b'~'))
            .unwrap_or_else(|| text.len().min(self.left));
        let (plain, rest) = text.split_at_checked(end).unwrap_or(("", text));
        self.left -= plain.len();
        self.to.write_str(plain)?;
        Ok(rest)
    }

    fn put(&mut self, piece: &str) -> fmt::Result {
        if self.cut {
            return Ok(());
        }
        if self.tail.is_empty() && piece.len() <= self.left {
            self.left -= piece.len();
            return self.to.write_str(piece);
        }
        if self.left + CUT.len_utf8() >= self.tail.len() + piece.len() {
            self.tail.push_str(piece);
        } else {
            self.cut = true;
        }
        Ok(())
    }
}

impl<W: Write> Write for Bounded<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = self.put_plain(text)?;
        for c in rest.chars() {
            if self.cut {
                break;
            }
            if is_harmless(c) {
                self.put(c.encode_utf8(&mut [0; 4]))?;
            } else {
                self.put(&c.escape_default().to_string())?;
            }
        }
        Ok(())
    }
}

fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_stays_as_it_is() {
        let text = "GET /s/notebook/ä?q=\"日本\"\\x";
        assert_eq!(Escaped::new(text, FIELD).to_string(), text);
    }

    #[test]
    fn nothing_ends_a_line_or_speaks_to_a_terminal() {
        let text = "a\r\nb\u{1b}[31m\0\u{9b}31m\u{2028}\u{202e}\u{7f}\t";
        assert_eq!(
            Escaped::new(text, FIELD).to_string(),
            r"a\r\nb\u{1b}[31m\u{0}\u{9b}31m\u{2028}\u{202e}\u{7f}\t"
        );
    }

    #[test]
    fn json_says_the_same_and_nothing_to_a_terminal() {
        let value =
            serde_json::json!({ "a\u{9b}": ["\u{1b}[2J\n\u{7f}", "\u{202e}ä\u{e0001}", 1] });
        let shown = json(&value);
        assert!(
            shown.chars().all(|c| c == '\n' || is_harmless(c)),
            "{shown:?}"
        );
        assert!(shown.contains(r"\u202eä\udb40\udc01"), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"),
            value
        );
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        assert_eq!(Escaped::new("12345678", 8).to_string(), "12345678");
        assert_eq!(Escaped::new("123456789", 8).to_string(), "12345…");
        assert_eq!(Escaped::new("12345ä\n", 8).to_string(), "12345…");
        assert_eq!(Escaped::new("1234\u{1b}", 8).to_string(), "1234…");
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_harmless_line_within_the_limit(text: String, most in 3_usize..40) {
            let shown = Escaped::new(&text, most).to_string();
            prop_assert!(shown.len() <= most);
            prop_assert!(shown.chars().all(is_harmless));
        }

        #[test]
        fn harmless_text_that_fits_is_unchanged(text in "[a-zä-ü0-9\\\\\"]{0,20}") {
            prop_assert_eq!(Escaped::new(&text, 40).to_string(), text);
        }
    }
}
