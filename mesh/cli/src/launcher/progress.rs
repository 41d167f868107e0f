//! What a user sees while a system starts and ends: a spinner per service on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Debug)]
pub(crate) enum Progress {
    /// On a terminal.
    Bars {
        multi: MultiProgress,
        bars: Vec<ProgressBar>,
    },
    /// Anywhere else.
    Lines,
    /// Nowhere.
    Quiet,
}

impl Progress {
    /// Spinners when stderr is a terminal, else lines.
    pub(crate) fn new() -> Progress {
        if std::io::stderr().is_terminal() {
            Progress::Bars {
                multi: MultiProgress::new(),
                bars: Vec::new(),
            }
        } else {
            Progress::Lines
        }
    }

    /// Everything is being started.
    pub(crate) fn begin<'a>(&mut self, labels: impl Iterator<Item = &'a str>) {
        match self {
            Progress::Bars { multi, bars } => {
                // The template is a constant; with another one the spinner would merely look different.
                let style = ProgressStyle::with_template("  {spinner:.cyan} {prefix:14} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
                for label in labels {
                    let bar = multi
                        .add(ProgressBar::new_spinner())
                        .with_style(style.clone())
                        .with_prefix(label.to_owned());
                    bar.set_message("starting");
                    bar.enable_steady_tick(Duration::from_millis(80));
                    bars.push(bar);
                }
            }
            Progress::Lines => eprintln!("starting {}", labels.collect::<Vec<_>>().join(", ")),
            Progress::Quiet => {}
        }
    }

    /// One service is ready.
    pub(crate) fn ready(&mut self, index: usize, label: &str, after: Duration) {
        let text = format!("ready after {:.1} s", after.as_secs_f64());
        match self {
            Progress::Bars { bars, .. } => {
                if let Some(bar) = bars.get(index) {
                    bar.finish_with_message(text);
                }
            }
            Progress::Lines => eprintln!("{label} is {text}"),
            Progress::Quiet => {}
        }
    }

    /// One service has ended.
    pub(crate) fn ended(&mut self, label: &str) {
        if !matches!(self, Progress::Quiet) {
            eprintln!("{label} has ended");
        }
    }

    /// Something worth a line.
    pub(crate) fn say(&mut self, line: &str) {
        match self {
            Progress::Bars { multi, .. } => {
                // A terminal that cannot be written to is the user's to notice.
                let _ = multi.println(line);
            }
            Progress::Lines => eprintln!("{line}"),
            Progress::Quiet => {}
        }
    }

    /// Takes the spinners off the screen.
    pub(crate) fn clear(&mut self) {
        if let Progress::Bars { multi, bars } = self {
            bars.drain(..).for_each(|bar| bar.finish_and_clear());
            let _ = multi.clear();
        }
    }
}
