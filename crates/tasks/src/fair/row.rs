//! The row of a group (`docs/FORMATS.md`, "Groups").
//!
//! Everything a choice depends on is in the rows, but for limits, which are settings. Row 0 holds the tags of the
//! tasks without a group, and the queue's virtual times; their lines are the queue's, and fed.

use std::sync::Arc;

use z4_types::{Duration, Millis};

use super::few::Few;
use super::group::{Group, Line, Tags};
use super::limits::{Bucket, GroupLimits};
use super::{Groups, NUMBERS_MAX, Number, hash};
use crate::codec::{Malformed, Reader, put_u32, put_u64, put_u128};

const VERSION: u8 = 1;

impl Groups {
    /// Gives every row that changed since the last call to `put`, in order of number; None: delete it.
    pub(crate) fn write(&mut self, mut put: impl FnMut(Number, Option<&[u8]>)) {
        let mut row = Vec::with_capacity(128);
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        for number in dirty.drain(..) {
            let Some(group) = &mut self.slots[number as usize] else {
                put(Number(number), None);
                continue;
            };
            group.is_dirty = false;
            row.clear();
            write_group(group, number == 0, &mut row);
            if number == 0 {
                write_tags(&self.times, &mut row);
            }
            put(Number(number), Some(&row));
        }
        // Its room is used again.
        self.dirty = dirty;
    }

    /// Returns the row of every group, and row 0, as they are now.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Number, Vec<u8>)> {
        let slots = (0..).zip(&self.slots);
        slots.filter_map(|(number, slot)| {
            let mut row = Vec::new();
            write_group(slot.as_deref()?, number == 0, &mut row);
            if number == 0 {
                write_tags(&self.times, &mut row);
            }
            Some((Number(number), row))
        })
    }

    /// Returns whether nothing was served since the first group came: there is no row 0.
    pub(crate) fn is_unserved(&self) -> bool {
        self.times.set.is_empty() && self.slots[0].as_ref().is_some_and(|group| group.tags.set.is_empty())
    }

    /// Rebuilds groups from their rows, in ascending order of number. `limits` gives those of a name. What waits
    /// without a group is fed afterwards.
    ///
    /// # Errors
    /// If the bytes of a row are not a group's.
    pub(crate) fn rebuild<'r>(
        ageing: Option<Duration>,
        rows: impl Iterator<Item = (Number, &'r [u8])>,
        limits: impl Fn(&str) -> Arc<GroupLimits>,
        now: Millis,
    ) -> Result<Self, Malformed> {
        let mut groups = Self::new(ageing);
        // Sets are built at once: a million insertions one by one would take four times as long.
        let (mut names, mut ready, mut later, mut idle) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, row) in rows {
            let mut group = groups.load(number, row, &limits)?;
            if number != Number::UNGROUPED {
                let verdict = group.judge(number.0, ageing, now);
                (group.ready, group.again) = (verdict.ready, verdict.again);
                names.push((hash(&group.name), number.0));
                ready.extend(group.ready);
                later.extend((group.again != Millis::NEVER).then_some((group.again, number.0)));
                idle.extend((!group.is_open()).then_some((group.keep_until, number.0)));
            }
            groups.slots[number.0 as usize] = Some(Box::new(group));
        }
        groups.names = names.into_iter().collect();
        groups.ready = ready.into_iter().collect();
        groups.later = later.into_iter().collect();
        groups.idle = idle.into_iter().collect();
        let twins = groups.names.iter().zip(groups.names.iter().skip(1));
        for ((_, one), (_, other)) in twins.filter(|(one, other)| one.0 == other.0) {
            if groups.slots[*one as usize].as_ref().map(|group| &group.name)
                == groups.slots[*other as usize].as_ref().map(|group| &group.name)
            {
                return Err(Malformed("two groups have one name"));
            }
        }
        Ok(groups)
    }

    /// Reads a row, and makes its slot and those before it.
    fn load(
        &mut self,
        number: Number,
        row: &[u8],
        limits: impl Fn(&str) -> Arc<GroupLimits>,
    ) -> Result<Group, Malformed> {
        let mut reader = Reader::new(row);
        let group = read_group(&mut reader, limits)?;
        if number == Number::UNGROUPED {
            self.times = read_tags(&mut reader)?;
            reader.end("bytes behind a group")?;
            if !group.name.is_empty() || group.is_open() {
                return Err(Malformed("group row 0 is not of the tasks without a group"));
            }
            return Ok(group);
        }
        reader.end("bytes behind a group")?;
        let known = u32::try_from(self.slots.len()).expect("numbers are 32 bits");
        if number.0 < known || number.0 >= NUMBERS_MAX || group.name.is_empty() {
            return Err(Malformed("a group's number or name"));
        }
        if group.is_open() != (group.keep_until == Millis(0)) {
            return Err(Malformed("a group's end"));
        }
        // Holes are numbers to use again.
        self.free.extend(known..number.0);
        self.slots.resize_with(number.0 as usize + 1, || None);
        Ok(group)
    }
}

