//! The questions of `init`: one a line, each with an answer that Enter takes.

use std::io::{BufRead, Write};

/// Questions on one stream, answers on another.
pub(super) struct Dialogue<I, O> {
    answers: I,
    questions: O,
}

impl<I: BufRead, O: Write> Dialogue<I, O> {
    pub(super) fn new(answers: I, questions: O) -> Self {
        Self { answers, questions }
    }

    /// Asks until `fits` takes the answer; nothing typed is `default`. What `fits` says of a wrong answer is shown.
    ///
    /// # Errors
    /// When the answers end, or a stream fails.
    pub(super) fn ask<T>(
        &mut self,
        question: &str,
        default: &str,
        fits: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        loop {
            let hint = if default.is_empty() { String::new() } else { format!(" [{default}]") };
            let failed = |error: std::io::Error| format!("the dialogue cannot go on: {error}");
            write!(self.questions, "{question}{hint}: ").and_then(|()| self.questions.flush()).map_err(failed)?;
            let mut answer = String::new();
            if self.answers.read_line(&mut answer).map_err(failed)? == 0 {
                return Err("the answers ended before the questions: nothing was changed".to_owned());
            }
            let answer = answer.trim();
            match fits(if answer.is_empty() { default } else { answer }) {
                Ok(value) => return Ok(value),
                Err(reason) => writeln!(self.questions, "{reason}").map_err(failed)?,
            }
        }
    }

    /// A question with yes or no.
    ///
    /// # Errors
    /// As [`Dialogue::ask`].
    pub(super) fn yes(&mut self, question: &str, default: bool) -> Result<bool, String> {
        self.ask(&format!("{question} (yes/no)"), if default { "yes" } else { "no" }, |answer| {
            match answer.to_ascii_lowercase().as_str() {
                "yes" | "y" => Ok(true),
                "no" | "n" => Ok(false),
                _ => Err("Please answer yes or no.".to_owned()),
            }
        })
    }

    /// A question for one of a few words.
    ///
    /// # Errors
    /// As [`Dialogue::ask`].
    pub(super) fn one_of(&mut self, question: &str, words: &[String], default: &str) -> Result<String, String> {
        self.ask(&format!("{question} ({})", words.join("/")), default, |answer| {
            let known = words.iter().find(|word| *word == answer).cloned();
            known.ok_or_else(|| format!("Please answer one of {}.", words.join(", ")))
        })
    }
}

/// Any text but none.
pub(super) fn some(answer: &str) -> Result<String, String> {
    if answer.is_empty() { Err("Please answer with a text.".to_owned()) } else { Ok(answer.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_answers_are_asked_again_and_nothing_is_the_default() {
        let mut questions = Vec::new();
        let mut dialogue = Dialogue::new(&b"maybe\nY\n\nzfs\ndir\n\nname\n"[..], &mut questions);
        assert_eq!(dialogue.yes("Really?", false), Ok(true));
        assert_eq!(dialogue.yes("Really?", false), Ok(false));
        let words = ["overlay".to_owned(), "dir".to_owned()];
        assert_eq!(dialogue.one_of("Which?", &words, "overlay").as_deref(), Ok("dir"));
        assert_eq!(dialogue.ask("Name", "", some).as_deref(), Ok("name"));
        assert!(dialogue.ask("More", "", some).unwrap_err().contains("nothing was changed"));
        let shown = String::from_utf8(questions).unwrap();
        assert!(shown.starts_with("Really? (yes/no) [no]: Please answer yes or no.\nReally?"), "{shown}");
    }
}
