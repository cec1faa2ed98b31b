//! Where and how to see segments, for every command that does.

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::SettingsError;
use crate::{
    collect::segments::{Follower, SegmentSettings, Selection},
    kernel::{SegmentOptions, Segments, XdpMode, facts::Facts},
};

/// Where and how to count segments.
#[derive(Args, Clone, Debug)]
pub(super) struct SegmentArgs {
    /// Where.
    #[command(flatten)]
    pub(super) on: DeviceArgs,
    /// How XDP sees what comes in: in the driver, in the network stack, or not at all. Where it
    /// cannot, or another program is there, TC does
    #[arg(
        long = "segments.xdp-mode",
        env = "TCPSTATE_SEGMENTS_XDP_MODE",
        value_enum,
        value_name = "MODE",
        default_value_t = XdpModeArg::Skb
    )]
    pub(super) xdp_mode: XdpModeArg,
}

/// Where to see segments.
#[derive(Args, Clone, Debug)]
pub(super) struct DeviceArgs {
    /// See TCP segments and their flags on this network interface; may be given more than once.
    /// `*` and `?` stand for any text and any letter, `all` for every interface
    #[arg(
        long = "segments.device",
        env = "TCPSTATE_SEGMENTS_DEVICE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(super) device: Vec<String>,
}

/// How XDP is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum XdpModeArg {
    /// In the driver, before the network stack: cheapest, and may reset the card's queues.
    Native,
    /// In the network stack, whatever the driver.
    Skb,
    /// Not at all: TC sees what comes in too.
    Off,
}

impl TryFrom<SegmentArgs> for SegmentSettings {
    type Error = SettingsError;

    fn try_from(SegmentArgs { on, xdp_mode }: SegmentArgs) -> Result<Self, SettingsError> {
        Ok(Self {
            devices: Selection::new(on.device)?,
            xdp: match xdp_mode {
                XdpModeArg::Native => Some(XdpMode::Native),
                XdpModeArg::Skb => Some(XdpMode::Skb),
                XdpModeArg::Off => None,
            },
        })
    }
}

/// Loads the programs that count segments, and attaches them. Warns of each that does not run.
pub(super) fn follow_segments(
    facts: &Facts,
    options: SegmentOptions,
    settings: SegmentSettings,
) -> anyhow::Result<Follower> {
    let segments = Segments::load(facts, options).context("cannot count segments")?;
    for program in segments.programs() {
        if let Err(obstacle) = &program.outcome {
            tracing::warn!(
                "cannot run {}: {} ({})",
                program.name,
                obstacle.cause,
                obstacle.remedy
            );
        }
    }
    Follower::start(segments, settings).context("cannot look at the network interfaces")
}
