//! The interface that every source of frames implements.

use super::{CaptureError, FrameBatch, Nanos};

/// A source of frames.
pub trait Source: Send {
    /// Clears `batch` and fills it with the next frames. `Ok(false)` means that the source has ended; before that, a batch may be
    /// empty.
    ///
    /// # Errors
    /// If nothing can be read at all. A file that ends early is not an error: it ends with a [`Truncation`](super::Truncation).
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError>;

    /// The current time of a live source: quiet streams time out by it even when no frame arrives. `None` for capture files, in
    /// which only packet timestamps advance time.
    fn clock(&self) -> Option<Nanos> {
        None
    }

    /// Whether frames arrive as they are captured, so that those at hand must not wait for further ones.
    fn is_live(&self) -> bool {
        self.clock().is_some()
    }
}

impl<S: Source + ?Sized> Source for &mut S {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        (**self).fill(batch)
    }

    fn clock(&self) -> Option<Nanos> {
        (**self).clock()
    }

    fn is_live(&self) -> bool {
        (**self).is_live()
    }
}
