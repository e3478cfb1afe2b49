//! QEMU's machine protocol (QMP): bytes in, bytes out, and a trait for what a machine can do.
//!
//! A client steers a machine by JSON texts over a Unix socket, as the QMP specification of QEMU
//! 10.0 lays down, and to the byte as QEMU does it. The way of a request:
//!
//! ```text
//! socket -> server -> framer (lexer, one JSON text) -> json -> message (Request) -> session
//!        -> command (typed arguments) -> Backend
//! ```
//!
//! and of an event: [`EventSender`] on any thread, [`events`] queue, [`throttle`], every client
//! that has negotiated. Only [`server`] and [`client`], the other side of the socket, do I/O (and the queue of
//! events wakes the server); the rest takes and returns values.
//!
//! This crate knows neither KVM nor virtio. Sizes are in bytes unless a name says otherwise.

pub mod client;
pub mod command;
pub mod events;
pub mod framer;
pub mod governor;
mod hmp;
pub mod json;
pub mod lexer;
pub mod message;
pub mod monitor;
pub mod qom;
pub mod resize;
pub mod schema;
pub mod server;
pub mod session;
pub mod steering;
pub mod throttle;

mod backend;
#[cfg(test)]
mod testing;

// `testing` is also part of the fuzz targets, which know this crate by its name.
#[cfg(test)]
extern crate self as aerostat_qmp;

pub use backend::{
    Backend, BalloonInfo, CommandError, CpuInfo, GuestStatistics, KvmInfo, MachineInfo, RamInfo,
    RunState,
};
pub use events::{Event, EventReceiver, EventSender, PanicAction, ShutdownCause};
pub use governor::{Driver, Limits, View};
pub use resize::{BalloonState, Sizes};
pub use server::{BindError, Listener, Server, SocketGroup, SocketOptions};
pub use steering::{Steering, SteeringOptions};
