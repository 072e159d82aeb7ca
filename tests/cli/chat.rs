//! `chat`: what a conversation keeps, forgets and survives, on a model whose every answer is known.

use crate::cli_common;

use cli_common::bigram::{ALPHABET, AROUND_USER, BEFORE_ANSWER, Bigram, CHATML};
use cli_common::{Scratch, rocmforge, stderr, stdout, with_stdin};

/// Tokens of an answer that were evaluated: all but the one that ends it.
const ANSWER: usize = ALPHABET.len();

struct Chat {
    scratch: Scratch,
    model: String,
}

impl Chat {
    fn new(name: &str, model: &Bigram) -> Self {
        let scratch = Scratch::new(name);
        let model = scratch.write("bigram.gguf", &model.bytes());
        Chat { scratch, model }
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["chat", "-m", &self.model, "--device", "cpu", "-t", "1", "--temp", "0"][..], more].concat()
    }

    /// Answers by line, what was said on standard error, and the exit code.
    fn talk(&self, more: &[&str], input: &[u8]) -> (Vec<String>, String, Option<i32>) {
        let output = with_stdin(&self.args(more), input);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        (text.lines().map(str::to_owned).collect(), stderr(&output), output.status.code())
    }
}

/// (evaluated, kept) of each answer, by `--stats`.
fn evaluated(stats: &str) -> Vec<(usize, usize)> {
    let number = |text: &str| text.rsplit(' ').next().unwrap().parse().unwrap();
    stats
        .lines()
        .filter_map(|line| line.split_once("; prompt: ")?.1.split_once(" kept, "))
        .map(|(figures, _)| figures.split_once(" new, ").unwrap())
        .map(|(new, kept)| (number(new), number(kept)))
        .collect()
}

#[test]
fn a_turn_evaluates_only_what_is_new() {
    let chat = Chat::new("chat-new", &Bigram::new(CHATML));
    let (answers, log, code) = chat.talk(&["--stats"], b"one\ntwo\nthree\n");
    assert_eq!((answers, code), (vec![ALPHABET.to_owned(); 3], Some(0)));
    // what ended the answer was not evaluated: <|im_end|> and the template's newline behind it are
    let turn = |text: &str| AROUND_USER + text.len() + BEFORE_ANSWER;
    let (one, two, three) = (turn("one"), 2 + turn("two"), 2 + turn("three"));
    assert_eq!(evaluated(&log), [(one, 0), (two, one + ANSWER), (three, one + two + 2 * ANSWER)]);
    assert_eq!(log.lines().count(), 3, "{log}");
}

#[test]
fn figures_are_for_who_asks() {
    let chat = Chat::new("chat-quiet", &Bigram::new(CHATML));
    assert_eq!(chat.talk(&[], b"one\ntwo\n").1, "");
    let (_, log, _) = chat.talk(&[], b"one\n/stats\ntwo\n/stats\nthree\n");
    assert_eq!(evaluated(&log).len(), 2, "{log}");
    assert!(log.ends_with("context: 98 of 4096)\n(figures after each answer: off)\n"), "{log}");
}

#[test]
fn a_full_context_forgets_in_large_steps_and_keeps_the_system_prompt() {
    let chat = Chat::new("chat-forgets", &Bigram::new(CHATML));
    let system = "s".repeat(50);
    let input: String = (101..141).map(|n| format!("{n}\n")).collect();
    let (answers, log, code) = chat.talk(&["--stats", "-c", "512", "-sys", &system], input.as_bytes());
    assert_eq!((answers, code), (vec![ALPHABET.to_owned(); 40], Some(0)));

    let turn = AROUND_USER + 3 + BEFORE_ANSWER;
    let first = 1 + "system\n".len() + system.len() + 2;
    let mut was_forgotten = false;
    let mut n_forgotten = 0;
    for (i, line) in
        log.lines().filter(|line| line.contains("prompt: ") || line.contains("forgotten")).enumerate()
    {
        if line.contains("forgotten") {
            assert!(!was_forgotten, "said twice: {log}");
            was_forgotten = true;
            continue;
        }
        let (new, kept) = evaluated(line)[0];
        if std::mem::take(&mut was_forgotten) {
            n_forgotten += 1;
            // the system's message stays, and with it what the first user's begins with: "<|im_start|>user\n1"
            assert!((first + 7..=first + 9).contains(&kept), "{kept}: {log}");
            assert!(new + kept <= 256, "half of the context is free: {new} + {kept}");
            assert!(new + kept + turn + 2 + ANSWER > 256, "no more than that is: {new} + {kept}");
        } else {
            assert_eq!(new, if i == 0 { first + turn } else { 2 + turn }, "{log}");
        }
    }
    // 62 positions hold the system's message; 49 a turn; from 384 on there is no room for an answer
    assert!((8..=14).contains(&n_forgotten), "{n_forgotten} times in 40 turns: {log}");
}

