//! What processes watch, which no table of sockets tells: asked of `/proc`, where that answers.

use std::collections::HashMap;

use super::Filter;
use crate::{
    code_location::waits::{accepts, is_told_once},
    collect::close_wait::{Cause, Report, ReportGroup, Role},
    host::process::ProcessId,
};

/// More questions are not asked.
const MOST: usize = 256;

/// Asks each question once, so that two looks have the same answers.
#[derive(Debug, Default)]
pub struct Watching {
    accepts: HashMap<(ProcessId, u16), bool>,
    told_once: HashMap<(ProcessId, u32), bool>,
}

impl Watching {
    /// Puts the answers into the groups of a report that pass the filter.
    pub fn tell(&mut self, report: &mut Report, filter: &Filter) {
        let groups = report.groups.iter_mut();
        for group in groups.filter(|group| filter.passes(group)) {
            self.tell_of(group);
        }
    }

    fn tell_of(&mut self, group: &mut ReportGroup) {
        let port = group.port;
        group.narrow(|process| {
            let key = (process.id(), port);
            ask(&mut self.accepts, key, || accepts(process.id(), port))
        });
        let is_unread = matches!(group.cause, Cause::FinUnread | Cause::DataUnread);
        if let (Role::Client, true, Some(process), Some(descriptor)) = (
            group.role,
            is_unread,
            &group.process,
            group.oldest_descriptor,
        ) && let Some(holder) = &mut group.facts.holder
        {
            let key = (process.id(), descriptor);
            holder.is_told_once = ask(&mut self.told_once, key, || {
                is_told_once(process.id(), descriptor)
            });
        }
    }
}

fn ask<K: std::hash::Hash + Eq>(
    known: &mut HashMap<K, bool>,
    key: K,
    question: impl FnOnce() -> bool,
) -> bool {
    if known.len() >= MOST {
        return known.get(&key).copied().unwrap_or(false);
    }
    *known.entry(key).or_insert_with(question)
}
