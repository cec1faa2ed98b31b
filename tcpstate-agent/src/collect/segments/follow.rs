//! Follows the interfaces: they come, go and change their names.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use tcpstate_common::{Direction, SegmentCounts};
use tracing::{debug, info, warn};

use super::{
    SegmentSettings,
    attachment::{Attachment, Means, obstacle, remove_filters},
    below::{Below, hands_on},
    claim::Claim,
    plan::plan,
    totals::{Counts, Totals},
};
use crate::{
    host::netlink::{Interface, Netlink, Offloads},
    kernel::{Segments, XdpMode, plan::Obstacle},
};

/// Keeps the programs on the interfaces that are meant, and adds up what they count. To be moved
/// on, and dropped, by threads that are in the agent's own network namespace.
pub struct Follower {
    segments: Segments,
    netlink: Netlink,
    /// `None` where the kernel does not tell.
    offloads: Option<Offloads>,
    claim: Claim,
    settings: SegmentSettings,
    /// By the interface's number.
    followed: BTreeMap<u32, Followed>,
    totals: Totals,
}

/// An interface that is meant.
struct Followed {
    name: String,
    /// Why it is not counted, if it is not.
    attachment: Result<Attachment, Obstacle>,
    looked_at: Instant,
}

/// How long to leave an interface alone that cannot be counted, or on which others may have come
/// before.
const RETRY: Duration = Duration::from_secs(30);

/// What became of an interface.
#[derive(Clone, Debug)]
pub struct DeviceState {
    /// Its name.
    pub name: String,
    /// How it is seen, or why not.
    pub outcome: Result<Seen, Obstacle>,
}

/// How an interface is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What comes in and what goes out, by [`Direction::slot`].
    pub means: [Means; 2],
    /// Why not by XDP, where that was wanted.
    pub without_xdp: Option<String>,
    /// Who sees packets before, and may decide on some.
    pub behind: Vec<String>,
}

/// What was counted so far.
#[derive(Clone, Debug, Default)]
pub struct SegmentsReading {
    /// Interfaces that are there, by name.
    pub devices: Vec<(String, Counts)>,
    /// Each program, and whether it runs.
    pub programs: Vec<(&'static str, bool)>,
}

impl Follower {
    /// Begins with what is there now. Takes away what agents have left behind that were killed.
    pub fn start(segments: Segments, settings: SegmentSettings) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let claim = Claim::new(std::process::id())?;
        for interface in netlink.interfaces()? {
            let removed =
                remove_filters(&mut netlink, interface.index, &Direction::ALL, |number| {
                    claim.is_abandoned(number)
                });
            if let Err(error) = removed {
                let device = interface.name;
                warn!(%error, device, "cannot remove the filters of an agent that is gone");
            }
        }
        let mut follower = Self {
            segments,
            netlink,
            offloads: Offloads::open()
                .inspect_err(|error| debug!(%error, "cannot ask what network cards do"))
                .ok(),
            claim,
            settings,
            followed: BTreeMap::new(),
            totals: Totals::default(),
        };
        follower.follow()?;
        for name in follower.settings.devices.exact() {
            if !follower.followed.values().any(|device| device.name == name) {
                warn!(device = name, "no such interface, it is waited for");
            }
        }
        Ok(follower)
    }

