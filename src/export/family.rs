//! A metric family built for one scrape.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A metric family and its series.
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    /// Values by label values. A map, since a duplicate series would make Prometheus reject the whole scrape.
    series: BTreeMap<Vec<String>, f64>,
}

impl Family {
    pub(super) fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, kind: MetricType::COUNTER, labels, series: BTreeMap::new() }
    }

    pub(super) fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { kind: MetricType::GAUGE, ..Self::counter(name, labels, help) }
    }

    /// The family with `value` as its only series, without labels.
    pub(super) fn with(mut self, value: f64) -> Self {
        self.set(&[], value);
        self
    }

    /// Sets a gauge's series to `value`, or adds `value` to a counter's series. `labels` are the values of the family's labels.
    pub(super) fn set(&mut self, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), self.labels.len());
        let series = self.series.entry(labels.iter().map(ToString::to_string).collect()).or_default();
        *series = if self.kind == MetricType::COUNTER { *series + value } else { value };
    }

    /// Whether there is a series with these label values.
    pub(super) fn contains(&self, labels: &[String]) -> bool {
        self.series.contains_key(labels)
    }

    /// Converts the family to what the encoder reads.
    pub(super) fn into_proto(self) -> MetricFamily {
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
