//! What is attached to one interface.

use std::{fmt, io, os::fd::OwnedFd};

use tcpstate_common::Direction;
use tracing::warn;

use super::plan::{DevicePlan, Way, xdp_refusal};
use crate::{
    host::netlink::{Filter, FilterError, Interface, Netlink, NewFilter, before},
    kernel::{Segments, XdpMode, is_linked, plan::Obstacle},
};

/// The name of the filters, by which they are known again.
pub(super) const FILTER_NAME: &str = "tcpstate-segments";

/// By what means packets are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// XDP.
    Xdp(XdpMode),
    /// TC, by a link.
    Tcx,
    /// TC, by a filter, which stays when the agent is killed.
    Clsact,
}

impl fmt::Display for Means {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Xdp(XdpMode::Native) => "XDP, native",
            Self::Xdp(XdpMode::Skb) => "XDP, skb",
            Self::Tcx => "TC, tcx",
            Self::Clsact => "TC, clsact",
        })
    }
}

/// Programs on one interface. Dropping it takes away those that are there by a link.
#[derive(Debug)]
pub(super) struct Attachment {
    device: u32,
    /// By [`Direction::slot`].
    pub(super) means: [Means; 2],
    /// Why not by XDP, where that was wanted.
    pub(super) without_xdp: Option<String>,
    /// Whose filters see packets before, and may decide on some.
    pub(super) behind: Vec<String>,
    links: Vec<OwnedFd>,
}

impl Attachment {
    /// Attaches the programs as planned, and both of them or none.
    pub(super) fn new(
        segments: &Segments,
        netlink: &mut Netlink,
        number: u32,
        interface: &Interface,
        plan: &DevicePlan,
    ) -> Result<Self, FilterError> {
        let device = interface.index;
        let mut links = Vec::new();
        let mut without_xdp = plan.without_xdp.clone();
        let mut attach_tc = |direction| match segments.attach_tcx(device, direction) {
            Ok(link) => {
                links.push(link);
                Ok(Means::Tcx)
            }
            // Before Linux 6.6.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                add_filter(segments, netlink, number, device, direction).map(|()| Means::Clsact)
            }
            Err(error) => Err(error.into()),
        };
        let egress = attach_tc(Direction::Egress)?;
        let mut ingress = Err(FilterError::Refused(io::ErrorKind::NotFound.into()));
        let mut xdp_link = None;
        for way in &plan.ingress {
            ingress = match *way {
                Way::Tc => attach_tc(Direction::Ingress),
                Way::Xdp(mode) => match segments.attach_xdp(device, mode) {
                    Ok(link) => {
                        xdp_link = Some(link);
                        Ok(Means::Xdp(mode))
                    }
                    Err(error) => {
                        without_xdp = Some(xdp_refusal(interface, mode, &error));
                        Err(error.into())
                    }
                },
            };
            if ingress.is_ok() {
                break;
            }
        }
        links.extend(xdp_link);
        let mut attached = Self {
            device,
            means: [egress; 2],
            without_xdp,
            behind: Vec::new(),
            links,
        };
        match ingress {
            Ok(ingress) => {
                attached.means = [ingress, egress];
                match attached.go_first(segments, netlink, number) {
                    Ok(()) => Ok(attached),
                    Err(error) => {
                        attached.remove(netlink, number)?;
                        Err(error)
                    }
                }
            }
            Err(error) => {
                attached.remove(netlink, number)?;
                Err(error)
            }
        }
    }

    /// Whether somebody has taken a program away that is there by a link. The link stays.
    pub(super) fn is_detached(&self) -> io::Result<bool> {
        for link in &self.links {
            if !is_linked(link)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sees to it that the filters are still there, and that none of another sees packets first, as
    /// long as there is room.
    pub(super) fn go_first(
        &mut self,
        segments: &Segments,
        netlink: &mut Netlink,
        number: u32,
    ) -> Result<(), FilterError> {
        let device = self.device;
        let mut behind = Vec::new();
        for direction in Direction::ALL {
            if self.means[direction.slot()] != Means::Clsact {
                continue;
            }
            let mut filters = netlink.filters(device, direction)?;
            let is_ours = |filter: &Filter| filter.name == FILTER_NAME && filter.handle == number;
            if !filters.iter().any(is_ours) {
                warn!(
                    device,
                    direction = direction.name(),
                    "the filter was removed, it is put there again"
                );
                add_filter(segments, netlink, number, device, direction)?;
                filters = netlink.filters(device, direction)?;
            } else if before(&filters, FILTER_NAME, number).is_some()
                && netlink
                    .filter_room(device, direction, FILTER_NAME)?
                    .is_first
            {
                remove_filters(netlink, device, &[direction], |handle| handle == number)?;
                add_filter(segments, netlink, number, device, direction)?;
                filters = netlink.filters(device, direction)?;
            }
            if let Some(other) = before(&filters, FILTER_NAME, number) {
                let what = match direction {
                    Direction::Ingress => "comes in",
                    Direction::Egress => "goes out",
                };
                behind.push(format!(
                    "a filter ({}, priority {}) sees first what {what}, and what it decides on is \
                     not counted: give it a priority above 1",
                    other.kind,
                    other.priority()
                ));
            }
        }
        self.behind = behind;
        Ok(())
    }

    /// Takes the programs away.
    pub(super) fn remove(self, netlink: &mut Netlink, number: u32) -> io::Result<()> {
        if !self.means.contains(&Means::Clsact) {
            return Ok(());
        }
        remove_filters(netlink, self.device, &Direction::ALL, |handle| {
            handle == number
        })
    }
}

fn add_filter(
    segments: &Segments,
    netlink: &mut Netlink,
    number: u32,
    device: u32,
    direction: Direction,
) -> Result<(), FilterError> {
    netlink.add_filter(&NewFilter {
        device,
        direction,
        handle: number,
        name: FILTER_NAME,
        program: segments.tc_program(direction)?,
    })
}

/// Takes the agents' filters off an interface whose number `is_meant`.
pub(super) fn remove_filters(
    netlink: &mut Netlink,
    device: u32,
    directions: &[Direction],
    is_meant: impl Fn(u32) -> bool,
) -> io::Result<()> {
    for direction in directions {
        for filter in netlink.filters(device, *direction)? {
            if filter.name == FILTER_NAME && is_meant(filter.handle) {
                netlink.remove_filter(&filter)?;
            }
        }
    }
    Ok(())
}

/// Why nothing could be attached, and what to do about it.
pub(super) fn obstacle(device: &str, error: &FilterError) -> Obstacle {
    let remedy = match error {
        FilterError::Taken(kind) => format!(
            "put `clsact` in its place, which takes the same filters (`tc qdisc delete dev \
             {device} {kind}`, `tc qdisc add dev {device} clsact`, and its filters anew), or run \
             Linux 6.6 or newer"
        ),
        FilterError::Refused(_) => {
            "grant CAP_NET_ADMIN; kernels before 6.6 need the modules sch_ingress and cls_bpf"
                .to_owned()
        }
    };
    Obstacle {
        cause: format!("the kernel does not let a program be attached to it: {error}"),
        remedy,
    }
}
