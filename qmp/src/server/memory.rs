//! How much memory the clients may take, each of them and together.
//!
//! A client holds memory for input that is not yet a whole message, or not yet processed, and for
//! output that it has not read. Up to [`CLIENT_BYTES`] are its own, so that a client that sends
//! commands and reads their replies is served whatever the others do. What it holds beyond that
//! comes out of [`SHARED_BYTES`], which are there once for all. Whoever needs more than is left is
//! told and its connection closed; nobody else is.
//!
//! Together that is 384 MiB at most. Beside it there is one message at a time, of any client, while
//! it is parsed and executed: its values, and a reply that may quote it with six bytes for one.

use crate::backend::CommandError;

/// What each client may hold without regard for the others: enough for the output after which its
/// input has to wait ([`OUTPUT_PAUSE_BYTES`](super::OUTPUT_PAUSE_BYTES)) and a long reply.
pub const CLIENT_BYTES: usize = 2 << 20;
/// What all clients together may hold beyond that: enough for a message of the largest size, and
/// for four that are one long string each.
pub const SHARED_BYTES: usize = 256 << 20;

/// How much of what a client holds comes out of what is there for all.
pub fn shared_part(held_bytes: usize) -> usize {
    held_bytes.saturating_sub(CLIENT_BYTES)
}

/// Why a client is sent away that needs more than is left.
pub fn out_of_memory(shared_limit: usize) -> CommandError {
    CommandError::generic(format!(
        "Too much data: all clients together may have {} MiB of unfinished requests and unread \
         replies, send smaller requests and read the replies",
        shared_limit >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_CLIENTS, OUTPUT_PAUSE_BYTES};
    use super::*;
    use crate::framer::{BYTES_OF_TOKEN, MAX_TOKEN_BYTES, MAX_TOKENS};

    #[test]
    fn client_within_its_own_part_takes_nothing_from_the_others() {
        assert_eq!(shared_part(0), 0);
        assert_eq!(shared_part(CLIENT_BYTES), 0);
        assert_eq!(shared_part(CLIENT_BYTES + 1), 1);
    }

    #[test]
    fn limits_are_as_documented() {
        const { assert!(OUTPUT_PAUSE_BYTES < CLIENT_BYTES) };
        assert_eq!(MAX_CLIENTS * CLIENT_BYTES + SHARED_BYTES, 384 << 20);
        let largest_message = MAX_TOKEN_BYTES + MAX_TOKENS * BYTES_OF_TOKEN;
        assert!(largest_message <= SHARED_BYTES);
        assert!(out_of_memory(SHARED_BYTES).to_string().contains("256 MiB"));
    }
}
