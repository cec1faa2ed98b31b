//! Who may come in with which password.
//!
//! Comparing a password takes tenths of a second of a CPU, so one is compared at a time, on a
//! thread of its own that yields to all others. Those who wait get their turns by source address,
//! so that nobody waits for all the guesses of one. A login known as right does not wait at all,
//! and no number of wrong ones makes it unknown.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::mpsc as threads,
    thread,
};

use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::sync::{mpsc, oneshot};

use super::passwords;
use crate::serve::source::Source;

/// So many right and so many wrong logins are remembered.
const REMEMBERED: usize = 100;
/// So many may wait: more than all connections can ask at once, so that beyond it some have hung up.
const WAITING: usize = 16_384;
/// bcrypt looks at no more bytes of a password.
const PASSWORD_BYTES: usize = 72;

/// Asks whether logins are right. Cloning it asks the same.
#[derive(Clone, Debug)]
pub(super) struct Logins {
    key: hmac::Key,
    questions: mpsc::UnboundedSender<Question>,
}

/// A name with a password and the hash that it has to match, where no one can read them.
type Login = [u8; 32];

#[derive(Debug)]
struct Question {
    login: Login,
    source: Source,
    password: Vec<u8>,
    hash: String,
    answer: oneshot::Sender<bool>,
}

/// Compares passwords.
struct Comparing {
    passwords: threads::Sender<(Vec<u8>, String)>,
    results: mpsc::UnboundedReceiver<bool>,
}

impl Logins {
    /// Starts the thread that compares; within the async runtime.
    pub(super) fn start() -> io::Result<Self> {
        let mut key = [0; 32];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| io::Error::other("no random numbers"))?;
        let comparing = Comparing::start(passwords::matches)?;
        let (questions, asked) = mpsc::unbounded_channel();
        tokio::spawn(answer_all(asked, comparing));
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            questions,
        })
    }

    /// Whether `password` is the one of `hash`, for a client at `source`.
    pub(super) async fn are_right(
        &self,
        user: &[u8],
        hash: &str,
        password: &[u8],
        source: Source,
    ) -> bool {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            login: self.login(user, hash, password),
            source,
            password: password[..password.len().min(PASSWORD_BYTES)].to_owned(),
            hash: hash.to_owned(),
            answer,
        };
        // Where nobody answers any more, nobody comes in.
        self.questions.send(question).is_ok() && answered.await.unwrap_or(false)
    }

    /// Each part with its length before it: no two logins look alike.
    fn login(&self, user: &[u8], hash: &str, password: &[u8]) -> Login {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user, hash.as_bytes(), password] {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut login = Login::default();
        login.copy_from_slice(context.sign().as_ref());
        login
    }
}