    /// Looks at the interfaces: attaches to those that have come, lets go of those that are gone.
    pub fn follow(&mut self) -> io::Result<()> {
        let all = self.netlink.interfaces()?;
        let is_meant = |interface: &&Interface| self.settings.devices.has(&interface.name);
        let meant: BTreeMap<u32, &Interface> = all
            .iter()
            .filter(is_meant)
            .map(|interface| (interface.index, interface))
            .collect();
        let gone: Vec<u32> = self
            .followed
            .keys()
            .copied()
            .filter(|index| !meant.contains_key(index))
            .collect();
        for index in gone {
            let name = self.name(index).unwrap_or_default().to_owned();
            if self.let_go(index) {
                info!(device = name, "an interface is gone");
            }
        }
        for (index, interface) in meant {
            let Some(followed) = self.followed.get(&index) else {
                self.attach(interface, &all);
                continue;
            };
            let is_due = followed.looked_at.elapsed() >= RETRY;
            let is_native =
                |attachment: &Attachment| attachment.means.contains(&Means::Xdp(XdpMode::Native));
            match &followed.attachment {
                _ if followed.name != interface.name => self.rename(index, &interface.name),
                // Room may have come, or what was in the way may have gone.
                Err(_) if is_due => self.attach(interface, &all),
                Ok(attachment) if is_native(attachment) && hands_on(interface, &all) => {
                    self.let_go(index);
                    self.attach(interface, &all);
                }
                Ok(_) if is_due => self.look_after(interface, &all),
                _ => {}
            }
        }
        Ok(())
    }

    /// Others may have taken ours away, or put filters before them.
    fn look_after(&mut self, interface: &Interface, all: &[Interface]) {
        let Some(Followed {
            attachment: Ok(attachment),
            looked_at,
            ..
        }) = self.followed.get_mut(&interface.index)
        else {
            return;
        };
        *looked_at = Instant::now();
        let device = &*interface.name;
        match attachment.is_detached() {
            Ok(true) => {
                warn!(
                    device,
                    "somebody has detached a program, it is attached again"
                );
                self.let_go(interface.index);
                self.attach(interface, all);
                return;
            }
            Ok(false) => {}
            Err(error) => warn!(device, %error, "cannot tell whether the programs are attached"),
        }
        let before = attachment.behind.clone();
        match attachment.go_first(&self.segments, &mut self.netlink, self.claim.number) {
            Ok(()) if attachment.behind != before => {
                warn_of(&interface.name, &attachment.behind);
            }
            Ok(()) => {}
            Err(error) => {
                warn!(device, %error, "cannot look after the filters, they are made anew");
                self.let_go(interface.index);
                self.attach(interface, all);
            }
        }
    }

    fn attach(&mut self, interface: &Interface, all: &[Interface]) {
        let device = &*interface.name;
        let attachment = self.try_attach(interface, all);
        match &attachment {
            Ok(Attachment {
                means: [ingress, egress],
                without_xdp,
                behind,
                ..
            }) => {
                info!(device, %ingress, %egress, "counting segments");
                if let Some(why) = without_xdp {
                    info!(device, why, "what comes in is counted without XDP");
                }
                warn_of(device, behind);
            }
            Err(Obstacle { cause, remedy }) => {
                // Said once, not at every attempt.
                if !self.followed.contains_key(&interface.index) {
                    warn!(device, cause, remedy, "cannot count segments");
                }
            }
        }
        let followed = Followed {
            name: interface.name.clone(),
            attachment,
            looked_at: Instant::now(),
        };
        self.followed.insert(interface.index, followed);
        self.take_counts(interface.index);
    }

    fn try_attach(
        &mut self,
        interface: &Interface,
        all: &[Interface],
    ) -> Result<Attachment, Obstacle> {
        let below = Below::ask(interface, all, self.offloads.as_mut());
        let plan = plan(interface, &below, self.settings.xdp)?;
        self.segments
            .add_device(interface.index, plan.framing)
            .map_err(|error| Obstacle {
                cause: error.to_string(),
                remedy: "name fewer interfaces with --segments.device".to_owned(),
            })?;
        let number = self.claim.number;
        let attached = Attachment::new(&self.segments, &mut self.netlink, number, interface, &plan);
        attached.map_err(|error| {
            self.remove_counters(interface.index);
            obstacle(&interface.name, &error)
        })
    }

    fn rename(&mut self, index: u32, name: &str) {
        self.take_counts(index);
        if let Some(followed) = self.followed.get_mut(&index) {
            let before = std::mem::replace(&mut followed.name, name.to_owned());
            info!(device = name, before, "an interface has changed its name");
            if !self.followed.values().any(|other| other.name == before) {
                self.totals.let_go_of_name(&before);
            }
        }
        self.take_counts(index);
    }

