//! What opens a vault, and what must not, nor cost a derivation.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::crypto::{DERIVATIONS, sha256};
use crate::entry::{Body, Content};
use crate::format::keyfile::NewKeyFile;
use crate::host::ThisMachine;
use crate::id::DeviceId;
use crate::vault::{self, Change, Edit, NewVault};
use crate::version::MadeOn;

const FIRST: &str = "plinth gravel cocoon tundra 41";
const SECOND: &str = "marble anvil thicket solder 17";

fn password(text: &str) -> Secret {
    Secret::Password(Password::new(text).unwrap())
}

/// A vault with an entry, its recovery key, and where its key file is.
struct Fixture {
    dir: TempDir,
    words: Secret,
}

impl Fixture {
    fn new() -> Self {
        let dir = TempDir::with_prefix("espejo-keys-").unwrap();
        let new = NewVault {
            password: Password::new(FIRST).unwrap(),
            recovery: true,
            device_name: "laptop".to_owned(),
            iterations: 0,
        };
        let mut created = vault::create(ThisMachine::new(dir.path()), &new).unwrap();
        let content = Content {
            title: "kept".to_owned(),
            created: 0,
            tags: Vec::new(),
            media_type: "text/plain".to_owned(),
            body: Body::Text("kept".to_owned()),
            attachments: Vec::new(),
        };
        let change = Change::Content(content);
        created.vault.save(&[Edit { entry: None, made_on: MadeOn::Everything, change }]).unwrap();
        let words = Secret::Recovery(created.recovery.unwrap());
        Self { dir, words }
    }

    fn file(&self) -> PathBuf {
        let files = fs::read_dir(self.dir.path().join("keys")).unwrap();
        let files = files.map(|item| item.unwrap().path()).collect::<Vec<_>>();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    fn copy(&self) -> PathBuf {
        self.dir.path().join("local/key")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.file()).unwrap()
    }

    /// Both of its places hold these bytes.
    fn put(&self, bytes: &[u8]) {
        fs::write(self.file(), bytes).unwrap();
        fs::write(self.copy(), bytes).unwrap();
    }

    fn unlock(&self, secret: &Secret) -> Result<Vault<ThisMachine>, Error> {
        Locked::find(ThisMachine::new(self.dir.path())).unwrap().unlock(secret)
    }

    /// What a password gets to hear, without having been stretched.
    fn refused_at_once(&self) -> Error {
        let before = DERIVATIONS.get();
        let error = self.unlock(&password(FIRST)).err().expect("it is refused");
        assert_eq!(DERIVATIONS.get(), before, "the password was stretched for {error}");
        error
    }
}

fn with_checksum(mut file: Vec<u8>) -> Vec<u8> {
    let end = file.len() - 32;
    let checksum = sha256(&[&file[..end]]);
    file[end..].copy_from_slice(&checksum);
    file
}

/// The number of rounds in the first slot is another one, and the checksum is right.
fn with_rounds(mut file: Vec<u8>, rounds: u32) -> Vec<u8> {
    file[76..80].copy_from_slice(&rounds.to_be_bytes());
    with_checksum(file)
}

/// A key file of the same vault that wraps another master key for the same secrets.
fn impostor(vault: VaultId, words: &Secret) -> KeyFile {
    let Secret::Recovery(recovery) = words else { unreachable!() };
    let keyring = Keyring::generate(vault, &crate::entropy::OsEntropy).unwrap();
    let new = NewKeyFile {
        generation: 7,
        created_ms: 0,
        device: DeviceId::from_bytes([5; 16]),
        password: &Password::new(FIRST).unwrap(),
        iterations: MIN_WRITTEN_ITERATIONS,
        recovery: Some(recovery),
    };
    KeyFile::new(&keyring, &new, &crate::entropy::OsEntropy).unwrap()
}

fn error_of(error: &Error) -> KeyFileError {
    match error {
        Error::Key { error, .. } => *error,
        other => panic!("{other}"),
    }
}

#[test]
fn no_altered_or_cut_key_file_is_taken_for_a_wrong_password_or_costs_a_derivation() {
    let vault = Fixture::new();
    let good = vault.bytes();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut altered = good.clone();
            altered[at] ^= 1 << bit;
            vault.put(&altered);
            assert_eq!(error_of(&vault.refused_at_once()), KeyFileError::Damaged, "bit {bit} of byte {at}");
        }
        vault.put(&good[..at]);
        assert_eq!(error_of(&vault.refused_at_once()), KeyFileError::Damaged, "cut at {at}");
    }
}

