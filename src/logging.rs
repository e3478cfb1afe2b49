//! The log: warnings to standard error, or more, or to a file.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use env_logger::{Builder, Target};
use log::LevelFilter;

/// Starts the log. `verbose` counts from 0 (warnings) to 3 (everything).
///
/// # Errors
/// When the file cannot be written.
pub fn start(verbose: u8, file: Option<&Path>) -> io::Result<()> {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = Builder::new();
    builder.filter_level(level).format_target(false);
    if verbose < 2 {
        // It reports each fault of a guest, as often as the guest likes; the devices count them
        // and log at a limited rate.
        builder.filter_module("virtio_queue", LevelFilter::Off);
    }
    if let Some(path) = file {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        builder.target(Target::Pipe(Box::new(file)));
    }
    builder.init();
    Ok(())
}
