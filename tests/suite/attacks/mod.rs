//! The attacks of `docs/attacks.md` that no other test tries. Each function begins with the number of its row.

use std::path::Path;

/// How many rows the table has.
const ROWS: usize = 73;
/// At least so many of them are tried, and not only described.
const TRIED: usize = 57;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of each row of the table.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_table_has_every_row_once_and_names_tests_that_exist() {
    let document = read("docs/attacks.md");
    let rows = rows(&document);
    let numbers = rows.iter().map(|row| row[0].parse::<usize>().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    let mut tried = 0;
    for row in &rows {
        assert_eq!(row.len(), 4, "{row:?}");
        // What stands between backticks in the last cell.
        let tests = row[3].split('`').skip(1).step_by(2).collect::<Vec<_>>();
        tried += usize::from(!tests.is_empty());
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{test} names no test"));
            let code = read(file);
            assert!(code.contains(&format!("fn {name}(")), "row {}: no {name} in {file}", row[0]);
            let (before, _) = code.split_once(&format!("fn {name}(")).unwrap();
            let is_test = before.trim_end_matches("async ").trim_end().ends_with("test]");
            assert!(is_test, "{name} in {file} is no test");
        }
    }
    assert!(tried >= TRIED, "only {tried} of {ROWS} rows are tried");
}
