//! What the address a person has at hand says about a Nextcloud: where its entrance may be, and which folder is meant.

use percent_encoding::percent_decode_str;
use url::Url;

use super::super::webdav::address;
use super::super::{RemoteError, RemoteErrorKind};

/// A folder lies no deeper than this.
const MAX_FOLDERS: usize = 16;
const MAX_NAME_BYTES: usize = 250;

/// First names of a path that only a Nextcloud or ownCloud has: what is before them is its entrance.
const SURE: &[&str] = &["index.php", "remote.php", "public.php", "status.php", "ocs", "apps"];
/// The same, but others have them, too.
const LIKELY: &[&str] = &["login", "s", "f", "settings"];

/// An address, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The address as that of a collection, if it can be one: without a query.
    pub address: Option<Url>,
    /// Where a Nextcloud's entrance may be, the likeliest first.
    pub entrances: Vec<Entrance>,
    /// The address is already that of a folder in a Nextcloud's files: nobody need be asked.
    pub is_complete: bool,
}

/// Where a Nextcloud may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrance {
    /// What lies above `status.php`, ending in a slash.
    pub root: Url,
    /// The folder in the person's files, name by name; empty if none is meant.
    pub folder: Vec<String>,
}

impl Link {
    /// Reads the address of a server, of a WebDAV collection, or of a page of a Nextcloud.
    ///
    /// # Errors
    ///
    /// As for the address of a collection, but for a query; [`BadAddress`](RemoteErrorKind::BadAddress) for a folder that no
    /// Nextcloud has.
    pub fn read(text: &str) -> Result<Self, RemoteError> {
        let refuse = |detail: &str| RemoteError::new(RemoteErrorKind::BadAddress, "", detail);
        let whole = Url::parse(text.trim()).map_err(|error| refuse(&error.to_string()))?;
        let mut bare = whole.clone();
        bare.set_query(None);
        bare.set_fragment(None);
        let bare = address::base_url(bare.as_str())?;
        let names = names(bare.path());
        let is_page = whole.query().is_some() || whole.fragment().is_some();
        let entrance = |at: usize, folder| Entrance { root: above(&bare, &names[..at]), folder };
        let first = |known: &[&str]| names.iter().position(|name| known.contains(&name.as_str()));
        let mut is_complete = false;
        let mut entrances = Vec::new();
        if let Some(at) = first(SURE) {
            let folder = folder(&whole, &names[at..]).ok_or_else(|| refuse("no folder has such a name"))?;
            let in_files = matches!(&names[at..], [php, dav, files, ..] if php == "remote.php" && dav == "dav" && files == "files");
            is_complete = in_files && !folder.is_empty() && !is_page;
            entrances.push(entrance(at, folder));
        } else {
            entrances.push(entrance(names.len(), Vec::new()));
            entrances.extend(first(LIKELY).map(|at| entrance(at, Vec::new())));
        }
        Ok(Self { address: (!is_page).then_some(bare), entrances, is_complete })
    }
}

