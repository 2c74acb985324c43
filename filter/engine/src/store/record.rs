//! Records as bytes: a version, a kind, the mark of what they belong to, then fixed-width little-endian integers.
//!
//! Shared data outlives the code and the configuration that wrote it, so anything may be read: bytes of another
//! version, kind or content read as absent, and so do bytes that are too short, too long or out of range.

use crate::base::fingerprint;
use crate::base::time::Timestamp;
use crate::http::attempt::End;

/// The version of all record layouts below; raised when any of them changes.
pub const VERSION: u8 = 9;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A breaker's state.
    Breaker = 1,
    /// One worker's counts for one key's breaker.
    BreakerSlot = 2,
    /// The table of workers.
    Workers = 3,
    /// Requests in flight for one key.
    InFlight = 4,
    /// The name of one key of a policy.
    KeyName = 5,
    /// What has been taken from a retry budget.
    Budget = 6,
    /// A policy's own text.
    PolicyText = 7,
    /// When an attempt seat was last seen.
    AttemptSeat = 8,
    /// What the seats tell each other about one request.
    RetryContext = 9,
    /// The hosts of one group.
    Hosts = 10,
    /// One worker's counts for the hosts of one group.
    HostSlot = 11,
    /// A host's run of failures.
    HostRun = 12,
    /// Who does for all workers what is to be done once.
    Leader = 13,
    /// Who has the numbered places of a policy.
    Occupants = 14,
    /// Which keys of a policy have metric series.
    Series = 15,
    /// Which policies live, and where their blocks are.
    Registry = 16,
    /// One worker's counts for one key's throttle.
    TrafficSlot = 17,
    /// One worker's requests for one key's retry budget.
    DepositSlot = 18,
    /// A good answer.
    KeptAnswer = 19,
    /// Which good answers of a key are kept.
    AnswerIndex = 20,
}

/// Whose a record is; a later occupant of the same place has a greater one. Everything at a place of the store carries it, so that what an earlier occupant has left reads as absent, and
/// who has not heard of a later one does not write over what is the later one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mark {
    /// Counts the blocks that had the place.
    pub block: u32,
    /// Counts the keys, or clusters, that had their place in this block.
    pub key: u32,
}

impl Mark {
    /// That of what belongs to no block.
    pub const NONE: Mark = Mark { block: 0, key: 0 };

    fn write(self, kind: Kind, out: &mut Writer) {
        out.u32(self.block);
        out.u32(self.key);
        out.u32(self.check(kind));
    }

    /// The mark of a record of this kind; `None` where the bytes are damaged or somebody else's.
    fn read(kind: Kind, input: &mut Reader<'_>) -> Option<Self> {
        if input.u8()? != VERSION || input.u8()? != kind as u8 {
            return None;
        }
        let mark = Mark { block: input.u32()?, key: input.u32()? };
        (input.u32()? == mark.check(kind)).then_some(mark)
    }

    /// A number that damaged bytes do not have.
    fn check(self, kind: Kind) -> u32 {
        (fingerprint::of(&(VERSION, kind as u8, self)) >> 32) as u32
    }
}

/// The mark of the record of this kind in `bytes`, whoever wrote it.
#[must_use]
pub fn mark_of(bytes: &[u8], kind: Kind) -> Option<Mark> {
    Mark::read(kind, &mut Reader(bytes))
}

/// Whether `bytes` are a record of this kind that a later occupant of the same place wrote than the one with this mark.
#[must_use]
pub fn is_of_later_occupant(bytes: &[u8], kind: Kind, mark: Mark) -> bool {
    mark_of(bytes, kind).is_some_and(|stored| stored > mark)
}

/// What the bytes of a record begin with.
#[must_use]
pub fn head(kind: Kind, mark: Mark) -> Vec<u8> {
    let mut out = Writer::default();
    write_head(kind, mark, &mut out);
    out.0
}

fn write_head(kind: Kind, mark: Mark, out: &mut Writer) {
    out.u8(VERSION);
    out.u8(kind as u8);
    mark.write(kind, out);
}

/// Something that is stored.
pub trait Record: Sized {
    /// Which sort of record this is.
    const KIND: Kind;

    /// Appends the fields.
    fn write(&self, out: &mut Writer);

    /// Reads the fields; `None` when they cannot be right.
    fn read(input: &mut Reader<'_>) -> Option<Self>;

    /// Whether the fields fit together. Bytes that somebody else wrote may not; a change of ours keeps it so, which builds with debug
    /// assertions check after each one.
    fn invariants(&self) -> bool {
        true
    }

    /// About how many bytes the fields take, to reserve them at once.
    fn size(&self) -> usize {
        54
    }

    /// The whole record.
    fn encode(&self, mark: Mark) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(self.size().saturating_add(14)));
        write_head(Self::KIND, mark, &mut out);
        self.write(&mut out);
        out.0
    }

    /// The record in `bytes` if they are one of this kind, version and mark, whole and with nothing after it.
    fn decode(bytes: &[u8], mark: Mark) -> Option<Self> {
        let mut input = Reader(bytes);
        if Mark::read(Self::KIND, &mut input)? != mark {
            return None;
        }
        let record = Self::read(&mut input)?;
        input.0.is_empty().then_some(record)
    }
}

/// Whether no two of these are equal.
pub fn are_different<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.is_sorted_by(|one, next| one < next)
}

/// Appends integers.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Eight bytes.
    pub fn time(&mut self, value: Timestamp) {
        self.u64(value.0);
    }
    /// Five bytes.
    pub fn end(&mut self, value: End) {
        let (kind, number) = match value {
            End::Http(status) => (0, status.into()),
            End::Grpc(status) => (1, status),
            End::ConnectFailure => (2, 0),
            End::Reset => (3, 0),
            End::TimedOut => (4, 0),
            End::Broken => (5, 0),
        };
        self.u8(kind);
        self.u32(number);
    }
    /// All bytes that are left, without their count: to be the last field.
    pub fn rest(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
    /// A count of two bytes and that many bytes; what is over 65,535 is cut off.
    pub fn bytes(&mut self, value: &[u8]) {
        let len = value.len().min(usize::from(u16::MAX));
        self.u16(len as u16);
        self.0.extend_from_slice(value.get(..len).unwrap_or_default());
    }
}

/// Takes integers off the front.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    /// Eight bytes.
    pub fn time(&mut self) -> Option<Timestamp> {
        self.u64().map(Timestamp)
    }
    /// Five bytes.
    pub fn end(&mut self) -> Option<End> {
        let (kind, number) = (self.u8()?, self.u32()?);
        match kind {
            0 => u16::try_from(number).ok().map(End::Http),
            1 => Some(End::Grpc(number)),
            2 if number == 0 => Some(End::ConnectFailure),
            3 if number == 0 => Some(End::Reset),
            4 if number == 0 => Some(End::TimedOut),
            5 if number == 0 => Some(End::Broken),
            _ => None,
        }
    }
    /// One byte that is 0 or 1.
    pub fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }
    /// A count of two bytes and that many bytes.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}
