//! Messages of netlink, and the attributes in them: pure.

use crate::host::process::{label_text, until_nul};

/// A message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received<'a> {
    /// That of the question.
    pub(super) sequence: u32,
    /// What is listed has changed meanwhile: parts may be missing, or be there twice.
    pub(super) is_interrupted: bool,
    pub(super) message: Message<'a>,
}

/// What the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// One part of it.
    Part(&'a [u8]),
    /// That was all, and all went well.
    Done,
    /// It did not, for this errno.
    Failed(i32),
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// What the kind of an attribute may be marked with: nested, or in network byte order.
const ATTRIBUTE_MARKS: u16 = 0xc000;

/// A message to the kernel.
pub(super) fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// Puts an attribute behind `body`, with the bytes that fill it up.
pub(super) fn add_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The messages in what was received. Ends where they make no sense.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let kind = u16_at(bytes, 4)?;
        let flags = u16_at(bytes, 6)?;
        let sequence = u32_at(bytes, 8)?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let message = match kind {
            // A list that cannot be finished ends so too. The errno may be left out.
            NLMSG_DONE => ending(u32_at(body, 0).unwrap_or(0)),
            NLMSG_ERROR => ending(u32_at(body, 0)?),
            _ => Message::Part(body),
        };
        Some(Received {
            sequence,
            is_interrupted: flags & NLM_F_DUMP_INTR != 0,
            message,
        })
    })
}

/// An errno, negative; 0 where all went well.
const fn ending(errno: u32) -> Message<'static> {
    match errno.cast_signed() {
        0 => Message::Done,
        errno => Message::Failed(errno.wrapping_neg()),
    }
}

/// Attributes by kind. Ends where they make no sense.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !ATTRIBUTE_MARKS;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Text up to its NUL, fit to be shown.
pub(super) fn text(value: &[u8]) -> String {
    label_text(until_nul(value))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_sent_can_be_taken_apart() {
        let mut body = Vec::new();
        add_attribute(&mut body, 3, b"eth0\0");
        add_attribute(&mut body, 4, &1500_u32.to_ne_bytes());
        let mut bytes = request(16, 0, 7, &body);
        bytes.extend(request(NLMSG_DONE, 0, 7, &[0; 4]));
        let received = |message| Received {
            sequence: 7,
            is_interrupted: false,
            message,
        };
        let taken: Vec<_> = messages(&bytes).collect();
        let expected = [Message::Part(&body), Message::Done].map(received);
        assert_eq!(taken, expected);
        let taken: Vec<_> = attributes(&body).collect();
        assert_eq!(taken.len(), 2);
        assert_eq!(text(taken[0].1), "eth0");
        assert_eq!(u32_at(taken[1].1, 0), Some(1500));
    }

    #[test]
    fn a_refusal_has_its_errno() {
        for (error, message) in [(0_i32, Message::Done), (-17, Message::Failed(17))] {
            for kind in [NLMSG_ERROR, NLMSG_DONE] {
                let bytes = request(kind, 0, 1, &error.to_ne_bytes());
                assert_eq!(messages(&bytes).next().unwrap().message, message);
            }
        }
        let bytes = request(NLMSG_DONE, 0, 1, &[]);
        assert_eq!(messages(&bytes).next().unwrap().message, Message::Done);
    }

    #[test]
    fn a_list_that_changed_meanwhile_says_so() {
        for (flags, is_interrupted) in [(0, false), (2, false), (NLM_F_DUMP_INTR | 2, true)] {
            let bytes = request(16, flags, 1, &[0; 16]);
            let received = messages(&bytes).next().unwrap();
            assert_eq!(received.is_interrupted, is_interrupted);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
