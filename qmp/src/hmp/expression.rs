//! Numbers as people give them to QEMU's monitor: C's integer expressions with `+ - * / % & | ^ ~`,
//! parentheses, and decimal, hexadecimal and octal numbers and characters. There are no registers.
//!
//! The three groups of operators bind as in QEMU: `* / %` before `& | ^`, and `+ -` last.

use thiserror::Error;

/// How deep parentheses and signs may nest: an expression must not use up the stack.
const MAX_DEPTH: u32 = 64;

/// What is wrong with an expression, in QEMU's words.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Fault {
    #[error("unexpected end of expression")]
    End,
    #[error("invalid char '{0}' in expression")]
    Character(char),
    #[error("')' expected")]
    Parenthesis,
    #[error("division by zero")]
    Zero,
    #[error("number too large")]
    TooLarge,
    #[error("character constant expected")]
    NoCharacter,
    #[error("missing terminating ' character")]
    Quote,
    #[error("unknown register")]
    Register,
    #[error("expression is nested too deeply")]
    TooDeep,
}

/// The value of the expression that `text` begins with, and what follows it.
pub(super) fn evaluate(text: &str) -> Result<(i64, &str), Fault> {
    let mut parser = Parser {
        rest: text.trim_ascii_start(),
        depth: 0,
    };
    let value = parser.sum()?;
    Ok((value, parser.rest))
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl Parser<'_> {
    fn sum(&mut self) -> Result<i64, Fault> {
        let mut value = self.logic()?;
        while let Some(operator) = self.take_one_of("+-") {
            let right = self.logic()?;
            value = match operator {
                '+' => value.wrapping_add(right),
                _ => value.wrapping_sub(right),
            };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, Fault> {
        let mut value = self.product()?;
        while let Some(operator) = self.take_one_of("&|^") {
            let right = self.product()?;
            value = match operator {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, Fault> {
        let mut value = self.unary()?;
        while let Some(operator) = self.take_one_of("*/%") {
            let right = self.unary()?;
            value = match operator {
                '*' => value.wrapping_mul(right),
                _ if right == 0 => return Err(Fault::Zero),
                '/' => value.wrapping_div(right),
                _ => value.wrapping_rem(right),
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<i64, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        let value = match self.take_one_of("+-~(") {
            Some('+') => self.unary(),
            Some('-') => self.unary().map(i64::wrapping_neg),
            Some('~') => self.unary().map(|value| !value),
            Some(_) => {
                let value = self.sum()?;
                let closed = self.take_one_of(")");
                closed.map(|_| value).ok_or(Fault::Parenthesis)
            }
            None => self.primary(),
        };
        self.depth -= 1;
        value
    }

    fn primary(&mut self) -> Result<i64, Fault> {
        let value = match self.rest.chars().next() {
            None => return Err(Fault::End),
            Some('$') => return Err(Fault::Register),
            Some('\'') => self.character()?,
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some(c) => return Err(Fault::Character(c)),
        };
        self.rest = self.rest.trim_ascii_start();
        Ok(value)
    }

    /// `'c'`.
    fn character(&mut self) -> Result<i64, Fault> {
        let mut characters = self.rest.chars().skip(1);
        let value = characters.next().ok_or(Fault::NoCharacter)?;
        if characters.next() != Some('\'') {
            return Err(Fault::Quote);
        }
        self.rest = &self.rest[2 + value.len_utf8()..];
        Ok(i64::from(u32::from(value)))
    }

    fn number(&mut self) -> Result<i64, Fault> {
        let hexadecimal = self.rest.strip_prefix("0x");
        let hexadecimal = hexadecimal.or_else(|| self.rest.strip_prefix("0X"));
        let (digits, radix) = match hexadecimal {
            Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (digits, 16),
            _ if self.rest.starts_with('0') => (self.rest, 8),
            _ => (self.rest, 10),
        };
        let end = digits.find(|c: char| !c.is_digit(radix));
        let (digits, rest) = digits.split_at(end.unwrap_or(digits.len()));
        self.rest = rest;
        let value = u64::from_str_radix(digits, radix).map_err(|_| Fault::TooLarge)?;
        // As in C: the upper half of the numbers is the negative ones.
        Ok(value.cast_signed())
    }

    /// Takes the next character if it is one of these, and the white space behind it.
    fn take_one_of(&mut self, wanted: &str) -> Option<char> {
        let next = self.rest.chars().next()?;
        if !wanted.contains(next) {
            return None;
        }
        self.rest = self.rest[next.len_utf8()..].trim_ascii_start();
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_bases_and_characters_count() {
        for (text, value) in [("64", 64), ("0x80", 128), ("010", 8), ("'a'", 97), ("0", 0)] {
            assert_eq!(evaluate(text), Ok((value, "")));
        }
    }

    #[test]
    fn operators_bind_in_three_groups() {
        for (text, value) in [
            ("64*2", 128),
            ("2 + 3 * 4", 14),
            ("3&6|1^2", 1),
            ("1+2&3", 3),
            ("(1 + 2) * 3", 9),
            ("10%4", 2),
            ("- 5", -5),
            ("~1", -2),
        ] {
            assert_eq!(evaluate(text), Ok((value, "")), "{text}");
        }
    }

    #[test]
    fn what_follows_is_left() {
        assert_eq!(evaluate("64 64"), Ok((64, "64")));
        assert_eq!(evaluate("64M"), Ok((64, "M")));
    }

    #[test]
    fn faults_are_named() {
        for (text, fault) in [
            ("", Fault::End),
            ("64+", Fault::End),
            ("x", Fault::Character('x')),
            ("(64+64", Fault::Parenthesis),
            ("1/0", Fault::Zero),
            ("99999999999999999999", Fault::TooLarge),
            ("$pc", Fault::Register),
            ("'a", Fault::Quote),
        ] {
            assert_eq!(evaluate(text), Err(fault), "{text}");
        }
        assert_eq!(evaluate(&"(".repeat(100_000)), Err(Fault::TooDeep));
        assert_eq!(evaluate(&"-".repeat(100_000)), Err(Fault::TooDeep));
    }

    #[test]
    fn smallest_number_divided_by_minus_one_is_no_panic() {
        assert!(evaluate("0x8000000000000000 / -1").is_ok());
        assert!(evaluate("0x8000000000000000 % -1").is_ok());
    }
}
