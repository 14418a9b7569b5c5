//! `espejo demo`: two devices and a WebDAV server in a temporary directory, and what Espejo promises of them.
//!
//! Nothing is shown that was not checked: a step that does not hold ends the demo and is named.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::{BASE64, HEXLOWER};
use espejo::crypto::{MIN_WRITTEN_ITERATIONS, Password};
use espejo::embedded::EmbeddedServer;
use espejo::entropy::{Entropy, OsEntropy};
use espejo::entry::{Attachment, Body, Content};
use espejo::event::{Damage, Finding};
use espejo::format::keyfile::Secret;
use espejo::host::{Host, ThisMachine};
use espejo::id::{EntryId, ObjectName, VersionId};
use espejo::manifest::ObjectState;
use espejo::remote::{Remote, RemoteErrorKind, RemotePath};
use espejo::sync::{self, Options, Report};
use espejo::vault::{self, Change, Edit, NewVault, RemoteSettings, Vault};
use espejo::version::MadeOn;
use zeroize::Zeroizing;

use crate::context::{self, ThisRemote};

mod journal;
mod traces;

use journal::{PAGES, PICTURE, Page};
use traces::Traces;

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Something is not as it should be.
    #[error("the step {step:?} does not hold: {problem}")]
    Step {
        /// The word its line begins with.
        step: &'static str,
        /// What is wrong.
        problem: Problem,
    },
    /// The demo could not begin or end.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody reads what it says.
    #[error("cannot write: {0}")]
    Output(io::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

type Problem = Box<dyn Error>;

/// What a step gives to the next ones, and what it says.
type Told<T> = Result<(T, String), Problem>;

const USER: &str = "demo";
/// The mirror's place on the server.
const COLLECTION: &str = "journal";

const EDITED: &str = "The lemon tree";
const DAMAGED: &str = "Grandmother's tortilla";
const DELETED: &str = "A list, already bought";

/// What both devices write under the same entry while neither knows of the other.
const ON_THE_LAPTOP: &str = "\nTwelve. I forgot the one behind the watering can.\n";
const ON_THE_DESKTOP: &str = "\nTeo says thirteen, but he counts buds.\n";

const WHAT_TO_TRY: &str = "\
Your own journal:
  espejo init ~/journal
  espejo --vault ~/journal add -m \"The first page\"
  espejo --vault ~/journal remote set https://cloud.example
  espejo --vault ~/journal sync
On your second device:
  espejo clone https://cloud.example ~/journal";

/// Shows on this machine, in a few seconds, what Espejo does; leaves nothing behind.
pub fn run() -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DemoError::Io { doing: "starting", source })?;
    runtime.block_on(async {
        tokio::select! {
            shown = show_all() => shown,
            Ok(()) = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
        }
    })
}

async fn show_all() -> Result<(), DemoError> {
    let start = Instant::now();
    let doing = "making a temporary directory";
    let dir = tempfile::Builder::new().prefix("espejo-demo-").tempdir();
    let dir = dir.map_err(|source| DemoError::Io { doing, source })?;
    say(&format!("Two devices and a WebDAV server, in {}\n", dir.path().display()))?;
    show_steps(dir.path()).await?;
    let path = dir.path().to_owned();
    dir.close().map_err(|source| DemoError::Io { doing: "removing the temporary directory", source })?;
    say(&format!("\nEvery step held, in {}. Removed {}\n", Took(start.elapsed()), path.display()))?;
    say(WHAT_TO_TRY)
}

async fn show_steps(dir: &Path) -> Result<(), DemoError> {
    let mirror = step("server", start_server(dir)).await?;
    let (mut laptop, password) = step("laptop", make_vault(dir)).await?;
    let pages = step("import", import(&mut laptop)).await?;
    step("sync", first_sync(&mut laptop, &mirror, &pages)).await?;
    let mut desktop = step("join", join(dir, &password, &mirror, &pages)).await?;
    let edits = step("offline", edit_offline(&mut laptop, &mut desktop, &mirror, &pages)).await?;
    step("conflict", meet(&mut laptop, &mut desktop, &mirror, &edits)).await?;
    let damage = step("damage", flip_a_bit(&mut laptop, &pages)).await?;
    step("heal", heal(&mut laptop, &mirror, &damage)).await?;
    step("delete", delete(&mut laptop, &mut desktop, &mirror, &pages)).await?;
    step("idle", sync_again(&mut laptop, &mut desktop, &mirror)).await?;
    step("secrecy", look_for_plaintext(&[&laptop, &desktop], &mirror, &password)).await
}

