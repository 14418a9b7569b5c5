//! Reading a collection's listing: the `207 Multi-Status` body of a PROPFIND.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use quick_xml::NsReader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use url::Url;

use super::super::{Item, RemoteErrorKind};

/// What is asked: the two properties the sync needs, which also makes the shortest answers.
pub(super) const REQUEST_BODY: &str = concat!(
    r#"<?xml version="1.0" encoding="utf-8"?>"#,
    r#"<D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getcontentlength/></D:prop></D:propfind>"#
);
/// What is asked to learn what a server has to offer.
pub(super) const ABOUT_BODY: &str = concat!(
    r#"<?xml version="1.0" encoding="utf-8"?>"#,
    r#"<D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getetag/><D:quota-available-bytes/></D:prop></D:propfind>"#
);
/// The longest body that is read.
pub(super) const MAX_BODY_BYTES: u64 = 64 << 20;

/// A real answer is seven elements deep, less what a server adds for itself.
const MAX_DEPTH: usize = 16;
/// Real elements carry a handful of namespace declarations.
const MAX_ATTRIBUTES: usize = 64;
/// The longest href, status or length that is looked at. Names have at most 255 bytes on any file system.
const MAX_TEXT_BYTES: usize = 8 << 10;
const MAX_NAME_BYTES: usize = 255;

const DAV: Namespace = Namespace(DAV_NS);
const DAV_NS: &str = "DAV:";

/// What a listing said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Multistatus {
    /// The direct children of the collection that was asked for.
    pub(super) items: Vec<Item>,
    /// The collection itself, under an empty name.
    pub(super) itself: Option<Item>,
    /// False if the body ended early, went on after its end, held entries that were not understood or did not
    /// belong there, or did not hold the collection itself.
    pub(super) complete: bool,
    /// What else was told of the collection itself.
    pub(super) about: Told,
}

/// Properties that only a person wants to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) has_etag: bool,
    /// Negative where it is unlimited or unknown.
    pub(super) room_bytes: Option<i64>,
}

/// Reads `body`, the answer to a PROPFIND of `asked`.
///
/// Entries are taken one by one: what cannot be understood is left out and makes the listing incomplete, because
/// servers cut listings short and go on in plain text (rclone does while anyone uploads), and what was said before
/// is still true.
///
/// # Errors
///
/// [`NotDav`](RemoteErrorKind::NotDav) if it is no multistatus at all; [`Malformed`](RemoteErrorKind::Malformed) if
/// it holds a document type, an entity of its own, or more depth or attributes than any listing needs.
pub(super) fn parse(body: &[u8], asked: &Url) -> Result<Multistatus, RemoteErrorKind> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let (text, whole) = match std::str::from_utf8(body) {
        Ok(text) => (text, true),
        Err(error) => (std::str::from_utf8(&body[..error.valid_up_to()]).unwrap_or(""), false),
    };
    let mut parser = Parser::new(asked);
    let mut reader = NsReader::from_str(text);
    while !parser.ended {
        let Ok((namespace, event)) = reader.read_resolved_event() else {
            parser.complete = false;
            break;
        };
        match event {
            Event::Start(element) => parser.open(is_dav(&namespace), &element)?,
            Event::Empty(element) => {
                parser.open(is_dav(&namespace), &element)?;
                parser.close();
            }
            Event::End(_) => parser.close(),
            Event::Text(text) => parser.text(&text)?,
            Event::CData(text) => parser.text(&text)?,
            Event::GeneralRef(reference) => parser.text(resolve(&reference)?.encode_utf8(&mut [0; 4]))?,
            Event::DocType(doctype) if !parser.root_seen => {
                let is_html =
                    doctype.trim_start().get(..4).is_some_and(|name| name.eq_ignore_ascii_case("html"));
                return Err(if is_html { RemoteErrorKind::NotDav } else { RemoteErrorKind::Malformed });
            }
            Event::DocType(_) => return Err(RemoteErrorKind::Malformed),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    parser.finish(whole)
}

fn is_dav(namespace: &ResolveResult) -> bool {
    *namespace == ResolveResult::Bound(DAV)
}

/// A character reference, or one of the five entities that need no declaration. There are no others.
fn resolve(reference: &BytesRef) -> Result<char, RemoteErrorKind> {
    let predefined = match reference.as_ref() {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => None,
    };
    predefined.or_else(|| reference.resolve_char_ref().ok().flatten()).ok_or(RemoteErrorKind::Malformed)
}

/// The elements that matter, each only where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Multistatus,
    Response,
    Href,
    ResponseStatus,
    Propstat,
    PropstatStatus,
    Prop,
    ResourceType,
    Collection,
    Length,
    ETag,
    Room,
    Other,
}