#[test]
fn an_answer_has_room_or_is_said_to_be_cut() {
    let chat = Chat::new("chat-cut", &Bigram::new(CHATML));
    // with the first exchange there would be room for 2 tokens
    let input = format!("hello number 1\n{}\n", "y".repeat(47));
    let (answers, log, code) = chat.talk(&["-c", "128"], input.as_bytes());
    assert_eq!((answers, code), (vec![ALPHABET.to_owned(); 2], Some(0)));
    assert_eq!(log, "(the context is full: the oldest exchange is forgotten; --ctx-size gives more)\n");
    // nothing to forget, and room for 4 tokens
    let input = "y".repeat(128 - 4 - AROUND_USER - BEFORE_ANSWER) + "\n";
    let (answers, log, code) = chat.talk(&["-c", "128"], input.as_bytes());
    assert_eq!((answers, code), (vec!["abcde".to_owned()], Some(0)));
    assert_eq!(log, "(the answer is cut: the context of 128 positions is full; --ctx-size gives more)\n");
}

#[test]
fn a_message_that_fails_changes_nothing_and_ends_nothing() {
    let template = CHATML.replace(
        "{{ '<|im_start|>' + message.role",
        "{% if 'bad' in message.content %}{{ raise_exception('no bad words') }}{% endif %}{{ '<|im_start|>' + message.role",
    );
    assert_ne!(template, CHATML);
    let chat = Chat::new("chat-fails", &Bigram::new(&template));
    let good = chat.talk(&["--stats", "-c", "192"], b"hi\nagain\n");
    assert_eq!(good.2, Some(0));

    let long = "x".repeat(400);
    let said = format!(
        "(not answered: the message is {} tokens with its template; the context holds 192 (--ctx-size))",
        400 + AROUND_USER + BEFORE_ANSWER
    );
    for (message, said) in [
        (long.as_bytes(), said.as_str()),
        (b"a\xff", "(not answered: not UTF-8 text at byte 1)"),
        (b"a bad one", "no bad words"),
        (b"/nonsense", "(/nonsense is unknown; /help lists what there is)"),
    ] {
        let input = [b"hi\n", message, b"\nagain\n"].concat();
        let (answers, log, code) = chat.talk(&["--stats", "-c", "192"], &input);
        assert_eq!((answers, code), (vec![ALPHABET.to_owned(); 2], Some(1)), "{log}");
        assert_eq!(evaluated(&log), evaluated(&good.1), "{log}");
        assert!(log.contains(said), "{said} is not in: {log}");
        assert!(log.ends_with("\nrocmforge: 1 message was not answered\n"), "{log}");
    }
}

#[test]
fn an_empty_answer_is_no_exchange() {
    // the message alone, and none may be empty; "z" ends the answer before it begins
    let template = "{% for message in messages %}{% if not message.content %}{{ raise_exception('empty') }}\
                    {% endif %}{{ message.content }}{% endfor %}";
    let chat = Chat::new("chat-empty", &Bigram::new(template));
    let (answers, log, code) = chat.talk(&["--stats"], b"z\nw\n");
    assert_eq!((answers, code), (vec![String::new(), "xyz".to_owned()], Some(0)), "{log}");
    assert!(log.starts_with("(the answer is empty: the message is forgotten)\n"), "{log}");
    assert_eq!(evaluated(&log), [(1, 0), (1, 0)], "the second prompt is its message alone");
}

#[test]
fn the_template_is_tried_with_what_will_be_used() {
    let refuses =
        |what: &str, why: &str| format!("{{% if {what} %}}{{{{ raise_exception('{why}') }}}}{{% endif %}}");
    let all = "{% for message in messages %}{{ message.content + '\\n' }}{% endfor %}";

    let needs_system = refuses("messages[0].role != 'system'", "a system message is needed") + all;
    let chat = Chat::new("chat-probe-system", &Bigram::new(&needs_system));
    assert_eq!(chat.talk(&["-sys", "S"], b"hi\n"), (vec![ALPHABET.to_owned()], String::new(), Some(0)));
    let (answers, log, code) = chat.talk(&[], b"hi\n");
    assert_eq!((answers.len(), code), (0, Some(1)));
    assert!(log.contains("a system message is needed"), "{log}");

    let no_empty = refuses("not messages[-1].content", "an empty message") + all;
    let chat = Chat::new("chat-probe-empty", &Bigram::new(&no_empty));
    assert_eq!(chat.talk(&[], b"hi\n"), (vec![ALPHABET.to_owned()], String::new(), Some(0)));

    let no_system = refuses("messages[0].role == 'system'", "no system role here") + all;
    let chat = Chat::new("chat-probe-no-system", &Bigram::new(&no_system));
    let (answers, log, code) = chat.talk(&["-sys", "S"], b"hi\n");
    assert_eq!((answers.len(), code), (0, Some(1)));
    assert!(log.starts_with("rocmforge: the file's template does not take the system's message: "), "{log}");
    assert!(log.contains("no system role here"), "{log}");
    // later it is the message that is refused, not the chat
    let (answers, log, code) = chat.talk(&[], b"/system S\nhi\n/system\n");
    assert_eq!((answers, code), (vec![ALPHABET.to_owned()], Some(0)));
    assert!(log.starts_with("(the system's message stays: "), "{log}");
    assert!(log.ends_with("(there is no system's message)\n"), "{log}");

    let chat = Chat::new("chat-long-system", &Bigram::new(CHATML));
    let (_, log, code) = chat.talk(&["-c", "64", "-sys", &"s".repeat(80)], b"hi\n");
    assert_eq!(code, Some(1));
    assert_eq!(log, "rocmforge: the system's message is 80 tokens; the context holds 64 (--ctx-size)\n");
}

