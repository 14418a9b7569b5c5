//! Texts as other programs keep them: read from there to become entries, written for them from entries.

pub mod dayone;
pub mod document;
pub mod folder;
pub mod front;
pub mod joplin;
pub mod jrnl;
pub mod names;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use espejo::id::EntryId;

/// Texts longer than this are not read from elsewhere.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A text that is to become an entry.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it is called where it comes from: the same next time.
    pub source: String,
    /// The entry it was exported from, if it says so.
    pub id: Option<EntryId>,
    pub title: String,
    /// Milliseconds since 1970 UTC.
    pub created: i64,
    /// Whether the source says so; else it is when the file was written last.
    pub is_dated: bool,
    pub tags: Vec<String>,
    pub media_type: String,
    pub body: Body,
    pub attachments: Vec<Attached>,
    /// Attachments that could not be read when it was exported.
    pub missing: Vec<String>,
}

/// What a document says.
#[derive(Debug, Clone)]
pub enum Body {
    Text(String),
    /// Not text.
    File(Origin),
}

/// A file that belongs to a document.
#[derive(Debug, Clone)]
pub struct Attached {
    pub name: String,
    pub media_type: String,
    pub origin: Origin,
}

/// Makes a file an attachment, under the name wanted or one like it: the name it got.
fn attach(attached: &mut Vec<Attached>, wanted: &str, media_type: Option<&str>, origin: Origin) -> String {
    let name = unused(wanted, |name| attached.iter().any(|it| it.name == name));
    let media_type = media_type.map_or_else(|| media_type_of(&name), str::to_owned);
    attached.push(Attached { name: name.clone(), media_type, origin });
    name
}

/// The same for a file that may be one already.
fn attach_once(
    attached: &mut Vec<Attached>,
    wanted: &str,
    media_type: Option<&str>,
    origin: Origin,
) -> String {
    match attached.iter().find(|it| it.origin == origin) {
        Some(known) => known.name.clone(),
        None => attach(attached, wanted, media_type, origin),
    }
}

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub path: PathBuf,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Whole,
    /// From where, and how many.
    Range(u64, u64),
    /// The member of a zip file.
    Member(usize),
}

/// A member of a zip file is unpacked in memory; a longer one is not read.
const MAX_MEMBER_BYTES: u64 = 1 << 30;

impl Origin {
    pub fn file(path: PathBuf) -> Self {
        Self { path, part: Part::Whole }
    }

    pub fn range(path: PathBuf, start: u64, len: u64) -> Self {
        Self { path, part: Part::Range(start, len) }
    }

    pub fn in_zip(path: PathBuf, index: usize) -> Self {
        Self { path, part: Part::Member(index) }
    }

    pub fn open(&self) -> io::Result<Box<dyn Read>> {
        let mut file = File::open(&self.path)?;
        match self.part {
            Part::Whole => Ok(Box::new(file)),
            Part::Range(start, len) => {
                file.seek(SeekFrom::Start(start))?;
                Ok(Box::new(file.take(len)))
            }
            Part::Member(index) => {
                let mut archive = zip::ZipArchive::new(file)?;
                let mut bytes = Vec::new();
                archive.by_index(index)?.take(MAX_MEMBER_BYTES + 1).read_to_end(&mut bytes)?;
                match bytes.len() as u64 <= MAX_MEMBER_BYTES {
                    true => Ok(Box::new(io::Cursor::new(bytes))),
                    false => Err(io::ErrorKind::FileTooLarge.into()),
                }
            }
        }
    }

    /// Its length in bytes, as far as it can be told without reading it.
    pub fn len_bytes(&self) -> io::Result<u64> {
        match self.part {
            Part::Whole => Ok(self.path.metadata()?.len()),
            Part::Range(_, len) => Ok(len),
            Part::Member(index) => Ok(zip::ZipArchive::new(File::open(&self.path)?)?.by_index(index)?.size()),
        }
    }
}

/// Something that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub source: String,
    pub reason: String,
}

/// What was found in a source.
#[derive(Debug, Default)]
pub struct Found {
    pub documents: Vec<Document>,
    pub skipped: Vec<Skipped>,
}

impl Found {
    fn skip(&mut self, source: impl Into<String>, reason: impl Into<String>) {
        self.skipped.push(Skipped { source: source.into(), reason: reason.into() });
    }
}

/// What an attachment of this name is.
fn media_type_of(name: &str) -> String {
    mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream").to_owned()
}

/// `name`, or one like it that is not among `used`.
fn unused(name: &str, used: impl Fn(&str) -> bool) -> String {
    let (stem, ending) = match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => (stem, format!(".{ending}")),
        _ => (name, String::new()),
    };
    let numbered = (2..).map(|number| format!("{stem}-{number}{ending}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|name| !used(name)).unwrap_or_default()
}

/// Compares what is written to it with what a reader gives.
pub struct Same<'a, R> {
    pub reader: &'a mut R,
    pub so_far: bool,
}

impl<R: Read> Write for Same<'_, R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut other = vec![0; bytes.len()];
        self.so_far = self.so_far && self.reader.read_exact(&mut other).is_ok() && other == bytes;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