/// The names in a path, as they are written there.
fn names(path: &str) -> Vec<String> {
    path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn above(url: &Url, names: &[String]) -> Url {
    let mut root = url.clone();
    root.set_path(&names.iter().fold("/".to_owned(), |path, name| path + name + "/"));
    root
}

/// The folder that a page or a collection shows, from the first name on that only a Nextcloud has.
fn folder(whole: &Url, names: &[String]) -> Option<Vec<String>> {
    let names = names.iter().map(String::as_str).collect::<Vec<_>>();
    let decoded = |name: &str| percent_decode_str(name).decode_utf8().ok().map(String::from);
    let folder = match names.as_slice() {
        ["remote.php", "webdav", folder @ ..] | ["remote.php", "dav", "files", _, folder @ ..] => {
            folder.iter().map(|name| decoded(name)).collect::<Option<Vec<_>>>()?
        }
        ["remote.php", ..] => Vec::new(),
        _ => {
            let dir = whole.query_pairs().find(|(key, _)| key == "dir").map(|(_, dir)| dir.into_owned());
            dir.unwrap_or_default().split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
    };
    (folder.len() <= MAX_FOLDERS && folder.iter().all(|name| is_name(name))).then_some(folder)
}

/// Whether a file or a person may be called so on a server.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, bool) {
        let link = Link::read(text).unwrap();
        let shown = link.entrances.iter().map(|it| format!("{} {}", it.root, it.folder.join("/")));
        (shown.collect(), link.is_complete)
    }

    #[test]
    fn whatever_a_person_copies_leads_to_the_entrance_and_the_folder() {
        for (text, expected) in [
            ("https://cloud.example", "https://cloud.example/ "),
            ("https://cloud.example/nextcloud/", "https://cloud.example/nextcloud/ "),
            ("https://cloud.example/apps/files/files?dir=/Journal", "https://cloud.example/ Journal"),
            (
                "https://cloud.example/apps/files/files/7?dir=/My%20notes/a+b&x=1",
                "https://cloud.example/ My notes/a b",
            ),
            ("https://cloud.example/apps/files/?dir=/", "https://cloud.example/ "),
            ("https://cloud.example/apps/dashboard/", "https://cloud.example/ "),
            ("https://cloud.example/index.php/apps/files/?dir=/%C3%91", "https://cloud.example/ Ñ"),
            ("https://h/nc/index.php/login#x", "https://h/nc/ "),
            ("https://h/nc/apps/files?dir=%2FA%2FB", "https://h/nc/ A/B"),
            ("https://h:8443/remote.php/webdav/A/B%20C/", "https://h:8443/ A/B C"),
            ("https://h/remote.php/dav/files/ada", "https://h/ "),
            ("https://h/remote.php/dav/", "https://h/ "),
            ("http://127.0.0.1:80/x/status.php", "http://127.0.0.1/x/ "),
        ] {
            assert_eq!(read(text), (vec![expected.to_owned()], false), "{text}");
        }
        let both = ["https://h/s/abc/ ".to_owned(), "https://h/ ".to_owned()];
        assert_eq!(read("https://h/s/abc"), (both.to_vec(), false));
    }

    #[test]
    fn an_address_of_a_folder_in_the_files_is_complete() {
        let (entrances, is_complete) = read("https://h/nc/remote.php/dav/files/ada/Journal");
        assert!(is_complete);
        assert_eq!(entrances, ["https://h/nc/ Journal"]);
        assert!(!read("https://h/remote.php/dav/files/ada/Journal?x").1);
        assert!(!read("https://h/remote.php/webdav/Journal").1);
    }

    #[test]
    fn what_leads_elsewhere_or_travels_readable_is_refused() {
        for bad in [
            "https://h/apps/files?dir=/../../admin",
            "https://h/apps/files?dir=/a%0ab",
            "https://h/remote.php/webdav/%2e%2e%2fetc",
            "https://h/remote.php/webdav/a%2Fb",
            "https://ada:canary@h/apps/files?dir=/A",
            "ftp://h/",
        ] {
            let error = Link::read(bad).unwrap_err();
            assert_eq!(error.kind, RemoteErrorKind::BadAddress, "{bad}");
            assert!(!error.to_string().contains("canary"));
        }
        let deep = format!("https://h/apps/files?dir={}", "/a".repeat(17));
        assert!(Link::read(&deep).is_err());
        assert_eq!(Link::read("http://h/apps/files?dir=/A").unwrap_err().kind, RemoteErrorKind::Insecure);
    }

    #[test]
    fn a_page_is_no_collection() {
        assert_eq!(Link::read("https://h/apps/files?dir=/A").unwrap().address, None);
        assert_eq!(Link::read("https://h/dav/j").unwrap().address.unwrap().as_str(), "https://h/dav/j/");
    }
}
