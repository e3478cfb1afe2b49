//! Figures as a table for people and as JSON for programs.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The program that we compare with.
const QEMU: &str = "qemu";

/// What a figure is compared with, and what that reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its name: that of a program, or of a way to do the same.
    pub name: &'static str,
    /// Its figure.
    pub value: f64,
    /// Ours as a part of the peer's, where that was measured as such.
    pub ratio: Option<f64>,
}

/// One figure, ours and those of its peers.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is, as `start.exit`.
    pub name: Cow<'static, str>,
    /// Its unit; empty for a count.
    pub unit: &'static str,
    /// Ours.
    pub value: f64,
    /// What it is compared with; nothing, one or several.
    pub peers: Vec<Peer>,
}

impl Figure {
    /// A figure without a peer.
    pub fn alone(name: impl Into<Cow<'static, str>>, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            peers: Vec::new(),
        }
    }

    /// The same beside QEMU's, if that was measured.
    pub fn beside_qemu(self, value: Option<f64>) -> Self {
        match value {
            Some(value) => self.beside(QEMU, value),
            None => self,
        }
    }

    /// The same beside one more peer's.
    pub fn beside(mut self, name: &'static str, value: f64) -> Self {
        let ratio = None;
        self.peers.push(Peer { name, value, ratio });
        self
    }

    /// The same beside one more peer's, of which ours is this part: found in pairs, rather than from the two
    /// figures.
    pub fn beside_in_pairs(mut self, name: &'static str, value: f64, ratio: f64) -> Self {
        let ratio = Some(ratio);
        self.peers.push(Peer { name, value, ratio });
        self
    }

    /// Ours as a part of the peer's.
    fn ratio(&self, peer: &Peer) -> Option<f64> {
        let quotient = || (peer.value > 0.0).then(|| self.value / peer.value);
        peer.ratio.or_else(quotient)
    }

    /// An object for each peer, or one without.
    fn objects(&self) -> Vec<Value> {
        let object = |peer: Option<&Peer>| {
            json!({
                "name": self.name, "value": self.value, "unit": self.unit,
                "peer": peer.map(|peer| peer.name),
                "peer_value": peer.map(|peer| peer.value),
                "ratio": peer.and_then(|peer| self.ratio(peer)),
            })
        };
        if self.peers.is_empty() {
            return vec![object(None)];
        }
        self.peers.iter().map(|peer| object(Some(peer))).collect()
    }
}

/// An array of objects: `peer` is the peer's name, `peer_value` its figure, and both are `null`
/// where there is no peer. A figure with several peers has an object for each.
///
/// # Errors
///
/// When a figure is no number.
pub fn json(figures: &[Figure]) -> Result<String> {
    let objects: Vec<_> = figures.iter().flat_map(Figure::objects).collect();
    serde_json::to_string_pretty(&objects).map_err(|source| Error::Json {
        what: "The table",
        source,
    })
}

/// A table, with a line for each peer and one on what was compared.
pub fn text(figures: &[Figure], has_qemu: bool) -> String {
    let labels: Vec<String> = figures
        .iter()
        .map(|figure| format!("{} {}", figure.name, figure.unit))
        .collect();
    let width = labels.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    let mut line = |label: &str, ours: &str, theirs: &str, ratio: &str, peer: &str| {
        let line = format!("{label:width$} {ours:>12} {theirs:>12} {ratio:>10}  {peer}");
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line("", "aerostat", "peer", "ratio", "");
    for (figure, label) in figures.iter().zip(&labels) {
        let ours = number(figure.value);
        let (mut label, mut ours) = (label.as_str(), ours.as_str());
        if figure.peers.is_empty() {
            line(label, ours, "-", "-", "");
        }
        for peer in &figure.peers {
            let ratio = figure.ratio(peer);
            let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
            line(label, ours, &number(peer.value), &ratio, peer.name);
            (label, ours) = ("", "");
        }
    }
    text.push_str(
        "Times and rates are medians of rounds, unless the name says _p99 or _max; those \
         of density are of one run of each.\n",
    );
    let mut peers = figures.iter().flat_map(|figure| &figure.peers);
    if peers.any(|peer| peer.ratio.is_some()) {
        text.push_str(
            "The ratios of boot.init are medians too: of each boot to the mean of ours right before \
             and after it.\n",
        );
    }
    if !has_qemu {
        text.push_str(
            "There is no qemu-system-x86_64 on the search path to compare with: install \
             qemu-system-x86 or name one with --qemu.\n",
        );
    }
    text
}

/// A number with some four digits that mean something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 || value.fract() == 0.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        Figure::alone("start.exit", "ms", 2.0).beside_qemu(Some(8.0))
    }

    fn parsed(figures: &[Figure]) -> Value {
        serde_json::from_str(&json(figures).unwrap()).unwrap()
    }

    #[test]
    fn json_has_the_ratio_to_the_peer() {
        let value = parsed(&[figure()]);
        assert_eq!(value[0]["ratio"], 0.25);
        assert_eq!(
            (&value[0]["peer"], &value[0]["peer_value"]),
            (&"qemu".into(), &8.0.into())
        );
    }

    #[test]
    fn ratio_of_pairs_is_not_that_of_the_figures() {
        let figure = || Figure::alone("boot.init", "s", 2.0).beside_in_pairs("qemu", 8.0, 0.3);
        assert_eq!(parsed(&[figure()])[0]["ratio"], 0.3);
        assert!(text(&[figure()], true).contains("ratios of boot.init"));
    }

    #[test]
    fn json_without_peer_has_null() {
        let value = parsed(&[Figure::alone("start.exit", "ms", 2.0).beside_qemu(None)]);
        assert!(value[0]["ratio"].is_null() && value[0]["peer"].is_null());
    }

    #[test]
    fn json_has_an_object_for_each_of_several_peers() {
        let value = parsed(&[figure().beside("limit", 1.0)]);
        assert_eq!(
            (&value[0]["name"], &value[1]["name"]),
            (&"start.exit".into(), &"start.exit".into())
        );
        assert_eq!(
            (&value[1]["peer"], &value[1]["ratio"]),
            (&"limit".into(), &2.0.into())
        );
        assert_eq!(value.as_array().unwrap().len(), 2);
    }

    #[test]
    fn table_has_a_line_for_each_peer() {
        let text = text(&[figure().beside("limit", 1.0)], true);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("qemu") || line.ends_with("limit"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("start.exit ms ") && lines[1].starts_with("  "),
            "{text}"
        );
    }

    #[test]
    fn missing_peer_is_said_in_the_table() {
        let text = text(&[Figure::alone("start.exit", "ms", 2.0)], false);
        assert!(!text.contains("ratios of boot.init"), "{text}");
        assert!(text.contains("no qemu-system-x86_64"), "{text}");
    }

    #[test]
    fn numbers_have_four_digits_that_mean_something() {
        assert_eq!(
            [0.0424, 3.0, 12.345, 123.45, 4567.8].map(number),
            ["0.042", "3", "12.35", "123.5", "4568"]
        );
    }
}
