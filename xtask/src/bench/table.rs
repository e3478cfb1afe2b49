//! Figures as a table for people and as JSON for programs.

use std::borrow::Cow;

use serde_json::json;

use crate::error::{Error, Result};

/// What programs know the peer by.
const PEER: &str = "qemu";

/// One figure, ours and the peer's where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is, as `start.exit`.
    pub name: Cow<'static, str>,
    /// Its unit; empty for a count.
    pub unit: &'static str,
    /// Ours.
    pub value: f64,
    /// The peer's.
    pub peer: Option<f64>,
}

impl Figure {
    /// Ours as a part of the peer's.
    fn ratio(&self) -> Option<f64> {
        self.peer
            .filter(|peer| *peer > 0.0)
            .map(|peer| self.value / peer)
    }
}

/// An array of objects: `peer` is the peer's name, `peer_value` its figure, and both are `null`
/// where there is no peer.
///
/// # Errors
///
/// When a figure is no number.
pub fn json(figures: &[Figure]) -> Result<String> {
    let objects: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name, "value": figure.value, "unit": figure.unit,
                "peer": figure.peer.map(|_| PEER), "peer_value": figure.peer,
                "ratio": figure.ratio(),
            })
        })
        .collect();
    serde_json::to_string_pretty(&objects).map_err(|source| Error::Json {
        what: "The table",
        source,
    })
}

/// A table with a line on what was compared.
pub fn text(figures: &[Figure], has_peer: bool, rounds: u32) -> String {
    let mut text = format!(
        "{:26} {:>12} {:>12} {:>8}\n",
        "",
        "aerostat",
        if has_peer { "QEMU" } else { "(no QEMU)" },
        "ratio"
    );
    for figure in figures {
        let number = |value: Option<f64>, digits| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let digits = match figure.unit {
            "ms" => 2,
            "us" => 1,
            _ => 0,
        };
        text.push_str(&format!(
            "{:26} {:>12} {:>12} {:>8}\n",
            format!("{} {}", figure.name, figure.unit),
            number(Some(figure.value), digits),
            number(figure.peer, digits),
            number(figure.ratio(), 3),
        ));
    }
    text.push_str(&format!(
        "Times and rates are medians of {rounds} rounds taken in turn, unless the name says _p99 or _max.\n"
    ));
    if !has_peer {
        text.push_str(
            "There is no qemu-system-x86_64 on the search path to compare with: install \
             qemu-system-x86 or name one with --qemu.\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURE: Figure = Figure {
        name: Cow::Borrowed("start.exit"),
        unit: "ms",
        value: 2.0,
        peer: Some(8.0),
    };

    #[test]
    fn json_has_the_ratio_to_the_peer() {
        let value: serde_json::Value = serde_json::from_str(&json(&[FIGURE]).unwrap()).unwrap();
        assert_eq!(value[0]["ratio"], 0.25);
        assert_eq!(
            (&value[0]["peer"], &value[0]["peer_value"]),
            (&"qemu".into(), &8.0.into())
        );
    }

    #[test]
    fn json_without_peer_has_null() {
        let figure = Figure {
            peer: None,
            ..FIGURE
        };
        let value: serde_json::Value = serde_json::from_str(&json(&[figure]).unwrap()).unwrap();
        assert!(value[0]["ratio"].is_null() && value[0]["peer"].is_null());
    }

    #[test]
    fn missing_peer_is_said_in_the_table() {
        let text = text(
            &[Figure {
                peer: None,
                ..FIGURE
            }],
            false,
            3,
        );
        assert!(text.contains("no qemu-system-x86_64"), "{text}");
    }
}
