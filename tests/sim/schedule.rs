//! What happens in one schedule: drawn from its seed, run, and made shorter when it fails.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::chance::Chance;
use crate::net::Fate;
use crate::promise::Broken;
use crate::world::{Act, World};

/// Acts a person or a healthy machine does, and how often.
const ORDINARY: [(Act, usize); 7] = [
    (Act::Write, 30),
    (Act::Sync, 22),
    (Act::Proceed, 22),
    (Act::Finish, 14),
    (Act::Read, 2),
    (Act::TimePasses, 3),
    (Act::Join, 1),
];

/// Acts of fate. A schedule has some of them, so that rare ones meet often.
const FATEFUL: [(Act, usize); 30] = [
    (Act::FullSync, 3),
    (Act::Check, 2),
    (Act::Kill, 5),
    (Act::PowerCut, 5),
    (Act::StopSoon, 6),
    (Act::DiskFull, 3),
    (Act::DiskFails, 4),
    (Act::DiskHeals, 5),
    (Act::Rot, 2),
    (Act::LoseFile, 2),
    (Act::ClockJump, 4),
    (Act::ClockFar, 3),
    (Act::TakeImage, 4),
    (Act::Restore, 2),
    (Act::Copy, 2),
    (Act::Destroy, 2),
    (Act::Join, 2),
    (Act::MirrorImage, 3),
    (Act::MirrorBack, 2),
    (Act::MirrorLoses, 2),
    (Act::MirrorRots, 2),
    (Act::MirrorCuts, 2),
    (Act::MirrorEmptied, 2),
    (Act::MirrorSwapped, 1),
    (Act::Arrive, 4),
    (Act::NewerProgram, 1),
    (Act::ChangeSecret, 5),
    (Act::MonthsPass, 3),
    (Act::Season, 4),
    (Act::RetireDevice, 4),
];

/// From this seed on the vaults of a schedule are mirrored while they are locked too.
pub const UNATTENDED: u64 = 1 << 40;

/// One schedule, drawn from a seed.
#[derive(Debug, Clone)]
pub struct Schedule {
    seed: u64,
    devices: usize,
    replicated: bool,
    unattended: bool,
    trouble: usize,
    fates: Vec<Fate>,
    /// Each with the chance it is done with, so that leaving one out leaves the others as they are.
    pub acts: Vec<(Act, u64)>,
}

/// What came of a schedule.
pub struct Run {
    pub broken: Option<String>,
    /// The whole history as a number.
    pub trace: u64,
    pub counts: BTreeMap<String, u64>,
}

impl Schedule {
    pub fn new(seed: u64) -> Self {
        let chance = Chance::new(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ 0x5DEE_CE66);
        let devices = 2 + chance.below(3);
        let replicated = chance.per_mille(200);
        let trouble = [0, 0, 10, 50, 150, 300][chance.below(6)];
        let mut fates = Fate::ALL[1..].to_vec();
        let kinds = 1 + chance.below(fates.len());
        while fates.len() > kinds {
            fates.swap_remove(chance.below(fates.len()));
        }
        let mut menu = ORDINARY.to_vec();
        let themes = chance.below(10);
        menu.extend((0..themes).filter_map(|_| chance.pick(&FATEFUL).copied()));
        if replicated {
            menu.push((Act::Replicate, 25));
        }
        let unattended = seed >= UNATTENDED;
        if unattended {
            menu.push((Act::SyncLocked, 30));
        }
        let total = menu.iter().map(|(_, weight)| weight).sum::<usize>();
        let count = 8 + chance.below(50);
        let acts = (0..count).map(|_| {
            let mut at = chance.below(total);
            let act = menu.iter().find(|(_, weight)| match at < *weight {
                true => true,
                false => {
                    at -= weight;
                    false
                }
            });
            (act.expect("the weights add up").0, chance.next())
        });
        Self { seed, devices, replicated, unattended, trouble, fates, acts: acts.collect() }
    }
}

pub fn run(schedule: &Schedule) -> Run {
    run_in(schedule, false).0
}

/// Runs a schedule and gives every step of it as a line.
pub fn run_aloud(schedule: &Schedule) -> (Run, Vec<String>) {
    run_in(schedule, true)
}

fn run_in(schedule: &Schedule, aloud: bool) -> (Run, Vec<String>) {
    let Schedule { seed, trouble, fates, devices, replicated, unattended, acts } = schedule;
    let mut world = World::new(*seed, *trouble, fates.clone(), *devices, *replicated, *unattended);
    if aloud {
        world.net.borrow_mut().spoken = Some(Vec::new());
    }
    let ran = catch_unwind(AssertUnwindSafe(|| {
        acts.iter().for_each(|(act, seed)| world.act(*act, *seed));
        world.settle()
    }));
    let broken = match ran {
        Ok(Ok(())) => None,
        Ok(Err(Broken(why))) => Some(why),
        Err(panic) => Some(said(panic.as_ref())),
    };
    let mut counts = BTreeMap::new();
    counts.insert("requests".to_owned(), world.net.borrow().requests);
    counts.insert("acts".to_owned(), acts.len() as u64);
    counts.insert("writes".to_owned(), world.writes.len() as u64);
    counts.insert("changes of the secret".to_owned(), world.keys.changes() as u64);
    counts.insert("writes of which every copy was destroyed".to_owned(), world.excused());
    counts.insert("writes that went because nobody needed them".to_owned(), world.went());
    for finding in &world.findings {
        *counts.entry(format!("finding {}", finding.kind())).or_default() += 1;
    }
    let mut net = world.net.borrow_mut();
    let spoken = net.spoken.take().unwrap_or_default();
    (Run { broken, trace: net.trace, counts }, spoken)
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Leaves out acts, then kinds of fate, as long as a promise still breaks.
pub fn shrink(schedule: &Schedule) -> Schedule {
    std::panic::set_hook(Box::new(|_| {}));
    let mut shortest = schedule.clone();
    // The same promise, whichever entry it is about.
    let kind = |why: String| {
        why.split_whitespace()
            .filter(|word| word.chars().all(char::is_alphabetic))
            .take(4)
            .collect::<String>()
    };
    let broken = run(&shortest).broken.map(kind);
    let fails = |schedule: &Schedule| run(schedule).broken.map(kind) == broken;
    let mut length = shortest.acts.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        while at < shortest.acts.len() {
            let mut shorter = shortest.clone();
            shorter.acts.drain(at..(at + length).min(shorter.acts.len()));
            if fails(&shorter) { shortest = shorter } else { at += length }
        }
        length /= 2;
    }
    let quiet = Schedule { trouble: 0, ..shortest.clone() };
    let one = Schedule { replicated: false, ..shortest.clone() };
    let shortest = [quiet, one].into_iter().find(fails).unwrap_or(shortest);
    let _ = std::panic::take_hook();
    shortest
}
