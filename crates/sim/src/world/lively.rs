//! The lively queues of one host.

use z4_env::{Clock, SeededRng};
use z4_host::{Permit, Write};
use z4_types::{Millis, ShardId};

use super::{Checked, Violation, World, ensure};
use crate::clock::SimClock;
use crate::lively::Hosts;
use crate::shell::Shell;

/// Rounds of the end without anything coming of them; their steps double, so this is years.
const IDLE_ROUNDS_MAX: u32 = 60;
/// First and longest step of time, milliseconds.
const STEP_MS: (u64, u64) = (500, 12 * 3_600_000);
/// After so many milliseconds the host looks again whether deliveries were taken; a little more.
const OUTBOX_MS: u64 = 12;

/// The one host there is.
struct One<'a> {
    shell: &'a mut Shell,
    clock: &'a SimClock,
}

impl Hosts for One<'_> {
    fn leader(&mut self, _shard: ShardId, _rng: &mut SeededRng) -> Option<usize> {
        Some(0)
    }

    fn permit(&mut self, _host: usize, bytes: usize, freeing: bool) -> Option<Permit> {
        let budget = &self.shell.budget;
        if freeing { budget.take_freeing(bytes) } else { budget.take(bytes) }
    }

    fn write(&mut self, _host: usize, shard: ShardId, write: Write) -> bool {
        self.shell.write(shard, write);
        true
    }

    fn wall(&self) -> Millis {
        self.clock.wall()
    }
}

impl World {
    /// Somebody may want something of lively queues.
    pub(super) fn act_lively(&mut self) {
        let Self { lively, shell, clock, .. } = self;
        let shell = shell.as_mut().expect("a host that died was started again");
        lively.act(&mut One { shell, clock });
    }

    /// Judges what the log says, and reads the mail.
    pub(super) fn follow_lively(&mut self) -> Checked {
        self.lively.follow(&mut self.reached)?;
        for line in self.lively.listen(|_| true)? {
            self.note(format_args!("{line}"));
        }
        Ok(())
    }

    /// Compares the host's rows with those of machines that never restarted.
    pub(super) fn compare_lively(&mut self) -> Checked {
        let shell = self.shell.as_mut().expect("it runs");
        match self.lively.compare(&mut shell.driver) {
            Ok(seen) => seen,
            Err(_) if !self.disk.is_up() || self.has_eio() => Ok(()),
            Err(what) => Err(Violation::new("FAULT", format!("rows cannot be read for no reason: {what}"))),
        }
    }

    /// Disconnects the consumers of lively queues.
    pub(super) fn close_lively(&mut self) {
        let Self { lively, shell, clock, .. } = self;
        let shell = shell.as_mut().expect("a host that died was started again");
        lively.close_all(&mut One { shell, clock });
    }

    /// Takes everything back that keeps tasks from being delivered, and delivers them.
    pub(super) fn calm_lively(&mut self) -> Checked {
        if !self.lively.is_on() {
            return Ok(());
        }
        let (mut idle, mut step) = (0, STEP_MS.0);
        while idle < IDLE_ROUNDS_MAX {
            let before = self.lively.progress();
            self.clock.step_ms(OUTBOX_MS);
            self.through(|world| {
                let World { lively, shell, clock, .. } = world;
                let shell = shell.as_mut().expect("a host that died was started again");
                lively.calm(&mut One { shell, clock: &*clock });
                Ok(())
            })?;
            if self.lively.open() == 0 && self.lively.waiting() == 0 {
                return self.lively.end(&mut self.reached);
            }
            if self.lively.progress() == before {
                idle += 1;
                self.clock.step_ms(step);
                step = (step * 2).min(STEP_MS.1);
            } else {
                (idle, step) = (0, STEP_MS.0);
            }
        }
        let left = self.lively.open();
        ensure!(false, "LIVE", "{left} tasks of lively queues are left: {}", self.lively.left());
        Ok(())
    }
}
