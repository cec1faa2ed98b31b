//! `cargo xtask vm`: every kernel that the project claims, tested on that kernel.
//!
//! Debian's kernels are booted in an emulator, with a file system that holds the agent, its
//! privileged tests and the programs that these call, and nothing else. The page of results is
//! made from what they print.

pub(crate) mod archive;
mod boot;
mod build;
mod cache;
mod console;
mod initramfs;
pub(crate) mod matrix;
mod report;
mod run;
mod sources;
mod verdict;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::PathBuf,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use self::{
    archive::Unreachable,
    build::Binaries,
    cache::Cached,
    initramfs::Contents,
    matrix::{Architecture, Kernel, Matrix, Skip},
    report::Row,
    run::{Booted, Job},
};
pub(crate) use self::{boot::emulators, build::install_target, matrix::HostSkip};
use crate::{folder, process, test, tools, workspace};

/// Relative to the workspace.
const PAGE: &str = "docs/kernels.md";

/// What is asked for.
#[derive(Default)]
pub(crate) struct Options {
    /// This kernel alone, with its console shown.
    pub(crate) kernel: Option<String>,
    /// Compare the page with the results instead of writing it.
    pub(crate) is_check: bool,
    /// Take the kernels that the archive has now.
    pub(crate) is_update: bool,
    /// The tests to run, as the test binary takes them; all where there is none.
    pub(crate) tests: Vec<String>,
}

/// What is needed to boot a kernel.
struct Prepared {
    cached: Cached,
    userland: PathBuf,
}

/// `cargo xtask vm`.
pub(crate) fn run(options: &Options) -> Result<()> {
    match matrix(options)? {
        absent if absent.is_empty() => Ok(()),
        absent => bail!(
            "not tested, because the package archive cannot be reached: Linux {}",
            absent.join(", ")
        ),
    }
}

/// A step of `cargo xtask ci`. What is left out for lack of network does not fail it.
pub(crate) fn ci() -> Result<()> {
    let options = Options {
        is_check: true,
        ..Options::default()
    };
    let absent = matrix(&options)?;
    if !absent.is_empty() {
        test::banner(&format!(
            "NOT TESTED, because the package archive cannot be reached: Linux {}",
            absent.join(", ")
        ));
    }
    Ok(())
}

/// Installs what their programs are built with, where it is missing.
pub(crate) fn install_targets() -> Result<()> {
    for architecture in Architecture::ALL {
        install_target(architecture.target())?;
    }
    Ok(())
}

/// The tests that the kernel of the host need not be fit for.
pub(crate) fn host_skips() -> Result<Vec<HostSkip>> {
    Ok(Matrix::read()?.host_skips)
}

/// Gives the kernels that had to be left out because the archive cannot be reached.
fn matrix(options: &Options) -> Result<Vec<String>> {
    let start = Instant::now();
    let mut matrix = Matrix::read()?;
    if let Some(name) = &options.kernel {
        matrix.kernels.retain(|kernel| kernel.name == *name);
        if matrix.kernels.is_empty() {
            bail!("there is no kernel {name} in xtask/kernels.toml");
        }
    }
    let mut absent = Vec::new();
    let mut prepared = Vec::new();
    for kernel in &matrix.kernels {
        match prepare(kernel, options.is_update) {
            Ok(parts) => prepared.push((kernel.clone(), parts)),
            Err(error) if error.is::<Unreachable>() => {
                eprintln!("{}: {error:#}", kernel.name);
                absent.push(kernel.name.clone());
            }
            Err(error) => return Err(error.context(format!("cannot fetch kernel {}", kernel.name))),
        }
    }
    if options.is_update {
        let newer: Vec<_> = prepared
            .iter()
            .filter(|(kernel, parts)| kernel.version != parts.cached.version)
            .map(|(kernel, parts)| {
                (
                    kernel.name.clone(),
                    kernel.version.clone(),
                    parts.cached.version.clone(),
                )
            })
            .collect();
        matrix::update(&newer)?;
        for (kernel, parts) in &mut prepared {
            kernel.version.clone_from(&parts.cached.version);
        }
    }
    let fetched = start.elapsed();
    let rows: Vec<_> = boot(&prepared, options)?
        .into_iter()
        .map(|result| judge(&matrix.skips, result))
        .collect();
    let outcome = conclude(&matrix, &rows, &absent, options);
    println!(
        "{} kernels in {} s, of which {} s went into fetching",
        rows.len(),
        start.elapsed().as_secs(),
        fetched.as_secs()
    );
    outcome.map(|()| absent)
}

fn prepare(kernel: &Kernel, is_wanted_new: bool) -> Result<Prepared> {
    let (program, package) = boot::emulator(kernel.architecture);
    if process::find(program).is_none() {
        if tools::unfetched()?.iter().any(|name| name == program) {
            return Err(Unreachable::of(package).into());
        }
        bail!("cannot emulate it: {program} is not here (run `cargo xtask setup`)");
    }
    let userland = cache::userland(kernel.architecture)?;
    let cached = cache::kernel(kernel, is_wanted_new)?;
    Ok(Prepared { cached, userland })
}

