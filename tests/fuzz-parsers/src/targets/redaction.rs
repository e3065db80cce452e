//! What a server says in words, and the token that must not be in it.
//!
//! The first line is the token, the rest the text. In it stand for the token: 0x01, as base64 0x02, as base64 of
//! `Bearer` and it 0x03.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kubernetes::fuzzing::fit;

use crate::{Heap, Target, fixtures, input, promises};

/// `targets/redaction.rs` says what it is given.
pub const REDACTION: Target = Target {
    name: "redaction",
    seeds,
    run,
    // Every piece of the token, in each of its seven forms, has an entry in a set.
    heap: Heap { fixed: 256 << 10, times: 512 },
};

const MARK: &str = "[redacted]";

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "Authorization: Bearer \u{1} is not known, \u{2} \u{3}",
        "json: cannot unmarshal, error found in #10 byte of ...|\u{1}\"|..., bigger context ...|a|...",
        "time: invalid duration \"\u{1}\" and strconv.ParseInt: parsing \"\\\"\u{1}\\\"\": invalid syntax",
        "yaml: line 3: cannot unmarshal !!str `\u{1}` into int; invalid map key: map[a:\u{1}]",
        ">  1 | password: \u{1}\n   2 | b: c\n       ^",
        "Get \"https://user:\u{1}@example.com/x?y=\u{1}#z\": EOF",
        "json: cannot unmarshal number \u{1} into Go value",
    ];
    let tokens = [
        promises::TOKEN,
        "short",
        "a-token-of-16-ch",
        "tökén-that-is-no-ascii-at-äll",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "red",
    ];
    let mut seeds = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        for step in 0..3 {
            seeds.push(format!("{}\n{text}", tokens[(index + step) % tokens.len()]).into_bytes());
        }
    }
    for (_, recording) in fixtures::folder("tests/fixtures/flux") {
        let frames = fixtures::frames(&recording).iter();
        let conditions =
            frames.flat_map(|it| it["body"]["status"]["conditions"].as_array().into_iter().flatten());
        let messages = conditions.filter_map(|it| it["message"].as_str()).max_by_key(|it| it.len());
        seeds.extend(messages.map(|message| format!("{}\n{message}", promises::TOKEN).into_bytes()));
    }
    seeds
}

fn run(data: &[u8]) {
    let (token, text) = input::line(data);
    let (token, text) = (input::text(token), input::text(text));
    // As often as a message would hold it: a text of megabytes would tell no more.
    let text = text.replacen('\u{1}', &token, 4).replacen('\u{2}', &STANDARD.encode(&*token), 4).replacen(
        '\u{3}',
        &URL_SAFE_NO_PAD.encode(format!("Bearer {token}")),
        4,
    );
    let fit = fit(&text, &token);
    let token = token.trim();
    let untold = promises::Untold::of(token);
    for shown in fit.split(MARK) {
        if token.len() >= promises::WINDOW {
            untold.is_not_in(shown);
        } else {
            assert!(token.is_empty() || !shown.contains(token), "{token:?} is in {fit:?}");
        }
    }
    // An error without words has an empty message.
    let message = verdict::clean(&fit);
    if !message.is_empty() {
        promises::is_message(&message);
    }
}
