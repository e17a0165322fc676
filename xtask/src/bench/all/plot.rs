//! Two kinds of picture as SVG 1.1, plain enough to be read on a light and on a dark page: bars of ratios beside the line at 1,
//! and one line of growth with both axes logarithmic. Pure.

use std::fmt::Write;

/// Points of a line: how many, and what it took.
pub(super) type Line = Vec<(f64, f64)>;

const WIDTH: f64 = 720.0;
/// Where bars begin, unless a name is longer; and how wide a letter is, about.
const LABELS: f64 = 340.0;
const LETTER: f64 = 6.6;
const BAR: f64 = 20.0;
const TOP: f64 = 34.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 56.0;
const OURS: &str = "#3b7a57";
const WORSE: &str = "#b5532a";
const GREY: &str = "#888888";

fn begin(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"{GREY}\">\n\
         <text x=\"8\" y=\"18\" font-size=\"14\">{}</text>\n",
        escaped(title)
    )
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, words: &str) {
    let (x, y) = at;
    // A String takes every write.
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(words)
    );
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{GREY}\"/>",
        from.0, from.1, to.0, to.1
    );
}

/// A bar for each ratio, a rule at 1.
pub(super) fn bars(title: &str, ratios: &[(String, f64)]) -> String {
    let most = ratios.iter().map(|(_, ratio)| *ratio).fold(1.2, f64::max);
    let longest = ratios.iter().map(|(name, _)| count(name.chars().count()));
    let labels = longest.fold(LABELS, |most, letters| most.max(letters * LETTER + 16.0));
    let scale = (WIDTH - LABELS - MARGIN) / most;
    let width = WIDTH - LABELS + labels;
    let mut svg = begin(width, TOP + BAR * count(ratios.len()) + 16.0, title);
    for (number, (name, ratio)) in ratios.iter().enumerate() {
        let y = TOP + BAR * count(number);
        let colour = if *ratio <= 1.0 { OURS } else { WORSE };
        text(&mut svg, (labels - 8.0, y + 13.0), "end", name);
        let _ = writeln!(
            svg,
            "<rect x=\"{labels:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
            y + 2.0,
            ratio.max(0.0) * scale,
            BAR - 4.0
        );
        text(
            &mut svg,
            (labels + ratio.max(0.0) * scale + 6.0, y + 13.0),
            "start",
            &format!("{ratio:.2}"),
        );
    }
    let one = labels + scale;
    rule(
        &mut svg,
        (one, TOP - 4.0),
        (one, TOP + BAR * count(ratios.len())),
    );
    svg + "</svg>\n"
}

/// A line through the points, each with its value.
pub(super) fn growth(title: &str, line: &Line) -> String {
    let mut svg = begin(WIDTH, HEIGHT, title);
    let xs = Axis::of(line.iter().map(|(x, _)| *x), MARGIN, WIDTH - MARGIN);
    let ys = Axis::of(
        line.iter().map(|(_, y)| *y),
        HEIGHT - MARGIN / 2.0,
        TOP + 20.0,
    );
    let at = |(x, y): (f64, f64)| (xs.place(x), ys.place(y));
    rule(
        &mut svg,
        (MARGIN, HEIGHT - 24.0),
        (WIDTH - MARGIN, HEIGHT - 24.0),
    );
    let path: Vec<_> = line
        .iter()
        .map(|point| {
            let (x, y) = at(*point);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{OURS}\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    for point in line {
        let (x, y) = at(*point);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{OURS}\"/>"
        );
        text(&mut svg, (x, y - 8.0), "middle", &format!("{}", point.1));
        text(
            &mut svg,
            (x, HEIGHT - 8.0),
            "middle",
            &format!("{}", point.0),
        );
    }
    svg + "</svg>\n"
}

/// Logarithmic: what doubles moves by the same way.
struct Axis {
    least: f64,
    span: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let logs: Vec<_> = values.map(log).collect();
        let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let span = (most - least).max(f64::MIN_POSITIVE);
        Self {
            least,
            span,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let part = ((log(value) - self.least) / self.span).clamp(0.0, 1.0);
        self.from + (self.to - self.from) * part
    }
}

/// Nothing is drawn as very little: zero has no logarithm.
fn log(value: f64) -> f64 {
    value.max(1e-6).ln()
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_ratio_and_over_one_has_another_colour() {
        let svg = bars(
            "a & b",
            &[("half".to_owned(), 0.5), ("twice".to_owned(), 2.0)],
        );
        assert!(svg.contains("a &amp; b"));
        let width = |at: usize| -> f64 {
            let rect = svg.split("<rect ").nth(at).expect("a bar");
            let width = rect.split("width=\"").nth(1).expect("a width");
            width
                .split('"')
                .next()
                .expect("a value")
                .parse()
                .expect("a number")
        };
        assert!((width(2) / width(1) - 4.0).abs() < 0.01, "{svg}");
        assert!(svg.contains(OURS) && svg.contains(WORSE));
    }

    #[test]
    fn a_long_name_has_room() {
        let view = |name: &str| bars("a", &[(name.to_owned(), 0.5)]);
        assert!(view("short").contains("viewBox=\"0 0 720 "));
        let long = view(&"x".repeat(72));
        assert!(long.contains("viewBox=\"0 0 871 "), "{long}");
        assert!(long.contains("<text x=\"483.2\""), "{long}");
    }

    #[test]
    fn a_line_goes_through_all_points_also_when_they_are_equal() {
        let svg = growth("flat", &vec![(1.0, 2.0), (2.0, 2.0), (4.0, 0.0)]);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("NaN"), "{svg}");
        let flat = growth("flat", &vec![(1.0, 2.0), (2.0, 2.0)]);
        assert!(!flat.contains("NaN"), "{flat}");
    }
}
