//! Reads closed requests back from the segments, when they are no longer in memory.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use bytes::{Buf, Bytes};

use super::{
    record::{self, Closed, Front, Record},
    segment::{HEADER, Segment},
};

/// Where the last reading ended, with the rest of what was read from the file then.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    segment: u64,
    rest: Bytes,
    /// Number of the first event in `rest`.
    at: u64,
}

/// Whole requests from a number on, together at most `limit` events but at least one request. Blocks on the disk.
///
/// Empty: there is no such number, although the segments say so.
pub(super) fn read(segments: &[Segment], cursor: &mut Cursor, from: u64, limit: u64) -> io::Result<Vec<Closed>> {
    let Some(segment) = segments.iter().find(|segment| segment.first <= from && from < segment.end) else {
        return Ok(Vec::new());
    };
    if cursor.segment != segment.number || cursor.at != from || cursor.rest.is_empty() {
        *cursor = Cursor { segment: segment.number, rest: load(segment)?, at: segment.first };
    }
    let mut batch = Vec::new();
    let mut events = 0_u64;
    while let Front::Frame { kind, payload, length } = record::front(&cursor.rest) {
        if let Ok(Record::Close(closed)) = record::decode(kind, payload) {
            let end = closed.end();
            if end > from {
                events = events.saturating_add(closed.count);
                if closed.from > from && batch.is_empty() || events > limit && !batch.is_empty() {
                    break;
                }
                batch.push(closed);
            }
            cursor.at = end;
        }
        cursor.rest.advance(length);
    }
    Ok(batch)
}

fn load(segment: &Segment) -> io::Result<Bytes> {
    let mut file = File::open(&segment.path)?;
    let start = HEADER as u64;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(segment.length.saturating_sub(start)).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
