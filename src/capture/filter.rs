//! BPF filters in pcap-filter syntax, as tcpdump takes them, in front of any source.

use std::collections::BTreeMap;

use pcap::{BpfProgram, Capture, Linktype};

use super::{CaptureError, CaptureFile, FrameBatch, LinkType, Nanos, Source, Truncation};

/// A BPF filter, compiled once for each link type that occurs.
pub struct Filter {
    expression: String,
    /// `None` if the expression does not compile for this link type; the filter then admits none of its frames.
    programs: BTreeMap<LinkType, Option<BpfProgram>>,
}

impl Filter {
    /// Compiles an expression for Ethernet, to find mistakes in it.
    ///
    /// # Errors
    /// If libpcap rejects the expression.
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        let ethernet = compile(expression, LinkType::ETHERNET)
            .map_err(|why| CaptureError::Filter { expression: expression.into(), why: why.to_string() })?;
        Ok(Self { expression: expression.into(), programs: [(LinkType::ETHERNET, Some(ethernet))].into() })
    }

    /// Whether the filter admits a frame.
    pub fn admits(&mut self, link: LinkType, frame: &[u8]) -> bool {
        let expression = &self.expression;
        let program = self.programs.entry(link).or_insert_with(|| compile(expression, link).ok());
        program.as_ref().is_some_and(|program| program.filter(frame))
    }
}

fn compile(expression: &str, link: LinkType) -> Result<BpfProgram, pcap::Error> {
    Capture::dead(Linktype(i32::from(link.0)))?.compile(expression, true)
}

/// A source behind an optional filter.
pub struct Filtered<S> {
    source: S,
    filter: Option<Filter>,
    refused: u64,
}

impl<S> Filtered<S> {
    /// Puts the filter `expression`, if there is one, in front of `source`.
    ///
    /// # Errors
    /// If libpcap rejects the expression.
    pub fn new(source: S, expression: Option<&str>) -> Result<Self, CaptureError> {
        Ok(Self { source, filter: expression.map(Filter::new).transpose()?, refused: 0 })
    }

    /// Number of frames that the filter did not admit.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Filtered<CaptureFile> {
    /// As [`CaptureFile::truncation`].
    pub fn truncation(&self) -> Option<&Truncation> {
        self.source.truncation()
    }

    /// As [`CaptureFile::failure`].
    pub fn failure(&self) -> Option<CaptureError> {
        self.source.failure()
    }

    /// As [`CaptureFile::has_interfaces`].
    pub fn has_interfaces(&self) -> bool {
        self.source.has_interfaces()
    }

    /// As [`CaptureFile::position`].
    pub fn position(&self) -> Option<u64> {
        self.source.position()
    }

    /// As [`CaptureFile::frames`]: counts frames whether the filter admits them or not.
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

    fn clock(&self) -> Option<Nanos> {
        self.source.clock()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}
