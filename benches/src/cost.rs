//! What processes use, as the kernel counts it.

use std::fs;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A process whose use counts, with all that it started.
#[derive(Debug, Clone)]
pub struct Process {
    /// What it is called in tables.
    pub name: String,
    /// Its number.
    pub id: u32,
}

/// Seconds of processor time.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// In the program itself.
    pub user: f64,
    /// In the kernel on its behalf.
    pub system: f64,
}

impl Cpu {
    /// Both together.
    #[must_use]
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    /// The same divided by an amount of work.
    #[must_use]
    pub fn per(self, amount: f64) -> Self {
        Self {
            user: self.user / amount,
            system: self.system / amount,
        }
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            user: self.user - other.user,
            system: self.system - other.system,
        }
    }
}

impl Process {
    /// Names a process.
    #[must_use]
    pub fn new(name: &str, id: u32) -> Self {
        Self {
            name: name.to_owned(),
            id,
        }
    }

    /// What it has started and what lives.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        children(self.id)
    }

    /// What all its threads have used so far, its children included, those that ended too.
    #[must_use]
    pub fn cpu(&self) -> Cpu {
        family(self.id)
            .into_iter()
            .filter_map(used_by)
            .fold(Cpu::default(), Add::add)
    }
}

/// Memory in KiB.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// In use, shared libraries included.
    pub resident: f64,
    /// In use by it alone.
    pub private: f64,
}

impl Process {
    /// What it has in use now, its children included.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let texts = family(self.id)
            .into_iter()
            .filter_map(|id| fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok());
        texts.fold(Memory::default(), |sum, text| {
            let found = parse_smaps(&text);
            Memory {
                resident: sum.resident + found.resident,
                private: sum.private + found.private,
            }
        })
    }
}

/// What each process used while `work` was done, and what `work` returned.
pub fn during<T>(processes: &[Process], work: impl FnOnce() -> T) -> (Vec<Cpu>, T) {
    let before: Vec<Cpu> = processes.iter().map(Process::cpu).collect();
    let done = work();
    let used = processes
        .iter()
        .zip(before)
        .map(|(process, before)| process.cpu() - before);
    (used.collect(), done)
}

/// A process and everything below it that lives.
fn family(id: u32) -> Vec<u32> {
    let mut found = vec![id];
    let mut next = 0;
    while let Some(id) = found.get(next).copied() {
        found.extend(children(id));
        next += 1;
    }
    found
}

fn children(id: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else {
        return Vec::new(); // it has ended
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

fn used_by(id: u32) -> Option<Cpu> {
    parse_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// User and system time of a `/proc/<pid>/stat` line, those of awaited children included (proc_pid_stat(5)).
fn parse_stat(line: &str) -> Option<Cpu> {
    // The name stands in brackets and may hold anything, brackets too.
    let (_name, rest) = line.rsplit_once(')')?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<f64>().ok();
    let second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    let (user, system) = (field(14)? + field(16)?, field(15)? + field(17)?);
    Some(Cpu { user, system }.per(second.into()))
}

/// Sums of `/proc/<pid>/smaps_rollup`.
fn parse_smaps(text: &str) -> Memory {
    let sum = |keys: &[&str]| {
        let values = text.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            let value = value.split_whitespace().next()?.parse::<f64>().ok()?;
            keys.contains(&key).then_some(value)
        });
        values.sum()
    };
    Memory {
        resident: sum(&["Rss"]),
        private: sum(&["Private_Clean", "Private_Dirty"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_hostile_name() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 20 30 20 0 5 0 100 1 1";
        let cpu = parse_stat(line).expect("a good line");
        assert!((cpu.user - 1.7).abs() < 1e-9, "{cpu:?}");
        assert!((cpu.system - 0.8).abs() < 1e-9, "{cpu:?}");
    }

    #[test]
    fn private_memory_is_clean_or_dirty() {
        let text = "7f00-7fff ---p 00000000 00:00 0 [rollup]\nRss: 100 kB\nPss: 90 kB\n\
                    Shared_Clean: 50 kB\nPrivate_Clean: 10 kB\nPrivate_Dirty: 30 kB\n";
        let memory = parse_smaps(text);
        assert!((memory.private - 40.0).abs() < 1e-9, "{memory:?}");
        assert!((memory.resident - 100.0).abs() < 1e-9, "{memory:?}");
    }

    #[test]
    fn this_process_has_used_something() {
        let me = Process::new("me", std::process::id());
        let (used, ()) = during(&[me], || {
            let begun = std::time::Instant::now();
            while begun.elapsed() < std::time::Duration::from_millis(200) {}
        });
        assert!(used.first().is_some_and(|cpu| cpu.total() > 0.0));
    }
}
