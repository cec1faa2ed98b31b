//! `tcpstate-agent`: TCP connection states from the kernel, for Prometheus and the terminal.

use std::process::ExitCode;

use tcpstate_agent::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = match Cli::parse_from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return cli::report(&error),
    };
    match cli::execute(cli) {
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
