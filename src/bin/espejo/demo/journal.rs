//! The journal the demo imports. It is part of the program: where Espejo is installed there is no source tree.

use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A page of the journal.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// `2025-01-06 Title`.
    name: &'static str,
    /// Markdown.
    pub text: &'static str,
}

/// A picture that belongs to a page.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// File name.
    pub name: &'static str,
    /// The file.
    pub bytes: &'static [u8],
    /// Title of the page it belongs to.
    pub page: &'static str,
}

macro_rules! pages {
    ($($name:literal),* $(,)?) => {
        &[$(Page {
            name: $name,
            text: include_str!(concat!("../../../../fixtures/journal/", $name, ".md")),
        }),*]
    };
}

/// Every page, the oldest first.
pub const PAGES: &[Page] = pages![
    "2025-01-06 Día de Reyes",
    "2025-02-14 The lemon tree",
    "2025-03-02 Rain and the radio",
    "2025-03-29 Half an eclipse",
    "2025-04-23 Sant Jordi 🌹",
    "2025-05-18 A list, already bought",
    "2025-06-21 The shortest night",
    "2025-07-09 Swimming lesson",
    "2025-08-12 Perseids",
    "2025-09-30 Grandmother's tortilla",
    "2025-11-02 Señor Ibáñez's piano",
    "2025-12-31 Things to keep",
];

/// The one picture.
pub const PICTURE: Picture = Picture {
    name: "eclipse.png",
    bytes: include_bytes!("../../../../fixtures/journal/eclipse.png"),
    page: "Half an eclipse",
};

impl Page {
    /// What it is called.
    pub fn title(&self) -> &'static str {
        self.name.split_once(' ').map_or(self.name, |(_, title)| title)
    }

    /// Noon of its day, milliseconds since 1970 UTC.
    pub fn created_ms(&self) -> Result<i64, jiff::Error> {
        let day = self.name.split_once(' ').map_or(self.name, |(day, _)| day).parse::<Date>()?;
        Ok(day.at(12, 0, 0, 0).to_zoned(TimeZone::UTC)?.timestamp().as_millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_the_fixtures_is_here_and_dated() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/journal");
        let files =
            std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files =
            files.filter_map(|name| name.strip_suffix(".md").map(str::to_owned)).collect::<Vec<_>>();
        files.sort();
        assert_eq!(PAGES.iter().map(|page| page.name).collect::<Vec<_>>(), files);
        let days = PAGES.iter().map(|page| page.created_ms().unwrap()).collect::<Vec<_>>();
        assert!(days.is_sorted());
        assert!(PAGES.iter().any(|page| page.title() == PICTURE.page));
    }
}
