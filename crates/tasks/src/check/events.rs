//! What must hold of streams and events.

use std::collections::{BTreeMap, BTreeSet};

use super::rows;
use crate::machine::Machine;
use crate::rows::{Remains, StreamRow, key, read_event};
use crate::{Fault, Read};

impl Machine {
    /// Every stream has the rows it says, no more; memory knows them all.
    pub(super) fn check_events(&self, store: &dyn Read) -> Result<(), String> {
        let text = |malformed: crate::codec::Malformed| Fault::from(malformed).what;
        let mut spans: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let (mut streams, mut remains, mut surplus) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (key, value) in rows(store, b'V').map_err(|fault| fault.what)? {
            match key[1] {
                0 => {
                    let row = StreamRow::read(&value).map_err(text)?;
                    streams.insert(key::read_stream(&key).map_err(text)?, row);
                }
                1 => {
                    let (stream, sequence) = key::read_event(&key).map_err(text)?;
                    let event = read_event(sequence, &value).map_err(text)?;
                    ensure!(
                        event.at <= self.meta.now,
                        "event {sequence} of stream {stream} is in the future"
                    );
                    found.entry(stream).or_default().push(sequence);
                }
                _ => {
                    let stream = key::read_remains(&key).map_err(text)?;
                    let row = Remains::read(&value).map_err(text)?;
                    ensure!(row.first < row.end, "closed stream {stream} is kept for nothing");
                    ensure!(spans.insert(stream, (row.first, row.end)).is_none(), "stream {stream} twice");
                    remains.insert(stream, row);
                }
            }
        }
        ensure!(
            remains == self.streams.remains,
            "closed streams {remains:?}, not {:?}",
            self.streams.remains
        );
        for (number, queue) in (0..).zip(&self.queues) {
            let Some(queue) = queue else { continue };
            let row = streams.remove(&number);
            let in_memory = queue.stream.as_ref().map(|stream| stream.row);
            ensure!(row == in_memory, "queue {}: stream {in_memory:?}, on disk {row:?}", queue.name);
            ensure!(
                queue.stream.as_ref().is_none_or(|stream| !stream.changed),
                "queue {}: a stream not written",
                queue.name
            );
            let Some(row) = row else { continue };
            // Settings of before there were streams have none until the first event.
            ensure!(row.kept == queue.effective.events, "queue {} keeps {} events", queue.name, row.kept);
            ensure!((row.stream > 0) == (row.kept > 0), "queue {}: {row:?}", queue.name);
            ensure!(row.stream < self.meta.next_token, "stream {} was not given out yet", row.stream);
            ensure!(row.stream > 0 || row.first == row.next, "queue {} has events of no stream", queue.name);
            if row.surplus() > 0 {
                surplus.insert(number);
            }
            if row.stream > 0 {
                ensure!(
                    spans.insert(row.stream, (row.first, row.next)).is_none(),
                    "stream {} twice",
                    row.stream
                );
            }
        }
        ensure!(streams.is_empty(), "streams of no queue: {streams:?}");
        ensure!(surplus == self.streams.surplus, "surplus in {surplus:?}, not {:?}", self.streams.surplus);
        for (stream, (first, end)) in spans {
            let found = found.remove(&stream).unwrap_or_default();
            ensure!(
                found.iter().copied().eq(first..end),
                "stream {stream} has {found:?}, not {first}..{end}"
            );
        }
        ensure!(found.is_empty(), "events of no stream: {found:?}");
        Ok(())
    }
}
