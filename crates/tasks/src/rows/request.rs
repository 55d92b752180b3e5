//! Values of the request rows: what a create answered, so that its repeat can be told the same.

use z4_types::{Millis, TaskId};

use crate::codec::{Malformed, Reader, put_len, put_u32, put_u64, put_u128};

const VERSION: u8 = 1;
const RUN: u8 = 1;
const LIST: u8 = 2;

/// A remembered answer: ids in the order of the tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// When the create was applied.
    pub(crate) at: Millis,
    pub(crate) ids: Vec<TaskId>,
}

/// Appends the answer of a create whose `count` ids follow each other; the usual case, in 33 bytes.
pub(crate) fn write_run(at: Millis, first: TaskId, count: u32, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(out, at.0);
    out.push(RUN);
    put_u128(out, first.0);
    put_u32(out, count);
}

/// Appends the answer of a create some of whose tasks were repeats themselves.
pub(crate) fn write_list(at: Millis, ids: impl ExactSizeIterator<Item = TaskId>, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(out, at.0);
    out.push(LIST);
    put_len(out, ids.len());
    ids.for_each(|id| put_u128(out, id.0));
}

impl Remembered {
    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("request version")? != VERSION {
            return Err(Malformed("unknown request version"));
        }
        let at = Millis(reader.u64("request time")?);
        let ids = match reader.u8("request kind")? {
            RUN => {
                let first = reader.u128("first id")?;
                let count = reader.u32("id count")?;
                (0..u128::from(count)).map(|offset| TaskId(first.wrapping_add(offset))).collect()
            }
            LIST => {
                let count = reader.u32("id count")?;
                if count as usize > reader.len() / 16 {
                    return Err(Malformed("id count exceeds its bytes"));
                }
                (0..count).map(|_| reader.u128("id").map(TaskId)).collect::<Result<_, _>>()?
            }
            _ => return Err(Malformed("unknown request kind")),
        };
        reader.end("bytes behind a request")?;
        Ok(Self { at, ids })
    }
}
