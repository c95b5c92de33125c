//! Names for instances that were given none: two words, easy to say and to type.

/// The first word.
const FIRST: &[&str] = &[
    "agile", "amber", "brave", "bright", "brisk", "calm", "clever", "cosy", "crisp", "curious", "daring", "deft",
    "eager", "early", "earthy", "fair", "fleet", "fond", "free", "gentle", "glad", "golden", "hardy", "honest",
    "humble", "keen", "kind", "lively", "lucky", "lunar", "merry", "mild", "mossy", "neat", "nimble", "noble", "quick",
    "quiet", "ready", "rustic", "sandy", "sharp", "silent", "silver", "snug", "solid", "spry", "steady", "still",
    "stout", "sunny", "sure", "swift", "tidy", "tough", "tranquil", "trusty", "upbeat", "velvet", "warm", "wary",
    "wild", "wise", "witty",
];
/// The second: those who dig, nest or hide.
const SECOND: &[&str] = &[
    "aardvark",
    "ant",
    "armadillo",
    "badger",
    "bandicoot",
    "bee",
    "beetle",
    "bilby",
    "chipmunk",
    "cony",
    "cricket",
    "degu",
    "dormouse",
    "earthworm",
    "echidna",
    "ferret",
    "firefly",
    "fox",
    "gecko",
    "gerbil",
    "gopher",
    "groundhog",
    "hamster",
    "hare",
    "hedgehog",
    "jackrabbit",
    "jerboa",
    "kingfisher",
    "kiwi",
    "lapwing",
    "lemming",
    "leveret",
    "lizard",
    "marmot",
    "martin",
    "meerkat",
    "mole",
    "mongoose",
    "mouse",
    "newt",
    "numbat",
    "otter",
    "owl",
    "pangolin",
    "pika",
    "polecat",
    "puffin",
    "quoll",
    "rabbit",
    "scarab",
    "shrew",
    "skink",
    "squirrel",
    "stoat",
    "swallow",
    "tamandua",
    "tarsier",
    "tenrec",
    "toad",
    "tortoise",
    "vole",
    "weasel",
    "wombat",
    "woodchuck",
];

/// The name that these random numbers choose. The first two are enough for most; `more` makes it longer, for a host
/// where the short ones run out.
pub(super) fn choose(random: [u8; 4], more: bool) -> String {
    let pick = |words: &[&'static str], number: u8| words.get(usize::from(number) % words.len()).copied();
    let (first, second) = (pick(FIRST, random[0]).unwrap_or("calm"), pick(SECOND, random[1]).unwrap_or("mole"));
    if more {
        format!("{first}-{second}-{}", u16::from_le_bytes([random[2], random[3]]))
    } else {
        format!("{first}-{second}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::InstanceName;

    #[test]
    fn all_of_them_are_names_of_instances() {
        for first in 0..=255 {
            for (second, more) in [(first, false), (255 - first, true)] {
                let name = choose([first, second, 255, 255], more);
                assert!(InstanceName::new(name.clone()).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn no_word_is_there_twice() {
        for words in [FIRST, SECOND] {
            let distinct: std::collections::BTreeSet<_> = words.iter().collect();
            assert_eq!(distinct.len(), words.len());
        }
    }
}
