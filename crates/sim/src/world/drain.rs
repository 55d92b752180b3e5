//! The end of a run: heal, ask everything again, drain, cut the power once more, and count.
//!
//! # Invariants
//! - With consumers that always have room, no task is delivered later than the first pass after it became due.

use super::{Checked, Event, Fault, Faults, QueueStats, World, ensure};
use z4_env::Rng;

use crate::shell::Shell;

/// Credit that never binds.
const PLENTY: u32 = 10_000;
/// Rounds of the drain; their steps double, so this is years.
const ROUNDS_MAX: u32 = 80;
/// First and longest step of time, milliseconds: the longest is what a retry waits at most, and more.
const STEP_MS: (u64, u64) = (500, 12 * 3_600_000);
/// After so many milliseconds the host looks again whether deliveries were taken; a little more.
const OUTBOX_MS: u64 = 12;
/// After so many milliseconds the host has tried a failed checkpoint again; a little more.
const RETRY_MS: u64 = 1_100;
/// Attempts to get through one part although errors armed earlier still strike.
const TRIES_MAX: u32 = 40;

impl World {
    pub(super) fn drain(&mut self) -> Checked {
        self.note(format_args!("heal"));
        self.healed = true;
        self.disk.set_faults(Faults::default());
        self.disk.set_capacity(None);
        self.disk.disarm();
        self.close_lively();
        if self.rng.chance(1, 2) {
            let result = self.act(Event::PowerLoss);
            self.after(result)?;
        }
        self.verify()?;
        self.ask_again()?;
        self.deliver_all()?;
        self.note(format_args!("last loss of power"));
        let result = self.act(Event::PowerLoss);
        self.after(result)?;
        self.verify()?;
        self.ask_again()?;
        self.deliver_all()?;
        self.calm_lively()?;
        self.scan()?;
        self.reached.reach("drained");
        Ok(())
    }

    /// Runs `part` until it gets through: an error that was armed before may still end the host.
    pub(super) fn through(&mut self, mut part: impl FnMut(&mut Self) -> Result<(), Fault>) -> Checked {
        for _ in 0..TRIES_MAX {
            let life = self.life;
            let mut result = part(self);
            if result.is_ok() && self.disk.is_up() {
                result = self.shell().rest();
            }
            self.after(result)?;
            if self.life == life {
                return Ok(());
            }
        }
        ensure!(false, "LIVE", "the healed host died {TRIES_MAX} times in a row");
        Ok(())
    }

    fn ready(&mut self) -> Checked {
        self.through(|_| Ok(()))
    }

    /// Lets a host that met a full disk try its checkpoint again: creates, and full working sets, wait for it.
    fn settle(&mut self) -> Checked {
        self.clock.step_ms(RETRY_MS);
        self.ready()
    }

    /// The healed host leads everything, and its rows agree.
    fn verify(&mut self) -> Checked {
        self.settle()?;
        ensure!(
            self.recovered,
            "LIVE",
            "a healed host does not lead its shards: {:?}",
            self.shell().driver.status()
        );
        self.check_rows()
    }

    /// Creates of unknown outcome are sent until they are answered.
    fn ask_again(&mut self) -> Checked {
        for _ in 0..TRIES_MAX {
            self.settle()?;
            if self.clients.unfinished.is_empty() {
                return Ok(());
            }
            for _ in 0..self.clients.unfinished.len() {
                self.through(|world| {
                    let Self { clients, model, reached, shell, .. } = world;
                    clients.retry(running(shell), model, reached);
                    Ok(())
                })?;
            }
        }
        ensure!(false, "LIVE", "{} creates are still refused", self.clients.unfinished.len());
        Ok(())
    }

    fn deliver_all(&mut self) -> Checked {
        let mut step = STEP_MS.0;
        self.none_due_before = None;
        let mut life = 0;
        for _ in 0..ROUNDS_MAX {
            if life != self.life {
                // New, or died under it: everybody connects, and what piled up is late for a reason.
                self.none_due_before = None;
                life = self.life;
                self.through(|world| {
                    for queue in 0..world.clients.queues.len() {
                        let id = world.clients.open(running(&mut world.shell), Some(queue));
                        world.clients.credit(running(&mut world.shell), Some(id), Some(PLENTY));
                    }
                    Ok(())
                })?;
                continue;
            }
            self.ack_everything()?;
            if self.count()? == 0 {
                self.none_due_before = None;
                return Ok(());
            }
            if life == self.life {
                self.none_due_before = Some(self.shell().earliest());
            }
            self.clock.step_ms(step);
            step = (step * 2).min(STEP_MS.1);
            self.ready()?;
        }
        let left = self.counted;
        ensure!(false, "LIVE", "after {ROUNDS_MAX} rounds there is still something: {left:?}");
        Ok(())
    }

    fn ack_everything(&mut self) -> Checked {
        // A tiny outbox takes one task at a time, also of creates whose outcome is unknown.
        for _ in 0..u64::from(TRIES_MAX) + self.model.wanted() {
            if self.clients.held.is_empty() {
                return Ok(());
            }
            // Leasing may wait for what is on its way to be taken.
            self.clock.step_ms(OUTBOX_MS);
            self.through(|world| {
                let Self { clients, shell, .. } = world;
                clients.ack_all(running(shell));
                let consumers: Vec<_> = clients.consumers.keys().copied().collect();
                for id in consumers {
                    clients.credit(running(shell), Some(id), Some(PLENTY));
                }
                Ok(())
            })?;
        }
        ensure!(false, "LIVE", "the same tasks come again and again: {:?}", self.clients.held);
        Ok(())
    }

    /// Asks for all counters; returns how many tasks wait or are leased.
    fn count(&mut self) -> Result<u64, super::Violation> {
        self.through(|world| {
            world.counted = QueueStats::default();
            let Self { clients, shell, .. } = world;
            clients.count(running(shell));
            Ok(())
        })?;
        Ok(self.counted.waiting + self.counted.leased)
    }

    /// Everything that is left is listed, and everything that ever was is counted.
    fn scan(&mut self) -> Checked {
        for queue in 0..self.clients.queues.len() {
            self.through(|world| {
                let Self { clients, shell, .. } = world;
                clients.list(running(shell), Some(queue));
                Ok(())
            })?;
        }
        self.count()?;
        self.model.check_counters(&self.counted)?;
        self.check_rows()
    }
}

fn running(shell: &mut Option<Shell>) -> &mut Shell {
    shell.as_mut().expect("a host that died was started again")
}
