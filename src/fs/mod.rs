//! The door to the vault's own directory, and to the few files outside of it that the person names.
//!
//! Names in the vault are relative to it, made by this program, and separated by `/`. A file system offers steps; the
//! order in which they make a change durable is written once, here, so that the order that runs on a disk is the one
//! that crash tests enumerate.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

mod disk;
mod file;
mod whole;

pub use disk::DiskFs;
pub use file::{PlainFile, StagedDir, paths_in, remove_path, replace};

/// Where files are written before they get their name. Never holds plaintext; emptied by whoever takes the lock.
pub const INCOMING: &str = "local/incoming";

/// Longer writes are slower: the kernel looks for memory in pieces as large.
pub const WRITE_BYTES: usize = 256 << 10;

/// The vault directory.
///
/// What `put`, `append`, `rename` and `remove_all` acknowledge survives a power cut. Files are opened without following
/// links, and only regular files are read, so a link planted in a shared folder leads nowhere.
pub trait VaultFs {
    /// Held while the vault is changed; released when dropped, and by the kernel when the process dies.
    type Lock;

    /// The whole file. An error of kind [`NotFound`](ErrorKind::NotFound) if it is not there,
    /// [`FileTooLarge`](ErrorKind::FileTooLarge) if it has more than `max_bytes`.
    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_into(name, max_bytes, &mut bytes)?;
        Ok(bytes)
    }

    /// The same, in place of what is in `bytes`. Its memory is used again if `max_bytes` have room in it; if not, what was
    /// there before may stay in memory that nobody wipes. After an error it holds anything.
    fn read_into(&self, name: &str, max_bytes: u64, bytes: &mut Vec<u8>) -> io::Result<()>;

    /// Many whole files, as by [`read`](Self::read).
    fn read_many(&self, names: &[String], max_bytes: u64) -> Vec<io::Result<Vec<u8>>> {
        names.iter().map(|name| self.read(name, max_bytes)).collect()
    }

    /// Up to `len_bytes` bytes from `offset`; fewer at the end of the file.
    fn read_at(&self, name: &str, offset: u64, len_bytes: u64) -> io::Result<Vec<u8>>;

    /// The file's length in bytes, or `None` if there is no such regular file.
    fn len(&self, name: &str) -> io::Result<Option<u64>>;

    /// When the file was last put where it is, in seconds of the file system's own clock: only for telling older from
    /// newer. 0 where that is not known.
    fn placed_at(&self, _name: &str) -> io::Result<i64> {
        Ok(0)
    }

    /// The names in a directory, in order; none if there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// What tells a file from a copy of it, as long as it is not replaced; `None` if it is not there or the file system
    /// keeps nothing of the kind.
    fn birthmark(&self, name: &str) -> Option<String>;

    /// Takes the exclusive lock `name`, whose directory is made as needed. `None` if another process holds it.
    fn try_lock(&self, name: &str) -> io::Result<Option<Self::Lock>>;

    /// Cuts the file to `at` bytes, adds `bytes`, and makes that durable. After an error the file ends at `at`, if the
    /// disk still allows that much.
    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file. That it is not there is success. After a power cut it may be back.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// A step: makes the directory `dir`, whose parent must exist ([`NotFound`](ErrorKind::NotFound) otherwise); the
    /// empty name is the vault directory itself, made with its parents. True if it was made, false if it was there.
    /// It is durable when its parent is synced.
    fn make_dir(&self, dir: &str) -> io::Result<bool>;

    /// A step: removes a directory, which must be empty.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;

    /// A step: a name for a file in [`INCOMING`] that nobody uses.
    fn temp_name(&self) -> String;

    /// A step: makes files that must not exist yet. If `durable`, their bytes are when this returns; their names are
    /// when their directories are synced. After an error any of them may be there, whole or not.
    fn create(&self, files: &[(String, &[u8])], durable: bool) -> io::Result<()>;

    /// A step: gives a file another name, replacing what had it, wholly or not at all. Durable when both directories
    /// are synced.
    fn move_file(&self, from: &str, to: &str) -> io::Result<()>;

    /// A step: makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Many moves, in any order. After an error any of them may have been made.
    fn move_files(&self, moves: &[(&str, &str)]) -> io::Result<()> {
        moves.iter().try_for_each(|(from, to)| self.move_file(from, to))
    }

    /// Makes the names in many directories durable, in any order.
    fn sync_dirs(&self, dirs: &[&str]) -> io::Result<()> {
        dirs.iter().try_for_each(|dir| self.sync_dir(dir))
    }

    /// Writes each file whole, replacing what was there. After `Ok` all of them are durable; after `Err` each is
    /// either as before or new, never a mixture. Directories are made as needed. One call costs at most one sync
    /// of each file and of each directory, so callers hand over batches.
    fn put(&self, files: &[(String, &[u8])]) -> io::Result<()> {
        self.place(files)?;
        self.keep(files.iter().map(|(name, _)| name))
    }

    /// The first half of [`put`](Self::put): files that are whole under their names, and may vanish with them in a power
    /// cut until they are [kept](Self::keep).
    fn place(&self, files: &[(String, &[u8])]) -> io::Result<()> {
        ensure_dirs(self, &directories(files.iter().map(|(name, _)| name)))?;
        write_and_move(self, files, true)
    }

    /// The second half: makes durable what was placed.
    fn keep<'a>(&self, names: impl Iterator<Item = &'a String>) -> io::Result<()> {
        self.sync_dirs(&directories(names))
    }

    /// Like [`put`](Self::put) for one file that is made piece by piece, none of them empty, so that it never is in
    /// memory as a whole. An outer error is that of a piece: then nothing was replaced.
    fn put_in_pieces<E>(
        &self,
        name: &str,
        pieces: impl Iterator<Item = Result<Vec<u8>, E>>,
    ) -> Result<io::Result<()>, E> {
        if let Err(error) = ensure_dirs(self, &[parent(name), INCOMING]) {
            return Ok(Err(error));
        }
        let temp = self.temp_name();
        let written = write_pieces(self, &temp, pieces);
        let written = written.map(|written| written.and_then(|()| self.move_file(&temp, name)));
        if !matches!(written, Ok(Ok(()))) {
            // The failure that matters is the one above; what cannot be removed now goes at the next lock.
            let _ = self.remove(&temp);
        }
        Ok(written?.and_then(|()| self.sync_dir(parent(name))))
    }

    /// Like [`put`](Self::put) for one file, without making it durable: for what can be worked out again.
    fn put_cache(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        ensure_dir(self, parent(name))?;
        write_and_move(self, &[(name.to_owned(), bytes)], false)
    }

    /// Removes files, durably. After an error as many are gone as could be removed.
    fn remove_all(&self, names: &[String]) -> io::Result<()> {
        let removed = names.iter().map(|name| self.remove(name)).collect::<Vec<_>>();
        let synced = self.sync_dirs(&directories(names.iter()));
        removed.into_iter().chain([synced]).collect()
    }

    /// Moves a file, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        ensure_dir(self, parent(to))?;
        self.move_file(from, to)?;
        self.sync_dir(parent(to))?;
        self.sync_dir(parent(from))
    }
}