fn write_group(group: &Group, ungrouped: bool, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.push(u8::try_from(group.name.len()).expect("a group's name has at most 255 bytes"));
    out.extend_from_slice(group.name.as_bytes());
    put_u32(out, group.leased);
    put_u64(out, group.bucket.full_at);
    put_u64(out, group.blocked_until.0);
    put_u64(out, group.keep_until.0);
    let lines: &[Line] = if ungrouped { &[] } else { &group.lines };
    put_count(lines.len(), out);
    for line in lines {
        let (at, id) = line.head();
        out.push(line.priority);
        put_u64(out, line.waiting);
        put_u64(out, at);
        put_u128(out, id);
    }
    write_tags(&group.tags, out);
}

fn read_group(
    reader: &mut Reader<'_>,
    limits: impl Fn(&str) -> Arc<GroupLimits>,
) -> Result<Group, Malformed> {
    if reader.u8("group version")? != VERSION {
        return Err(Malformed("unknown group version"));
    }
    let len = reader.u8("group name length")?;
    let name = reader.text(len.into(), "group name")?;
    let limits = if name.is_empty() { Arc::new(GroupLimits::default()) } else { limits(name) };
    let mut group = Group::new(name, limits);
    group.leased = reader.u32("group leased")?;
    group.bucket = Bucket { full_at: reader.u64("group bucket")? };
    group.blocked_until = Millis(reader.u64("group blocked until")?);
    group.keep_until = Millis(reader.u64("group keep until")?);
    let mut lines: Vec<Line> = Vec::new();
    for _ in 0..reader.u16("group lines")? {
        let priority = reader.u8("group line priority")?;
        let waiting = reader.u64("group line count")?;
        let head = (reader.u64("group line head")?, reader.u128("group line head")?);
        if waiting == 0 || lines.last().is_some_and(|line| line.priority >= priority) {
            return Err(Malformed("group lines"));
        }
        lines.push(Line::new(priority, waiting, head));
    }
    group.lines.replace(lines.into_iter());
    group.tags = read_tags(reader)?;
    Ok(group)
}

fn write_tags(tags: &Tags, out: &mut Vec<u8>) {
    put_count(tags.set.len(), out);
    for (class, value) in tags.set.iter() {
        out.push(*class);
        put_u64(out, *value);
    }
}

fn read_tags(reader: &mut Reader<'_>) -> Result<Tags, Malformed> {
    let mut set: Vec<(u8, u64)> = Vec::new();
    for _ in 0..reader.u16("group tags")? {
        let tag = (reader.u8("group tag class")?, reader.u64("group tag")?);
        if tag.1 == 0 || set.last().is_some_and(|last| last.0 >= tag.0) {
            return Err(Malformed("group tags"));
        }
        set.push(tag);
    }
    let mut few = Few::None;
    few.replace(set.into_iter());
    Ok(Tags { set: few })
}

/// There are 256 priorities.
fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(count).expect("at most one of each priority").to_le_bytes());
}
