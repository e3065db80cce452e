//! How an input is cut into what a target needs: by characters that are rare in it, so that a mutation seldom moves
//! the cut, and seeds can be read by a person.

use std::borrow::Cow;

use kubernetes::fuzzing::Sent;

/// Text as a parser gets it, whatever came.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The first line and what follows it.
pub(crate) fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// So many lines; the last has the rest.
pub(crate) fn lines<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut rest = data;
    std::array::from_fn(|index| {
        if index == N - 1 {
            return rest;
        }
        let (line, after) = line(rest);
        rest = after;
        line
    })
}

/// A header's value; `None` where it is empty or no text.
fn header(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|it| !it.is_empty())
}

/// An answer: when it came, in seconds since the start, and what the server's clock said.
pub(crate) struct Heard<'a> {
    pub(crate) secs: i64,
    pub(crate) date: Option<&'a str>,
    pub(crate) sent: Sent<'a>,
}

/// An answer as a line: seconds, `Date`, status, content type, location and body, with tabs between them.
pub(crate) fn heard(line: &[u8]) -> Heard<'_> {
    let mut fields = line.splitn(6, |byte| *byte == b'\t');
    let mut next = || fields.next().unwrap_or_default();
    let number = |field: &[u8]| text(field).trim().parse::<i32>().unwrap_or_default();
    let (secs, date, status) = (number(next()), header(next()), number(next()));
    let (content_type, location, body) = (header(next()), header(next()), next());
    let status = u16::try_from(status).unwrap_or_default();
    Heard { secs: secs.into(), date, sent: Sent { status, content_type, location, body } }
}
