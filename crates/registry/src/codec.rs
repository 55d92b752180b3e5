//! Bytes of the registry and its commands (`docs/FORMATS.md`, "Registry"): what both are made of.
//!
//! One value has one encoding, and only that is read back.

mod command;
mod registry;

use std::collections::BTreeMap;

use z4_types::HostId;

const VERSION: u8 = 1;

/// The bytes are not a registry (or command) of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry cannot be read: {0}")]
pub struct Malformed(&'static str);

struct Output(Vec<u8>);

impl Output {
    fn versioned() -> Self {
        Self(vec![VERSION])
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn tags(&mut self, tags: &BTreeMap<String, String>) {
        self.list(tags, |out, (key, value)| {
            out.text(key);
            out.text(value);
        });
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Self, T)) {
        let at = self.0.len();
        self.u32(0);
        let mut count = 0;
        for each in items {
            item(self, each);
            count += 1;
        }
        self.0[at..at + 4].copy_from_slice(&Self::counted(count));
    }

    fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&Self::counted(count));
    }

    fn counted(count: usize) -> [u8; 4] {
        u32::try_from(count).expect("a registry is small").to_le_bytes()
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn versioned(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::of(bytes, VERSION).map(|(input, _)| input)
    }

    /// Returns what stands behind the version, which is at most `newest`, and the version.
    fn of(bytes: &'a [u8], newest: u8) -> Result<(Self, u8), Malformed> {
        match bytes.split_first() {
            Some((&version, rest)) if (VERSION..=newest).contains(&version) => Ok((Self(rest), version)),
            Some(_) => Err(Malformed("written by a newer version")),
            None => Err(Malformed("no bytes")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed("cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        let [value] = self.array()?;
        Ok(value)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn u128(&mut self) -> Result<u128, Malformed> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let len = self.u32()? as usize;
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed("cut short"))?;
        self.0 = tail;
        Ok(head.to_vec())
    }

    fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?).map_err(|_| Malformed("text is not UTF-8"))
    }

    fn host(&mut self) -> Result<HostId, Malformed> {
        self.text().map(HostId)
    }

    fn tags(&mut self) -> Result<BTreeMap<String, String>, Malformed> {
        let pairs = self.list(|input| Ok((input.text()?, input.text()?)))?;
        if pairs.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(Malformed("tags are not in order"));
        }
        Ok(pairs.into_iter().collect())
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()?;
        // Grows as items are found: a wrong count must not reserve memory.
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}