#[test]
fn printed_control_tokens_are_not_part_of_what_was_said() {
    let chat = Chat::new("chat-special", &Bigram::new(CHATML));
    let (answers, log, _) = chat.talk(&["--stats", "--special"], b"hi\nagain\n");
    assert_eq!(answers, vec![format!("{ALPHABET}<|im_end|>"); 2]);
    assert_eq!(evaluated(&log), evaluated(&chat.talk(&["--stats"], b"hi\nagain\n").1));
    // nor is a stop text, which is looked for in what is printed
    let (answers, log, _) = chat.talk(&["--stats", "--special", "-r", "efg"], b"hi\nagain\n");
    assert_eq!(answers, ["abcd", "abcd"]);
    assert_eq!(evaluated(&log), evaluated(&chat.talk(&["--stats", "-r", "efg"], b"hi\nagain\n").1));
}

#[test]
fn escapes_count_in_arguments_and_where_asked_for() {
    let chat = Chat::new("chat-escapes", &Bigram::new(CHATML));
    let new =
        |more: &[&str], input: &[u8]| evaluated(&chat.talk(&[more, &["--stats"]].concat(), input).1)[0].0;
    let plain = AROUND_USER + BEFORE_ANSWER;
    assert_eq!(new(&["-p", "a\\nb"], b""), plain + 3);
    assert_eq!(new(&["-p", "a\\nb", "--no-escape"], b""), plain + 4);
    assert_eq!(new(&[], b"a\\nb\n"), plain + 4);
    assert_eq!(new(&["-e"], b"a\\nb\n"), plain + 3);
    let system = "<|im_start|>system\n".len() - "<|im_start|>".len() + 1 + 2;
    assert_eq!(new(&["-sys", "\\x41"], b"hi\n"), plain + 2 + system + 1);
    let file = chat.scratch.write("system.txt", b"A\\n\r\n");
    assert_eq!(new(&["-sysf", &file], b"hi\n"), plain + 2 + system + 3);
    assert_eq!(chat.talk(&["-r", "\\x64ef"], b"hi\n").0, ["abc"]);
    assert_eq!(chat.talk(&["-r", "\\x64ef", "--no-escape"], b"hi\n").0, [ALPHABET]);
}

#[test]
fn commands_do_what_help_says() {
    let chat = Chat::new("chat-commands", &Bigram::new(CHATML));
    let (answers, log, code) = chat.talk(&[], b"/help\n/exit\nnever read\n");
    assert_eq!((answers.len(), code), (0, Some(0)));
    for command in ["/help ", "/clear ", "/regenerate ", "/system ", "/stats ", "/exit "] {
        assert!(log.lines().any(|line| line.starts_with(command)), "{command} is not in:\n{log}");
    }
    let turn = |text: &str| AROUND_USER + text.len() + BEFORE_ANSWER;
    let stats = |input: &[u8]| evaluated(&chat.talk(&["--stats"], input).1);
    assert_eq!(stats(b"hi\n/clear\nhi\n"), [(turn("hi"), 0), (turn("hi"), 0)]);
    // the last token of the prompt is evaluated for its logits
    let again = [(turn("hi"), 0), (1, turn("hi") - 1), (2 + turn("more"), turn("hi") + ANSWER)];
    assert_eq!(stats(b"hi\n/regenerate\nmore\n"), again);
    let (answers, log, code) = chat.talk(&[], b"/regenerate\n/system Be brief.\n/system\n");
    assert_eq!((answers.len(), code), (0, Some(0)));
    assert_eq!(log, "(there is no message to answer)\nBe brief.\n");
    // a message, not a command: a path, or a space in front
    assert_eq!(stats(b"/usr/bin?\n")[0].0, turn("/usr/bin?"));
    assert_eq!(stats(b" /clear\n")[0].0, turn(" /clear"));
    let prompt = rocmforge(&chat.args(&["-p", "/clear", "--stats"]));
    assert_eq!(evaluated(&stderr(&prompt)), [(turn("/clear"), 0)]);
    assert_eq!(stdout(prompt), format!("{ALPHABET}\n"));
}
