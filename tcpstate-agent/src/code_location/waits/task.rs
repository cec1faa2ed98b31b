//! The threads of a process, each with what it does.

use std::{fs, io};

use super::system_call;
use crate::code_location::proc_status;

/// More threads are not looked at.
const MAX_THREADS: usize = 50_000;

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its number.
    pub thread: u32,
    /// What it does.
    pub wait: Wait,
    /// The state letter of proc(5).
    pub state: char,
    /// The kernel's function that it waits in.
    pub kernel_function: Option<String>,
}

/// What a thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It runs, or would if there were a CPU.
    Running,
    /// It waits outside a system call: for memory, for instance.
    Elsewhere,
    /// It waits in a system call.
    Call {
        /// The call's name, or its number.
        name: String,
        /// Its number.
        number: i64,
        /// Its first two arguments.
        arguments: [u64; 2],
        /// The stack pointer that it was made with.
        stack: u64,
        /// The instruction behind it.
        instruction: u64,
    },
    /// That cannot be read.
    Hidden,
}

/// All threads of a process. Takes CAP_SYS_PTRACE for another user's process.
pub fn tasks(pid: u32) -> io::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.take(MAX_THREADS) {
        let name = entry?.file_name();
        let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{file}"));
        let Ok(stat) = read("stat") else {
            // It has ended.
            continue;
        };
        let wait = match read("syscall") {
            Ok(text) => parse_syscall(&text).unwrap_or(Wait::Hidden),
            Err(_) => Wait::Hidden,
        };
        let kernel_function = read("wchan")
            .ok()
            .filter(|name| name != "0" && !name.is_empty());
        tasks.push(Task {
            thread,
            wait,
            state: state(&stat).unwrap_or('?'),
            kernel_function,
        });
    }
    Ok(tasks)
}

/// The number that a thread has in its own PID namespace.
#[must_use]
pub fn own_number(pid: u32, thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
    proc_status::words(&status, "NSpid:")?.last()?.parse().ok()
}

/// The letter behind the name, which may contain anything.
fn state(stat: &str) -> Option<char> {
    let (_, behind) = stat.rsplit_once(") ")?;
    behind.chars().next()
}

/// `running`, `-1 SP PC`, or `NR A0 A1 A2 A3 A4 A5 SP PC`, all but the first hexadecimal.
fn parse_syscall(text: &str) -> Option<Wait> {
    let text = text.trim_end();
    if text == "running" {
        return Some(Wait::Running);
    }
    let mut fields = text.split(' ');
    let number: i64 = fields.next()?.parse().ok()?;
    let numbers = fields
        .map(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok())
        .collect::<Option<Vec<u64>>>()?;
    match numbers[..] {
        [_, _] if number == -1 => Some(Wait::Elsewhere),
        [first, second, _, _, _, _, stack, instruction] => Some(Wait::Call {
            name: system_call::find(number).map_or_else(
                || format!("system call {number}"),
                |call| call.name.to_owned(),
            ),
            number,
            arguments: [first, second],
            stack,
            instruction,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_proc_says_of_a_thread_is_read() {
        assert_eq!(parse_syscall("running\n"), Some(Wait::Running));
        assert_eq!(parse_syscall("-1 0x7ffe 0x7f00\n"), Some(Wait::Elsewhere));
        let text = format!(
            "{} 0x7 0x2 0x3 0x0 0x0 0x0 0x7ffe 0x7f00\n",
            libc::SYS_recvfrom
        );
        let Some(Wait::Call {
            name,
            arguments,
            stack,
            instruction,
            ..
        }) = parse_syscall(&text)
        else {
            panic!("{text}");
        };
        assert_eq!(name, "recvfrom");
        assert_eq!((arguments, stack, instruction), ([7, 2], 0x7ffe, 0x7f00));
        for wrong in ["", "0", "0 0x1 0x2", "x 0x1", "-1 1 2"] {
            assert_eq!(parse_syscall(wrong), None, "{wrong:?}");
        }
        assert_eq!(state("1 (a) R) S 2 3"), Some('S'));
        assert_eq!(state("1"), None);
    }

    #[test]
    fn a_thread_of_this_process_that_waits_is_seen_to_wait() {
        let (end, ended) = mpsc::channel::<()>();
        let waiting = thread::spawn(move || ended.recv());
        let mut seen = Vec::new();
        for _ in 0..200 {
            seen = tasks(std::process::id()).unwrap();
            if seen
                .iter()
                .any(|task| matches!(&task.wait, Wait::Call { name, .. } if name == "futex"))
            {
                drop(end);
                let _ = waiting.join();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("{seen:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "\\PC{0,100}") {
            parse_syscall(&text);
            state(&text);
        }
    }
}
