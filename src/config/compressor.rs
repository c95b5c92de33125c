//! What an image is compressed by: a word and, after it, arguments of the program of that name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Level and effort of LZMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lzma {
    level: u32,
    extreme: bool,
}

/// `LZMA_PRESET_EXTREME` (lzma/container.h).
const EXTREME: u32 = 1 << 31;

impl Lzma {
    /// As liblzma has it.
    pub fn preset(self) -> u32 {
        if self.extreme { self.level | EXTREME } else { self.level }
    }

    /// Size of the dictionary, bytes (xz(1), the table of presets).
    pub fn dictionary(self) -> u32 {
        match self.level {
            0 => 1 << 18,
            1 => 1 << 20,
            2 => 1 << 21,
            3 | 4 => 1 << 22,
            5 | 6 => 1 << 23,
            7 => 1 << 24,
            8 => 1 << 25,
            _ => 1 << 26,
        }
    }

    /// Each takes a dozen dictionaries of memory.
    pub fn most_threads(self) -> u32 {
        if self.level > 6 { 2 } else { 8 }
    }
}

/// A compressor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compressor {
    /// A plain tarball.
    None,
    /// gzip(1).
    Gzip {
        /// 1 to 9.
        level: u32,
    },
    /// bzip2(1).
    Bzip2 {
        /// 1 to 9.
        level: u32,
    },
    /// xz(1).
    Xz(Lzma),
    /// The older format of xz(1).
    Lzma(Lzma),
    /// zstd(1).
    Zstd {
        /// 1 to 22.
        level: i32,
    },
    /// A squashfs instead of a tarball.
    Squashfs {
        /// Of mksquashfs(1), beside those that it always gets.
        arguments: Vec<String>,
    },
}

/// Why a text names no compressor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// There is none of that name.
    Word(String),
    /// It has no such argument.
    Argument {
        /// The compressor.
        word: String,
        /// The argument.
        argument: String,
        /// Those that it has.
        known: &'static str,
    },
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => {
                write!(f, "{word:?} is no compression: it is none, gzip, bzip2, xz, lzma, zstd or squashfs")
            }
            Self::Argument { word, argument, known } => {
                write!(f, "{word} cannot be given {argument:?} here: it takes {known}")
            }
        }
    }
}

impl std::error::Error for Unknown {}

const LEVELS: &str = "-1 to -9, --fast, --best";

/// `-6`, `--fast`, `--best`; `-0` only where `least` is 0.
fn level(argument: &str, least: u32, most: u32) -> Option<u32> {
    match argument {
        "--fast" => Some(least),
        "--best" => Some(most.min(9)),
        other => other.strip_prefix('-')?.parse().ok().filter(|level| (least..=most).contains(level)),
    }
}

/// What changes nothing here: threads are used anyway, names and times are never kept.
fn is_idle(argument: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(argument, "-n" | "--no-name" | "-c" | "--stdout" | "-q" | "--quiet" | "-z" | "--compress")
        || ["-T", "--threads="].iter().any(|name| argument.strip_prefix(name).is_some_and(number))
}

/// Writes arguments of one letter that stand together, such as `-9e`, one by one. Levels of zstd have two digits.
fn one_by_one(text: &str) -> String {
    let mut words = text.split_ascii_whitespace();
    let word = words.next().unwrap_or_default();
    let mut all = word.to_owned();
    for argument in words {
        match argument.strip_prefix('-') {
            Some(letters)
                if word != "zstd"
                    && !letters.is_empty()
                    && letters.bytes().all(|letter| letter.is_ascii_digit() || b"encqz".contains(&letter)) =>
            {
                all.extend(letters.chars().flat_map(|letter| [' ', '-', letter]));
            }
            Some(_) | None => all.extend([" ", argument]),
        }
    }
    all
}

const SQUASHFS: &str = "-comp gzip|lzma|lzo|lz4|xz|zstd, -b 4K to 1M (a power of two), -Xcompression-level, -Xdict-size, -Xbcj, each with \
                        its value; those with an X only for a -comp that has them";

/// The most that `-Xcompression-level` may be with each `-comp`; 0: it has none (mksquashfs(1)).
const LEVELS_OF_SQUASHFS: [(&str, u32); 6] =
    [("gzip", 9), ("lzma", 0), ("lzo", 9), ("lz4", 0), ("xz", 0), ("zstd", 22)];

/// Whether mksquashfs takes `value` for the argument `name` when it compresses by `comp`.
fn squashfs_takes(name: &str, value: &str, comp: &str) -> bool {
    match name {
        "-comp" => LEVELS_OF_SQUASHFS.iter().any(|(known, _)| *known == value),
        "-b" => {
            let (digits, unit) = match value.strip_suffix(['K', 'k']) {
                Some(digits) => (digits, 1 << 10),
                None => value.strip_suffix(['M', 'm']).map_or((value, 1), |digits| (digits, 1 << 20)),
            };
            let size = digits.parse::<u32>().ok().and_then(|size| size.checked_mul(unit));
            size.is_some_and(|size| size.is_power_of_two() && (4 << 10..=1 << 20).contains(&size))
        }
        "-Xcompression-level" => {
            let most = LEVELS_OF_SQUASHFS.iter().find(|(known, _)| *known == comp).map_or(0, |(_, most)| *most);
            value.parse::<u32>().is_ok_and(|level| (1..=most).contains(&level))
        }
        // Of xz alone; what they take is its to judge.
        _ => comp == "xz",
    }
}

