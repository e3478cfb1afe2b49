//! Where messages end, and what each fault costs. That splits change neither is in
//! `tests/hostile_input.rs`.

use super::*;

/// Each message as its JSON text, each fault as the error's text.
fn outcomes(mut input: &[u8], framer: &mut Framer) -> Vec<String> {
    let mut outcomes = Vec::new();
    while let Some(outcome) = framer.next_message(&mut input) {
        outcomes.push(match outcome {
            Ok(value) => {
                let mut text = Vec::new();
                json::write(&value, &mut text);
                String::from_utf8(text).unwrap()
            }
            Err(error) => error.to_string(),
        });
    }
    outcomes
}

fn lex(input: impl AsRef<[u8]>) -> Vec<String> {
    outcomes(input.as_ref(), &mut Framer::default())
}

const EXPECTING_VALUE: &str = "JSON parse error, expecting value";

fn stray(text: &str) -> String {
    format!("JSON parse error, stray '{text}'")
}

#[test]
fn bracketed_message_ends_on_its_last_bracket() {
    assert_eq!(lex("{}[]{\"a\""), ["{}", "[]"]);
}

#[test]
fn bare_number_ends_only_at_the_next_byte() {
    assert_eq!(lex("123"), [""; 0]);
    assert_eq!(lex("123 "), ["123"]);
    assert_eq!(lex("true{}"), ["true", "{}"]);
}

#[test]
fn leading_zero_takes_no_digit_and_no_exponent() {
    assert_eq!(lex("01 "), [stray("01")]);
    assert_eq!(
        lex("0e1 "),
        ["0", "JSON parse error, invalid keyword 'e'", "1"]
    );
    assert_eq!(lex("1e1 0.5e-1 -0 "), ["10", "0.050000000000000003", "0"]);
}

#[test]
fn closer_of_the_wrong_kind_ends_a_message_only_below_zero() {
    assert_eq!(lex("{\"a\": ]{}"), [EXPECTING_VALUE, "{}"]);
    assert_eq!(lex("{\"a\": [}"), [""; 0]);
    assert_eq!(lex("{\"a\": [}]{}"), [EXPECTING_VALUE, "{}"]);
}

#[test]
fn lexical_error_drops_the_message_and_resumes_at_a_bracket() {
    assert_eq!(
        lex("{\"a\": TRUE}"),
        [stray("T"), EXPECTING_VALUE.to_owned()]
    );
    assert_eq!(
        lex("\"a\tb\": 1}"),
        [&stray("\"a\t"), EXPECTING_VALUE, "1", EXPECTING_VALUE]
    );
}

#[test]
fn recovery_swallows_a_word_but_not_a_line() {
    assert_eq!(lex("\u{1}true {}"), [stray("\u{1}"), "{}".into()]);
    assert_eq!(
        lex("\u{1}\ntrue {}"),
        [stray("\u{1}"), "true".into(), "{}".into()]
    );
}

#[test]
fn nul_cuts_the_quoted_text() {
    assert_eq!(lex("\"ab\0"), [stray("\"ab")]);
    assert_eq!(lex("\0"), [stray("")]);
}

#[test]
fn control_bytes_cost_one_error_each() {
    assert_eq!(
        lex(b"\xFF\xFE\x01"),
        [stray("\u{FFFD}"), stray("\u{FFFD}"), stray("\u{1}")]
    );
}

#[test]
fn nesting_limit_strikes_on_the_opener_past_it() {
    let allowed = "[".repeat(1024) + &"]".repeat(1024);
    assert_eq!(lex(&allowed), [allowed]);
    let error = "JSON nesting depth limit exceeded";
    assert_eq!(
        lex("[".repeat(1025) + "]]"),
        [error, EXPECTING_VALUE, EXPECTING_VALUE]
    );
}

#[test]
fn deepest_object_allowed_is_read_written_and_dropped() {
    let deepest = "{\"a\": ".repeat(1024) + "1" + &"}".repeat(1024);
    assert_eq!(lex(&deepest), [deepest]);
}

#[test]
fn number_too_large_becomes_the_largest_double() {
    let digits = "9".repeat(400);
    assert_eq!(
        lex(format!("[1e999,-1e999,{digits}]")),
        ["[1.7976931348623157e+308, -1.7976931348623157e+308, 1.7976931348623157e+308]"]
    );
}

#[test]
fn duplicate_key_is_the_earlier_fault_of_two() {
    let error = "JSON parse error, duplicate key";
    assert_eq!(lex(r#"{"a": 1, "a": 2, 3: 4}"#), [error]);
    assert_eq!(lex(r#"{"a": 1, "a": 2, "b": [}]"#), [error]);
    assert_eq!(
        lex(r#"{"a": 1, "a": [x]}"#),
        ["JSON parse error, invalid keyword 'x'"]
    );
}

#[test]
fn token_count_limit_strikes_on_the_token_past_it() {
    let exact = "[".to_owned() + &"1,".repeat(MAX_TOKENS / 2 - 1) + "1";
    let mut framer = Framer::default();
    assert!(outcomes(exact.as_bytes(), &mut framer).is_empty());
    // `1` is complete only now, as the last token allowed.
    assert_eq!(
        outcomes(b"]", &mut framer),
        ["JSON token count limit exceeded"]
    );
}

#[test]
fn token_size_limit_strikes_in_an_unfinished_string() {
    let mut framer = Framer::default();
    let allowed = vec![b'"'; 1]
        .into_iter()
        .chain(std::iter::repeat_n(b'a', MAX_TOKEN_BYTES - 1));
    assert!(outcomes(&allowed.collect::<Vec<_>>(), &mut framer).is_empty());
    assert_eq!(
        outcomes(b"a{}", &mut framer),
        ["JSON token size limit exceeded", "{}"]
    );
}

#[test]
fn string_faults_have_their_own_texts() {
    for (input, error) in [
        (&br#""\q""#[..], "invalid escape sequence in string"),
        (br#""\u12g4""#, r"\u12g4 is not a valid Unicode character"),
        (br#""\u12""#, "\\u12\" is not a valid Unicode character"),
        (
            br#""\ud800\u0041""#,
            r"\ud800 is not a valid Unicode character",
        ),
        (br#""\uFFFE""#, r"\uFFFE is not a valid Unicode character"),
        (b"\"\xC0\x81\"", "invalid UTF-8 sequence in string"),
    ] {
        assert_eq!(lex(input), [format!("JSON parse error, {error}")]);
    }
}

#[test]
fn both_quotes_and_all_escapes_are_read() {
    assert_eq!(
        lex(r#"'a"\'\"\/\b\f\n\r\t\\'"#),
        [r#""a\"'\"/\b\f\n\r\t\\""#]
    );
    assert_eq!(lex(r#""\ud83d\ude00\u0000""#), [r#""\uD83D\uDE00\u0000""#]);
    assert_eq!(lex(b"\"\xC0\x80\""), [r#""\u0000""#]);
}

#[test]
fn integers_above_64_bits_become_doubles() {
    assert_eq!(
        lex("[9223372036854775808,-9223372036854775809,18446744073709551616]"),
        ["[9223372036854775808, -9.2233720368547758e+18, 1.8446744073709552e+19]"]
    );
}
