//! Commands on one vault, one or two at once, killed at any moment. What they acknowledged is written down outside
//! the vault, and compared in the end.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::cli::{Output, finish, temp_dir, text_of};
use crate::common::crash::{self, Key, MIRROR, VAULT};
use crate::common::dice::Dice;
use serde_json::Value;

const ROUNDS: usize = 500;

/// How often the length of an undisturbed command is measured again, and the vault checked.
const CHECK_EVERY: usize = 50;

/// What an entry was to become; `None` is deleted.
type Aim = Option<String>;

/// What is known of an entry outside the vault.
struct Entry {
    id: Option<String>,
    title: String,
    acknowledged: Option<Aim>,
    /// Since then, without an answer.
    attempted: Vec<Aim>,
    /// Everything it ever was to become.
    aims: BTreeSet<String>,
}

impl Entry {
    /// Whether it can be edited: it is known to be there.
    fn is_there(&self) -> bool {
        let gone = self.acknowledged.iter().chain(&self.attempted).any(Option::is_none);
        self.id.is_some() && !gone
    }
}

/// One command, for the entry with this number.
struct Doing {
    args: Vec<String>,
    entry: Option<usize>,
    aim: Aim,
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().copied().map(str::to_owned).collect()
}

fn choose(dice: &mut Dice, journal: &mut Vec<Entry>, round: usize, taken: Option<usize>) -> Doing {
    let there =
        (0..journal.len()).filter(|n| Some(*n) != taken && journal[*n].is_there()).collect::<Vec<_>>();
    let text = format!("text {round} {}", dice.below(1_000));
    let kind = dice.below(10);
    if kind >= 8 {
        return Doing { args: words(&["sync"]), entry: None, aim: None };
    }
    if kind < 4 || there.is_empty() {
        let title = format!("entry {}", journal.len());
        let args = words(&["add", "-m", &text, "-t", &title]);
        journal.push(Entry {
            id: None,
            title,
            acknowledged: None,
            attempted: Vec::new(),
            aims: BTreeSet::new(),
        });
        return Doing { args, entry: Some(journal.len() - 1), aim: Some(text) };
    }
    let n = there[dice.below(there.len())];
    let (id, title) = (journal[n].id.clone().unwrap(), journal[n].title.clone());
    match kind {
        7 => Doing { args: words(&["rm", &id]), entry: Some(n), aim: None },
        _ => {
            Doing { args: words(&["edit", &id, "-m", &text, "-t", &title]), entry: Some(n), aim: Some(text) }
        }
    }
}

/// Runs a command and kills it after `delay`; it may be done by then.
fn run_and_kill(dir: &Path, key: &Key, args: &[String], delay: Duration) -> Output {
    let mut child = crash::command(dir, &[], key, args).spawn().unwrap();
    std::thread::sleep(delay);
    child.kill().unwrap();
    finish(child, b"")
}

#[test]
fn commands_killed_at_any_moment_lose_nothing_they_acknowledged() {
    let dir = temp_dir();
    let (_, key) = crash::create(dir.path());
    let mut dice = Dice(41);
    let mut journal = Vec::<Entry>::new();
    let (mut killed, mut answered, mut at_once) = (0, 0, 0);
    let mut usual = Duration::ZERO;
    for round in 0..ROUNDS {
        if round % CHECK_EVERY == 0 {
            assert_eq!(crash::run(dir.path(), &key, &["check"]).code, 0, "round {round}");
            let start = Instant::now();
            let title = format!("undisturbed {round}");
            assert_eq!(crash::run(dir.path(), &key, &["add", "-m", "text", "-t", &title]).code, 0);
            usual = start.elapsed();
        }
        let mut doings = vec![choose(&mut dice, &mut journal, round, None)];
        if dice.below(4) == 0 {
            let taken = doings[0].entry;
            doings.push(choose(&mut dice, &mut journal, round, taken));
            at_once += 1;
        }
        for doing in &doings {
            if let Some(n) = doing.entry {
                journal[n].attempted.push(doing.aim.clone());
                journal[n].aims.extend(doing.aim.clone());
            }
        }
        let delays =
            doings.iter().map(|_| usual.mul_f64(dice.below(2_000) as f64 / 1_000.0)).collect::<Vec<_>>();
        let (path, key) = (dir.path(), &key);
        let outputs = std::thread::scope(|scope| {
            let running = doings.iter().zip(delays);
            let running = running
                .map(|(doing, delay)| scope.spawn(move || run_and_kill(path, key, &doing.args, delay)));
            running.collect::<Vec<_>>().into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
        });
        for (doing, output) in doings.iter().zip(outputs) {
            match output.code {
                -1 => killed += 1,
                0 => {
                    answered += 1;
                    acknowledge(&mut journal, doing, &output);
                }
                _ => panic!("round {round}: {:?} {output:?}", doing.args),
            }
        }
    }
    println!("{ROUNDS} rounds, {at_once} with two at once: {killed} kills, {answered} acknowledged");
    assert!(killed >= 100 && answered >= 50, "{killed} {answered}");
    compare(dir.path(), &key, &journal);
}

fn acknowledge(journal: &mut [Entry], doing: &Doing, output: &Output) {
    let Some(n) = doing.entry else { return };
    if journal[n].id.is_none() {
        let said: Value = output.json();
        journal[n].id = Some(text_of(&said["added"][0]["id"]));
    }
    journal[n].acknowledged = Some(doing.aim.clone());
    journal[n].attempted.clear();
}

/// Each entry is what was acknowledged last, or what was attempted after that; and a clone shows the same.
fn compare(dir: &Path, key: &Key, journal: &[Entry]) {
    for args in [&["check"][..], &["add", "-m", "last", "-t", "last"], &["sync"], &["clone", MIRROR, "copy"]]
    {
        let output = crash::run(dir, key, args);
        assert_eq!(output.code, 0, "{args:?} {output:?}");
    }
    crash::no_leftovers(&dir.join(VAULT)).unwrap();
    let shown = crash::shown(&mut crash::open(&dir.join(VAULT), key).unwrap()).unwrap();
    for entry in journal {
        let Some(it) = shown.get(&entry.title) else {
            assert!(entry.acknowledged.is_none(), "{} is lost", entry.title);
            continue;
        };
        let aim = (!it.deleted).then(|| it.text.clone());
        let expected = entry.acknowledged.iter().chain(&entry.attempted).collect::<Vec<_>>();
        assert!(expected.contains(&&aim), "{} is {it:?}, not one of {expected:?}", entry.title);
        assert!(it.losers.iter().all(|loser| entry.aims.contains(loser)), "{} {it:?}", entry.title);
    }
    let copied = crash::shown(&mut crash::open(&dir.join("copy"), key).unwrap()).unwrap();
    assert_eq!(copied, shown, "{}", crash::difference(&copied, &shown));
}
