//! A question to the person at the terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use tokio::task::spawn_blocking;

/// Asks whether to go on. `None` where nobody sits there who could answer.
///
/// # Errors
/// Where the terminal can't be read or written.
pub(crate) async fn confirm(question: String) -> io::Result<Option<bool>> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(None);
    }
    let asking = move || {
        write!(io::stderr(), "{question} [y/N] ")?;
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(Some(is_yes(&answer)))
    };
    // On a thread of its own, so that a signal is heard meanwhile.
    spawn_blocking(asking).await.map_err(io::Error::other)?
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        for (answer, yes) in [
            ("y\n", true),
            ("Y", true),
            (" yes \n", true),
            ("", false),
            ("\n", false),
            ("n", false),
            ("yep", false),
        ] {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }
}
