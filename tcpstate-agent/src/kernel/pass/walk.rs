//! The way through a hash table, run by run.

use rustc_hash::FxHashSet;

use super::tables::{Details, HashTable, KernelTables, ReadError};
use crate::decode::object::Object;

/// How often a chain is read that changes while it is.
const TRIES: u32 = 16;
/// Runs for one chain, before it is given up: some million sockets. One that grows faster than it is
/// read has no end.
const CHAIN_RUNS: u32 = 4096;

/// What did not go well with reading tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Chains that changed while they were read, and were read again.
    pub redone: u64,
    /// Chains that changed each time that they were read: their sockets are missing.
    pub given_up: u64,
    /// Tables that were freed while they were read.
    pub freed: u64,
}

impl Faults {
    /// Counts those of another time in.
    pub fn add(&mut self, other: Self) {
        self.redone += other.redone;
        self.given_up += other.given_up;
        self.freed += other.freed;
    }
}

/// How far the reading of one table has come.
#[derive(Debug)]
pub struct TableWalk {
    table: HashTable,
    details: Details,
    next: u32,
    /// Buckets that are read once more, alone.
    again: Vec<u32>,
    chain: Option<Chain>,
}

/// A chain that is read alone, in as many runs as its length takes.
#[derive(Debug)]
struct Chain {
    bucket: u32,
    tries: u32,
    runs: u32,
    /// The node that the last run ended with.
    after: Option<u64>,
    /// What was handed over of it: of a long one the beginning may come twice.
    seen: FxHashSet<u64>,
}

impl TableWalk {
    /// Before the first bucket.
    #[must_use]
    pub fn new(table: HashTable, details: Details) -> Self {
        Self {
            table,
            details,
            next: 0,
            again: Vec::new(),
            chain: None,
        }
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &HashTable {
        &self.table
    }

    /// One run of the program. Whether there is nothing left to read.
    pub fn step(
        &mut self,
        tables: &mut KernelTables,
        faults: &mut Faults,
        mut each: impl FnMut(u32, &Object<'_>),
    ) -> Result<bool, ReadError> {
        if self.next < self.table.size {
            let chunk = tables.read(&self.table, self.next, self.details, each)?;
            self.again.extend(chunk.unread);
            self.next = chunk.next;
            if !chunk.is_there {
                faults.freed += 1;
                return Ok(true);
            }
            return Ok(false);
        }
        let Some(chain) = self.chain.take().or_else(|| self.begin_chain(faults)) else {
            return Ok(true);
        };
        let Chain {
            bucket,
            mut tries,
            runs,
            after,
            mut seen,
        } = chain;
        let chunk = tables.read_one(
            &self.table,
            bucket,
            after,
            self.details,
            |bucket, object| {
                if seen.insert(object.address) {
                    each(bucket, object);
                }
            },
        )?;
        if !chunk.is_there {
            faults.freed += 1;
            return Ok(true);
        }
        let is_broken = !chunk.unread.is_empty();
        if is_broken {
            tries += 1;
        }
        if tries == TRIES || runs == CHAIN_RUNS {
            faults.given_up += 1;
            return Ok(false);
        }
        if is_broken || chunk.goes_on.is_some() {
            self.chain = Some(Chain {
                bucket,
                tries,
                runs: runs + 1,
                after: chunk.goes_on,
                seen,
            });
        }
        Ok(false)
    }

    fn begin_chain(&mut self, faults: &mut Faults) -> Option<Chain> {
        let bucket = self.again.pop()?;
        faults.redone += 1;
        Some(Chain {
            bucket,
            tries: 0,
            runs: 0,
            after: None,
            seen: FxHashSet::default(),
        })
    }
}
