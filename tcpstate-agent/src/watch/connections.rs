//! Where outgoing connections go and which peers do not answer, for a person who asks: a walk over
//! the sockets of every namespace.

use std::collections::BTreeMap;

use tracing::warn;

use super::{
    count::{Look, Walk},
    kernel::Netstat,
    shared::{Shared, lock},
};
use crate::{
    model::{
        close_wait::TickRate,
        outgoing::NamespaceOutgoing,
        unanswered::{UnansweredKey, UnansweredSurvey, UnansweredTally},
    },
    netns::{Namespace, Visitor},
};

/// What was found.
#[derive(Clone, Debug)]
pub struct Connections {
    /// By the inode number of the namespace: where its connections go.
    pub outgoing: Vec<(u32, NamespaceOutgoing)>,
    /// Those whose peers do not answer.
    pub unanswered: BTreeMap<UnansweredKey, UnansweredTally>,
}

impl Shared {
    /// Looks at the connections of all namespaces. `None` where that cannot be done.
    pub(super) fn connections(&self, visitor: &Visitor) -> Option<Connections> {
        let tick_rate = {
            let socket_pass = lock(self.socket_pass.as_ref()?);
            if !socket_pass.tells_unanswered() {
                return None;
            }
            let sample = socket_pass.clock();
            TickRate::of(
                sample
                    .inspect_err(|error| warn!(%error, "cannot read the kernel's clock"))
                    .ok()?,
            )?
        };
        let mut survey = UnansweredSurvey::new(tick_rate);
        for namespace in self.reachable() {
            let look = Look::Unanswered(&mut survey);
            self.count(
                visitor,
                &namespace,
                Walk::Waits,
                Netstat::IfNeeded,
                Some(look),
            );
        }
        let namespaces = self.namespaces();
        let counted = namespaces.watched.iter();
        let counted = counted.filter(|(_, watched)| watched.model.is_some());
        Some(Connections {
            outgoing: counted
                .map(|(inode, watched)| (*inode, watched.outgoing.clone()))
                .collect(),
            unanswered: survey.groups(),
        })
    }

    fn reachable(&self) -> Vec<Namespace> {
        self.namespaces()
            .watched
            .values()
            .filter(|watched| watched.failure.is_none())
            .map(|watched| watched.namespace.clone())
            .collect()
    }
}
