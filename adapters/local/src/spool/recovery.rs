//! Reads a spool that another process has left behind.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use ai4free_ports::{request::RequestId, usage_ledger::SpoolId};

use super::{
    record::{self, Closed, Front, Intent, Record},
    segment::{self, HEADER, Header, Segment},
};

/// Of files with what can't be read.
const SET_ASIDE: &str = "corrupt";

/// A spool as its files tell it.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Segment>,
    /// The number of the last segment file, whatever was in it.
    pub(super) last_number: u64,
    /// Requests that were opened and not closed, by their id.
    pub(super) open: Vec<Intent>,
    /// The number of the next event.
    pub(super) next: u64,
    /// From this number on, events were written by processes that did not know where the ledger stood.
    pub(super) unconfirmed_from: Option<u64>,
}

/// Reads all segments in order, cuts torn tails and sets damage aside.
pub(super) fn recover(directory: &Path, spool: SpoolId) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut open = BTreeMap::new();
    for (number, path) in segment::list(directory)? {
        recovered.last_number = number;
        let bytes = fs::read(&path)?;
        match Header::decode(&bytes).filter(|header| header.spool == spool && header.number == number) {
            Some(header) => {
                let segment = recovered.read_segment(&mut open, header, path, &bytes)?;
                recovered.segments.push(segment);
            }
            None if bytes.len() <= HEADER => fs::remove_file(&path)?, // the process died while it made the file
            None => set_aside(&path, &bytes, 0)?,
        }
    }
    recovered.open = open.into_values().collect();
    Ok(recovered)
}

/// All closes of these segments, in order.
pub(super) fn closes(segments: &[Segment]) -> io::Result<Vec<Closed>> {
    let mut found = Vec::new();
    for segment in segments {
        let bytes = read_good(segment)?;
        let mut rest = bytes.get(HEADER..).unwrap_or_default();
        while let Front::Frame { kind, payload, length } = record::front(rest) {
            if let Ok(Record::Close(closed)) = record::decode(kind, payload) {
                found.push(closed);
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok(found)
}

pub(super) fn read_good(segment: &Segment) -> io::Result<Vec<u8>> {
    let mut bytes = fs::read(&segment.path)?;
    bytes.truncate(usize::try_from(segment.length).unwrap_or(usize::MAX));
    Ok(bytes)
}

type Opened = BTreeMap<RequestId, Intent>;

impl Recovered {
    fn read_segment(&mut self, open: &mut Opened, header: Header, path: PathBuf, bytes: &[u8]) -> io::Result<Segment> {
        if header.unconfirmed {
            self.unconfirmed_from.get_or_insert(header.first);
        }
        self.next = header.first;
        let mut good = HEADER;
        loop {
            match record::front(bytes.get(good..).unwrap_or_default()) {
                Front::End => break,
                Front::Frame { kind, payload, length } => {
                    let Some(record) = record::decode(kind, payload).ok().filter(|record| self.fits(record)) else {
                        set_aside(&path, bytes, good)?;
                        break;
                    };
                    self.apply(open, record);
                    good += length;
                }
                Front::Torn if record::is_last(bytes.get(good..).unwrap_or_default()) => {
                    tracing::warn!(path = %path.display(), at = good, bytes = bytes.len() - good,
                        "cut a torn record off the end of a usage journal segment");
                    File::options().write(true).open(&path)?.set_len(good as u64)?;
                    break;
                }
                Front::Torn | Front::Corrupt => {
                    set_aside(&path, bytes, good)?;
                    break;
                }
            }
        }
        let (number, first, end) = (header.number, header.first, self.next);
        Ok(Segment { number, path, first, end, length: good as u64, drained_at: None })
    }

    /// Whether a close has the number that its place says and events that can be read.
    fn fits(&self, record: &Record) -> bool {
        match record {
            Record::Close(closed) => closed.from == self.next && closed.decode().is_ok(),
            Record::Open(_) | Record::Check(_) | Record::Attached => true,
        }
    }

    fn apply(&mut self, open: &mut Opened, record: Record) {
        match record {
            Record::Open(intent) => {
                open.insert(intent.bound.request, *intent);
            }
            Record::Check(checkpoint) => {
                if let Some(intent) = open.get_mut(&checkpoint.request) {
                    intent.checkpoint = Some(checkpoint);
                }
            }
            Record::Close(closed) => {
                open.remove(&closed.request);
                self.next = closed.end();
            }
            Record::Attached => self.unconfirmed_from = None,
        }
    }
}

/// Whether something in this directory could ever not be read.
pub(super) fn is_damaged(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if entry?.path().extension().is_some_and(|extension| extension == SET_ASIDE) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Keeps what can't be read in a file beside the segment, for a human, and cuts it off.
fn set_aside(path: &Path, bytes: &[u8], from: usize) -> io::Result<()> {
    let aside = path.with_extension(format!("seg.{SET_ASIDE}"));
    fs::write(&aside, bytes.get(from..).unwrap_or_default())?;
    tracing::error!(path = %path.display(), at = from, kept = %aside.display(),
        "a usage journal segment is damaged: what follows the damage was set aside and is not in the ledger");
    if from == 0 { fs::remove_file(path) } else { File::options().write(true).open(path)?.set_len(from as u64) }
}
