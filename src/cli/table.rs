//! Tables as the stock client draws them, and the other formats of lists.

use clap::ValueEnum;
use rustix::termios::tcgetwinsize;
use serde_json::Value;

use super::{Error, output};

/// How a list is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
    Yaml,
    Csv,
    Compact,
}

/// Shows rows under headers, or the objects themselves.
///
/// `order` is that of the objects' fields in YAML.
pub(super) fn show(
    format: Format,
    headers: &[&str],
    rows: &[Vec<String>],
    objects: &[Value],
    order: &[&str],
) -> Result<(), Error> {
    let text = match format {
        Format::Table => drawn(headers, &harmless(rows), true),
        Format::Compact => compact(headers, &harmless(rows)),
        Format::Csv => rows.iter().map(|row| csv(row)).collect(),
        Format::Json => return output::json(&format!("{}\n", Value::from(objects.to_vec()))),
        Format::Yaml => super::yaml::text(&Value::from(objects.to_vec()), order),
    };
    output::print(&text)
}

/// Rows that tell a terminal nothing: descriptions and properties of images come from strangers.
fn harmless(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let cell = |text: &String| {
        let odd = |c| output::strange(c) || c == '\t';
        text.chars().map(|c| if odd(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
    };
    rows.iter().map(|row| row.iter().map(cell).collect()).collect()
}

fn csv(row: &[String]) -> String {
    let cell = |cell: &String| {
        if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n"
}

/// Lines of its highest cell.
fn height(row: &[String]) -> usize {
    row.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1)
}

/// The pieces of a text: digits as numbers, all else as it is.
fn pieces(text: &str) -> Vec<(u128, String)> {
    let mut pieces: Vec<String> = Vec::new();
    let mut digits = None;
    for c in text.chars() {
        if digits != Some(c.is_ascii_digit()) {
            pieces.push(String::new());
        }
        digits = Some(c.is_ascii_digit());
        if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    // Numbers come before letters.
    pieces.into_iter().map(|piece| (piece.parse().unwrap_or(u128::MAX), piece)).collect()
}

/// Sorts rows by their cells, and numbers in them as numbers. Empty cells come last.
pub(super) fn sort(rows: &mut [Vec<String>]) {
    rows.sort_by_cached_key(|row| row.iter().map(|cell| (cell.is_empty(), pieces(cell))).collect::<Vec<_>>());
}

fn widths(headers: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    (0..headers.len())
        .map(|i| rows.iter().map(|row| width(&row[i])).chain([width(headers[i])]).max().unwrap_or(0))
        .collect()
}

fn compact(headers: &[&str], rows: &[Vec<String>]) -> String {
    let widths = widths(headers, rows);
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("  {cell:width$}")).collect::<String>();
        format!("{padded}  \n")
    };
    let centred: Vec<String> = headers.iter().zip(&widths).map(|(header, width)| format!("{header:^width$}")).collect();
    let mut text = line(&centred.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        for at in 0..height(row) {
            text.push_str(&line(&row.iter().map(|cell| cell.lines().nth(at).unwrap_or("")).collect::<Vec<_>>()));
        }
    }
    text
}

/// A table that fits the terminal, where there is one.
pub(super) fn drawn(headers: &[&str], rows: &[Vec<String>], ruled: bool) -> String {
    let columns = tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 {
        return draw(headers, rows, ruled);
    }
    let (headers, rows) = fitted(headers, rows, columns);
    draw(&headers.iter().map(String::as_str).collect::<Vec<_>>(), &rows, ruled)
}

/// Columns that tell what a row is about: they stay whole as long as others can give way.
fn identifies(header: &str) -> bool {
    matches!(header, "NAME" | "ALIAS" | "FINGERPRINT" | "ID" | "UUID" | "LISTEN ADDRESS")
}

/// So many lines at most are made of one, where it does not tell what the row is about.
const MOST_LINES: usize = 4;

/// The same cells in as many columns of a terminal: the widest give way first, and are wrapped.
fn fitted(headers: &[&str], rows: &[Vec<String>], columns: usize) -> (Vec<String>, Vec<Vec<String>>) {
    let natural = widths(headers, rows);
    let mut widths = natural.clone();
    let frame = 3 * widths.len() + 1;
    for (least, all) in [(8, false), (5, false), (4, false), (8, true), (5, true), (3, true)] {
        while frame + widths.iter().sum::<usize>() > columns {
            let may = |at: &usize| widths[*at] > least && (all || !identifies(headers[*at]));
            // Of several the last: what comes first matters most.
            let Some(widest) = (0..widths.len()).filter(may).max_by_key(|at| widths[*at]) else { break };
            widths[widest] -= 1;
        }
    }
    let cell = |at: usize, text: &str, most: usize| {
        if natural[at] == widths[at] {
            return text.to_owned();
        }
        text.lines().map(|line| wrapped(line, widths[at], most)).collect::<Vec<_>>().join("\n")
    };
    let most = |at: usize| if identifies(headers[at]) { usize::MAX } else { MOST_LINES };
    let row = |row: &Vec<String>| row.iter().enumerate().map(|(at, text)| cell(at, text, most(at))).collect();
    let headers = headers.iter().enumerate().map(|(at, header)| cell(at, header, usize::MAX)).collect();
    (headers, rows.iter().map(row).collect())
}

/// Lines of at most `width` letters, broken where a word ends if one does; of more than `most` the last is cut.
fn wrapped(line: &str, width: usize, most: usize) -> String {
    let letters: Vec<char> = line.chars().collect();
    let (mut lines, mut rest) = (Vec::new(), letters.as_slice());
    while rest.len() > width && lines.len() + 1 < most {
        // A blank is not shown where a line ends, so that it may stand just after it.
        let end = match rest[..=width].iter().rposition(|c| *c == ' ').filter(|at| *at > 0) {
            Some(blank) => blank,
            None => rest[..width].iter().rposition(|c| "-/:,._".contains(*c)).map_or(width, |at| at + 1),
        };
        lines.push(rest[..end].iter().collect::<String>());
        rest = &rest[end..];
        while rest.first() == Some(&' ') {
            rest = &rest[1..];
        }
    }
    lines.push(match rest.len() > width {
        true => rest[..width - 1].iter().chain(['…'].iter()).collect(),
        false => rest.iter().collect(),
    });
    lines.join("\n")
}

/// A table; with `ruled`, a line below each row, as `lxc list` has it.
pub(crate) fn draw(headers: &[&str], rows: &[Vec<String>], ruled: bool) -> String {
    let widths = widths(headers, rows);
    let rule = format!("+{}\n", widths.iter().map(|w| format!("{}+", "-".repeat(w + 2))).collect::<String>());
    let line = |cells: &[&str]| {
        let cells: String = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} |")).collect();
        format!("|{cells}\n")
    };
    let centred = |at: usize| -> Vec<String> {
        let at = |header: &str, width: usize| format!("{:^width$}", header.lines().nth(at).unwrap_or(""));
        headers.iter().zip(&widths).map(|(header, width)| at(header, *width)).collect()
    };
    let mut text = rule.clone();
    for at in 0..headers.iter().map(|header| header.lines().count()).max().unwrap_or(1) {
        text.push_str(&line(&centred(at).iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text.push_str(&rule);
    for row in rows {
        for at in 0..height(row) {
            text.push_str(&line(&row.iter().map(|cell| cell.lines().nth(at).unwrap_or("")).collect::<Vec<_>>()));
        }
        if ruled {
            text.push_str(&rule);
        }
    }
    if !ruled {
        text.push_str(&rule);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_cells() {
        let rows = [vec!["c1".to_owned(), "10.0.0.1 (eth0)\n10.0.0.2 (eth1)".to_owned()]];
        let wanted = "\
+------+-----------------+
| NAME |      IPV4       |
+------+-----------------+
| c1   | 10.0.0.1 (eth0) |
|      | 10.0.0.2 (eth1) |
+------+-----------------+
";
        assert_eq!(draw(&["NAME", "IPV4"], &rows, true), wanted);
    }

    #[test]
    fn a_table_gives_way_to_the_terminal() {
        let headers = ["NAME", "DESCRIPTION", "UPLOAD DATE"];
        let rows = [["a-rather-long-name", "words that can be wrapped", "2026/11/28"].map(str::to_owned).to_vec()];
        let at = |columns| {
            let (headers, rows) = fitted(&headers, &rows, columns);
            draw(&headers.iter().map(String::as_str).collect::<Vec<_>>(), &rows, true)
        };
        assert_eq!(at(80), draw(&headers, &rows, true));
        let wanted = "\
+--------------------+-----------+----------+
|        NAME        | DESCRIPTI |  UPLOAD  |
|                    |    ON     |   DATE   |
+--------------------+-----------+----------+
| a-rather-long-name | words     | 2026/11/ |
|                    | that can  | 28       |
|                    | be        |          |
|                    | wrapped   |          |
+--------------------+-----------+----------+
";
        assert_eq!(at(45), wanted);
        for columns in [20, 30, 40, 60] {
            let drawn = at(columns);
            assert!(drawn.lines().all(|line| line.chars().count() <= columns), "{columns}:\n{drawn}");
        }
        // Narrower than anybody can read it does not become.
        assert_eq!(at(1), at(19));
        assert_eq!(wrapped("abcdefgh", 3, 2), "abc\nde…");
        assert_eq!(wrapped("10.0.0.1 (eth0)", 8, 4), "10.0.0.1\n(eth0)");
    }

    #[test]
    fn a_table_passes_no_escape_sequences_on() {
        let rows = harmless(&[vec!["\x1b[2Jred\r".to_owned(), "two\nlines".to_owned()]]);
        assert_eq!(rows, [["\u{fffd}[2Jred\u{fffd}", "two\nlines"]]);
    }

    #[test]
    fn rows_are_sorted_as_people_count() {
        let mut rows = ["c10", "c9", "", "c", "a"].map(|name| vec![name.to_owned()]);
        sort(&mut rows);
        assert_eq!(rows.concat(), ["a", "c", "c9", "c10", ""]);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(csv(&["a".to_owned(), "b,\"c".to_owned()]), "a,\"b,\"\"c\"\n");
    }
}