/// Arguments of mksquashfs that only say how it compresses, with values that are plain words.
fn squashfs<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Vec<String>, &'a str> {
    let mut given = Vec::new();
    while let Some(name) = words.next() {
        if !matches!(name, "-comp" | "-b" | "-Xcompression-level" | "-Xdict-size" | "-Xbcj") {
            return Err(name);
        }
        let plain = |value: &&str| value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b",%".contains(&byte));
        let value = words.next().filter(plain).ok_or(name)?;
        given.push((name, value));
    }
    if !given.iter().any(|(name, _)| *name == "-comp") {
        // Quick to read, which is what happens most often.
        given.insert(0, ("-comp", "zstd"));
    }
    let comp = given.iter().find(|(name, _)| *name == "-comp").map_or("", |(_, comp)| comp);
    match given.iter().find(|(name, value)| !squashfs_takes(name, value, comp)) {
        Some((_, value)) => Err(value),
        None => Ok(given.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect()),
    }
}

impl Compressor {
    /// From a word and its arguments.
    ///
    /// # Errors
    /// [`Unknown`]; nothing is ever handed to a program that does not come from here.
    pub fn parse(text: &str) -> Result<Self, Unknown> {
        let text = one_by_one(text);
        let mut words = text.split_ascii_whitespace();
        let word = words.next().unwrap_or_default();
        let refused =
            |argument: &str, known| Unknown::Argument { word: word.to_owned(), argument: argument.to_owned(), known };
        let levels = |words: std::str::SplitAsciiWhitespace<'_>, usual: u32, least: u32, most: u32, known| {
            let mut found = usual;
            for argument in words.filter(|argument| !is_idle(argument) && *argument != "--ultra") {
                found = level(argument, least, most).ok_or_else(|| refused(argument, known))?;
            }
            Ok(found)
        };
        let lzma = |words: std::str::SplitAsciiWhitespace<'_>| {
            let mut found = Lzma { level: 6, extreme: false };
            for argument in words.filter(|argument| !is_idle(argument)) {
                match (argument, level(argument, 0, 9)) {
                    ("-e" | "--extreme", _) => found.extreme = true,
                    (_, Some(level)) => found.level = level,
                    (other, None) => return Err(refused(other, "-0 to -9, -e, --fast, --best")),
                }
            }
            Ok(found)
        };
        match word {
            "none" => match words.next() {
                None => Ok(Self::None),
                Some(argument) => Err(refused(argument, "nothing")),
            },
            "gzip" => Ok(Self::Gzip { level: levels(words, 6, 1, 9, LEVELS)? }),
            "bzip2" => Ok(Self::Bzip2 { level: levels(words, 9, 1, 9, LEVELS)? }),
            "zstd" => {
                let level = levels(words, 3, 1, 22, "-1 to -22, --fast, --best")?;
                Ok(Self::Zstd { level: i32::try_from(level).unwrap_or(3) })
            }
            "xz" => Ok(Self::Xz(lzma(words)?)),
            "lzma" => Ok(Self::Lzma(lzma(words)?)),
            "squashfs" => {
                let arguments = squashfs(words).map_err(|argument| refused(argument, SQUASHFS))?;
                Ok(Self::Squashfs { arguments })
            }
            other => Err(Unknown::Word(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_arguments() {
        let parse = |text| Compressor::parse(text);
        assert_eq!(parse("none"), Ok(Compressor::None));
        assert_eq!(parse("gzip"), Ok(Compressor::Gzip { level: 6 }));
        assert_eq!(parse("gzip -9 -n"), Ok(Compressor::Gzip { level: 9 }));
        assert_eq!(parse(" bzip2   --fast"), Ok(Compressor::Bzip2 { level: 1 }));
        assert_eq!(parse("xz -0 -e -T0"), Ok(Compressor::Xz(Lzma { level: 0, extreme: true })));
        assert_eq!(parse("xz -9e"), Ok(Compressor::Xz(Lzma { level: 9, extreme: true })));
        assert_eq!(parse("gzip -9nc"), Ok(Compressor::Gzip { level: 9 }));
        assert_eq!(parse("zstd -19"), Ok(Compressor::Zstd { level: 19 }));
        assert_eq!(parse("zstd --ultra -22 --threads=2"), Ok(Compressor::Zstd { level: 22 }));
        let arguments = |text| match parse(text) {
            Ok(Compressor::Squashfs { arguments }) => arguments.join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(arguments("squashfs"), "-comp zstd");
        assert_eq!(arguments("squashfs -comp xz -b 1M"), "-comp xz -b 1M");
    }

    #[test]
    fn what_could_do_something_else_is_refused() {
        for bad in [
            "",
            "rar",
            "none -1",
            "gzip -0",
            "gzip -r",
            "gzip -9r",
            "xz -",
            "gzip -9e",
            "gzip /etc/passwd",
            "xz --files=/etc/passwd",
            "zstd -o x",
        ] {
            assert!(Compressor::parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "-ef x",
            "-comp",
            "-comp /bin/sh",
            "x",
            "-p x",
            "-b 1M -sort /etc/passwd",
            "-b 7",
            "-b 2M",
            "-comp rar",
            "-Xcompression-level 23",
            "-comp xz -Xcompression-level 5",
            "-Xdict-size 8K",
        ] {
            let error = Compressor::parse(&format!("squashfs {bad}")).unwrap_err().to_string();
            assert!(error.contains("-Xcompression-level"), "{error}");
        }
    }
}