#[test]
fn a_key_file_altered_in_one_place_is_restored_from_the_other() {
    let vault = Fixture::new();
    let (file, copy, good) = (vault.file(), vault.copy(), vault.bytes());
    for at in (0..good.len()).step_by(13) {
        let mut altered = good.clone();
        altered[at] ^= 1 << (at % 8);
        for place in [&file, &copy] {
            fs::write(place, &altered).unwrap();
            let mut opened = vault.unlock(&vault.words).unwrap();
            assert_eq!(opened.take_findings(), [Finding::KeyFileRestored]);
            assert!([&file, &copy].map(|place| fs::read(place).unwrap()) == [good.clone(), good.clone()]);
        }
    }
}

#[test]
fn absurd_costs_another_vault_and_nothing_at_all_cost_no_derivation() {
    let (vault, other) = (Fixture::new(), Fixture::new());
    let good = vault.bytes();
    for (rounds, error) in [
        (599_999, KeyFileError::TooCheap),
        (0, KeyFileError::TooCheap),
        (20_000_001, KeyFileError::TooExpensive),
        (u32::MAX, KeyFileError::TooExpensive),
    ] {
        vault.put(&with_rounds(good.clone(), rounds));
        assert_eq!(error_of(&vault.refused_at_once()), error);
    }
    for (at, error) in [(8, KeyFileError::Newer), (9, KeyFileError::Newer), (72, KeyFileError::Newer)] {
        let mut newer = good.clone();
        newer[at] = 9;
        vault.put(&with_checksum(newer));
        assert_eq!(error_of(&vault.refused_at_once()), error);
    }
    vault.put(&other.bytes());
    assert!(matches!(vault.refused_at_once(), Error::KeyFileOfAnotherVault));
    fs::remove_file(vault.file()).unwrap();
    fs::remove_file(vault.copy()).unwrap();
    assert!(matches!(vault.refused_at_once(), Error::KeyFileMissing));
    // Nobody made a new one on the way.
    assert!(!vault.copy().exists());
}

#[test]
fn a_key_file_with_another_master_key_under_the_same_secrets_opens_nothing() {
    let vault = Fixture::new();
    let (file, good) = (vault.file(), vault.bytes());
    let id = KeyFile::decode(&good).unwrap().vault;
    let impostor = impostor(id, &vault.words);
    // Beside the good one it is passed over, though its generation is higher.
    let beside = vault.dir.path().join("keys").join(impostor.file_name());
    fs::write(&beside, impostor.encode()).unwrap();
    for secret in [password(FIRST), vault.words.clone()] {
        let mut opened = vault.unlock(&secret).unwrap();
        assert_eq!(opened.entries().unwrap().len(), 1);
        assert_eq!(opened.key_file().unwrap().encode(), good);
        assert!(fs::read(&file).unwrap() == good && fs::read(vault.copy()).unwrap() == good);
    }
    fs::remove_file(&beside).unwrap();
    // In its place it is known for what it is, and nothing is written under its key.
    vault.put(&impostor.encode());
    let before = fs::read(vault.dir.path().join("local/device")).unwrap();
    for secret in [password(FIRST), vault.words.clone()] {
        assert_eq!(error_of(&vault.unlock(&secret).err().unwrap()), KeyFileError::Tampered);
    }
    // Even if this device's own state is gone: the entries tell.
    fs::remove_file(vault.dir.path().join("local/device")).unwrap();
    assert_eq!(error_of(&vault.unlock(&vault.words).err().unwrap()), KeyFileError::Tampered);
    assert!(!vault.dir.path().join("local/device").exists());
    fs::write(vault.dir.path().join("local/device"), before).unwrap();
    vault.put(&good);
    assert!(vault.unlock(&vault.words).is_ok());
}

#[test]
fn an_older_key_file_put_back_opens_nothing_and_is_removed() {
    let vault = Fixture::new();
    let (old_path, old) = (vault.file(), vault.bytes());
    vault.unlock(&vault.words).unwrap().change_password(&Password::new(SECOND).unwrap(), 0).unwrap();
    let (new_path, new) = (vault.file(), vault.bytes());
    assert!(!old_path.exists(), "the wrapper of the old password stayed");
    fs::write(&old_path, &old).unwrap();
    let error = vault.unlock(&password(FIRST)).err().unwrap();
    let Error::Key { error: KeyFileError::WrongSecret, set: Some(set) } = error else { panic!("{error}") };
    assert_eq!((set.changed, set.here, set.by), (true, true, None));
    // Even if the newest one is gone from its place and only the copy is left.
    fs::remove_file(&new_path).unwrap();
    assert_eq!(error_of(&vault.unlock(&password(FIRST)).err().unwrap()), KeyFileError::WrongSecret);
    assert_eq!(vault.unlock(&password(SECOND)).unwrap().take_findings(), [Finding::KeyFileRestored]);
    assert!(!old_path.exists() && fs::read(&new_path).unwrap() == new);
    // A newer one that is damaged in both places is not passed over in silence.
    vault.put(&new[..new.len() - 1]);
    fs::write(&old_path, &old).unwrap();
    let mut opened = vault.unlock(&vault.words).unwrap();
    assert!(opened.take_findings().contains(&Finding::KeyFileWentBack));
    assert!(new_path.exists(), "what is damaged and newer is left for the mirror to heal");
}

