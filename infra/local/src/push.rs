//! The command that pushes.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{cli::Output, outcome::Outcome, report::Report, signals::Signals};

/// How long a command that was told to end may take.
const COMMANDS_END: Duration = Duration::from_secs(10);

/// Runs the command that pushes. `None` where it succeeded.
pub(crate) async fn push(
    program: &OsString,
    words: &[OsString],
    output: Output,
    report: &Report,
    signals: &mut Signals,
) -> io::Result<Option<Outcome>> {
    let shown: Vec<_> = [program].into_iter().chain(words).map(|it| it.to_string_lossy()).collect();
    let shown = shown.join(" ");
    report.say(&format!("Running {shown}"))?;
    let failed = |how: String| {
        // Nobody may be left to read it.
        let _ = writeln!(io::stderr(), "dag-monitor: the command {shown} {how}; nothing was judged");
        Ok(Some(Outcome::CommandFailed))
    };
    let mut command = Command::new(program);
    command.args(words);
    if output == Output::Json {
        // Objects alone are on the standard output.
        command.stdout(Stdio::from(io::stderr()));
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return failed(format!("can't be started: {error}")),
    };
    let status = tokio::select! {
        status = child.wait() => status?,
        () = signals.next() => {
            // A terminal has told the command as well; it may end as it should.
            if timeout(COMMANDS_END, child.wait()).await.is_err() {
                child.kill().await?;
            }
            return Ok(Some(Outcome::Interrupted));
        }
    };
    if status.success() { Ok(None) } else { failed(format!("failed ({status})")) }
}
