//! `tcpstate-agent`: TCP connection states from the kernel, for Prometheus and the terminal.

use std::process::ExitCode;

use tcpstate_agent::{cli::Cli, commands};

fn main() -> ExitCode {
    let cli = match Cli::parse_from_args(std::env::args_os()) {
        Ok(cli) => cli,
        // Prints help to stdout and errors to stderr, exits 0 or 2.
        Err(error) => error.exit(),
    };
    match commands::execute(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the one place where errors reach the person"
)]
fn report(error: &anyhow::Error) {
    eprintln!("tcpstate-agent: {error:#}");
}