    /// Counts an interface no more. Returns whether it was counted.
    fn let_go(&mut self, index: u32) -> bool {
        self.take_counts(index);
        let Some(Followed {
            name,
            attachment,
            looked_at: _,
        }) = self.followed.remove(&index)
        else {
            return false;
        };
        self.totals.forget(index, &name);
        let Ok(attachment) = attachment else {
            return false;
        };
        if let Err(error) = attachment.remove(&mut self.netlink, self.claim.number) {
            warn!(device = name, %error, "cannot remove a filter");
        }
        self.remove_counters(index);
        true
    }

    fn remove_counters(&mut self, index: u32) {
        if let Err(error) = self.segments.remove_device(index) {
            warn!(%error, "cannot clear the counters of an interface");
        }
    }

    /// Adds what an interface has counted since the last time to its name.
    fn take_counts(&mut self, index: u32) {
        let Some(followed) = self.followed.get(&index) else {
            return;
        };
        if followed.attachment.is_err() {
            return;
        }
        let mut counts: Counts = Box::new([SegmentCounts::ZERO; 2]);
        for direction in Direction::ALL {
            match self.segments.counts(index, direction) {
                Some(Ok(found)) => counts[direction.slot()] = found,
                Some(Err(error)) => {
                    warn!(%error, "cannot read the counters of an interface");
                    return;
                }
                None => {
                    debug!(index, "an interface has no counters");
                    return;
                }
            }
        }
        self.totals.observe(index, &followed.name, counts);
    }

    /// What was counted so far, on the interfaces that were there when last looked.
    pub fn read(&mut self) -> SegmentsReading {
        let indices: Vec<u32> = self.followed.keys().copied().collect();
        for index in indices {
            self.take_counts(index);
        }
        let mut devices: Vec<(String, Counts)> = self
            .followed
            .values()
            .filter(|followed| followed.attachment.is_ok())
            .filter_map(|followed| {
                let counts = self.totals.of(&followed.name)?;
                Some((followed.name.clone(), Box::new(*counts)))
            })
            .collect();
        devices.sort_by(|(one, _), (other, _)| one.cmp(other));
        devices.dedup_by(|(one, _), (other, _)| one == other);
        SegmentsReading {
            devices,
            programs: self
                .segments
                .programs()
                .iter()
                .map(|program| (program.name, program.outcome.is_ok()))
                .collect(),
        }
    }

    /// What became of each interface that is meant.
    #[must_use]
    pub fn states(&self) -> Vec<DeviceState> {
        let all = self.followed.values();
        all.map(|followed| DeviceState {
            name: followed.name.clone(),
            outcome: match &followed.attachment {
                Ok(attachment) => Ok(Seen {
                    means: attachment.means,
                    without_xdp: attachment.without_xdp.clone(),
                    behind: attachment.behind.clone(),
                }),
                Err(obstacle) => Err(obstacle.clone()),
            },
        })
        .collect()
    }

    /// The name of an interface that is counted.
    #[must_use]
    pub fn name(&self, index: u32) -> Option<&str> {
        self.followed.get(&index).map(|followed| &*followed.name)
    }

    /// The programs and their ring.
    pub const fn segments(&mut self) -> &mut Segments {
        &mut self.segments
    }
}

fn warn_of(device: &str, behind: &[String]) {
    for why in behind {
        warn!(device, why, "not every segment is counted");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let indices: Vec<u32> = self.followed.keys().copied().collect();
        for index in indices {
            if let Some(Followed {
                name,
                attachment: Ok(attachment),
                looked_at: _,
            }) = self.followed.remove(&index)
                && let Err(error) = attachment.remove(&mut self.netlink, self.claim.number)
            {
                warn!(device = name, %error, "cannot remove a filter");
            }
        }
    }
}
