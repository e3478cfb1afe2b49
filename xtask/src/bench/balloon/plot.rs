//! A picture of how memory came and went: an SVG on a ground of its own, so that it can be read on
//! light and on dark pages.

use plotters::prelude::*;

use super::trace::{Sample, Trace};
use crate::error::{Error, Result};

const SIZE: (u32, u32) = (880, 420);
const MIB: f64 = (1u64 << 20) as f64;
/// Room above the highest line, for what the guest does.
const HEADROOM: f64 = 1.25;
/// Where in that room it is written: in two rows, since two things can follow one another closely.
const MARK_HEIGHTS: [f64; 2] = [1.22, 1.15];
/// Where the names of the lines stand, in pixels: there all lines are low.
const LEGEND: SeriesLabelPosition = SeriesLabelPosition::Coordinate(24, 52);
const FONT: &str = "sans-serif";

/// A line of the picture.
struct Line {
    label: &'static str,
    color: RGBColor,
    bytes: fn(&Sample) -> u64,
}

const LINES: [Line; 3] = [
    Line {
        label: "the guest has (actual)",
        color: RGBColor(0x1f, 0x77, 0xb4),
        bytes: |sample| sample.actual,
    },
    Line {
        label: "the process has on the host (RSS)",
        color: RGBColor(0xd6, 0x27, 0x28),
        bytes: |sample| sample.resident,
    },
    Line {
        label: "given back since the start (released)",
        color: RGBColor(0x2c, 0xa0, 0x2c),
        bytes: |sample| sample.released,
    },
];

/// The picture of `trace`.
///
/// # Errors
///
/// When there is nothing to draw.
pub fn svg(trace: &Trace) -> Result<String> {
    let mut text = String::new();
    draw(trace, &mut text)
        .map_err(|error| Error::Check(format!("The plot cannot be drawn: {error}")))?;
    Ok(text)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(trace: &Trace, text: &mut String) -> Drawn {
    let last = trace.samples.last().ok_or("nothing was seen")?;
    let all = trace
        .samples
        .iter()
        .flat_map(|sample| LINES.iter().map(|line| mib(sample, line)));
    let highest = all.fold(0.0, f64::max);

    let ground = SVGBackend::with_string(text, SIZE).into_drawing_area();
    ground.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&ground)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last.at.as_secs_f64(), 0.0..highest * HEADROOM)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(BLACK.mix(0.1))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .x_desc("time, s")
        .y_desc("memory, MiB")
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|mib| format!("{mib:.0}"))
        .draw()?;
    for ((at, what), height) in trace.marks.iter().zip(MARK_HEIGHTS.iter().cycle()) {
        let at = at.as_secs_f64();
        let line = [(at, 0.0), (at, highest * HEADROOM)];
        chart.draw_series(LineSeries::new(line, BLACK.mix(0.35)))?;
        let place = (at, highest * height);
        let label = Text::new(format!("\u{a0}{what}"), place, (FONT, 14));
        chart.draw_series([label])?;
    }
    for line in &LINES {
        let points = trace.samples.iter();
        let points = points.map(|sample| (sample.at.as_secs_f64(), mib(sample, line)));
        let style = line.color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(LEGEND)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()?;
    ground.present()?;
    Ok(())
}

fn mib(sample: &Sample, line: &Line) -> f64 {
    (line.bytes)(sample) as f64 / MIB
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn trace() -> Trace {
        let sample = |seconds: u64| Sample {
            at: Duration::from_secs(seconds),
            actual: 512 << 20,
            resident: (seconds * 100) << 20,
            released: 0,
        };
        Trace {
            samples: (0..5).map(sample).collect(),
            marks: vec![(Duration::from_secs(2), "gives")],
        }
    }

    #[test]
    fn picture_has_a_line_with_a_label_for_each_of_the_three() {
        let svg = svg(&trace()).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for line in &LINES {
            assert!(svg.contains(line.label), "{}", line.label);
            let color = format!(
                "#{:02X}{:02X}{:02X}",
                line.color.0, line.color.1, line.color.2
            );
            assert!(svg.contains(&color), "{color}");
        }
        assert!(svg.contains("gives") && svg.contains("memory, MiB") && svg.contains("time, s"));
    }

    #[test]
    fn nothing_to_draw_is_an_error() {
        assert!(svg(&Trace::default()).is_err());
    }
}
