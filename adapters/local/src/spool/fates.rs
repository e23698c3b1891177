//! What became of requests whose process is gone, as the segments tell it. (What a loss of power took from a journal that need
//! not survive that, it took from the ledger as well.)

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ai4free_ports::{request::RequestId, usage_journal::Fate};

use super::{
    record::{self, Front, Record},
    recovery,
    segment::{HEADER, Segment},
};

/// The first number of a segment: if it is still there, nothing was ever deleted.
const FIRST_SEGMENT: u64 = 1;
/// The clocks of ids and of the file system are the same, and not equally fine.
const CLOCK_GRAIN: Duration = Duration::from_secs(1);

/// Reads all segments for requests of processes that are gone. `last_number`: of the last segment that there ever was. Blocks
/// on the disk.
pub(super) fn read(
    directory: &Path,
    segments: &[Segment],
    last_number: u64,
    requests: HashSet<RequestId>,
) -> io::Result<HashMap<RequestId, Fate>> {
    let complete_since = complete_since(directory, segments, last_number)?;
    let (mut fates, mut open) = (HashMap::new(), HashSet::new());
    for segment in segments {
        let bytes = recovery::read_good(segment)?;
        let mut rest = bytes.get(HEADER..).unwrap_or_default();
        while let Front::Frame { kind, payload, length } = record::front(rest) {
            match record::decode(kind, payload).map_err(io::Error::other)? {
                Record::Open(intent) if requests.contains(&intent.bound.request) => {
                    open.insert(intent.bound.request);
                }
                Record::Close(closed) if requests.contains(&closed.request) => {
                    fates.insert(closed.request, Fate::Charged(closed.decode().map_err(io::Error::other)?));
                }
                Record::Open(_) | Record::Close(_) | Record::Check(_) | Record::Attached => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    for request in requests {
        if !fates.contains_key(&request) && !open.contains(&request) {
            let would_be_here = complete_since.is_some_and(|since| began(request) >= since);
            fates.insert(request, if would_be_here { Fate::Charged(Vec::new()) } else { Fate::Unknown });
        }
    }
    Ok(fates)
}

/// From then on, every request that was opened is in these segments. `None`: that can't be told.
fn complete_since(directory: &Path, segments: &[Segment], last_number: u64) -> io::Result<Option<Duration>> {
    if recovery::is_damaged(directory)? {
        return Ok(None);
    }
    let oldest = segments.first();
    if oldest.map_or(last_number + 1, |oldest| oldest.number) == FIRST_SEGMENT {
        return Ok(Some(Duration::ZERO));
    }
    let Some(oldest) = oldest else { return Ok(None) };
    // Not every file system knows when a file was made.
    let made = fs::metadata(&oldest.path)?.created().ok();
    Ok(made.and_then(|made: SystemTime| made.duration_since(UNIX_EPOCH).ok()).map(|made| made + CLOCK_GRAIN))
}

/// When a request was given its id, by the clock of the process. An id that does not tell is taken to be very old.
fn began(request: RequestId) -> Duration {
    let told = request.0.get_timestamp().map(|told| told.to_unix());
    told.map_or(Duration::ZERO, |(seconds, nanos)| Duration::new(seconds, nanos))
}