/// Takes a step, tells of it in a line, and gives on what it made.
async fn step<T>(name: &'static str, work: impl Future<Output = Told<T>>) -> Result<T, DemoError> {
    let start = Instant::now();
    let (made, told) = work.await.map_err(|problem| DemoError::Step { step: name, problem })?;
    say(&format!("✓ {name:<8} {told} · {}", Took(start.elapsed())))?;
    Ok(made)
}

fn say(text: &str) -> Result<(), DemoError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(DemoError::Output)
}

fn ensure(holds: bool, otherwise: impl Into<Problem>) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

/// A duration as a person reads it.
struct Took(Duration);

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_millis() {
            ms @ ..1_000 => write!(f, "{ms} ms"),
            _ => write!(f, "{:.1} s", self.0.as_secs_f64()),
        }
    }
}

fn kilobytes(bytes: u64) -> String {
    let decimals = usize::from(bytes < 10_000);
    format!("{:.decimals$} KB", bytes as f64 / 1_000.0)
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

fn cost(requests: u64, bytes: u64) -> String {
    let noun = if requests == 1 { "request" } else { "requests" };
    format!("{requests} {noun}, {}", kilobytes(bytes))
}

// The mirror.

/// The server, and what it takes to get in.
struct Mirror {
    server: EmbeddedServer,
    /// The directory it serves.
    root: PathBuf,
    password: Zeroizing<String>,
}

impl Mirror {
    fn url(&self) -> String {
        format!("{}{COLLECTION}/", self.server.url())
    }

    /// A new connection, whose counts start at zero.
    fn remote(&self) -> Result<ThisRemote, Problem> {
        context::remote(&self.settings()).map_err(|failure| failure.message.into())
    }

    fn settings(&self) -> RemoteSettings {
        RemoteSettings {
            target: self.url(),
            user: Some(USER.to_owned()),
            password: Some(String::clone(&self.password)),
            ca_pem: None,
            initialised: false,
        }
    }

    /// Requests answered so far, by the server's own count.
    fn answered(&self) -> u64 {
        self.server.requests().len() as u64
    }
}

fn random_password() -> Result<Zeroizing<String>, Problem> {
    Ok(Zeroizing::new(HEXLOWER.encode(&OsEntropy.array::<16>()?)))
}

async fn start_server(dir: &Path) -> Told<Mirror> {
    let (root, password) = (dir.join("server"), random_password()?);
    let server = EmbeddedServer::start(root.clone(), USER, &password)?;
    let mirror = Mirror { server, root, password };
    let mut guess = mirror.settings();
    guess.password = Some("a guess".to_owned());
    let guess = context::bare_remote(&guess).map_err(|failure| failure.message)?;
    let refused = guess.list(&RemotePath::root()).await;
    let refused = refused.is_err_and(|error| error.kind == RemoteErrorKind::Unauthorized);
    ensure(refused, "the server lets a wrong password in")?;
    let told = format!("WebDAV at {} has a random password, refuses another", mirror.server.url());
    Ok((mirror, told))
}

// The devices.

/// A vault on one of the two devices.
struct Device {
    name: &'static str,
    vault: Vault<ThisMachine>,
}

/// A page as it is in the vault.
struct Imported {
    entry: EntryId,
    page: &'static Page,
}

impl Device {
    fn dir(&self) -> &Path {
        self.vault.host().fs().root()
    }

    fn current(&mut self, entry: EntryId) -> Result<VersionId, Problem> {
        Ok(self.vault.entry(entry)?.version.id)
    }

    fn content(&mut self, version: VersionId) -> Result<Content, Problem> {
        self.vault.content(version)?.ok_or_else(|| "a page has no content".into())
    }

    fn text(&mut self, version: VersionId) -> Result<String, Problem> {
        match self.content(version)?.body {
            Body::Text(text) => Ok(text),
            Body::Parts(_) => Err("a short page is not kept in one piece".into()),
        }
    }

    fn count_live(&mut self) -> Result<usize, Problem> {
        Ok(self.vault.entries()?.iter().filter(|entry| !entry.deleted()).count())
    }

    /// Makes one change to what the entry is now.
    fn change(&mut self, entry: EntryId, change: Change) -> Result<VersionId, Problem> {
        let made_on = MadeOn::Version(self.current(entry)?);
        let saved = self.vault.save(&[Edit { entry: Some(entry), made_on, change }])?;
        Ok(saved.first().ok_or("nothing was saved")?.version)
    }

    fn append(&mut self, entry: EntryId, line: &str) -> Result<VersionId, Problem> {
        let current = self.current(entry)?;
        let body = Body::Text(self.text(current)? + line);
        let content = Content { body, ..self.content(current)? };
        self.change(entry, Change::Content(content))
    }

    /// Syncs, and compares the engine's count of requests with the server's.
    async fn sync_and_find(&mut self, mirror: &Mirror) -> Result<(Report, Vec<Finding>), Problem> {
        let mut findings = Vec::new();
        let before = mirror.answered();
        let report =
            sync::sync(&mut self.vault, &mirror.remote()?, Options::default(), &mut findings).await?;
        let answered = mirror.answered() - before;
        ensure(report.is_settled(), format!("{} could not transfer everything", self.name))?;
        let counts = format!("{} counts {} requests, the server {answered}", self.name, report.requests);
        ensure(report.requests == answered, counts)?;
        Ok((report, findings))
    }

    /// Syncs, expecting nothing unusual.
    async fn sync(&mut self, mirror: &Mirror) -> Result<Report, Problem> {
        let (report, findings) = self.sync_and_find(mirror).await?;
        match findings.first() {
            Some(finding) => Err(format!("{}: {finding}", self.name).into()),
            None => Ok(report),
        }
    }

    /// Checks that every page is here as it was written, and the picture with its page.
    fn compare(&mut self, pages: &[Imported]) -> Result<(), Problem> {
        let live = self.count_live()?;
        ensure(live == pages.len(), format!("{} has {live} entries", self.name))?;
        for Imported { entry, page } in pages {
            let current = self.current(*entry)?;
            let content = self.content(current)?;
            let same = content.title == page.title()
                && content.created == page.created_ms()?
                && content.body == Body::Text(page.text.to_owned());
            ensure(same, format!("{:?} is another one on the {}", page.title(), self.name))?;
            let mut pictures = Vec::new();
            for attachment in &content.attachments {
                let bytes = self.vault.blob_bytes(&attachment.blob, PICTURE.bytes.len() as u64)?;
                pictures.push((attachment.name.clone(), bytes));
            }
            let expected = match page.title() == PICTURE.page {
                true => vec![(PICTURE.name.to_owned(), PICTURE.bytes.to_vec())],
                false => Vec::new(),
            };
            ensure(pictures == expected, format!("{:?} has not its picture", page.title()))?;
        }
        Ok(())
    }
}

fn find(pages: &[Imported], title: &str) -> Result<EntryId, Problem> {
    let found = pages.iter().find(|imported| imported.page.title() == title);
    Ok(found.ok_or_else(|| format!("there is no page {title:?}"))?.entry)
}

// The steps.

fn secret(password: &str) -> Result<Password, Problem> {
    Password::new(password).ok_or_else(|| "this cannot be a password".into())
}

#[allow(clippy::unused_async, reason = "every step is awaited")]
async fn make_vault(dir: &Path) -> Told<(Device, Zeroizing<String>)> {
    let password = random_password()?;
    let new = NewVault {
        password: secret(&password)?,
        recovery: false,
        device_name: "laptop".to_owned(),
        iterations: MIN_WRITTEN_ITERATIONS,
    };
    let vault = vault::create(ThisMachine::new(dir.join("laptop")), &new)?.vault;
    let rounds = grouped(new.iterations.into());
    let told = format!("a new vault; {rounds} rounds of PBKDF2 between its password and its key");
    Ok(((Device { name: "laptop", vault }, password), told))
}

#[allow(clippy::unused_async, reason = "every step is awaited")]
async fn import(laptop: &mut Device) -> Told<Vec<Imported>> {
    let blob = laptop.vault.store_blob(&mut &*PICTURE.bytes)?;
    let picture = Attachment { name: PICTURE.name.to_owned(), media_type: "image/png".to_owned(), blob };
    let edits = PAGES.iter().map(|page| {
        let attachments = (page.title() == PICTURE.page).then(|| picture.clone()).into_iter().collect();
        let text = Content::markdown(page.title(), page.text, page.created_ms()?);
        let content = Content { attachments, ..text };
        Ok(Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content) })
    });
    let saved = laptop.vault.save(&edits.collect::<Result<Vec<_>, Problem>>()?)?;
    let pages = saved.iter().zip(PAGES).map(|(saved, page)| Imported { entry: saved.entry, page });
    let pages = pages.collect::<Vec<_>>();
    laptop.compare(&pages)?;
    let report = laptop.vault.check()?;
    ensure(report.is_clean(), "the new vault is not whole")?;
    let (objects, size) = (report.objects, kilobytes(report.bytes));
    ensure(objects == pages.len() as u64 + 1, format!("there are {objects} objects"))?;
    let told = format!("{} Markdown pages and a picture, as {objects} sealed objects, {size}", pages.len());
    Ok((pages, told))
}

