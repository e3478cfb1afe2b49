//! How fast large requests are parsed: `qmp/benches/parse.rs`, built as it is shipped.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

use super::super::table::Figure;

/// A line of that program: what was parsed, and how many MB of it a second.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    mb_per_second: f64,
}

/// Runs it.
///
/// # Errors
///
/// When it does not build, or prints something else.
pub fn measure(workspace: &Workspace) -> Result<Vec<Figure>> {
    let arguments = [
        "bench",
        "--quiet",
        "--package",
        "aerostat-qmp",
        "--bench",
        "parse",
    ];
    let text = process::output(workspace.cargo().args(arguments))?;
    text.lines().map(figure).collect()
}

fn figure(line: &str) -> Result<Figure> {
    let line: Line = serde_json::from_str(line).map_err(|source| Error::Json {
        what: "The output of the parser's benchmark",
        source,
    })?;
    let name = format!("qmp.parse_{}", line.name);
    Ok(Figure::alone(name, "MB/s", line.mb_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_the_benchmark_becomes_a_figure() {
        let figure = figure(r#"{"name": "string_1m", "mb_per_second": 2.5}"#).unwrap();
        assert_eq!(
            (figure.name.as_ref(), figure.value),
            ("qmp.parse_string_1m", 2.5)
        );
        assert!(super::figure("no JSON").is_err());
    }
}
