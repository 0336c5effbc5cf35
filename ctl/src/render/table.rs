//! Plain tables, and what is only counted. Knows no document.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use owo_colors::OwoColorize;

use super::Page;
use crate::text;

/// Columns without lines, as `ss` and `systemctl` print them.
pub(super) fn table<const N: usize>(out: &mut Page, header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| text::line(&cell)));
    }
    for (index, line) in table.lines().enumerate() {
        let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
        out.line(&if index == 0 { line.bold().to_string() } else { line.to_owned() });
    }
}

/// What the grants of who asks are not about is only counted.
pub(super) fn others(out: &mut Page, count: usize) {
    if count > 0 {
        out.line(&format!("and {count} more, outside your grants"));
    }
}
