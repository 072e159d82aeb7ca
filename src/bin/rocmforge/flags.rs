//! The command line as llama.cpp's users type it: short flags of several letters, underscores for dashes, negative
//! numbers as values, and the last of a flag that is given twice.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

/// llama.cpp's short flags of several letters and what they stand for.
const SHORT: [(&str, &str); 5] = [
    ("-ncmoe", "--cpu-experts"),
    ("-ngl", "--gpu-layers"),
    ("-sp", "--special"),
    ("-sys", "--system-prompt"),
    ("-sysf", "--system-prompt-file"),
];

/// The command with these habits.
pub fn with_habits(command: Command) -> Command {
    command.args_override_self(true).mut_subcommands(|command| {
        command.mut_args(|arg| {
            let takes_values = arg.get_action().takes_values();
            arg.allow_negative_numbers(takes_values)
        })
    })
}

/// Arguments with each flag in the form that clap knows. A value stays as it is, however much it looks like a flag.
pub fn spell_out(command: &Command, args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut command, mut is_value, mut is_text) = (command, true, false);
    args.map(|arg| {
        // the first is the program's name
        if std::mem::take(&mut is_value) || is_text {
            return arg;
        }
        let arg = long_form(arg);
        is_text = arg == OsStr::new("--");
        is_value = arg.to_str().is_some_and(|flag| wants_value(command, flag));
        command = command.find_subcommand(&arg).unwrap_or(command);
        arg
    })
    .collect()
}

fn long_form(arg: OsString) -> OsString {
    let Some(flag) = arg.to_str() else { return arg };
    if let Some((_, long)) = SHORT.iter().find(|(short, _)| *short == flag) {
        return (*long).into();
    }
    match flag.strip_prefix("--") {
        Some(rest) => {
            let (name, value) = rest.split_at(rest.find('=').unwrap_or(rest.len()));
            format!("--{}{value}", name.replace('_', "-")).into()
        }
        None => arg,
    }
}

/// Whether the next argument is this flag's value.
fn wants_value(command: &Command, flag: &str) -> bool {
    let takes_values = |arg: &Arg| arg.get_action().takes_values();
    if let Some(name) = flag.strip_prefix("--") {
        let is_named = |arg: &&Arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
        };
        return command.get_arguments().find(is_named).is_some_and(takes_values);
    }
    let Some(letters) = flag.strip_prefix('-') else { return false };
    // "-vp TEXT": what follows the first letter that takes a value is that value
    let of_letter = |letter| command.get_arguments().find(|arg| arg.get_short() == Some(letter));
    let first = letters.char_indices().find(|&(_, letter)| of_letter(letter).is_some_and(takes_values));
    first.is_some_and(|(at, letter)| at + letter.len_utf8() == letters.len())
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn command() -> Command {
        let text =
            |name: &'static str, short| Arg::new(name).long(name).short(short).allow_hyphen_values(true);
        let number = |name| Arg::new(name).long(name).value_parser(clap::value_parser!(i64));
        let generate = Command::new("generate")
            .arg(text("prompt", 'p'))
            .arg(text("predict", 'n').alias("n-predict"))
            .arg(number("gpu-layers").alias("n-gpu-layers"))
            .arg(number("ctx-size").short('c'))
            .arg(Arg::new("escape").short('e').action(ArgAction::SetTrue))
            .arg(Arg::new("system-prompt").long("system-prompt").allow_hyphen_values(true));
        with_habits(Command::new("rocmforge").subcommand(generate))
    }

    fn spelled(args: &[&str]) -> String {
        let args = ["rocmforge", "generate"].iter().chain(args).map(OsString::from);
        let spelled = spell_out(&command(), args).split_off(2);
        spelled.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn flags_are_spelled_out() {
        assert_eq!(spelled(&["-ngl", "99", "-sys", "x"]), "--gpu-layers 99 --system-prompt x");
        assert_eq!(spelled(&["-ncmoe", "4", "--n_cpu_moe", "5"]), "--cpu-experts 4 --n-cpu-moe 5");
        assert_eq!(spelled(&["--ctx_size", "64", "--n_predict=-1"]), "--ctx-size 64 --n-predict=-1");
        assert_eq!(spelled(&["-e", "-ngl", "1"]), "-e --gpu-layers 1");
    }

    #[test]
    fn values_stay() {
        for args in [
            &["-p", "-ngl"][..],
            &["--prompt", "-sys"],
            &["--system-prompt", "--ctx_size"],
            &["--n-predict", "-ngl"],
            &["-ep", "-ngl"],
            &["-p-ngl"],
            &["--prompt=-ngl"],
            &["--prompt=a_b=c_d"],
            &["-p", "--", "-p", "-ngl"],
            &["--", "-ngl", "--ctx_size"],
        ] {
            assert_eq!(spelled(args), args.join(" "));
        }
        // the value of -sys, which is spelled out, too
        assert_eq!(
            spelled(&["-sys", "-ngl", "-pabc", "-ngl", "2"]),
            "--system-prompt -ngl -pabc --gpu-layers 2"
        );
    }

    #[test]
    fn the_last_counts_and_numbers_may_be_negative() {
        let args =
            ["rocmforge", "generate", "-c", "-5", "-c", "7", "-p", "a", "-p", "-b", "--gpu-layers", "-1"];
        let matches = command().try_get_matches_from(args).unwrap();
        let (_, matches) = matches.subcommand().unwrap();
        assert_eq!(matches.get_one::<i64>("ctx-size"), Some(&7));
        assert_eq!(matches.get_one::<String>("prompt").unwrap(), "-b");
        assert_eq!(matches.get_one::<i64>("gpu-layers"), Some(&-1));
    }
}
