//! Texts that must fit.

use console::measure_text_width;

/// Cuts a text to so many columns, marking the cut.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    if measure_text_width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut width = 0;
    for c in text.chars() {
        width += measure_text_width(c.encode_utf8(&mut [0; 4]));
        // One column is the mark's.
        if width >= columns {
            break;
        }
        kept.push(c);
    }
    kept.truncate(kept.trim_end().len());
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// Breaks a text into lines of at most so many columns, between words where it can.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let room = columns.saturating_sub(measure_text_width(&line) + usize::from(!line.is_empty()));
        if !line.is_empty() && measure_text_width(word) > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if measure_text_width(&line) + measure_text_width(c.encode_utf8(&mut [0; 4])) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_and_a_cut_is_marked() {
        assert_eq!(fit("release shop/cart", 17), "release shop/cart");
        assert_eq!(fit("release shop/cart", 16), "release shop/ca…");
        assert_eq!(fit("release shop/cart", 9), "release…");
        assert_eq!(fit("release", 1), "…");
        assert_eq!(fit("release", 0), "");
        // Two columns each.
        assert_eq!(fit("東京東京", 6), "東京…");
    }

    #[test]
    fn lines_break_between_words_and_no_line_is_too_long() {
        assert_eq!(wrap("timed out after 25 s waiting", 12), ["timed out", "after 25 s", "waiting"]);
        assert_eq!(wrap("abcdefgh ij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("ab cdefgh", 4), ["ab", "cdef", "gh"]);
        assert!(wrap("", 10).is_empty());
        for columns in 0..40 {
            let lines =
                wrap("Helm upgrade failed for release shop/payments with chart demo@1.1.0: 東京", columns);
            assert!(lines.iter().all(|line| measure_text_width(line) <= columns.max(2)), "{columns}");
        }
    }
}
