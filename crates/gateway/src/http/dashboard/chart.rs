//! Charts: an image made here, a legend, and the same figures as a table.
//!
//! The image has no text, so that it can take any width; labels stand around it. Colours come from the style sheet, by class.

use maud::{Markup, html};
use std::fmt::Write;

use super::pieces::time;

/// The image's own units; it is stretched to its place.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;
/// The part of a column that its bar takes.
const BAR_SHARE: f64 = 0.76;
const GRID_LINES: u32 = 4;

/// How values are shown.
pub type Format = fn(f64) -> String;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bars whose parts are the series.
    Stacked,
    Lines,
}

/// Figures over time.
pub struct Chart<'a> {
    pub title: &'a str,
    /// The total or what else the title is followed by.
    pub note: String,
    pub kind: Kind,
    /// When each interval starts, in RFC 3339.
    pub starts: &'a [String],
    pub series: Vec<Series>,
    pub format: Format,
}

/// One value for each interval; `None` where there is none.
pub struct Series {
    pub name: String,
    /// Decides on the colour.
    pub class: &'static str,
    pub values: Vec<Option<f64>>,
}

/// Colours for series that have no meaning of their own.
pub const CLASSES: [&str; 6] = ["s1", "s2", "s3", "s4", "s5", "s6"];

// === impl Chart ===

