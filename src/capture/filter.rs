//! Which frames does the user want? A BPF expression, as tcpdump takes it, in front of any source.

use std::collections::BTreeMap;

use pcap::{BpfProgram, Capture, Linktype};

use super::{CaptureError, CaptureFile, FrameBatch, LinkType, Source, Truncation};

/// A BPF expression, compiled for each link type that comes along.
pub struct Filter {
    expression: String,
    /// `None`: the expression has no sense on this link type, so no frame of it is admitted.
    programs: BTreeMap<u16, Option<BpfProgram>>,
}

impl Filter {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Where libpcap finds a mistake in it.
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        let ethernet = compile(expression, LinkType(1))
            .map_err(|why| CaptureError::Filter { expression: expression.into(), why: why.to_string() })?;
        Ok(Self { expression: expression.into(), programs: [(1, Some(ethernet))].into() })
    }

    /// Whether the expression admits a frame.
    pub fn admits(&mut self, link: LinkType, frame: &[u8]) -> bool {
        let expression = &self.expression;
        let program = self.programs.entry(link.0).or_insert_with(|| compile(expression, link).ok());
        program.as_ref().is_some_and(|program| program.filter(frame))
    }
}

fn compile(expression: &str, link: LinkType) -> Result<BpfProgram, pcap::Error> {
    Capture::dead(Linktype(i32::from(link.0)))?.compile(expression, true)
}

/// A source of which a filter admits a part.
pub struct Filtered<S> {
    source: S,
    filter: Option<Filter>,
    refused: u64,
}

impl<S> Filtered<S> {
    /// `source` through the filter `expression`, where one is given.
    ///
    /// # Errors
    /// Where the expression is mistaken.
    pub fn new(source: S, expression: Option<&str>) -> Result<Self, CaptureError> {
        Ok(Self { source, filter: expression.map(Filter::new).transpose()?, refused: 0 })
    }

    /// Frames that the filter did not admit.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Filtered<CaptureFile> {
    /// As [`CaptureFile::cut`].
    pub fn cut(&self) -> Option<&Truncation> {
        self.source.cut()
    }

    /// As [`CaptureFile::frames`]: whether the filter admits them or not.
    pub fn frames(&self) -> u64 {
        self.source.frames()
    }
}

impl<S: Source> Source for Filtered<S> {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let more = self.source.fill(batch)?;
        if let Some(filter) = &mut self.filter {
            self.refused += batch.retain(|frame| filter.admits(frame.link, frame.bytes));
        }
        Ok(more)
    }

    fn clock(&self) -> Option<super::Nanos> {
        self.source.clock()
    }
}
