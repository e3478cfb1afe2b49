//! The escape key of the console, as in QEMU: Ctrl-A, then a letter.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What `Ctrl-A h` shows.
pub const HELP: &str = "\r\n\
    Ctrl-A h       this help\r\n\
    Ctrl-A x       quit\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A\r\n";

/// Something typed for the VMM rather than for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Show [`HELP`].
    Help,
    /// End the machine.
    Quit,
}

/// Tells the guest's input from commands. It remembers an escape at the end of what it was given.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// Splits `typed`: bytes for the guest are passed to `guest`, and commands are returned in
    /// their order. After [`Command::Quit`] nothing counts any more.
    pub fn filter(&mut self, typed: &[u8], mut guest: impl FnMut(u8)) -> Vec<Command> {
        let mut commands = Vec::new();
        for &byte in typed {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => self.escaped = true,
                (false, byte) | (true, byte @ ESCAPE) => guest(byte),
                (true, b'h' | b'?') => commands.push(Command::Help),
                (true, b'x') => {
                    commands.push(Command::Quit);
                    break;
                }
                (true, _) => {}
            }
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
        let mut filter = EscapeFilter::default();
        let (mut guest, mut commands) = (Vec::new(), Vec::new());
        for piece in pieces {
            commands.extend(filter.filter(piece, |byte| guest.push(byte)));
        }
        (guest, commands)
    }

    #[test]
    fn ordinary_input_is_the_guests() {
        assert_eq!(filter(&[b"ls\n\x03"]), (b"ls\n\x03".to_vec(), vec![]));
    }

    #[test]
    fn escape_and_letter_are_commands() {
        let (guest, commands) = filter(&[b"a\x01hb\x01xc"]);
        assert_eq!(guest, b"ab");
        assert_eq!(commands, [Command::Help, Command::Quit]);
    }

    #[test]
    fn escape_twice_sends_it_once() {
        assert_eq!(filter(&[b"\x01\x01x"]), (b"\x01x".to_vec(), vec![]));
    }

    #[test]
    fn escape_at_the_end_of_a_read_is_remembered() {
        assert_eq!(filter(&[b"\x01", b"x"]), (vec![], vec![Command::Quit]));
    }

    #[test]
    fn escape_with_another_letter_is_swallowed() {
        assert_eq!(filter(&[b"\x01zk"]), (b"k".to_vec(), vec![]));
    }
}