async fn first_sync(laptop: &mut Device, mirror: &Mirror, pages: &[Imported]) -> Told<()> {
    laptop.vault.set_remote(&mirror.settings())?;
    let report = laptop.sync(mirror).await?;
    let pushed = report.pushed;
    ensure(pushed == pages.len() as u64 + 1, format!("{pushed} objects were sent"))?;
    let manifest = laptop.vault.manifest()?;
    ensure(manifest.unmirrored().next().is_none(), "something was not sent")?;
    let places = manifest.objects().filter_map(ObjectState::mirrored);
    let packs = places.map(|place| place.file).collect::<BTreeSet<_>>();
    ensure(packs.len() == 1, format!("they were sent as {} files", packs.len()))?;
    let cost = cost(report.requests, report.bytes_up);
    let told = format!("laptop made the mirror, {pushed} objects up in one pack: {cost}");
    Ok(((), told))
}

async fn join(dir: &Path, password: &str, mirror: &Mirror, pages: &[Imported]) -> Told<Device> {
    let remote = mirror.remote()?;
    let introduction = sync::introduce(&remote).await?;
    let key = Secret::Password(secret(password)?);
    let host = ThisMachine::new(dir.join("desktop"));
    let vault =
        vault::create_from_mirror(host, introduction.vault, &introduction.key_files, &key, "desktop")?;
    let mut desktop = Device { name: "desktop", vault };
    desktop.vault.set_remote(&mirror.settings())?;
    let report = desktop.sync(mirror).await?;
    desktop.compare(pages)?;
    let requests = remote.traffic().requests + report.requests;
    let bytes = remote.traffic().bytes_down + report.bytes_down;
    let told =
        format!("desktop: {} pages from the mirror, word for word: {}", pages.len(), cost(requests, bytes));
    Ok((desktop, told))
}