/// One `response`, as far as it has been read.
#[derive(Default)]
struct Entry {
    href: Option<String>,
    /// The status of the resource, if it was told for the resource as a whole.
    status: Option<u16>,
    /// Whether any property came with its status.
    any_propstat: bool,
    /// Whether something in it made no sense.
    broken: bool,
    props: Props,
}

/// The two properties.
#[derive(Default)]
struct Props {
    is_dir: Option<bool>,
    len_bytes: Option<u64>,
    told: Told,
}

/// Where an href leads, seen from the collection that was asked for.
enum Place {
    Itself,
    Child(String),
    /// A child with a name that no device of ours writes and that should not be shown.
    Foreign,
    /// Somewhere a listing of this collection has no business.
    Elsewhere,
}

struct Parser<'a> {
    asked: &'a Url,
    asked_segments: Vec<Vec<u8>>,
    open_tags: Vec<Element>,
    text: String,
    entry: Entry,
    /// The properties of the `propstat` being read, which count only if its status says so.
    props: Props,
    props_status: Option<u16>,
    names: HashSet<String>,
    items: Vec<Item>,
    itself: Option<Item>,
    about: Told,
    complete: bool,
    root_seen: bool,
    /// True when nothing that follows can matter any more.
    ended: bool,
}

impl<'a> Parser<'a> {
    fn new(asked: &'a Url) -> Self {
        Self {
            asked,
            asked_segments: segments(asked.path()).collect(),
            open_tags: Vec::new(),
            text: String::new(),
            entry: Entry::default(),
            props: Props::default(),
            props_status: None,
            names: HashSet::new(),
            items: Vec::new(),
            itself: None,
            about: Told::default(),
            complete: true,
            root_seen: false,
            ended: false,
        }
    }

    fn open(&mut self, is_dav: bool, element: &BytesStart) -> Result<(), RemoteErrorKind> {
        let too_many =
            element.attributes().with_checks(false).take(MAX_ATTRIBUTES + 1).count() > MAX_ATTRIBUTES;
        if too_many || self.open_tags.len() >= MAX_DEPTH {
            return Err(RemoteErrorKind::Malformed);
        }
        let name = element.local_name();
        let tag = match (self.open_tags.last(), name.as_ref()) {
            _ if !is_dav => Element::Other,
            (None, "multistatus") => Element::Multistatus,
            (Some(Element::Multistatus), "response") => Element::Response,
            (Some(Element::Response), "href") => Element::Href,
            (Some(Element::Response), "status") => Element::ResponseStatus,
            (Some(Element::Response), "propstat") => Element::Propstat,
            (Some(Element::Propstat), "status") => Element::PropstatStatus,
            (Some(Element::Propstat), "prop") => Element::Prop,
            (Some(Element::Prop), "resourcetype") => Element::ResourceType,
            (Some(Element::Prop), "getcontentlength") => Element::Length,
            (Some(Element::Prop), "getetag") => Element::ETag,
            (Some(Element::Prop), "quota-available-bytes") => Element::Room,
            (Some(Element::ResourceType), "collection") => Element::Collection,
            _ => Element::Other,
        };
        if self.open_tags.is_empty() {
            if self.root_seen {
                // A second document after the first.
                self.complete = false;
                self.ended = true;
                return Ok(());
            }
            if tag != Element::Multistatus {
                return Err(RemoteErrorKind::NotDav);
            }
            self.root_seen = true;
        }
        match tag {
            Element::Response => self.entry = Entry::default(),
            Element::Propstat => (self.props, self.props_status) = (Props::default(), None),
            Element::ResourceType => self.props.is_dir = Some(false),
            Element::Collection => self.props.is_dir = Some(true),
            Element::Href
            | Element::ResponseStatus
            | Element::PropstatStatus
            | Element::Length
            | Element::ETag
            | Element::Room => {
                self.text.clear();
            }
            Element::Multistatus | Element::Prop | Element::Other => {}
        }
        self.open_tags.push(tag);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), RemoteErrorKind> {
        match self.open_tags.last() {
            Some(
                Element::Href
                | Element::ResponseStatus
                | Element::PropstatStatus
                | Element::Length
                | Element::ETag
                | Element::Room,
            ) => {
                if self.text.len() + text.len() <= MAX_TEXT_BYTES {
                    self.text.push_str(text);
                } else {
                    self.entry.broken = true;
                }
            }
            Some(_) => {}
            None if text.trim().is_empty() => {}
            None if self.root_seen => (self.complete, self.ended) = (false, true),
            None => return Err(RemoteErrorKind::NotDav),
        }
        Ok(())
    }

