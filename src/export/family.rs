//! A metric family built for one scrape.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A condition as the value of a gauge.
pub(crate) fn flag(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

/// A count as a value. Prometheus has only floating-point numbers; counts above 2^53 lose their last digits.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has only f64")]
pub(crate) fn value(count: u64) -> f64 {
    count as f64
}

/// A metric family and its series.
pub(crate) struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    /// Values by label values. A map, since a duplicate series would make Prometheus reject the whole scrape.
    series: BTreeMap<Vec<String>, f64>,
}

impl Family {
    pub(crate) fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, kind: MetricType::COUNTER, labels, series: BTreeMap::new() }
    }

    pub(crate) fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { kind: MetricType::GAUGE, ..Self::counter(name, labels, help) }
    }

    /// The family with `value` as its only series, without labels.
    pub(crate) fn with(mut self, value: f64) -> Self {
        self.set(&[], value);
        self
    }

    /// Sets a gauge's series to `value`, or adds `value` to a counter's series. `labels` are the values of the family's labels.
    pub(crate) fn set(&mut self, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), self.labels.len());
        let series = self.series.entry(labels.iter().map(ToString::to_string).collect()).or_default();
        *series = if self.kind == MetricType::COUNTER { *series + value } else { value };
    }

    /// Whether there is a series with these label values.
    pub(crate) fn contains(&self, labels: &[String]) -> bool {
        self.series.contains_key(labels)
    }

    /// Whether there is no series, which the encoder does not accept.
    #[cfg(feature = "fleet")]
    pub(crate) fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Converts the family to what the encoder reads.
    pub(crate) fn into_proto(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.into());
        family.set_help(self.help.into());
        family.set_field_type(self.kind);
        let metric = |(values, value): (Vec<String>, f64)| {
            let pair = |(name, value): (&&str, String)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_string());
                pair.set_value(value);
                pair
            };
            let mut metric = Metric::from_label(self.labels.iter().zip(values).map(pair).collect());
            if self.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        family.set_metric(self.series.into_iter().map(metric).collect());
        family
    }
}