/// One entry, edited on both devices.
struct Edits {
    entry: EntryId,
    /// The version and the text of each device.
    laptop: (VersionId, String),
    desktop: (VersionId, String),
}

async fn edit_offline(
    laptop: &mut Device,
    desktop: &mut Device,
    mirror: &Mirror,
    pages: &[Imported],
) -> Told<Edits> {
    let before = mirror.answered();
    let entry = find(pages, EDITED)?;
    let ours = laptop.append(entry, ON_THE_LAPTOP)?;
    // So that their clocks tell the two edits apart.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let theirs = desktop.append(entry, ON_THE_DESKTOP)?;
    let edits = Edits { entry, laptop: (ours, laptop.text(ours)?), desktop: (theirs, desktop.text(theirs)?) };
    ensure(edits.laptop.1.ends_with(ON_THE_LAPTOP), "the laptop's edit is not there")?;
    ensure(edits.desktop.1.ends_with(ON_THE_DESKTOP), "the desktop's edit is not there")?;
    let requests = mirror.answered() - before;
    ensure(requests == 0, "an edit needed the server")?;
    Ok((edits, format!("“{EDITED}” edited on both, neither knows of the other: {requests} requests")))
}

async fn meet(laptop: &mut Device, desktop: &mut Device, mirror: &Mirror, edits: &Edits) -> Told<()> {
    let reports = [laptop.sync(mirror).await?, desktop.sync(mirror).await?, laptop.sync(mirror).await?];
    let requests = reports.iter().map(|report| report.requests).sum();
    let bytes = reports.iter().map(|report| report.bytes_up + report.bytes_down).sum();
    let conflicts = reports[2].conflicts;
    ensure(conflicts == 1, format!("there are {conflicts} conflicts"))?;
    let (ours, theirs) = (edits.laptop.0, edits.desktop.0);
    let written_at = |device: &mut Device, version| -> Result<i64, Problem> {
        let history = device.vault.history(edits.entry)?;
        let found = history.iter().find(|state| state.version.id == version);
        Ok(found.ok_or_else(|| format!("the {} has not both edits", device.name))?.version.dot.updated_at)
    };
    for device in [&mut *laptop, &mut *desktop] {
        let newer = written_at(device, theirs)? > written_at(device, ours)?;
        let entry = device.vault.entry(edits.entry)?;
        ensure(newer && entry.version.id == theirs, format!("the {} shows the older edit", device.name))?;
        ensure(entry.losers == [ours], format!("the {} does not list the conflict", device.name))?;
        let kept = device.text(ours)? == edits.laptop.1 && device.text(theirs)? == edits.desktop.1;
        ensure(kept, format!("the {} has other words in its history", device.name))?;
    }
    let cost = cost(requests, bytes);
    Ok(((), format!("desktop's is newer and shown, laptop's in both histories: {cost}")))
}

