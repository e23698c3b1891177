//! Puts together what a read becomes: one slice of it wherever that is possible.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

pub(super) struct Assembly<'a> {
    read: &'a Bytes,
    /// Events of the read that stand side by side and leave as they came.
    run: Range<usize>,
    first: Bytes,
    joined: BytesMut,
}

impl<'a> Assembly<'a> {
    pub(super) fn new(read: &'a Bytes) -> Self {
        Self { read, run: 0..0, first: Bytes::new(), joined: BytesMut::new() }
    }

    /// A part of the read, as it is.
    pub(super) fn forward(&mut self, range: Range<usize>) {
        if self.run.is_empty() || self.run.end != range.start {
            self.end_run();
            self.run = range;
        } else {
            self.run.end = range.end;
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.end_run();
        self.append(bytes);
    }

    pub(super) fn into_bytes(mut self) -> Bytes {
        self.end_run();
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if !run.is_empty() {
            self.append(self.read.slice(run));
        }
    }

    fn append(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else if !bytes.is_empty() {
            if self.joined.is_empty() {
                self.joined.extend_from_slice(&self.first);
            }
            self.joined.extend_from_slice(&bytes);
        }
    }
}
