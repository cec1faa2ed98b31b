//! The end of a run before its time: SIGINT and SIGTERM.
//!
//! A signal only sets a flag. Everything that waits looks at it and returns an error; what was
//! started is ended, and what was changed restored, by the owners' `Drop` on the way out.

use std::{
    sync::{Arc, OnceLock, atomic::AtomicBool, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// How often what waits looks around.
const INTERVAL: Duration = Duration::from_millis(10);

/// From here on signals do not end the process.
pub(crate) fn catch_signals() -> Result<()> {
    let flag = STOPPED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot handle signals")?;
    }
    Ok(())
}

pub(crate) fn is_asked_for() -> bool {
    STOPPED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails once a signal has come.
pub(crate) fn check() -> Result<()> {
    if is_asked_for() {
        bail!("interrupted");
    }
    Ok(())
}

pub(crate) fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(INTERVAL));
    }
}

/// Tries until there is something, for at most `patience`. Without anything by then it fails,
/// naming `what` it waited for.
pub(crate) fn until<T>(
    patience: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        check()?;
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("not within {} s: {what}", patience.as_secs());
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_is_named() {
        let never = until(Duration::ZERO, "the sky falls", || Ok(None::<()>));
        let error = never.expect_err("it came").to_string();
        assert_eq!(error, "not within 0 s: the sky falls");
    }

    #[test]
    fn what_is_there_is_returned_however_short_the_patience() -> Result<()> {
        assert_eq!(until(Duration::ZERO, "it", || Ok(Some(1)))?, 1);
        Ok(())
    }
}
