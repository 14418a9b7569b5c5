//! An invitation: where a vault's mirror is, as a line that can be sent, typed or photographed.
//!
//! Nothing in it is secret. It names the vault, so that whoever follows it notices if another one is shown.

use data_encoding::BASE32_NOPAD;

use crate::crypto::object_name;
use crate::id::VaultId;

/// How every invitation begins; the digit is the format.
const START: &str = "ESPEJO1-";
const CHECKSUM_BYTES: usize = 5;
const ID_BYTES: usize = 16;
/// The longest address.
const MAX_TARGET_BYTES: usize = 1_024;
/// The longest line that is looked at, white space included.
const MAX_TEXT_BYTES: usize = 8 << 10;

/// Where a vault's mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The vault.
    pub vault: VaultId,
    /// The mirror: `https://…` or a directory.
    pub target: String,
    /// The name that signs in there.
    pub user: Option<String>,
}

/// Why a text is no invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// It is cut short or mistyped.
    #[error("the invitation is cut short or mistyped")]
    Damaged,
    /// A later version of this program made it.
    #[error("the invitation was made by a newer version of espejo")]
    Newer,
}

/// Whether a text is meant as an invitation, and not as an address or a directory.
pub fn is_invitation(text: &str) -> bool {
    let start = text.trim_start().get(..START.len());
    start.is_some_and(|start| {
        let (word, rest) = start.split_at(START.len() - 2);
        word.eq_ignore_ascii_case("espejo")
            && rest.ends_with('-')
            && rest.starts_with(|c: char| c.is_ascii_digit())
    })
}

impl Invitation {
    /// As a line of capitals and digits; `None` if the address or name is too long for one.
    pub fn encode(&self) -> Option<String> {
        let user = self.user.as_deref().unwrap_or_default();
        let (user_len, target_len) = (u8::try_from(user.len()).ok()?, self.target.len());
        let fits = (1..=MAX_TARGET_BYTES).contains(&target_len);
        let payload =
            [&self.vault.as_bytes()[..], &[user_len], user.as_bytes(), self.target.as_bytes()].concat();
        fits.then(|| with_checksum(&payload))
    }

    /// Reads a line, in capitals or not, wrapped or not.
    ///
    /// # Errors
    ///
    /// If it is not whole, or of a later format.
    pub fn decode(text: &str) -> Result<Self, InvitationError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(InvitationError::Damaged);
        }
        let line = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_uppercase();
        let Some(rest) = line.strip_prefix(START) else {
            return Err(if is_invitation(&line) { InvitationError::Newer } else { InvitationError::Damaged });
        };
        let whole = BASE32_NOPAD.decode(rest.as_bytes()).map_err(|_| InvitationError::Damaged)?;
        let payload = whole.len().checked_sub(CHECKSUM_BYTES).map(|end| &whole[..end]);
        let payload = payload.filter(|payload| with_checksum(payload) == line);
        payload.and_then(Self::of_payload).ok_or(InvitationError::Damaged)
    }

    fn of_payload(payload: &[u8]) -> Option<Self> {
        let (id, rest) = payload.split_first_chunk::<ID_BYTES>()?;
        let (user_len, rest) = rest.split_first()?;
        let (user, target) = rest.split_at_checked(usize::from(*user_len))?;
        let text =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().filter(|it| !it.contains(char::is_control));
        let (user, target) = (text(user)?, text(target)?);
        let fits = (1..=MAX_TARGET_BYTES).contains(&target.len());
        let user = Some(user).filter(|user| !user.is_empty());
        fits.then(|| Self { vault: VaultId::from_bytes(*id), target, user })
    }
}

/// Bytes as a line whose mistakes are noticed.
pub fn with_checksum(payload: &[u8]) -> String {
    let hash = object_name(payload);
    let checksum = &hash.as_bytes()[..CHECKSUM_BYTES];
    START.to_owned() + &BASE32_NOPAD.encode(&[payload, checksum].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation() -> Invitation {
        Invitation {
            vault: VaultId::from_bytes([7; 16]),
            target: "https://cloud.example/remote.php/dav/files/ana/Espejo/".to_owned(),
            user: Some("ana@example.org".to_owned()),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_however_it_was_passed_on() {
        let line = invitation().encode().unwrap();
        let wrapped = format!("  {}\n{}\n", &line[..40].to_lowercase(), &line[40..]);
        for text in [&line, &line.to_lowercase(), &wrapped] {
            assert!(is_invitation(text));
            assert_eq!(Invitation::decode(text), Ok(invitation()));
        }
        let nobody = Invitation { user: None, target: "/mnt/nas/Ñandú".to_owned(), ..invitation() };
        assert_eq!(Invitation::decode(&nobody.encode().unwrap()), Ok(nobody));
        assert_eq!(Invitation { target: "x".repeat(1_025), ..invitation() }.encode(), None);
        assert_eq!(Invitation { user: Some("x".repeat(256)), ..invitation() }.encode(), None);
    }

    #[test]
    fn every_slip_is_noticed() {
        let line = invitation().encode().unwrap();
        for at in START.len()..line.len() {
            assert_eq!(Invitation::decode(&line[..at]), Err(InvitationError::Damaged), "cut at {at}");
            let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mistyped = line[..at].to_owned() + other + &line[at + 1..];
            assert_eq!(Invitation::decode(&mistyped), Err(InvitationError::Damaged), "wrong at {at}");
        }
        assert_eq!(Invitation::decode(&(line.clone() + "AAAAAAAA")), Err(InvitationError::Damaged));
        assert_eq!(Invitation::decode(&line.replace("ESPEJO1", "espejo2")), Err(InvitationError::Newer));
    }

    #[test]
    fn addresses_and_directories_are_none() {
        for text in [
            "https://cloud.example/",
            "espejo",
            "espejo-1",
            "./ESPEJO1-A",
            "espejo1",
            "/espejo1-a",
            "espejo1/a",
        ] {
            assert!(!is_invitation(text), "{text}");
        }
    }
}
