//! What the user sees on standard error, text made safe to show, and the end of standard output.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// A line on standard error. A closed standard error loses it and nothing else. Control characters in it, which a file's
/// metadata may hold, are spelled out.
pub fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{}", visible(&line.to_string()));
}

/// The same for what is of less weight: dim where colours are shown.
pub fn dim_note(line: fmt::Arguments<'_>) {
    if has_colors() {
        let _ = writeln!(io::stderr(), "\x1b[2m{}\x1b[0m", visible(&line.to_string()));
    } else {
        note(line);
    }
}

/// Whether standard error shows colours.
pub fn has_colors() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// One line of text from a file or a model, to be shown and never obeyed: control characters are spelled out, `\n`,
/// `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    spell_out(text, char::is_control)
}

/// The same for text of several lines: newlines and tabs stay.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    spell_out(text, |c| c.is_control() && !matches!(c, '\n' | '\t'))
}

fn spell_out(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// The terminal's mode while a line is edited, to be restored by a signal that ends the process meanwhile.
static EDITED: Mutex<Option<Termios>> = Mutex::new(None);

/// Runs `edit`, which changes the terminal's mode and changes it back.
pub fn while_editing<T>(edit: impl FnOnce() -> T) -> T {
    let set = |mode| {
        if let Ok(mut edited) = EDITED.lock() {
            *edited = mode;
        }
    };
    set(tcgetattr(io::stdin()).ok());
    let result = edit();
    set(None);
    result
}

/// Gives the terminal back as it was before a line was edited.
pub fn restore() {
    if let Ok(mut edited) = EDITED.lock()
        && let Some(mode) = edited.take()
    {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &mode);
        // bracketed paste, which the editor had switched on
        let _ = writeln!(io::stderr(), "\x1b[?2004l");
    }
}

/// Whether the error says that nobody reads standard output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// A byte progress bar that shows itself when standard error is a terminal and the work is long.
pub struct LoadBar {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl LoadBar {
    const PATIENCE: Duration = Duration::from_millis(400);

    pub fn new() -> Self {
        LoadBar { bar: None, start: Instant::now() }
    }

    pub fn set(&mut self, done: u64, total: u64) {
        if self.bar.is_none() && self.start.elapsed() > Self::PATIENCE && io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("loading [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Most memory this process has had resident, bytes; None where the system does not tell (Linux does).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// "1.23 GB": decimal units, as disks and networks count.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        _ if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        _ if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        _ => format!("{n} B"),
    }
}

/// Tokens per second; 0 when no time was measured.
pub fn rate(tokens: usize, micros: u64) -> f64 {
    if micros == 0 { 0.0 } else { tokens as f64 * 1e6 / micros as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(visible("a\x1b[31m\n\tb\u{9b}é\x7f"), "a\\u{1b}[31m\\n\\tb\\u{9b}é\\u{7f}");
        assert_eq!(visible_lines("a\x1b[31m\r\n\tb"), "a\\u{1b}[31m\\r\n\tb");
        assert!(matches!(visible("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn sizes_in_decimal_units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(98_362_432), "98.4 MB");
        assert_eq!(bytes(2 << 30), "2.15 GB");
    }

    #[test]
    fn rates() {
        assert_eq!(rate(10, 0), 0.0);
        assert_eq!(rate(10, 500_000), 20.0);
    }
}
