//! Log lines on their way to stderr: through a bounded queue and a thread of its own, because a pipe that nobody reads
//! blocks whoever writes into it.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tokio::sync::oneshot;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait. At some 500 bytes a line, 2 MiB.
const QUEUE: usize = 4096;
/// How long [`LineWriter::flush`] waits for stderr.
const PATIENCE: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(oneshot::Sender<()>),
}

#[derive(Clone)]
pub(super) struct LineWriter {
    queue: SyncSender<Message>,
    dropped: DroppedLines,
    /// Set by the last flush: there may be no time left for a thread to write.
    direct: Arc<AtomicBool>,
}

impl LineWriter {
    /// Starts the thread, which lives as long as a clone of the writer.
    pub(super) fn start() -> io::Result<(Self, DroppedLines)> {
        Self::start_into(io::stderr())
    }

    fn start_into(output: impl Write + Send + 'static) -> io::Result<(Self, DroppedLines)> {
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&lines, output))?;
        let dropped = DroppedLines::default();
        Ok((Self { queue, dropped: dropped.clone(), direct: Arc::default() }, dropped))
    }

    /// Waits, within reason, until what was queued is written; from then on lines are written directly.
    pub(super) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        self.direct.store(true, Ordering::Relaxed);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            // Silence on both counts: neither a stuck stderr nor a dead thread could be told of.
            drop(tokio::time::timeout(PATIENCE, written).await);
        }
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { writer: self }
    }
}

/// One event's line: the formatter writes it in one piece.
pub(super) struct Line<'a> {
    writer: &'a LineWriter,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.writer.direct.load(Ordering::Relaxed) {
            return io::stderr().write(line);
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.writer.queue.try_send(Message::Line(line.to_vec()))
        {
            self.writer.dropped.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Default)]
pub(super) struct DroppedLines(Arc<AtomicU64>);

impl DroppedLines {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes each line directly, for processes that end before a thread would come to it.
pub(super) struct StderrLines;

impl MakeWriter<'_> for StderrLines {
    type Writer = io::Stderr;

    fn make_writer(&self) -> io::Stderr {
        io::stderr()
    }
}

fn write_all(lines: &Receiver<Message>, mut output: impl Write) {
    for message in lines {
        match message {
            // A closed stderr must not end the gateway, and there is nowhere else to say it.
            Message::Line(line) => drop(output.write_all(&line)),
            Message::Flush(done) => drop((output.flush(), done.send(()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// An output that takes nothing until it is opened.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<(bool, usize)>, Condvar)>);

    impl Gate {
        fn open(&self) {
            self.0.0.lock().unwrap().0 = true;
            self.0.1.notify_all();
        }

        fn lines(&self) -> usize {
            self.0.0.lock().unwrap().1
        }
    }

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |state| !state.0).unwrap();
            state.1 += 1;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_stuck_stderr_drops_lines_and_counts_them_instead_of_blocking() {
        let gate = Gate::default();
        let (writer, dropped) = LineWriter::start_into(gate.clone()).unwrap();
        for _ in 0..QUEUE + 100 {
            writer.make_writer().write_all(b"line\n").unwrap();
        }
        // The thread has taken at most one line out of the queue.
        assert!((99..=100).contains(&dropped.count()), "{}", dropped.count());
        gate.open();
        while writer.queue.try_send(Message::Line(Vec::new())).is_err() {
            tokio::task::yield_now().await;
        }
        // It finds no room if the thread has not come far yet.
        writer.flush().await;
        let written = async {
            while gate.lines() < QUEUE {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), written).await;
        assert!(in_time.is_ok(), "{}", gate.lines());
    }
}
