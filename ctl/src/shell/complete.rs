//! What a line can go on with: commands, names of arguments, values.

use super::line::{Word, words};
use super::schema::{Member, Schema};

/// Words of the shell itself.
const OWN: [&str; 2] = ["exit", "help"];

/// What the word before the end of `line` can become, and where that word begins.
pub fn complete(schema: &Schema, line: &str) -> (usize, Vec<String>) {
    let mut words = words(line);
    let ends_in_word = !line.ends_with(char::is_whitespace);
    let last = words.pop_if(|_| ends_in_word);
    let last = last.unwrap_or(Word {
        start: line.len(),
        text: "",
    });
    let candidates = match words.first().map(|word| word.text) {
        None => {
            let own = OWN.iter().copied();
            matching(own.chain(schema.commands()), last.text)
        }
        Some("help") if words.len() == 1 => matching(schema.commands(), last.text),
        Some(command) => argument(schema, command, &words[1..], last.text),
    };
    (last.start, candidates)
}

fn matching<'a>(names: impl Iterator<Item = &'a str>, begun: &str) -> Vec<String> {
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(begun))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// What an argument of `command` that has begun can become. `given` are the words of the others.
fn argument(schema: &Schema, command: &str, given: &[Word], begun: &str) -> Vec<String> {
    let (path, value) = match begun.split_once('=') {
        Some((path, value)) => (path, Some(value)),
        None => (begun, None),
    };
    let mut keys: Vec<&str> = path.split('.').collect();
    let key = keys.pop().unwrap_or_default();
    let members = schema.nested(command, &keys);
    let prefix = &path[..path.len() - key.len()];
    if let Some(value) = value {
        let member = members.iter().find(|member| member.name == key);
        let values = member.map(|member| schema.values(member));
        let values = matching(values.unwrap_or_default().into_iter(), value);
        return values
            .into_iter()
            .map(|value| format!("{path}={value} "))
            .collect();
    }
    let is_given = |member: &&Member| {
        let whole = format!("{prefix}{}=", member.name);
        given.iter().any(|word| word.text.starts_with(&whole))
    };
    // Of a variant, once another one is chosen.
    let is_excluded = |member: &&Member| {
        let Some((tag, case)) = member
            .only_with
            .as_ref()
            .and_then(|one| one.split_once('='))
        else {
            return false;
        };
        let tag = format!("{prefix}{tag}=");
        let mut chosen = given.iter().filter_map(|word| word.text.strip_prefix(&tag));
        chosen.any(|chosen| chosen != case)
    };
    let mut candidates: Vec<String> = members
        .iter()
        .filter(|member| member.name.starts_with(key))
        .filter(|member| !is_given(member) && !is_excluded(member))
        .map(|member| {
            let end = if schema.is_object(member) { '.' } else { '=' };
            format!("{prefix}{}{end}", member.name)
        })
        .collect();
    candidates.sort();
    candidates.dedup();
    candidates
}

#[cfg(test)]
mod tests {
    use super::super::schema::tests::schema;
    use super::*;

    #[track_caller]
    fn check(line: &str, start: usize, expected: &[&str]) {
        let (at, candidates) = complete(&schema(), line);
        assert_eq!(candidates, expected, "{line}");
        assert_eq!(at, start, "{line}");
    }

    #[test]
    fn first_word_is_a_command() {
        check("", 0, &["add", "balloon", "exit", "help", "stop"]);
        check("ba", 0, &["balloon"]);
        check("  st", 2, &["stop"]);
        check("x", 0, &[]);
    }

    #[test]
    fn help_takes_a_command() {
        check("help s", 5, &["stop"]);
        check("help stop ", 10, &[]);
    }

    #[test]
    fn further_words_are_arguments_that_are_not_given_yet() {
        check("balloon ", 8, &["value="]);
        check("add d", 4, &["driver="]);
        check("add driver=file ", 16, &["inner.", "path=", "read-only="]);
        check("add driver=null ", 16, &["inner.", "read-only="]);
        check("stop ", 5, &[]);
        check("unknown ", 8, &[]);
    }

    #[test]
    fn dots_lead_into_objects() {
        check("add inner.", 4, &["inner.value="]);
        check("add inner.value=1 inner.", 18, &[]);
    }

    #[test]
    fn values_that_can_be_listed_are_offered() {
        check("add driver=", 4, &["driver=file ", "driver=null "]);
        check("add driver=f", 4, &["driver=file "]);
        check("add read-only=t", 4, &["read-only=true "]);
        check("balloon value=", 8, &[]);
    }
}
