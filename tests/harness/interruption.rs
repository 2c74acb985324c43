//! Ends that come from outside.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Waits until somebody ends the program: Ctrl-C, or a request to terminate.
///
/// # Errors
/// When the system takes no handler.
pub async fn interruption() -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
