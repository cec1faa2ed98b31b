//! The project's automation, run as `cargo xtask COMMAND`.
//!
//! It depends on none of the project's own crates, so that it still builds when they do not.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool reports on its streams"
)]

mod apt;
mod bench;
mod cargo_tool;
mod ci;
mod deny;
mod docs;
mod ebpf;
mod folder;
mod fuzz;
mod limits;
mod msrv;
mod object_diff;
mod packetdrill;
mod path_cost;
mod process;
mod setup;
mod soak;
mod test;
mod tidy;
mod toolchain;
mod tools;
mod vm;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's automation",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need and only say that it is missing
    ///
    /// With rustup: the pinned nightly, and the standard libraries that static binaries need. Into
    /// the project's target folder: bpf-linker, built against that nightly's own LLVM, and the
    /// tools that check and run the tests; cargo's home is left as it is. As root on Debian:
    /// the programs that the privileged tests compare with (ss, curl, bpftool, promtool and more)
    /// and the emulators. What is there already is left alone.
    Setup,
    /// Build, verify or lint the eBPF object that the agent carries
    #[command(subcommand)]
    Ebpf(EbpfCommand),
    /// Run all tests; as root also those that load the programs into the kernel
    ///
    /// Installs nothing: what is missing is said, with the tests that were skipped for it. Without
    /// root the privileged tests are left out. Where the environment variable CI is set, either is
    /// an error, but for what `cargo xtask setup` could not fetch for lack of network.
    Test {
        /// Only these; by default, all but those
        #[arg(value_name = "SUITE", conflicts_with = "args")]
        suite: Option<Suite>,
        /// Arguments for the test runner, such as a part of a test's name
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Boot the kernels of xtask/kernels.toml in an emulator and run the privileged tests on each
    ///
    /// Writes docs/kernels.md from what it finds. Kernels are downloaded once, with apt-get from
    /// the Debian archive that this machine uses, into the project's target folder.
    Vm {
        /// Boot this kernel alone, and show its console
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Leave docs/kernels.md as it is, and fail where it says something else
        #[arg(long, conflicts_with = "kernel")]
        check: bool,
        /// Take the kernels that the archive has now, and write them into xtask/kernels.toml
        #[arg(long, conflicts_with = "check")]
        update: bool,
        /// Run the tests with these words in their names, and leave docs/kernels.md as it is
        #[arg(last = true, value_name = "TEST", conflicts_with = "check")]
        tests: Vec<String>,
    },
    /// Measure the agent and, beside it, others that do the same
    ///
    /// Takes root and a machine that does nothing else. The result is a table, and
    /// target/bench/result.json. As root, installs what it compares with where it is missing.
    Bench {
        /// What to measure; everything by default
        #[arg(value_name = "NAME")]
        names: Vec<bench::Name>,
        /// Measure on fewer sockets and less often, in less than two minutes
        #[arg(long)]
        quick: bool,
        /// Write the result into docs/performance.md too
        #[arg(long, conflicts_with = "names")]
        write_docs: bool,
    },
    /// Compare what the eBPF programs cost with xtask/limits.toml: instructions, and memory of maps
    Limits {
        /// Write the file anew instead
        #[arg(long)]
        update: bool,
    },
    /// Makes sockets for `bench`
    #[command(hide = true)]
    BenchWorker(bench::WorkerSettings),
    /// Echoes what it is sent, for `bench`
    #[command(hide = true)]
    BenchEcho,
    /// Measures how late a process is, for `bench`
    #[command(hide = true)]
    BenchLatency(bench::LatencySettings),
    /// Feed what reads bytes of others with bytes that nobody would send
    ///
    /// The targets are in fuzz/fuzz_targets, the inputs to begin with in fuzz/corpus. What leads
    /// somewhere new, or finds something, is written into the project's target folder.
    Fuzz {
        /// Only these; all by default
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// How long to feed each
        #[arg(long, value_name = "SECONDS", default_value_t = fuzz::IN_CI)]
        seconds: u32,
        /// Write fuzz/corpus anew instead, from it and from what was found, each input as short as
        /// it can be
        #[arg(long, conflicts_with = "seconds")]
        minimize: bool,
    },
    /// Watch a host on which everything happens at once, and compare with ss
    ///
    /// Connections, listeners, namespaces and processes come and go, others scrape, ask and start
    /// agents. Every half minute all stand still, and what is shown is compared; at the end the agent
    /// must take no more memory, descriptors and kernel objects than after the first. Takes root.
    Soak {
        /// How long
        #[arg(
            long,
            value_name = "MINUTES",
            default_value_t = 2,
            conflicts_with = "hours"
        )]
        minutes: u64,
        /// How long, in hours
        #[arg(long, value_name = "HOURS")]
        hours: Option<u64>,
    },
    /// Run every check that a change has to pass, in order, up to the first that fails
    Ci,
    /// Check the rules of the source tree that no compiler knows
    Tidy,
    /// Write the generated documentation anew
    Docs,
}

/// Tests that are run by themselves.
#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// The packetdrill scripts of the repository, where packetdrill is installed
    Packetdrill,
    /// What attacks the agent, and what happens to it
    Hostile,
}

#[derive(Subcommand)]
enum EbpfCommand {
    /// Build the object and put it where the agent includes it from, to be committed
    ///
    /// The object is the same byte for byte wherever it is built. The file is left alone where
    /// nothing changed.
    Build {
        /// Write the objects into FOLDER instead
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
    /// Build the object from scratch and fail unless it is the committed one, byte for byte
    Verify,
    /// Run clippy on the eBPF programs, for their own target
    Clippy,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup::run(),
        Command::Ebpf(EbpfCommand::Build { out }) => ebpf::build(out.as_deref()),
        Command::Ebpf(EbpfCommand::Verify) => ebpf::verify(),
        Command::Ebpf(EbpfCommand::Clippy) => ebpf::clippy(),
        Command::Test {
            suite: Some(Suite::Packetdrill),
            ..
        } => packetdrill::run(),
        Command::Test {
            suite: Some(Suite::Hostile),
            ..
        } => test::run(&["hostile::".to_owned()]),
        Command::Test { suite: None, args } => test::run(&args),
        Command::Vm {
            kernel,
            check,
            update,
            tests,
        } => vm::run(&vm::Options {
            kernel,
            is_check: check,
            is_update: update,
            tests,
        }),
        Command::Bench {
            names,
            quick,
            write_docs,
        } => bench::run(&bench::Options {
            is_quick: quick,
            writes_docs: write_docs,
            names,
        }),
        Command::Limits { update } => limits::run(update),
        Command::BenchWorker(settings) => bench::work(&settings),
        Command::BenchEcho => bench::echo(),
        Command::BenchLatency(settings) => bench::measure_latency(&settings),
        Command::Fuzz {
            targets,
            minimize: true,
            ..
        } => fuzz::minimize(&targets),
        Command::Fuzz {
            targets, seconds, ..
        } => fuzz::run(&targets, seconds),
        Command::Soak { minutes, hours } => soak::run(hours.map_or(minutes, |hours| hours * 60)),
        Command::Ci => ci::run(),
        Command::Tidy => tidy::run(),
        Command::Docs => docs::run(),
    }
}