/// Builds what they run, and boots them.
fn boot(
    prepared: &[(Kernel, Prepared)],
    options: &Options,
) -> Result<Vec<(Kernel, Cached, Result<Booted>)>> {
    let folder = workspace::scratch()?.join("vm");
    folder::create(&folder)?;
    let mut binaries: BTreeMap<Architecture, Binaries> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (kernel, parts) in prepared {
        let architecture = kernel.architecture;
        let binaries = match binaries.entry(architecture) {
            Entry::Occupied(built) => built.into_mut(),
            Entry::Vacant(missing) => missing.insert(build::build(architecture)?),
        };
        let initramfs = folder.join(format!("{}.cpio", kernel.name));
        initramfs::write(
            &initramfs,
            &Contents {
                architecture,
                userland: &parts.userland,
                kernel: &parts.cached,
                binaries,
                filters: if options.tests.is_empty() {
                    &kernel.tests
                } else {
                    &options.tests
                },
            },
        )?;
        jobs.push(Job {
            kernel: kernel.clone(),
            image: parts.cached.image()?,
            initramfs,
            log: folder.join(format!("{}.log", kernel.name)),
        });
    }
    let results = run::boot_all(&jobs, at_once(), options.kernel.is_some());
    for job in &jobs {
        fs::remove_file(&job.initramfs)
            .with_context(|| format!("cannot remove {}", job.initramfs.display()))?;
    }
    let kernels = prepared
        .iter()
        .map(|(kernel, parts)| (kernel.clone(), parts.cached.clone()));
    Ok(kernels
        .zip(results)
        .map(|((kernel, cached), result)| (kernel, cached, result))
        .collect())
}

/// An emulator keeps one CPU busy, but for when its tests wait.
fn at_once() -> usize {
    thread::available_parallelism().map_or(1, usize::from) + 1
}

fn judge(skips: &[Skip], (kernel, cached, result): (Kernel, Cached, Result<Booted>)) -> Row {
    let mut first_failure = None;
    let (result, faults) = match result {
        Err(error) => (Err(format!("{error:#}")), vec![format!("{error:#}")]),
        Ok(booted) => {
            first_failure = booted.first_failure;
            let console = booted.ended.console;
            match booted.ended.failure {
                None => {
                    let faults = verdict::faults(&kernel, skips, &console);
                    (Ok(console), faults)
                }
                Some(why) => {
                    let fault = format!("no result, twice: {why}");
                    (Err(why), vec![fault])
                }
            }
        }
    };
    Row {
        kernel,
        version: cached.version,
        result,
        first_failure,
        faults,
    }
}

/// Says what was found, and whether that is as it should be.
fn conclude(matrix: &Matrix, rows: &[Row], absent: &[String], options: &Options) -> Result<()> {
    println!("\n{}\n{}", report::kernels(rows), report::programs(rows));
    let mut failed = Vec::new();
    for row in rows {
        let name = &row.kernel.name;
        if let Some(why) = &row.first_failure {
            eprintln!("{name}: booted twice, the first time without a result: {why}");
        }
        for fault in &row.faults {
            eprintln!("{name}: {fault}");
        }
        if row.faults.is_empty() {
            continue;
        }
        if row.kernel.may_fail {
            eprintln!("{name}: may fail, and fails nothing");
        } else {
            failed.push(&**name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "not as it should be on Linux {}, see above",
            failed.join(", ")
        );
    }
    let is_whole = options.kernel.is_none() && options.tests.is_empty();
    if is_whole {
        page(matrix, rows, absent, options)?;
    }
    Ok(())
}

/// Writes the page of results, or compares it.
fn page(matrix: &Matrix, rows: &[Row], absent: &[String], options: &Options) -> Result<()> {
    let path = workspace::root()?.join(PAGE);
    let made = report::page(matrix, rows);
    if !options.is_check {
        if !absent.is_empty() {
            bail!(
                "cannot write {PAGE} without the results of Linux {}",
                absent.join(", ")
            );
        }
        fs::write(&path, made).with_context(|| format!("cannot write {PAGE}"))?;
        println!("{PAGE} is written");
        return Ok(());
    }
    // What depends on the archive's present state or on the network is no drift.
    let mut free: Vec<&str> = absent.iter().map(String::as_str).collect();
    for row in rows
        .iter()
        .filter(|row| row.kernel.may_fail || row.is_replaced())
    {
        free.push(&row.kernel.name);
    }
    let committed = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {PAGE} (run `cargo xtask vm` and commit it)"))?;
    if let Some((committed, made)) = report::drift(&committed, &made, &free) {
        bail!(
            "{PAGE} is not what was found (run `cargo xtask vm` and commit it)\n  \
             it says  {committed}\n  found    {made}"
        );
    }
    println!("{PAGE} says what was found");
    Ok(())
}
