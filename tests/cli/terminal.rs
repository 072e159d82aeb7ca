//! What the command line does in a terminal, a pseudo one that python3 holds: line editing, keys, and that no control
//! character of a file or a model gets there.

use crate::cli_common;

use cli_common::bigram::{ALPHABET, AROUND_USER, BEFORE_ANSWER, Bigram, CHATML};
use cli_common::{Dialogue, PROMPT, Scratch, in_terminal};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

struct Terminal {
    scratch: Scratch,
    model: String,
}

impl Terminal {
    fn new(name: &str, model: &Bigram) -> Self {
        let scratch = Scratch::new(name);
        let model = scratch.write("bigram.gguf", &model.bytes());
        Terminal { scratch, model }
    }

    fn chat(&self, more: &[&str], steps: &[(&str, &str)]) -> Dialogue {
        let args = ["chat", "-m", &self.model, "--device", "cpu", "-t", "1", "--temp", "0"];
        in_terminal(&[&args[..], more].concat(), steps, None)
    }
}

/// Tokens of each message that was asked, by `--stats`.
fn lengths(text: &str) -> Vec<usize> {
    let new = text.split("prompt: ").skip(1).map(|rest| rest.split_once(" new").unwrap().0);
    new.enumerate()
        .map(|(i, n)| {
            let n: usize = n.parse().unwrap();
            n - AROUND_USER - BEFORE_ANSWER - if i == 0 { 0 } else { 2 }
        })
        .collect()
}

#[test]
fn lines_are_edited_and_remembered() {
    let terminal = Terminal::new("terminal-edit", &Bigram::new(CHATML));
    let left = "\x1b[D";
    let up = "\x1b[A";
    let dialogue = terminal.chat(
        &["--stats"],
        &[
            // "helo", one to the left, "l": the line shows "hello"
            (PROMPT, &format!("helo{left}l\r")),
            (ALPHABET, ""),
            (PROMPT, &format!("{up}!\r")),
            (ALPHABET, ""),
            // a line that is thrown away, an empty one, and the end
            (PROMPT, &format!("nothing{CTRL_C}")),
            (PROMPT, "\r"),
            (PROMPT, CTRL_D),
        ],
    );
    let text = &dialogue.text;
    // shown when "l" was typed between, the cursor before "o", and when it was called back, the cursor behind
    assert!(text.contains("> hello\r\x1b[6C") && text.contains("> hello\r\x1b[7C"), "{text:?}");
    assert_eq!(lengths(text), ["hello".len(), "hello!".len()], "{text:?}");
    assert_eq!((dialogue.status, dialogue.is_cooked), (0, true), "{text:?}");
}

#[test]
fn messages_of_several_lines() {
    let terminal = Terminal::new("terminal-lines", &Bigram::new(CHATML));
    let quotes = "\"\"\"";
    let dialogue = terminal.chat(
        &["--stats"],
        &[
            (PROMPT, "ab\\\rcd\r"),
            (ALPHABET, ""),
            (PROMPT, &format!("{quotes}a\r\rb\rc{quotes}\r")),
            (ALPHABET, ""),
            // pasted, as terminals say that it is: nothing is sent before Enter
            (PROMPT, "\x1b[200~x\ny\nz\x1b[201~\r"),
            (ALPHABET, ""),
            (PROMPT, CTRL_D),
        ],
    );
    assert_eq!(
        lengths(&dialogue.text),
        ["ab\ncd".len(), "a\n\nb\nc".len(), "x\ny\nz".len()],
        "{:?}",
        dialogue.text
    );
}

#[test]
fn what_is_typed_ahead_is_not_lost() {
    let terminal = Terminal::new("terminal-ahead", &Bigram::new(CHATML));
    let dialogue = terminal.chat(&["--stats"], &[(PROMPT, "one\rthree\r/exit\r")]);
    assert_eq!(lengths(&dialogue.text), [3, 5], "{:?}", dialogue.text);
    assert_eq!(dialogue.status, 0);
}

#[test]
fn a_chat_says_little_unless_asked() {
    let terminal = Terminal::new("terminal-quiet", &Bigram::new(CHATML));
    let dialogue = terminal.chat(
        &[],
        &[
            (PROMPT, "hi\r"),
            (ALPHABET, ""),
            (PROMPT, "/nonsense\r"),
            ("(/nonsense is unknown; /help lists what there is)", ""),
            (PROMPT, "/he\t\r"),
            ("/regenerate  answer the last message again", ""),
            (PROMPT, CTRL_D),
        ],
    );
    let text = &dialogue.text;
    assert!(!text.contains("tok/s") && !text.contains("seed"), "{text:?}");
    assert_eq!(text.matches(ALPHABET).count(), 1, "{text:?}");
    assert_eq!(dialogue.status, 0);

    let dialogue = terminal.chat(&["--stats"], &[(PROMPT, "hi\r"), (ALPHABET, ""), (PROMPT, CTRL_D)]);
    assert!(dialogue.text.contains("\x1b[2m(27 tokens, "), "one dim line: {:?}", dialogue.text);
}

#[test]
fn answers_go_where_standard_output_goes() {
    let terminal = Terminal::new("terminal-stdout", &Bigram::new(CHATML));
    let file = terminal.scratch.path("answers.txt");
    let args = ["chat", "-m", &terminal.model, "--device", "cpu", "-t", "1", "--temp", "0"];
    let steps = [(PROMPT, "hi\r"), (PROMPT, "again\r"), (PROMPT, CTRL_D)];
    let dialogue = in_terminal(&args, &steps, file.to_str());
    assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{ALPHABET}\n{ALPHABET}\n"));
    assert!(!dialogue.text.contains(ALPHABET), "{:?}", dialogue.text);
}

