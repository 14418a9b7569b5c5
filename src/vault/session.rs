//! Sessions: a vault that stays open for a while without its password.

use super::open::lock_vault;
use super::{Doing, Error, Locked, Vault, layout};
use crate::clock::Clock;
use crate::crypto::Key;
use crate::format::session::{self, MAX_SESSION_BYTES, Session, SessionId};
use crate::fs::VaultFs;
use crate::host::Host;

impl<H: Host> Vault<H> {
    /// Begins a session that lasts `for_ms`, in place of any other: the key that opens it, to be kept outside the vault,
    /// and what to find that key by. It ends earlier if anything changes in what opens the vault.
    pub fn begin_session(&self, for_ms: i64) -> Result<(SessionId, Key, i64), Error> {
        let begun_ms = self.host.clock().now_ms();
        let until_ms = begun_ms.saturating_add(for_ms);
        let key_file = self.key_file()?.file_name();
        let session = Session { keyring: self.keyring.clone(), begun_ms, until_ms, key_file };
        let key = Key::random(self.host.entropy())?;
        let (id, file) = session::seal(&session, &key, self.host.entropy())?;
        let _lock = self.lock()?;
        self.host.fs().put(&[(layout::SESSION.to_owned(), &file)]).doing("writing the session")?;
        Ok((id, key, until_ms))
    }
}

impl<H: Host> Locked<H> {
    /// What the key of the session is found by, if there is one.
    pub fn session(&self) -> Option<SessionId> {
        let file = self.host().fs().read(layout::SESSION, MAX_SESSION_BYTES).ok()?;
        session::read_id(&file).ok()
    }

    /// Opens the vault with the key of its session. Gives it back locked if that is over: its time has passed, the clock
    /// was set back behind its beginning, what opens the vault was changed since, or the key is another one's.
    pub fn resume(self, key: &Key) -> Result<Result<Vault<H>, Self>, Error> {
        let file = self.host().fs().read(layout::SESSION, MAX_SESSION_BYTES).unwrap_or_default();
        let now_ms = self.host().clock().now_ms();
        let session = session::open(key, &file).ok();
        let session = session.filter(|session| (session.begun_ms..session.until_ms).contains(&now_ms));
        let Some(session) = session else { return Ok(Err(self)) };
        match self.key_file_in_force(&session.keyring) {
            Ok(in_force) if in_force.file_name() == session.key_file => {}
            Ok(_) | Err(Error::KeyFileMissing) => return Ok(Err(self)),
            Err(error) => return Err(error),
        }
        self.opened(session.keyring, Vec::new()).map(Ok)
    }

    /// Ends the session. Whoever has its key opens nothing with it any more.
    pub fn end_session(&self) -> Result<(), Error> {
        let _lock = lock_vault(self.host())?;
        self.host().fs().remove_all(&[layout::SESSION.to_owned()]).doing("ending the session")
    }
}
