//! spiked.