impl Chart<'_> {
    pub fn render(&self) -> Markup {
        let top = nice(self.largest());
        html! {
            figure .chart {
                figcaption { h2 { (self.title) } span .muted { (self.note) } }
                @if self.largest() == 0.0 { p .chart-empty { "Nothing in this time." } }
                @else {
                    div .plot {
                        div .y-axis aria-hidden="true" {
                            @for line in (0..=GRID_LINES).rev() {
                                span { (self.axis_label(top, line)) }
                            }
                        }
                        (self.image(top))
                    }
                    div .x-axis aria-hidden="true" {
                        @for start in self.ticks() { (time(start)) }
                    }
                    (self.legend())
                }
                (self.table())
            }
        }
    }

    /// Every second line has a label.
    fn axis_label(&self, top: f64, line: u32) -> String {
        let value = top * f64::from(line) / f64::from(GRID_LINES);
        if line.is_multiple_of(2) { (self.format)(value) } else { String::new() }
    }

    fn largest(&self) -> f64 {
        let values = |at: usize| self.series.iter().filter_map(move |series| series.values[at]);
        let of_interval = |at| match self.kind {
            Kind::Stacked => values(at).sum::<f64>(),
            Kind::Lines => values(at).fold(0.0, f64::max),
        };
        (0..self.starts.len()).map(of_interval).fold(0.0, f64::max)
    }

    fn image(&self, top: f64) -> Markup {
        let column = WIDTH / self.starts.len().max(1) as f64;
        html! {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label={ (self.title) ". The table below has the figures." } {
                g .grid {
                    @for line in 0..=GRID_LINES {
                        @let y = HEIGHT * f64::from(line) / f64::from(GRID_LINES);
                        line x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
                    }
                }
                @match self.kind {
                    Kind::Stacked => (self.bars(top, column)),
                    Kind::Lines => (self.lines(top, column)),
                }
                g .columns-hover {
                    @for at in 0..self.starts.len() {
                        rect x=(format!("{:.1}", at as f64 * column)) y="0" width=(format!("{column:.1}")) height=(HEIGHT) {
                            title { (self.description(at)) }
                        }
                    }
                }
            }
        }
    }

    fn bars(&self, top: f64, column: f64) -> Markup {
        let mut below = vec![0.0; self.starts.len()];
        let mut layers = Vec::new();
        for series in &self.series {
            let mut path = String::new();
            for (at, value) in series.values.iter().enumerate() {
                let value = value.unwrap_or_default();
                if value > 0.0 {
                    let x = (at as f64 + (1.0 - BAR_SHARE) / 2.0) * column;
                    let (from, height) = (HEIGHT * (1.0 - below[at] / top), HEIGHT * value / top);
                    let (width, y) = (column * BAR_SHARE, from - height);
                    write!(path, "M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z").ok();
                    below[at] += value;
                }
            }
            layers.push((series.class, path));
        }
        html! { @for (class, path) in layers { path class={ "area " (class) } d=(path) {} } }
    }

    fn lines(&self, top: f64, column: f64) -> Markup {
        let paths = |series: &Series| {
            let (mut line, mut points) = (String::new(), String::new());
            for (at, value) in series.values.iter().enumerate() {
                let Some(value) = value else { continue };
                let is_known = |at| series.values.get(at).is_some_and(Option::is_some);
                let (x, y) = ((at as f64 + 0.5) * column, HEIGHT * (1.0 - value / top));
                match (at > 0 && is_known(at - 1), is_known(at + 1)) {
                    // A line of no length, which has round ends.
                    (false, false) => write!(points, "M{x:.1} {y:.1}h0").ok(),
                    (false, true) => write!(line, "M{x:.1} {y:.1}").ok(),
                    (true, _) => write!(line, "L{x:.1} {y:.1}").ok(),
                };
            }
            (line, points)
        };
        html! {
            @for series in &self.series {
                @let (line, points) = paths(series);
                path class={ "line " (series.class) } d=(line) {}
                @if !points.is_empty() { path class={ "line points " (series.class) } d=(points) {} }
            }
        }
    }

    /// The start of the first interval, of the one in the middle, and of the last.
    fn ticks(&self) -> Vec<&str> {
        let last = self.starts.len().saturating_sub(1);
        let mut ticks = vec![0, last / 2, last];
        ticks.dedup();
        ticks.into_iter().filter_map(|at| self.starts.get(at)).map(String::as_str).collect()
    }

    fn description(&self, at: usize) -> String {
        let mut text = self.starts[at].clone();
        for series in &self.series {
            if let Some(value) = series.values[at].filter(|value| *value > 0.0) {
                write!(text, "\n{}: {}", series.name, (self.format)(value)).ok();
            }
        }
        text
    }

    fn legend(&self) -> Markup {
        html! {
            ul .legend {
                @for series in &self.series { li { (swatch(series.class)) (series.name) } }
            }
        }
    }

    /// Newest first, without intervals in which nothing happened.
    fn table(&self) -> Markup {
        let is_empty =
            |at: &usize| self.series.iter().all(|series| series.values[*at].unwrap_or_default() == 0.0);
        let rows: Vec<usize> = (0..self.starts.len()).rev().filter(|at| !is_empty(at)).collect();
        html! {
            details .figures {
                summary { "Figures" span .hidden-label { " of " (self.title) } }
                div .scroll tabindex="0" role="region" aria-label={ "Figures of " (self.title) } {
                    table {
                        thead { tr { th scope="col" { "Start" } @for series in &self.series { th .number scope="col" { (series.name) } } } }
                        tbody {
                            @for at in rows {
                                tr {
                                    th scope="row" { (time(&self.starts[at])) }
                                    @for series in &self.series {
                                        td .number { (series.values[at].map_or_else(|| "–".to_owned(), self.format)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The colour of a series.
pub fn swatch(class: &str) -> Markup {
    html! { svg class={ "swatch " (class) } viewBox="0 0 10 10" aria-hidden="true" { rect width="10" height="10" rx="2" {} } }
}

/// The smallest round number that is not less.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let magnitude = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * magnitude).find(|top| *top >= value).unwrap_or(10.0 * magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        assert_eq!([0.0, 0.9, 1.0, 3.0, 41.0, 730.0].map(nice), [1.0, 1.0, 1.0, 4.0, 50.0, 800.0]);
    }

    #[test]
    fn names_of_series_are_shown_as_text() {
        let chart = Chart {
            title: "Cost",
            note: String::new(),
            kind: Kind::Stacked,
            starts: &["2026-11-01T00:00:00Z".to_owned()],
            series: vec![Series {
                name: "<script>alert(1)</script>".into(),
                class: "s1",
                values: vec![Some(2.0)],
            }],
            format: super::super::numbers::compact,
        };
        let html = chart.render().into_string();
        assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "{html}");
        assert!(html.contains("d=\"M120.0 0.0h760.0v200.0h-760.0z\""), "{html}");
    }
}