/// A page whose file was damaged.
struct Damaged {
    version: VersionId,
    object: ObjectName,
    path: PathBuf,
    /// The file and the text as they were.
    file: Vec<u8>,
    text: String,
}

#[allow(clippy::unused_async, reason = "every step is awaited")]
async fn flip_a_bit(laptop: &mut Device, pages: &[Imported]) -> Told<Damaged> {
    let version = laptop.current(find(pages, DAMAGED)?)?;
    let text = laptop.text(version)?;
    let object =
        laptop.vault.manifest()?.encoding_here(version, u32::MAX).ok_or("it is not here")?.row.object;
    let name = object.to_string();
    let path = laptop.dir().join("objects").join(&name[..2]).join(&name);
    let file = fs::read(&path)?;
    let mut damaged = file.clone();
    let middle = file.len() / 2;
    *damaged.get_mut(middle).ok_or("the file is empty")? ^= 1;
    fs::write(&path, &damaged)?;
    for problem in [Damage::BitRot, Damage::Missing] {
        // Once it is noticed the file is gone from where it was.
        match laptop.vault.content(version) {
            Err(vault::Error::Damaged { object: found, problem: seen, .. })
                if (found, seen) == (object, problem) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Err("damaged content was shown".into()),
        }
    }
    let set_aside = fs::read(laptop.dir().join("local/quarantine").join(&name))?;
    ensure(set_aside == damaged && !path.try_exists()?, "the damaged file was not set aside")?;
    let told = format!("one bit of “{DAMAGED}” flipped on disk: noticed, not shown");
    Ok((Damaged { version, object, path, file, text }, told))
}

async fn heal(laptop: &mut Device, mirror: &Mirror, damage: &Damaged) -> Told<()> {
    let (report, findings) = laptop.sync_and_find(mirror).await?;
    let healed = matches!(findings[..], [Finding::Healed { object, .. }] if object == damage.object);
    ensure(healed && report.repaired == 1, format!("{} repaired, {findings:?}", report.repaired))?;
    ensure(fs::read(&damage.path)? == damage.file, "another file came back")?;
    ensure(laptop.text(damage.version)? == damage.text, "another text came back")?;
    ensure(laptop.vault.check()?.is_clean(), "the vault is not whole")?;
    let cost = cost(report.requests, report.bytes_down);
    Ok(((), format!("the next sync brought the same bytes back from the mirror: {cost}")))
}