impl Comparing {
    fn start(matches: fn(&[u8], &str) -> bool) -> io::Result<Self> {
        let (passwords, given) = threads::channel::<(Vec<u8>, String)>();
        let (result, results) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("ts-logins".to_owned())
            .spawn(move || {
                // Of this thread alone. It is a courtesy: where it is refused, nothing is wrong.
                let _ = rustix::process::setpriority_process(None, 19);
                for (password, hash) in given {
                    if result.send(matches(&password, &hash)).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self { passwords, results })
    }
}

/// Ends when nobody asks any more.
async fn answer_all(mut asked: mpsc::UnboundedReceiver<Question>, mut comparing: Comparing) {
    let mut known = Known::default();
    let mut waiting = Waiting::default();
    let mut compared: Option<Question> = None;
    loop {
        tokio::select! {
            question = asked.recv() => {
                let Some(question) = question else { return };
                match known.get(&question.login) {
                    // Who has hung up meanwhile needs no answer, here as below.
                    Some(is_right) => {
                        let _ = question.answer.send(is_right);
                    }
                    None => waiting.add(question),
                }
            }
            Some(is_right) = comparing.results.recv(), if compared.is_some() => {
                if let Some(question) = compared.take() {
                    known.remember(question.login, is_right);
                    let _ = question.answer.send(is_right);
                }
            }
        }
        while compared.is_none() {
            let Some(question) = waiting.next() else {
                break;
            };
            if question.answer.is_closed() {
                continue;
            }
            if let Some(is_right) = known.get(&question.login) {
                let _ = question.answer.send(is_right);
                continue;
            }
            let task = (question.password.clone(), question.hash.clone());
            if comparing.passwords.send(task).is_err() {
                return;
            }
            compared = Some(question);
        }
    }
}

/// Logins that were compared, the last of each kind.
#[derive(Default)]
struct Known {
    right: VecDeque<Login>,
    wrong: VecDeque<Login>,
}

impl Known {
    fn get(&self, login: &Login) -> Option<bool> {
        if self.right.contains(login) {
            return Some(true);
        }
        self.wrong.contains(login).then_some(false)
    }

    fn remember(&mut self, login: Login, is_right: bool) {
        let of_kind = if is_right {
            &mut self.right
        } else {
            &mut self.wrong
        };
        if of_kind.len() == REMEMBERED {
            of_kind.pop_front();
        }
        of_kind.push_back(login);
    }
}

/// Who waits, by where they ask from.
#[derive(Default)]
struct Waiting {
    /// Whose turn it is; each is in here once.
    turns: VecDeque<Source>,
    questions: HashMap<Source, VecDeque<Question>>,
    /// All of them.
    count: usize,
}

impl Waiting {
    fn add(&mut self, question: Question) {
        if self.count >= WAITING {
            self.forget_closed();
        }
        if self.count >= WAITING {
            return;
        }
        self.count += 1;
        let source = question.source;
        let of_source = self.questions.entry(source).or_insert_with(|| {
            self.turns.push_back(source);
            VecDeque::new()
        });
        of_source.push_back(question);
    }

    /// Forgets those whose clients have hung up.
    fn forget_closed(&mut self) {
        self.questions.retain(|_, of_source| {
            of_source.retain(|question| !question.answer.is_closed());
            !of_source.is_empty()
        });
        self.turns
            .retain(|source| self.questions.contains_key(source));
        self.count = self.questions.values().map(VecDeque::len).sum();
    }

    fn next(&mut self) -> Option<Question> {
        let source = self.turns.pop_front()?;
        let of_source = self.questions.get_mut(&source)?;
        let question = of_source.pop_front();
        self.count -= usize::from(question.is_some());
        if of_source.is_empty() {
            self.questions.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        question
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    fn question(last: u8, login: u8) -> (Question, oneshot::Receiver<bool>) {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            login: [login; 32],
            source: source(last),
            password: Vec::new(),
            hash: String::new(),
            answer,
        };
        (question, answered)
    }

    #[test]
    fn those_who_have_hung_up_take_no_memory_for_ever() {
        let mut waiting = Waiting::default();
        let (patient, _answered) = question(1, 1);
        waiting.add(patient);
        for number in 0..3 * WAITING {
            waiting.add(question(u8::try_from(number % 7).unwrap(), 0).0);
            assert!(waiting.count <= WAITING);
        }
        waiting.forget_closed();
        assert_eq!(waiting.count, 1);
        assert_eq!(waiting.next().map(|question| question.login), Some([1; 32]));
        assert!(waiting.next().is_none());
        assert!(waiting.turns.is_empty());
    }

    #[test]
    fn those_who_wait_get_their_turns_by_source() {
        let mut waiting = Waiting::default();
        let mut kept = Vec::new();
        for (last, login) in [(1, 1), (1, 2), (1, 3), (2, 4), (3, 5), (3, 6)] {
            let (asked, answered) = question(last, login);
            waiting.add(asked);
            kept.push(answered);
        }
        let order: Vec<u8> = std::iter::from_fn(|| waiting.next())
            .map(|question| question.login[0])
            .collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        assert!(waiting.questions.is_empty());
    }

    #[test]
    fn wrong_logins_never_push_out_right_ones() {
        let mut known = Known::default();
        known.remember([0xff; 32], true);
        for number in 0..=200 {
            known.remember([number; 32], false);
        }
        assert_eq!(known.get(&[0xff; 32]), Some(true));
        assert_eq!(known.get(&[200; 32]), Some(false));
        assert_eq!(known.get(&[0; 32]), None);
        assert_eq!(known.wrong.len(), REMEMBERED);
    }

    #[tokio::test]
    async fn logins_that_look_alike_when_joined_are_told_apart() {
        let logins = Logins::start().unwrap();
        assert_ne!(
            logins.login(b"a", "b", b"c:d"),
            logins.login(b"a", "b:c", b"d")
        );
        assert_ne!(logins.login(b"ab", "", b"c"), logins.login(b"a", "b", b"c"));
        assert_eq!(logins.login(b"a", "b", b"c"), logins.login(b"a", "b", b"c"));
    }

    #[tokio::test]
    async fn a_login_known_as_right_does_not_wait_behind_wrong_ones() {
        let logins = Logins::start().unwrap();
        let hash = bcrypt::hash("secret", 4).unwrap();
        assert!(logins.are_right(b"me", &hash, b"secret", source(1)).await);
        // A minute's work at least.
        let slow = bcrypt::hash("other", 4).unwrap().replace("$04$", "$18$");
        let guess = logins.are_right(b"you", &slow, b"guess", source(2));
        let mut guess = std::pin::pin!(guess);
        let known = async {
            // The guess is being compared by then.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            logins.are_right(b"me", &hash, b"secret", source(3)).await
        };
        tokio::select! {
            _ = &mut guess => panic!("the guess was compared first"),
            is_right = known => assert!(is_right),
        }
    }
}