#[test]
fn ctrl_c_stops_an_answer_and_twice_the_chat() {
    // the alphabet over and over, and a context that takes a while to fill
    let endless = Bigram::new(CHATML).next(b'z', b'a');
    let terminal = Terminal::new("terminal-ctrl-c", &endless);
    let twice = format!("{ALPHABET}{ALPHABET}");
    let dialogue = terminal.chat(
        &["-c", "262144"],
        &[
            (PROMPT, "hi\r"),
            (&twice, CTRL_C),
            ("(stopped)", ""),
            (PROMPT, "again\r"),
            (&twice, CTRL_C),
            (PROMPT, CTRL_C),
            ("(Ctrl-C again, or Ctrl-D, ends the chat)", ""),
            // a line in between: the next is the first again
            (PROMPT, "/system\r"),
            (PROMPT, CTRL_C),
            ("(Ctrl-C again", ""),
            (PROMPT, CTRL_C),
        ],
    );
    assert_eq!((dialogue.status, dialogue.is_cooked), (130, true), "{:?}", dialogue.text);
    assert!(dialogue.text.ends_with("interrupted\r\n"), "{:?}", dialogue.text);
}

#[test]
fn ctrl_c_before_an_answer_takes_the_message_back() {
    let terminal = Terminal::new("terminal-prompt", &Bigram::new(CHATML));
    // seconds of work, in steps of a token; Ctrl-C comes once the editor has handed the terminal back
    let long = format!("\x1b[200~{}\x1b[201~\r", "word ".repeat(600));
    let dialogue = terminal.chat(
        &["--stats", "--device", "reference", "-b", "1"],
        &[
            (PROMPT, &long),
            ("\x1b[?2004l", CTRL_C),
            ("(stopped; the message is forgotten)", ""),
            (PROMPT, "hi\r"),
            (ALPHABET, ""),
            (PROMPT, CTRL_D),
        ],
    );
    let text = &dialogue.text;
    assert_eq!(text.matches(ALPHABET).count(), 1, "{text:?}");
    let last = text.rsplit("prompt: ").next().unwrap();
    // what both prompts begin with may have stayed
    let (new, kept) = last.split_once(" kept").unwrap().0.split_once(" new, ").unwrap();
    let (new, kept): (usize, usize) = (new.parse().unwrap(), kept.parse().unwrap());
    assert_eq!(new + kept, AROUND_USER + "hi".len() + BEFORE_ANSWER, "{text:?}");
    assert_eq!(dialogue.status, 0);
}

#[test]
fn a_signal_at_the_prompt_gives_the_terminal_back() {
    let terminal = Terminal::new("terminal-signal", &Bigram::new(CHATML));
    let dialogue = terminal.chat(&[], &[(PROMPT, "signal:SIGTERM")]);
    assert_eq!((dialogue.status, dialogue.is_cooked), (130, true), "{:?}", dialogue.text);
}

#[test]
fn a_line_that_is_no_text_ends_nothing() {
    let terminal = Terminal::new("terminal-utf8", &Bigram::new(CHATML));
    let steps = [
        (PROMPT, "bytes:61FF0D"),
        ("(not answered: not UTF-8 text)", ""),
        (PROMPT, "hi\r"),
        (ALPHABET, ""),
        (PROMPT, CTRL_D),
    ];
    let dialogue = terminal.chat(&[], &steps);
    assert_eq!(dialogue.status, 0, "{:?}", dialogue.text);
}

/// What was sent to the terminal but for what the editor and dim lines send.
fn foreign_escapes(text: &str) -> Vec<&str> {
    let own = ["[?2004", "[?2026", "[K", "[2C", "[D", "[C", "[2m", "[0m", "[A"];
    text.split('\x1b').skip(1).filter(|rest| !own.iter().any(|own| rest.starts_with(own))).collect()
}

#[test]
fn what_a_model_says_is_shown_and_not_obeyed() {
    // "ab", then what would colour the terminal, then C1's way to say it
    let model = Bigram::new(CHATML)
        .next(b'b', 0x1Bu32)
        .next(0x1Bu32, b'[')
        .next(b'[', 0xC2u32)
        .next(0xC2u32, 0x9Bu32);
    let model = model.next(0x9Bu32, b'\t').next(b'\t', b'y');
    let terminal = Terminal::new("terminal-model", &model);
    let shown = "ab\\u{1b}[\\u{9b}\tyz";
    let dialogue = terminal.chat(&[], &[(PROMPT, "hi\r"), (shown, ""), (PROMPT, CTRL_D)]);
    assert_eq!(foreign_escapes(&dialogue.text), [""; 0], "{:?}", dialogue.text);
    assert!(!dialogue.text.contains('\u{9b}'), "{:?}", dialogue.text);

    let generate =
        ["generate", "-m", &terminal.model, "--device", "cpu", "--temp", "0", "-p", "x\\n", "-n", "20"];
    let dialogue = in_terminal(&generate, &[], None);
    assert!(dialogue.text.starts_with(shown), "{:?}", dialogue.text);
    assert_eq!(foreign_escapes(&dialogue.text), [""; 0], "{:?}", dialogue.text);

    let tokenize = ["tokenize", "-m", &terminal.model, "-p", "\\x1b\\xc2\\x9b"];
    let dialogue = in_terminal(&tokenize, &[], None);
    assert_eq!(dialogue.text, "    27 -> '\\u{1b}'\r\n   194 -> '\u{FFFD}'\r\n   155 -> '\u{FFFD}'\r\n");

    // what is no terminal gets the text as it is
    let file = terminal.scratch.path("text");
    in_terminal(&generate, &[], file.to_str());
    assert_eq!(std::fs::read_to_string(file).unwrap(), "ab\x1b[\u{9b}\tyz\n");
}
