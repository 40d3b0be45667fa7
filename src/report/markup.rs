//! Escaping of text for the page: names of classes, files and hosts are untrusted input.

use std::fmt::{self, Display, Write as _};

/// Text escaped for use between tags and in quoted attributes, in HTML and SVG.
///
/// Control characters and characters that change the direction of writing are shown as escapes as well: they are invisible and could make one
/// name look like another.
pub struct Text<T>(pub T);

impl<T: AsRef<str>> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.as_ref().chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() || invisible(c) => write!(f, "{}", c.escape_unicode())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Whether a character is invisible: direction marks, joiners, byte order mark, line and paragraph separators, tags.
fn invisible(c: char) -> bool {
    matches!(c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A name in an element of its own, so that a name written from right to left does not reorder the text after it.
pub fn name(name: &str) -> String {
    format!("<bdi>{}</bdi>", Text(name))
}

/// The text, cut to at most `most` characters.
pub fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A share in per cent.
pub fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// A number with thin spaces between its thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_names_are_shown_as_text() {
        let shown = Text("<script>alert('x')</script>&\"\u{202e}\u{0}").to_string();
        assert_eq!(shown, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;\\u{202e}\\u{0}");
        assert_eq!(short("<<<<<", 3), "<<…");
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(thousands(123), "123");
    }

    proptest! {
        #[test]
        fn no_text_ends_a_tag_or_an_attribute(text in "\\PC*|[\\x00-\\x7f\\u{2000}-\\u{2070}]*") {
            let shown = Text(&text).to_string();
            let marks = shown.contains(['<', '>', '"', '\'', '\u{202e}', '\u{0}']);
            prop_assert!(!marks, "{}", shown);
            let entities = ["lt", "gt", "amp", "quot", "#39"];
            let known = |rest: &str| rest.split_once(';').is_some_and(|(entity, _)| entities.contains(&entity));
            prop_assert!(shown.split('&').skip(1).all(known), "{}", shown);
        }
    }
}