#[test]
fn a_key_file_from_elsewhere_is_taken_in_only_if_it_is_authentic_and_says_something_new() {
    let vault = Fixture::new();
    let mut opened = vault.unlock(&vault.words).unwrap();
    let first = vault.bytes();
    let new = Zeroizing::new([9; 32]);
    let made = (DeviceId::from_bytes([4; 16]), 77);
    let secret = Secret::Recovery(new.clone());
    let before = opened.key_file().unwrap();
    let next = before.replaced(opened.keyring(), &secret, 0, made, opened.host().entropy()).unwrap();
    let impostor = impostor(opened.id(), &vault.words).encode();
    let mut altered = next.encode();
    altered[100] ^= 1;
    let other = Fixture::new().bytes();
    let derivations = DERIVATIONS.get();
    for (offered, error) in [
        (altered.clone(), KeyFileError::Damaged),
        (with_checksum(altered), KeyFileError::Tampered),
        (with_rounds(next.encode(), 599_999), KeyFileError::TooCheap),
        (with_rounds(next.encode(), u32::MAX), KeyFileError::TooExpensive),
        (with_rounds(next.encode(), 600_001), KeyFileError::Tampered),
        (next.encode()[..300].to_vec(), KeyFileError::Damaged),
        (Vec::new(), KeyFileError::Damaged),
        (impostor, KeyFileError::Tampered),
        (other, KeyFileError::Tampered),
    ] {
        assert_eq!(opened.take_key_file(&offered).unwrap(), Taken::Refused(error));
        assert!(vault.bytes() == first && fs::read(vault.copy()).unwrap() == first);
    }
    assert_eq!(opened.take_key_file(&first).unwrap(), Taken::Nothing);
    assert_eq!(opened.take_key_file(&next.encode()).unwrap(), Taken::Changed(next.clone()));
    assert_eq!(opened.take_key_file(&first).unwrap(), Taken::Nothing, "it never goes back");
    assert_eq!(vault.bytes(), next.encode());
    assert_eq!(DERIVATIONS.get(), derivations, "a password was stretched");
    assert!(vault.unlock(&vault.words).is_err() && vault.unlock(&secret).is_ok());
}

#[test]
fn a_cheap_wrapper_is_made_again_with_the_same_password() {
    let vault = Fixture::new();
    let first = Password::new(FIRST).unwrap();
    let mut opened = vault.unlock(&vault.words).unwrap();
    let cost = |vault: &Vault<ThisMachine>| vault.key_file().unwrap().password().unwrap().iterations;
    let never = || panic!("nothing is due");
    assert!(!opened.raise_cost(&first, MIN_WRITTEN_ITERATIONS, never).unwrap());
    assert!(opened.raise_cost(&first, 650_000, || 700_000).unwrap());
    assert_eq!((cost(&opened), opened.key_file().unwrap().generation), (700_000, 2));
    assert!(vault.unlock(&password(FIRST)).is_ok());
    assert!(!opened.raise_cost(&first, 650_000, never).unwrap());
    // A new wrapper is never cheaper than today's least, whatever the file says.
    opened.change_password(&first, 1).unwrap();
    assert_eq!(cost(&opened), MIN_WRITTEN_ITERATIONS);
}

#[test]
fn a_key_file_taken_back_must_open_what_is_here() {
    let vault = Fixture::new();
    let (path, good) = (vault.file(), vault.bytes());
    let id = KeyFile::decode(&good).unwrap().vault;
    let take_back = |offered: &[u8], secret: &Secret| {
        let locked = Locked::find(ThisMachine::new(vault.dir.path())).unwrap();
        locked.take_back_key(&[offered.to_vec()], secret)
    };
    fs::remove_file(&path).unwrap();
    fs::remove_file(vault.copy()).unwrap();
    let error = take_back(&impostor(id, &vault.words).encode(), &vault.words).unwrap_err();
    assert_eq!(error_of(&error), KeyFileError::Tampered);
    let error = take_back(&Fixture::new().bytes(), &vault.words).unwrap_err();
    assert!(matches!(error, Error::KeyFileOfAnotherVault));
    assert!(!Path::new(&path).exists());
    take_back(&good, &vault.words).unwrap();
    assert!(fs::read(&path).unwrap() == good && vault.unlock(&vault.words).is_ok());
    // What is here and newer stays in force: the old secret of what is offered is refused.
    vault.unlock(&vault.words).unwrap().change_recovery(&Zeroizing::new([8; 32])).unwrap();
    let new = vault.bytes();
    assert_eq!(error_of(&take_back(&good, &vault.words).unwrap_err()), KeyFileError::WrongSecret);
    assert_eq!(vault.bytes(), new);
}
