//! Harm check before a changed model is written.

use std::path::Path;

use anyhow::{Result, bail};

use crate::evaluate::{Harm, harm_on_reference};
use crate::model::Model;

/// Name of the built-in reference in messages.
pub const REFERENCE: &str = "built-in reference";

/// Why a change is refused, which `--force` makes nevertheless.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The harm found on `streams`, as a line.
///
/// # Errors
/// If it is too much, unless `force`.
pub fn accept(harm: &Harm, streams: &str, force: bool) -> Result<String> {
    if harm.is_harmful() && !force {
        bail!(Refusal(format!("{streams}: {harm}; not written, --force writes it")));
    }
    Ok(format!("{streams}: {harm}"))
}

/// Checks a changed model on the built-in reference and writes it.
///
/// # Errors
/// If it does too much harm, unless `force`, or cannot be written.
pub fn write_checked(before: &[&Model], after: &Model, out: &Path, force: bool) -> Result<()> {
    if let Some(harm) = harm_on_reference(before, after) {
        say!("{}", accept(&harm, REFERENCE, force)?);
    }
    after.save(out)?;
    say!("written: {}, {} classes", out.display(), after.classes.len());
    Ok(())
}
