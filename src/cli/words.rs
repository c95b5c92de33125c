//! The words of the command line where `lxc` reads them otherwise than clap does: flags that take `=true`, a `--` in the
//! middle of a command, flags that ask for help.

use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};

use super::command::Arguments;

/// Reads a command line.
pub(super) fn read(words: &[String]) -> Result<Arguments, clap::Error> {
    let words = help(words);
    let plain = Arguments::command();
    if words.iter().any(|word| word == "--") {
        // Up to the separator flags are those of exec, also after the first word of the command.
        let separated = plain.clone().mut_subcommand("exec", |exec| {
            exec.mut_arg("command", |command| command.trailing_var_arg(false).allow_hyphen_values(false))
        });
        match parsed(separated, &words) {
            // A flag of the command's own: all that follows is the command's.
            Err(error) if error.kind() == clap::error::ErrorKind::UnknownArgument => {}
            read => return read,
        }
    }
    parsed(plain, &words)
}

fn parsed(mut command: Command, words: &[String]) -> Result<Arguments, clap::Error> {
    let mut matches = command.try_get_matches_from_mut(with_bare_flags(&command, words))?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// `--all` and `--sub-commands` make the help of `lxc` longer; here it is always whole.
fn help(words: &[String]) -> Vec<String> {
    let more = |word: &String| matches!(word.as_str(), "--all" | "--sub-commands");
    let first = words.get(1).map_or("", String::as_str);
    if first == "help" {
        return words.iter().filter(|word| !more(word)).cloned().collect();
    }
    if words.len() > 1 && words[1..].iter().all(more) {
        return vec![words[0].clone(), "help".to_owned()];
    }
    words.to_vec()
}

/// What a flag's value means, as in `lxc`.
fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A flag with a value that says yes or no: the flag, and the value.
fn with_value(word: &str) -> Option<(&str, bool)> {
    let (flag, value) = word.split_once('=').filter(|(flag, _)| flag.starts_with('-'))?;
    Some((flag, truth(value)?))
}

/// Whether it stands alone: there, or not.
fn is_bare(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Makes `--flag` of `--flag=true`, and nothing of `--flag=false`. Done to the words, not to the flags: what is printed
/// of those, as help and for completion, would else tell of values.
fn with_bare_flags(root: &Command, words: &[String]) -> Vec<String> {
    // To describe verbs takes its time, and hardly anybody needs this.
    if !words.iter().any(|word| with_value(word).is_some()) {
        return words.to_vec();
    }
    let (mut read, mut verb, mut places) = (Vec::new(), root.clone(), 0);
    let mut words = words.iter();
    read.extend(words.next().cloned());
    while let Some(word) = words.next() {
        if word == "--" || (!word.starts_with('-') && is_the_rest(&verb, places)) {
            read.push(word.clone());
            break;
        }
        if !word.starts_with('-') || word == "-" {
            read.push(word.clone());
            match verb.find_subcommand(word).cloned() {
                Some(mut found) => {
                    // Only now the verbs of a family are described.
                    found.build();
                    verb = found;
                }
                None => places += 1,
            }
            continue;
        }
        let known = |name: &str| flag(&verb, name).or_else(|| flag(root, name));
        if let Some((name, yes)) = with_value(word)
            && let Some(bare) = all_bare(name, &known)
        {
            if yes {
                read.push(name.to_owned());
            } else if let Some(others) = bare {
                read.push(others);
            }
            continue;
        }
        read.push(word.clone());
        // The value of another flag, whatever it looks like.
        if !word.contains('=') && known(word).is_some_and(|arg| arg.get_action().takes_values()) {
            read.extend(words.next().cloned());
        }
    }
    read.extend(words.cloned());
    read
}

/// Whether what stands at this place, and all after it, is somebody else's.
fn is_the_rest(verb: &Command, place: usize) -> bool {
    let last = verb.get_positionals().last().filter(|last| last.is_trailing_var_arg_set());
    last.is_some() && place + 1 >= verb.get_positionals().count()
}

/// The flag of a verb that is written so.
fn flag<'a>(verb: &'a Command, word: &str) -> Option<&'a Arg> {
    let long = word.strip_prefix("--");
    let mut short = word.strip_prefix('-').into_iter().flat_map(str::chars);
    let short = short.next().filter(|_| short.next().is_none());
    verb.get_arguments().find(|arg| match long {
        Some(long) => {
            arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
        }
        None => short.is_some() && arg.get_short() == short,
    })
}

/// Whether a word is a flag that takes nothing, or several one-letter ones: those before the last, if there are any.
fn all_bare<'a>(word: &str, known: &impl Fn(&str) -> Option<&'a Arg>) -> Option<Option<String>> {
    let is_bare = |name: &str| known(name).is_some_and(is_bare);
    if word.starts_with("--") {
        return is_bare(word).then_some(None);
    }
    let letters: Vec<char> = word.chars().skip(1).collect();
    let (_, others) = letters.split_last().filter(|_| letters.iter().all(|c| is_bare(&format!("-{c}"))))?;
    Some((!others.is_empty()).then(|| format!("-{}", others.iter().collect::<String>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        with_bare_flags(&Arguments::command(), &words).join(" ")
    }

    #[test]
    fn flags_say_yes_and_no() {
        assert_eq!(of("w init bb e1 --ephemeral=true"), "w init bb e1 --ephemeral");
        assert_eq!(of("w --debug=0 list --all-projects=T -f csv"), "w list --all-projects -f csv");
        assert_eq!(of("w config show --expanded=false c1"), "w config show c1");
        assert_eq!(of("w storage volume list p --quiet=f"), "w storage volume list p");
        assert_eq!(of("w file pull -rp=false a b"), "w file pull -r a b");
        assert_eq!(of("w file pull -rp=1 a b"), "w file pull -rp a b");
        // Values, words that only look so, and what is for somebody else.
        for same in [
            "w init bb e1 -c user.a=true",
            "w init bb --config --ephemeral=true",
            "w init bb e1 --ephemeral=maybe",
            "w init bb e1 --nosuch=true",
            "w list -- --all-projects=true",
            "w exec c1 x --debug=true -t=false",
            "w exec c1 -- x --debug=true",
        ] {
            assert_eq!(of(same), same);
        }
        assert_eq!(of("w exec c1 -t=false x -t=true"), "w exec c1 x -t=true");
    }

    #[test]
    fn the_first_separator_is_dropped_wherever_it_stands() {
        use super::super::command::Command as Verb;
        for (line, wanted, terminal) in [
            ("w exec c1 sh -- -c x", "sh -c x", false),
            ("w exec c1 -- sh -- -c x", "sh -- -c x", false),
            ("w exec -- c1 sh -- -c x", "sh -- -c x", false),
            ("w exec c1 sh -t -- -t", "sh -t", true),
            ("w exec c1 sh -t=true -- -t=true", "sh -t=true", true),
            ("w exec c1 -t sh", "sh", true),
            ("w exec c1 ls -la -t", "ls -la -t", false),
            ("w exec c1 sh -c x -- y", "sh -c x -- y", false),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let Verb::Exec(exec) = read(&words).unwrap().command else { panic!("{line}") };
            assert_eq!((exec.command.join(" ").as_str(), exec.force_interactive), (wanted, terminal), "{line}");
        }
    }

    #[test]
    fn help_takes_the_flags_of_the_stock_client() {
        for line in ["w --all", "w help --all", "w --sub-commands", "w help --sub-commands", "w help list --all"] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(read(&words).unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp, "{line}");
        }
        let words = ["w", "list", "--sub-commands"].map(str::to_owned);
        assert!(read(&words).is_ok());
    }
}
