//! Booting kernels, some at a time, and showing how far they are.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    boot::{Ended, Machine},
    console::{Console, Outcome, Test},
    matrix::Kernel,
};

/// All that a boot takes.
pub(crate) struct Job {
    pub(crate) kernel: Kernel,
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) log: PathBuf,
}

/// What came of a job.
pub(crate) struct Booted {
    pub(crate) ended: Ended,
    /// Why the first boot had no result, where there was a second.
    pub(crate) first_failure: Option<String>,
    pub(crate) took: Duration,
}

/// How far a job is.
#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Waiting,
    Booting,
    Testing {
        ended: usize,
        planned: usize,
    },
    Over,
}

/// Boots all of them, at most `at_once` at a time; the results are in their order. With
/// `is_shown`, everything on their consoles is printed.
pub(crate) fn boot_all(jobs: &[Job], at_once: usize, is_shown: bool) -> Vec<Result<Booted>> {
    let next = AtomicUsize::new(0);
    let stages: Vec<_> = jobs.iter().map(|_| Mutex::new(Stage::default())).collect();
    let (sender, results) = mpsc::channel();
    let mut booted: Vec<(usize, Result<Booted>)> = Vec::new();
    thread::scope(|scope| {
        for _ in 0..at_once.min(jobs.len()) {
            let (next, stages, sender) = (&next, &stages, sender.clone());
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(number) else {
                        return;
                    };
                    let result = boot(job, &stages[number], is_shown);
                    set(&stages[number], Stage::Over);
                    // It is listened to until every sender is gone.
                    let _ = sender.send((number, result));
                }
            });
        }
        drop(sender);
        let start = Instant::now();
        loop {
            match results.recv_timeout(Duration::from_secs(10)) {
                Ok((number, result)) => {
                    tell(&jobs[number].kernel, &result);
                    booted.push((number, result));
                }
                Err(RecvTimeoutError::Timeout) if is_shown => {}
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("{}", progress(jobs, &stages, start.elapsed()));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    booted.sort_by_key(|(number, _)| *number);
    booted.into_iter().map(|(_, result)| result).collect()
}

/// Boots it, and once more where there was no result.
fn boot(job: &Job, stage: &Mutex<Stage>, is_shown: bool) -> Result<Booted> {
    let start = Instant::now();
    let machine = Machine {
        architecture: job.kernel.architecture,
        kernel: &job.image,
        initramfs: &job.initramfs,
        log: &job.log,
    };
    let boot = || {
        set(stage, Stage::Booting);
        machine.boot(|line, console| {
            if is_shown {
                print!("{line}");
            }
            if let Some(planned) = console.planned {
                let ended = console.tests.len();
                set(stage, Stage::Testing { ended, planned });
            }
        })
    };
    let mut ended = boot()?;
    let mut first_failure = None;
    if let Some(failure) = ended.failure {
        let failure = format!("{failure}{}", place(&ended.console));
        let kept = job.log.with_extension("first-boot.log");
        fs::rename(&job.log, &kept)
            .with_context(|| format!("cannot rename {}", job.log.display()))?;
        eprintln!(
            "{}: no result: {failure}; trying once more (its console is in {})",
            job.kernel.name,
            kept.display()
        );
        first_failure = Some(failure);
        ended = boot()?;
    }
    if let Some(failure) = &mut ended.failure {
        failure.push_str(&place(&ended.console));
    }
    Ok(Booted {
        ended,
        first_failure,
        took: start.elapsed(),
    })
}

/// Where a boot was when it ended before its time.
fn place(console: &Console) -> String {
    match (console.running(), &console.kernel) {
        (Some((test, _)), _) => format!(", in {test}"),
        (None, Some(_)) => String::new(),
        (None, None) => ", before the kernel was up".to_owned(),
    }
}

fn set(stage: &Mutex<Stage>, to: Stage) {
    *stage.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

fn progress(jobs: &[Job], stages: &[Mutex<Stage>], elapsed: Duration) -> String {
    let mut text = format!("{:>4} s", elapsed.as_secs());
    for (job, stage) in jobs.iter().zip(stages) {
        let stage = stage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stage = match stage {
            Stage::Waiting => "waiting".to_owned(),
            Stage::Booting => "boots".to_owned(),
            Stage::Testing { ended, planned } => format!("test {ended}/{planned}"),
            Stage::Over => continue,
        };
        // Writing to a string does not fail.
        let _ = write!(text, "   {}: {stage}", job.kernel.name);
    }
    text
}

/// Says how a job ended, with all that the tests that failed have said.
fn tell(kernel: &Kernel, result: &Result<Booted>) {
    let name = &kernel.name;
    match result {
        Err(error) => eprintln!("{name}: {error:#}"),
        Ok(booted) => {
            let took = booted.took.as_secs();
            let console = &booted.ended.console;
            match &booted.ended.failure {
                Some(failure) => eprintln!("{name}: no result after {took} s: {failure}"),
                None => eprintln!("{name}: {} tests ended, {took} s", console.tests.len()),
            }
            if let Some((test, output)) = console.running() {
                eprintln!("{name}: {test} was running:\n{}", output.join("\n"));
            }
            for test in console.tests.iter().filter(|test| has_failed(test)) {
                eprintln!("--- {name}: {} ---\n{}", test.name, test.output.join("\n"));
            }
        }
    }
}

fn has_failed(test: &Test) -> bool {
    matches!(test.outcome, Outcome::Failed | Outcome::TimedOut)
}
