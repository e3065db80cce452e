//! The program `dag-monitor`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dag_monitor::main()
}