/// The directory a name lies in.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// The directories these names lie in, each once.
fn directories<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    names.map(|name| parent(name)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Makes `dir` and its parents, and makes their names durable.
fn ensure_dir<F: VaultFs + ?Sized>(fs: &F, dir: &str) -> io::Result<()> {
    ensure_dirs(fs, &[dir])
}

/// Makes directories and their parents, and makes their names durable, with one sync of each directory they lie in.
fn ensure_dirs<F: VaultFs + ?Sized>(fs: &F, dirs: &[&str]) -> io::Result<()> {
    let mut made = Vec::new();
    let made_all = dirs.iter().try_for_each(|dir| {
        let is_new = match fs.make_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound && !dir.is_empty() => {
                ensure_dir(fs, parent(dir))?;
                fs.make_dir(dir)?
            }
            result => result?,
        };
        if is_new && !dir.is_empty() {
            made.push(*dir);
        }
        Ok(())
    });
    let parents = made.iter().map(|dir| parent(dir)).collect::<BTreeSet<_>>();
    let result = made_all.and_then(|()| fs.sync_dirs(&parents.into_iter().collect::<Vec<_>>()));
    if result.is_err() {
        // Whoever needs one next must not find it there and take its name for durable.
        made.iter().for_each(|dir| drop(fs.remove_dir(dir)));
    }
    result
}

/// Writes a new file piece by piece, durably.
fn write_pieces<F: VaultFs + ?Sized, E>(
    fs: &F,
    name: &str,
    pieces: impl Iterator<Item = Result<Vec<u8>, E>>,
) -> Result<io::Result<()>, E> {
    let mut at = 0;
    for piece in pieces {
        let piece = piece?;
        let written = match at {
            0 => fs.create(&[(name.to_owned(), &piece)], true),
            _ => fs.append(name, at, &piece),
        };
        if written.is_err() {
            return Ok(written);
        }
        at += piece.len() as u64;
    }
    Ok(Ok(()))
}

/// Writes files under names of their own first, so that no reader and no power cut ever sees half of one.
fn write_and_move<F: VaultFs + ?Sized>(fs: &F, files: &[(String, &[u8])], durable: bool) -> io::Result<()> {
    ensure_dir(fs, INCOMING)?;
    let temps = files.iter().map(|(_, bytes)| (fs.temp_name(), *bytes)).collect::<Vec<_>>();
    let written = fs.create(&temps, durable).and_then(|()| {
        let moves = temps.iter().zip(files).map(|((temp, _), (name, _))| (&temp[..], &name[..]));
        fs.move_files(&moves.collect::<Vec<_>>())
    });
    if written.is_err() {
        // The failure that matters is the one above; what cannot be removed now goes at the next lock.
        temps.iter().for_each(|(temp, _)| drop(fs.remove(temp)));
    }
    written
}
