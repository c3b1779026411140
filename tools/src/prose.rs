//! Sentences of a page: how many there are, and how long.
//!
//! A sentence is what a reader takes in at once. Headings, tables and code are none. A word is what blanks separate; a
//! piece of code in backticks is one word, whatever is in it, and so is a link's target none.

/// What is counted of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentences(Vec<String>);

/// The most words that a sentence of a page may have.
pub const LONGEST: usize = 45;
/// The most that its sentences may have on average.
pub const AVERAGE: usize = 25;

impl Sentences {
    /// Those of a page in Markdown.
    #[must_use]
    pub fn of(page: &str) -> Self {
        let mut sentences = Vec::new();
        for paragraph in paragraphs(page) {
            let text = without_code(&without_links(&paragraph));
            let mut sentence: Vec<&str> = Vec::new();
            let words: Vec<&str> = text.split_whitespace().collect();
            for (index, word) in words.iter().enumerate() {
                if word.chars().any(char::is_alphanumeric) {
                    sentence.push(word);
                }
                let ends = word.trim_end_matches(['"', ')', '*', '_']).ends_with(['.', '!', '?']);
                // "e.g. a" and "No. 3" do not end one: what follows begins small.
                let begins =
                    words.get(index + 1).is_none_or(|next| !next.starts_with(|letter: char| letter.is_lowercase()));
                if ends && begins {
                    sentences.extend((!sentence.is_empty()).then(|| sentence.join(" ")));
                    sentence.clear();
                }
            }
            sentences.extend((!sentence.is_empty()).then(|| sentence.join(" ")));
        }
        Self(sentences)
    }

    /// How many sentences.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many words in all of them.
    #[must_use]
    pub fn words(&self) -> usize {
        self.0.iter().map(|sentence| words(sentence)).sum()
    }

    /// Words per sentence, in tenths.
    #[must_use]
    pub fn tenths(&self) -> usize {
        (self.words() * 10).checked_div(self.count()).unwrap_or(0)
    }

    /// The longest sentence.
    #[must_use]
    pub fn longest(&self) -> &str {
        self.0.iter().max_by_key(|sentence| words(sentence)).map_or("", String::as_str)
    }

    /// Those with more words than `limit`.
    pub fn longer_than(&self, limit: usize) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(move |sentence| words(sentence) > limit)
    }
}

/// How many words a sentence has.
#[must_use]
pub fn words(sentence: &str) -> usize {
    sentence.split_whitespace().count()
}

/// The paragraphs and items of lists, each in a line.
fn paragraphs(page: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    let mut in_code = false;
    for line in page.lines() {
        let text = line.trim_start();
        let is_item =
            text.starts_with("- ") || text.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        let is_fence = text.starts_with("```");
        let is_none = text.is_empty() || text.starts_with(['#', '|', '<']) || line.starts_with("    ");
        if is_fence {
            in_code = !in_code;
        }
        if in_code || is_fence || is_none {
            paragraphs.push(String::new());
            continue;
        }
        let text = if is_item {
            paragraphs.push(String::new());
            text.split_once(' ').map_or("", |(_, text)| text)
        } else {
            text.trim_start_matches("> ")
        };
        let paragraph = paragraphs.last_mut().expect("there is one");
        paragraph.push_str(text);
        paragraph.push(' ');
    }
    paragraphs
}

/// Text with the words of each link in the link's place.
fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("](") {
        out.push_str(before);
        rest = behind.split_once(')').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out.replace('[', "")
}

/// Text with a word in the place of each piece of code.
fn without_code(text: &str) -> String {
    text.split('`').enumerate().map(|(index, part)| if index % 2 == 1 { "Code" } else { part }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_counted_and_their_words() {
        let page = "# A heading. Not counted\n\nOne `two words. Here` three [four five](six.md#seven). \
                    It is 0.1.0, e.g. this\none.\n\n\
                    | a | b. C |\n\n```\nCode. More.\n```\n- An item\n  goes on. Ends!\n1. Two words.\n";
        let sentences = Sentences::of(page);
        assert_eq!(
            sentences.0,
            ["One Code three four five.", "It is 0.1.0, e.g. this one.", "An item goes on.", "Ends!", "Two words."]
        );
        assert_eq!((sentences.count(), sentences.words(), sentences.tenths()), (5, 18, 36));
        assert_eq!(sentences.longest(), "It is 0.1.0, e.g. this one.");
        assert_eq!(sentences.longer_than(4).count(), 2);
        assert_eq!(Sentences::of("").tenths(), 0);
    }
}
