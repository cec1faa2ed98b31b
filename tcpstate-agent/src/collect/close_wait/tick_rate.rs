//! How long a jiffy is.

use std::time::Duration;

use tcpstate_common::ClockSample;

/// Jiffies a second, the kernel's `HZ`. It is fixed when a kernel is built, and no interface
/// tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickRate(u32);

/// The rates that kernels can be built with, on any architecture (`kernel/Kconfig.hz` and the
/// `Kconfig` of Alpha, Arm and MIPS).
const RATES: [u32; 12] = [24, 48, 64, 100, 128, 200, 250, 256, 300, 500, 1000, 1024];
/// Jiffies start so that they overflow 32 bits this many seconds after the start of the kernel,
/// for drivers that mind it to fail early ([`INITIAL_JIFFIES`]).
///
/// [`INITIAL_JIFFIES`]: https://github.com/torvalds/linux/blob/v6.12/include/linux/jiffies.h
const OVERFLOW_SECONDS: f64 = 300.0;
/// At the overflow jiffies are the same at every rate, so this close to it they tell none.
const BLIND_SECONDS: f64 = 20.0;
/// How far a rate may be off: the clock starts some time after the ticks, and a virtual machine
/// that was paused may have lost a few.
const TOLERANCE: f64 = 0.1;

impl TickRate {
    /// The rate that explains what both clocks say, if one does.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate is told from the next one by tens of percents"
    )]
    pub fn of(sample: ClockSample) -> Option<Self> {
        let seconds = sample.monotonic_ns as f64 / 1e9 - OVERFLOW_SECONDS;
        let jiffies = sample.jiffies as f64 - 4_294_967_296.0;
        if seconds.abs() < BLIND_SECONDS {
            return None;
        }
        let measured = jiffies / seconds;
        let off_by = |rate: u32| (measured / f64::from(rate) - 1.0).abs();
        RATES
            .into_iter()
            .min_by(|one, other| off_by(*one).total_cmp(&off_by(*other)))
            .filter(|rate| off_by(*rate) < TOLERANCE)
            .map(Self)
    }

    /// How long `jiffies` last.
    #[must_use]
    pub fn duration(self, jiffies: u32) -> Duration {
        Duration::from_secs(u64::from(jiffies)) / self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: u64, seconds: u64, lost: u64) -> ClockSample {
        ClockSample {
            monotonic_ns: seconds * 1_000_000_000 + 123_456_789,
            jiffies: (1 << 32) - 300 * rate + (seconds - lost) * rate,
        }
    }

    #[test]
    fn every_rate_is_told_at_any_uptime() {
        for rate in RATES {
            for seconds in [1, 10, 250, 350, 3_600, 86_400, 10_000_000] {
                assert_eq!(
                    TickRate::of(sample(rate.into(), seconds, 0)),
                    Some(TickRate(rate)),
                    "HZ {rate} after {seconds} s"
                );
            }
        }
    }

    #[test]
    fn lost_ticks_do_not_mislead() {
        for rate in [100, 250, 1000] {
            let told = TickRate::of(sample(rate, 3_600, 60));
            assert_eq!(told.map(|rate| u64::from(rate.0)), Some(rate));
        }
    }

    #[test]
    fn clocks_that_fit_no_rate_tell_none() {
        assert_eq!(TickRate::of(ClockSample::default()), None);
        assert_eq!(TickRate::of(sample(250, 300, 0)), None);
        let unknown = sample(400, 1_000_000, 0);
        assert_eq!(TickRate::of(unknown), None);
    }

    #[test]
    fn a_jiffy_lasts_as_long_as_the_rate_says() {
        assert_eq!(TickRate(250).duration(500), Duration::from_secs(2));
        assert_eq!(TickRate(1000).duration(1), Duration::from_millis(1));
    }
}