    fn close(&mut self) {
        match self.open_tags.pop() {
            Some(Element::Href) => {
                self.entry.broken |= self.entry.href.is_some();
                self.entry.href = Some(self.text.trim().to_owned());
            }
            Some(Element::ResponseStatus) => {
                self.entry.status = status_of(&self.text);
                self.entry.broken |= self.entry.status.is_none();
            }
            Some(Element::PropstatStatus) => self.props_status = status_of(&self.text),
            Some(Element::Length) if !self.text.trim().is_empty() => {
                self.props.len_bytes = self.text.trim().parse().ok();
                self.entry.broken |= self.props.len_bytes.is_none();
            }
            Some(Element::ETag) => self.props.told.has_etag = !self.text.trim().is_empty(),
            Some(Element::Room) => self.props.told.room_bytes = self.text.trim().parse().ok(),
            Some(Element::Propstat) => self.close_propstat(),
            Some(Element::Response) => self.close_response(),
            _ => {}
        }
    }

    fn close_propstat(&mut self) {
        let props = std::mem::take(&mut self.props);
        match self.props_status.take() {
            Some(200..=299) => {
                self.entry.any_propstat = true;
                self.entry.props.is_dir = props.is_dir.or(self.entry.props.is_dir);
                self.entry.props.len_bytes = props.len_bytes.or(self.entry.props.len_bytes);
                let told = &mut self.entry.props.told;
                told.has_etag |= props.told.has_etag;
                told.room_bytes = props.told.room_bytes.or(told.room_bytes);
            }
            Some(_) => self.entry.any_propstat = true,
            None => self.entry.broken = true,
        }
    }

    fn close_response(&mut self) {
        let entry = std::mem::take(&mut self.entry);
        let (Some(href), false) = (&entry.href, entry.broken) else {
            self.complete = false;
            return;
        };
        match entry.status {
            // It went away while the server was listing.
            Some(404 | 410) => return,
            Some(200..=299) => {}
            None if entry.any_propstat => {}
            Some(_) | None => {
                self.complete = false;
                return;
            }
        }
        let is_dir = entry.props.is_dir.unwrap_or(href.ends_with('/'));
        let item = |name| Item { name, len_bytes: if is_dir { None } else { entry.props.len_bytes }, is_dir };
        match self.place(href) {
            Place::Itself => (self.itself, self.about) = (Some(item(String::new())), entry.props.told),
            Place::Child(name) if self.names.insert(name.clone()) => self.items.push(item(name)),
            Place::Foreign => {}
            Place::Child(_) | Place::Elsewhere => self.complete = false,
        }
    }

    /// Names are never joined from hrefs: an href counts only if it spells the collection that was asked for,
    /// segment by segment, and at most one name more.
    fn place(&self, href: &str) -> Place {
        let Some(path) = self.path_of(href) else { return Place::Elsewhere };
        let found = segments(path).collect::<Vec<_>>();
        let climbs = |segment: &Vec<u8>| matches!(segment.as_slice(), b"." | b"..");
        let Some(below) = found.strip_prefix(self.asked_segments.as_slice()) else { return Place::Elsewhere };
        match below {
            [] => Place::Itself,
            [name] if climbs(name) || name.len() > MAX_NAME_BYTES => Place::Elsewhere,
            [name] if name.iter().any(|b| matches!(b, b'/' | b'\\' | 0)) => Place::Elsewhere,
            [name] => match std::str::from_utf8(name) {
                Ok(name) if super::super::sanitize(name) == name => Place::Child(name.to_owned()),
                _ => Place::Foreign,
            },
            _ => Place::Elsewhere,
        }
    }

    /// The path of an href: it is one itself, or a whole URL of the same host. Behind a proxy a server may think
    /// it has another scheme or port, so those are not compared.
    fn path_of<'h>(&self, href: &'h str) -> Option<&'h str> {
        let path = match href.split_once("://") {
            _ if href.starts_with('/') => href,
            Some(("http" | "https", rest)) => {
                let (authority, _) = rest.split_once('/')?;
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                let host = match host.rsplit_once(':') {
                    Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
                    _ => host,
                };
                if !host.eq_ignore_ascii_case(self.asked.host_str()?) {
                    return None;
                }
                &rest[authority.len()..]
            }
            _ => return None,
        };
        (!path.contains(['?', '#'])).then_some(path)
    }

    fn finish(self, whole: bool) -> Result<Multistatus, RemoteErrorKind> {
        if !self.root_seen {
            return Err(RemoteErrorKind::NotDav);
        }
        let complete = self.complete && whole && self.open_tags.is_empty() && self.itself.is_some();
        Ok(Multistatus { items: self.items, itself: self.itself, complete, about: self.about })
    }
}

/// The names in a path, percent-decoded. Servers differ in which characters they encode, in which case, and in
/// doubled slashes.
fn segments(path: &str) -> impl Iterator<Item = Vec<u8>> {
    path.split('/').filter(|segment| !segment.is_empty()).map(|segment| percent_decode_str(segment).collect())
}

/// The code in `HTTP/1.1 200 OK`.
fn status_of(line: &str) -> Option<u16> {
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
#[path = "propfind_tests.rs"]
mod tests;
