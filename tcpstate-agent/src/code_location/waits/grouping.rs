//! Threads that wait for the same thing at the same place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    descriptor::Held,
    system_call::{self, On},
    task::{Task, Wait},
};
use crate::code_location::{frame::Frame, memory::Memory, report::Place};

/// Threads that do the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadGroup {
    /// How many.
    pub threads: u64,
    /// Of how many.
    pub of: u64,
    /// The system call that they wait in; none where they wait in none.
    pub call: Option<String>,
    /// What the call waits for, where it says.
    pub on: Option<String>,
    /// Whether they run.
    pub running: bool,
    /// The kernel's function.
    pub kernel_function: Option<String>,
    /// Where in the program's code.
    pub place: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    call: Option<String>,
    on: Option<String>,
    running: bool,
    hidden: bool,
    innermost: Option<Frame>,
}

#[derive(Default)]
struct Members {
    threads: u64,
    kernel_functions: BTreeMap<String, u64>,
    places: BTreeMap<Place, u64>,
}

/// Groups threads, most first. `place_of` says where in the code a thread is.
pub fn group(
    tasks: &[Task],
    held: &Held,
    memory: Option<&dyn Memory>,
    mut place_of: impl FnMut(&Task) -> Option<Place>,
) -> Vec<ThreadGroup> {
    let mut groups: BTreeMap<Key, Members> = BTreeMap::new();
    for task in tasks {
        let place = match task.wait {
            Wait::Running | Wait::Hidden => None,
            Wait::Call { .. } | Wait::Elsewhere => place_of(task),
        };
        let (call, on) = match &task.wait {
            Wait::Call {
                name,
                number,
                arguments,
                ..
            } => (
                Some(name.clone()),
                waits_on(*number, *arguments, held, memory),
            ),
            _ => (None, None),
        };
        let key = Key {
            call,
            on,
            running: task.wait == Wait::Running || task.state == 'R',
            hidden: task.wait == Wait::Hidden,
            innermost: place.as_ref().and_then(|place| innermost(place).cloned()),
        };
        let members = groups.entry(key).or_default();
        members.threads += 1;
        if let Some(name) = &task.kernel_function {
            *members.kernel_functions.entry(name.clone()).or_default() += 1;
        }
        if let Some(place) = place {
            *members.places.entry(place).or_default() += 1;
        }
    }
    let all = tasks.len() as u64;
    let mut groups: Vec<ThreadGroup> = groups
        .into_iter()
        .map(|(key, members)| ThreadGroup {
            threads: members.threads,
            of: all,
            call: key.call,
            on: key.on,
            running: key.running,
            kernel_function: most(members.kernel_functions),
            place: most(members.places),
        })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.threads));
    groups
}

fn most<T: Ord>(counted: BTreeMap<T, u64>) -> Option<T> {
    let greatest = counted.into_iter().max_by_key(|(_, count)| *count);
    greatest.map(|(value, _)| value)
}

/// The innermost frame of the program's own code, or of any.
fn innermost(place: &Place) -> Option<&Frame> {
    let own = place.frames.iter().find(|frame| frame.own);
    own.or_else(|| place.frames.first())
}

fn waits_on(
    number: i64,
    [first, second]: [u64; 2],
    held: &Held,
    memory: Option<&dyn Memory>,
) -> Option<String> {
    match system_call::find(number)?.on {
        // An int: what lies above it is whatever was in the register.
        #[expect(clippy::cast_possible_truncation, reason = "as the kernel takes it")]
        On::Descriptor => Some(held.describe(first as u32)),
        On::Poll => held.describe_poll(memory, first, second),
        On::Other => None,
    }
}

impl ThreadGroup {
    /// Whether they wait for a connection that the peer has closed.
    pub(crate) fn is_for_close_wait(&self) -> bool {
        let on = self.on.as_deref().unwrap_or_default();
        on.starts_with("connection to ") && on.ends_with(" (CLOSE_WAIT)")
    }

    /// `46 of 52 threads wait in recvfrom on connection to 127.0.0.9:15432 (ESTABLISHED), at query
    /// (fifty.py:8)`.
    #[must_use]
    pub fn line(&self) -> String {
        let verb = |plural: &'static str, singular: &'static str| {
            if self.threads == 1 { singular } else { plural }
        };
        let threads = format!("{} of {} threads", self.threads, self.of);
        let mut line = match &self.call {
            _ if self.running => format!("{threads} {}", verb("run", "runs")),
            Some(call) => format!("{threads} {} in {call}", verb("wait", "waits")),
            None => format!("{threads} {} outside system calls", verb("are", "is")),
        };
        if let Some(on) = &self.on {
            line.push_str(" on ");
            line.push_str(on);
        }
        if let Some(place) = &self.place {
            line.push_str(", at ");
            line.push_str(&place.summary);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(thread: u32, wait: Wait) -> Task {
        Task {
            thread,
            wait,
            state: 'S',
            kernel_function: Some("futex_wait".to_owned()),
        }
    }

    fn futex() -> Wait {
        Wait::Call {
            name: "futex".to_owned(),
            number: libc::SYS_futex,
            arguments: [1, 2],
            stack: 0,
            instruction: 0,
        }
    }

    fn place(function: &str, caller: &str) -> Place {
        let frame = |name: &str| Frame::python(name.to_owned(), "/a.py".to_owned(), Some(3));
        Place {
            summary: format!("{function} (a.py:3)"),
            frames: vec![frame(function), frame(caller)],
            complete: true,
        }
    }

    #[test]
    fn threads_at_one_place_are_one_group_whoever_called_it() {
        let tasks = [
            task(1, futex()),
            task(2, futex()),
            task(3, Wait::Running),
            task(4, futex()),
        ];
        let groups = group(&tasks, &Held::default(), None, |task| {
            let caller = if task.thread == 1 { "x" } else { "y" };
            let function = if task.thread == 4 { "other" } else { "query" };
            Some(place(function, caller))
        });
        let lines: Vec<String> = groups.iter().map(ThreadGroup::line).collect();
        assert_eq!(
            lines,
            [
                "2 of 4 threads wait in futex, at query (a.py:3)",
                "1 of 4 threads runs",
                "1 of 4 threads waits in futex, at other (a.py:3)",
            ]
        );
        assert_eq!(groups[0].kernel_function.as_deref(), Some("futex_wait"));
    }
}
