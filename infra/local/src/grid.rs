//! Rows in columns, as `kubectl get` shows them.

use console::measure_text_width;

/// Two spaces between columns, each as wide as its widest cell; the last is not padded.
pub(crate) fn grid(rows: &[Vec<String>]) -> String {
    // What others wrote may not move the cursor.
    let clean = |cell: &String| cell.chars().filter(|c| !c.is_control()).collect::<String>();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(clean).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|it| measure_text_width(it))
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - measure_text_width(cell) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_hold_nothing_but_text() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows =
            [row(["NAME", "ID", "LAST"]), row(["Prod 東京", "prod", ""]), row(["a", "", "x\u{1b}[2J\ny"])];
        assert_eq!(grid(&rows), "NAME       ID    LAST\nProd 東京  prod\na                x[2Jy\n");
        assert_eq!(grid(&[]), "");
    }
}
