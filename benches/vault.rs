//! What the everyday operations cost inside, without a key derivation: `cargo bench`.
//!
//! Adding one entry is measured in a vault of 100 and one of 100,000, in one run: the second may take at most half
//! as long again as the first.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use espejo::crypto::{Key, MIN_WRITTEN_ITERATIONS, Password, open, seal};
use espejo::entropy::OsEntropy;
use espejo::entry::Content;
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::vault::{Change, Edit, Locked, NewVault, Vault, create};
use espejo::version::{Kind, MadeOn, Version, resolve, succeed};

fn password() -> Password {
    Password::new("correct horse battery staple").expect("not empty")
}

fn entry(n: usize) -> Edit {
    let content = Content::markdown(format!("entry {n}"), "a body of some words ".repeat(50), 0);
    Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content) }
}

fn fill(dir: &Path, entries: usize) {
    let new = NewVault {
        password: password(),
        recovery: false,
        device_name: "bench".to_owned(),
        iterations: MIN_WRITTEN_ITERATIONS,
    };
    let mut vault = create(ThisMachine::new(dir), &new).expect("a new vault").vault;
    for start in (0..entries).step_by(5_000) {
        let batch = (start..entries.min(start + 5_000)).map(entry).collect::<Vec<_>>();
        vault.save(&batch).expect("room on the disk");
    }
}

fn unlock(dir: &Path) -> Vault<ThisMachine> {
    let locked = Locked::find(ThisMachine::new(dir)).expect("a vault");
    locked.unlock(&Secret::Password(password())).expect("the password")
}

fn vaults(c: &mut Criterion) {
    for entries in [100, 100_000] {
        let dir = tempfile::tempdir().expect("a directory");
        fill(dir.path(), entries);
        let mut group = c.benchmark_group("list");
        group.sample_size(10);
        group.bench_function(format!("open the index of {entries} and list"), |b| {
            // A vault just opened has not read its index yet; the key derivation is left out.
            b.iter_batched(
                || unlock(dir.path()),
                |mut vault| vault.entries().expect("an index").len(),
                BatchSize::PerIteration,
            );
        });
        group.finish();
        let mut vault = unlock(dir.path());
        let mut n = entries;
        c.bench_function(&format!("add one to {entries}"), |b| {
            b.iter(|| {
                n += 1;
                vault.save(&[entry(n)]).expect("room on the disk");
            });
        });
    }
}

fn inside(c: &mut Criterion) {
    let key = Key::from_bytes([7; 32]);
    for len in [2 << 10, 4 << 20] {
        let plaintext = vec![1; len];
        let sealed = seal(&key, b"context", &plaintext, &OsEntropy).expect("randomness");
        c.bench_function(&format!("seal {len} bytes"), |b| {
            b.iter(|| seal(&key, b"context", black_box(&plaintext), &OsEntropy));
        });
        c.bench_function(&format!("open {len} bytes"), |b| {
            b.iter(|| open(&key, b"context", black_box(&sealed)));
        });
    }
    let mut versions = Vec::<Version>::new();
    for n in 0..100_u8 {
        let known = versions.iter().collect::<Vec<_>>();
        let made_on =
            resolve(known.iter().copied()).map_or(MadeOn::Everything, |it| MadeOn::Version(it.current.id));
        let device = espejo::id::DeviceId::from_bytes([n % 3; 16]);
        let (dot, context) = succeed(&known, &[], made_on, device, i64::from(n));
        let id = espejo::id::VersionId::from_bytes([n; 16]);
        let entry = espejo::id::EntryId::from_bytes([0; 16]);
        versions.push(Version { entry, id, dot, context, kind: Kind::Live });
    }
    c.bench_function("resolve 100 versions", |b| b.iter(|| resolve(black_box(&versions)).is_some()));
}

criterion_group!(benches, inside, vaults);
criterion_main!(benches);