async fn delete(laptop: &mut Device, desktop: &mut Device, mirror: &Mirror, pages: &[Imported]) -> Told<()> {
    let entry = find(pages, DELETED)?;
    let last = desktop.current(entry)?;
    let text = desktop.text(last)?;
    laptop.change(entry, Change::Delete)?;
    let sent = laptop.sync(mirror).await?;
    let fetched = desktop.sync(mirror).await?;
    for device in [laptop, desktop] {
        let gone = device.vault.entry(entry)?.deleted() && device.count_live()? == pages.len() - 1;
        ensure(gone, format!("it is still on the {}", device.name))?;
        ensure(device.text(last)? == text, format!("the {} cannot undelete it", device.name))?;
    }
    let requests = sent.requests + fetched.requests;
    let bytes = sent.bytes_up + sent.bytes_down + fetched.bytes_up + fetched.bytes_down;
    let told = format!("“{DELETED}” deleted on laptop, gone on desktop: {}", cost(requests, bytes));
    Ok(((), told))
}

async fn sync_again(laptop: &mut Device, desktop: &mut Device, mirror: &Mirror) -> Told<()> {
    let (mut bytes, mut lists) = (0, Vec::new());
    for device in [laptop, desktop] {
        let report = device.sync(mirror).await?;
        let idle = report.is_idle() && report.requests == 1;
        ensure(idle, format!("{} had nothing to do and made {} requests", device.name, report.requests))?;
        bytes += report.bytes_up + report.bytes_down;
        lists.push(device.vault.entries()?);
    }
    ensure(lists[0] == lists[1], "the devices do not show the same")?;
    let told = "both show the same, nothing is left to do: 1 request each";
    Ok(((), format!("{told}, {} in all", kilobytes(bytes))))
}

#[allow(clippy::unused_async, reason = "every step is awaited")]
async fn look_for_plaintext(devices: &[&Device], mirror: &Mirror, password: &str) -> Told<()> {
    let mut secrets = vec![ON_THE_LAPTOP.as_bytes(), ON_THE_DESKTOP.as_bytes()];
    secrets.extend(PAGES.iter().flat_map(|page| [page.title().as_bytes(), page.text.as_bytes()]));
    secrets.extend([PICTURE.name.as_bytes(), PICTURE.bytes, password.as_bytes(), mirror.password.as_bytes()]);
    let mut traces = Traces::default();
    secrets.iter().for_each(|secret| traces.add(secret));
    let found = |secret: &&[u8]| {
        let disguises = [HEXLOWER.encode(secret), BASE64.encode(secret)];
        traces.show_in(secret) && disguises.iter().all(|disguise| traces.show_in(disguise.as_bytes()))
    };
    ensure(secrets.iter().all(found), "the search would overlook some of it")?;

    let (mut files, mut bytes) = (0_u64, 0);
    for root in devices.iter().map(|device| device.dir()).chain([&*mirror.root]) {
        for item in walkdir::WalkDir::new(root) {
            let item = item?;
            let name = item.path().strip_prefix(root)?.as_os_str().as_encoded_bytes();
            let content = if item.file_type().is_file() { fs::read(item.path())? } else { Vec::new() };
            let shows = traces.show_in(name) || traces.show_in(&content);
            ensure(!shows, format!("plaintext in {}", item.path().display()))?;
            files += u64::from(item.file_type().is_file());
            bytes += content.len() as u64;
        }
    }
    ensure(files > PAGES.len() as u64 * 2, format!("there are only {files} files to look into"))?;
    let (fragments, size) = (grouped(traces.count() as u64), kilobytes(bytes));
    let told =
        format!("{fragments} fragments sought in {files} files ({size}), raw, hex, base64: none found");
    Ok(((), told))
}
