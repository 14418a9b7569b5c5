//! Where a WebDAV mirror is.

use url::{Host, Url};

use super::super::{RemoteError, RemoteErrorKind};

/// Checks the address of a mirror's base collection and gives it with a slash at its end.
///
/// # Errors
///
/// [`Insecure`](RemoteErrorKind::Insecure) for `http://` to anywhere but this machine, else
/// [`BadAddress`](RemoteErrorKind::BadAddress). No error repeats the address: it may hold a password.
pub(in crate::remote) fn base_url(address: &str) -> Result<Url, RemoteError> {
    let refuse = |detail: &str| RemoteError::new(RemoteErrorKind::BadAddress, "", detail);
    let mut url = Url::parse(address.trim()).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(refuse("a server's address starts with https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("give the user name and password apart, not inside the address"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("the address ends before any ? or #: copy the WebDAV address, not a page's"));
    }
    if url.host().is_none() {
        return Err(refuse("the address names no server"));
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(RemoteError::new(RemoteErrorKind::Insecure, "", "use https://"));
    }
    // A slash too many, as when two parts are put together, is one address to some servers and another to others.
    let names = url.path().split('/').filter(|name| !name.is_empty());
    let path = names.fold("/".to_owned(), |path, name| path + name + "/");
    url.set_path(&path);
    Ok(url)
}

/// Whether `url` leads to this machine, so that nothing travels on a wire.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(address: &str) -> RemoteErrorKind {
        base_url(address).unwrap_err().kind
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for near in ["http://127.0.0.1:8080/dav", "http://127.3.2.1", "http://[::1]/x/", "http://localhost/"]
        {
            assert!(base_url(near).unwrap().path().ends_with('/'), "{near}");
        }
        for far in [
            "http://nas.local/dav",
            "http://localhost.example.org/",
            "http://127.0.0.1.example.org/",
            "http://10.0.0.1/",
            "http://0.0.0.0/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(kind(far), RemoteErrorKind::Insecure, "{far}");
        }
    }

    #[test]
    fn slashes_are_as_many_as_there_are_names() {
        for (given, path) in [
            ("https://h", "/"),
            ("https://h//", "/"),
            ("https://h/dav//j", "/dav/j/"),
            ("https://h/dav/a%2Fb%20c/", "/dav/a%2Fb%20c/"),
        ] {
            assert_eq!(base_url(given).unwrap().path(), path, "{given}");
        }
    }

    #[test]
    fn an_address_holds_no_password_query_or_fragment() {
        for bad in [
            "https://ada:canary@h/",
            "https://ada@h/",
            "https://h/?a",
            "https://h/#a",
            "ftp://h/",
            "x",
            "https://",
        ] {
            assert_eq!(kind(bad), RemoteErrorKind::BadAddress, "{bad}");
        }
        let shown = base_url("https://ada:canary@h/").unwrap_err().to_string();
        assert!(!shown.contains("canary"), "{shown}");
    }
}
