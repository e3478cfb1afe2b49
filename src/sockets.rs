//! The sockets on which QMP is served, from what the user asked for.

use aerostat_qmp::{BindError, Listener, SocketGroup, SocketOptions};

use crate::cli::{Options, SocketArgument};
use crate::group::{self, GroupError};

/// Why QMP cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A group is not there.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A socket cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Listens on all sockets. Where one cannot be had, the files of those before it are gone again.
///
/// # Errors
/// The first that cannot be had, and why.
pub fn listen(options: &Options) -> Result<Vec<Listener>, SocketError> {
    let sockets = options.qmp.iter().map(|socket| {
        let socket = socket_options(socket, options.paused)?;
        Ok(Listener::bind(&socket)?)
    });
    sockets.collect()
}

/// What a socket is to be like. A paused guest waits for `cont` anyhow, and not for clients.
///
/// # Errors
/// When its group is not there.
pub fn socket_options(socket: &SocketArgument, paused: bool) -> Result<SocketOptions, GroupError> {
    let group = socket.group.as_ref().map(|name| {
        let id = group::id_of(name)?;
        let name = name.clone();
        Ok(SocketGroup { id, name })
    });
    Ok(SocketOptions {
        path: socket.path.clone(),
        mode: socket.mode,
        group: group.transpose()?,
        wait: socket.wait && !paused,
    })
}
