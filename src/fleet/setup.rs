//! What `spiked fleet init` makes on the servers: the streams of events, jobs and results, the buckets of the models, and permissions for
//! each role.

use std::fmt::Debug;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Compression, Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode, context::GetStreamErrorKind, kv, object_store};

use super::connection::{Connection, FleetError};
use super::jobs::{END, EVENTS, JOBS_STREAM, JOBS_SUBJECT, RESULTS_STREAM, RESULTS_SUBJECT, TABLE, WORKERS};
use super::models::{FLEET_BUCKET, MODELS_BUCKET, STATUS_BUCKET};
use super::parts::{CURATION_BUCKET, PARTS_STREAM, PARTS_SUBJECT};
use super::votes::{TRIALS_SUBJECT, VOTES_SUBJECT};
use super::work::ACK_WAIT;
use super::{EVENTS_STREAM, EVENTS_SUBJECT};

/// Days for which events are kept.
const EVENT_DAYS: u64 = 7;
/// Days for which results are kept.
const RESULT_DAYS: u64 = 30;
/// Window in which the servers drop doubles by id.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// What was done about a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It did not exist and was made.
    Created,
    /// It is as it should be.
    Unchanged,
    /// It differs: a line on each difference. It was left as it is.
    Different(Vec<String>),
    /// It differed and was changed: a line on each difference.
    Updated(Vec<String>),
}

/// The stream of events, with copies on as many servers as `replicas` says (1, 3 or 5). When it has `max_bytes` bytes, the oldest events
/// are removed.
pub fn event_stream(replicas: usize, max_bytes: i64) -> Config {
    Config {
        name: EVENTS_STREAM.into(),
        subjects: vec![format!("{EVENTS_SUBJECT}.*.*")],
        num_replicas: replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes,
        max_consumers: -1,
        max_age: Duration::from_secs(EVENT_DAYS * 86_400),
        duplicate_window: DUPLICATE_WINDOW,
        compression: Some(Compression::S2),
        ..Config::default()
    }
}

/// The queue of captures to read. A job that waits or is in work is not stored a second time: each has a subject of its own.
pub fn job_stream(replicas: usize) -> Config {
    Config {
        name: JOBS_STREAM.into(),
        subjects: vec![format!("{JOBS_SUBJECT}.*")],
        retention: RetentionPolicy::WorkQueue,
        num_replicas: replicas,
        max_messages: -1,
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_bytes: -1,
        max_consumers: -1,
        duplicate_window: DUPLICATE_WINDOW,
        compression: Some(Compression::S2),
        ..Config::default()
    }
}

/// The stream of results, which workers compress. When it has `max_bytes` bytes, workers wait: no result is removed before its time.
pub fn result_stream(replicas: usize, max_bytes: i64) -> Config {
    Config {
        name: RESULTS_STREAM.into(),
        subjects: vec![format!("{RESULTS_SUBJECT}.*.*")],
        num_replicas: replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        discard: DiscardPolicy::New,
        max_bytes,
        max_consumers: -1,
        max_age: Duration::from_secs(RESULT_DAYS * 86_400),
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        ..Config::default()
    }
}

/// The stream of parts: the last one of each sensor, model and class.
pub fn part_stream(replicas: usize) -> Config {
    Config {
        name: PARTS_STREAM.into(),
        subjects: vec![format!("{PARTS_SUBJECT}.*.*.*")],
        num_replicas: replicas,
        max_messages: -1,
        max_messages_per_subject: 1,
        max_bytes: -1,
        max_consumers: -1,
        duplicate_window: DUPLICATE_WINDOW,
        compression: Some(Compression::S2),
        ..Config::default()
    }
}

/// Makes the consumer that the workers share, unless it exists.
///
/// # Errors
/// The server can't be reached, or does not allow it.
pub async fn ensure_workers(connection: &Connection) -> Result<(), FleetError> {
    let context = jetstream::new(connection.client.clone());
    let stream = context.get_stream(JOBS_STREAM).await.map_err(|error| connection.explain(error))?;
    let wanted = pull::Config {
        durable_name: Some(WORKERS.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        // Workers set a job aside, with its reason: the servers would leave it in the queue.
        max_deliver: -1,
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    stream.create_consumer(wanted).await.map(drop).map_err(|error| connection.explain(error))
}

/// Makes a stream, or compares it with the one that exists and changes that if `update` is set.
///
/// # Errors
/// The server can't be reached, or does not allow it.
pub async fn ensure(connection: &Connection, wanted: &Config, update: bool) -> Result<Change, FleetError> {
    let context = jetstream::new(connection.client.clone());
    let present = match context.get_stream(&wanted.name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_missing(&error) => {
            context.create_stream(wanted.clone()).await.map_err(|error| connection.explain(error))?;
            return Ok(Change::Created);
        }
        Err(error) => return Err(connection.explain(error)),
    };
    let differences = differences(&present, wanted);
    // Only what is compared is changed: the rest is the operator's.
    let changed = Config {
        subjects: wanted.subjects.clone(),
        num_replicas: wanted.num_replicas,
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_bytes: wanted.max_bytes,
        max_age: wanted.max_age,
        discard: wanted.discard,
        discard_new_per_subject: wanted.discard_new_per_subject,
        allow_direct: wanted.allow_direct,
        compression: wanted.compression.clone(),
        duplicate_window: wanted.duplicate_window,
        ..present
    };
    apply(connection, &context, differences, &changed, update).await
}

/// Time after which the servers remove a sensor's report.
const REPORT_AGE: Duration = Duration::from_secs(60);
/// Records of a model that are kept.
const RECORDS: i64 = 16;

/// A bucket and its settings.
enum Bucket {
    Objects(object_store::Config),
    KeyValue(Box<kv::Config>),
}

impl Bucket {
    /// The buckets of the models.
    fn all(replicas: usize) -> [Self; 4] {
        [
            Self::Objects(object_store::Config {
                bucket: MODELS_BUCKET.into(),
                num_replicas: replicas,
                ..object_store::Config::default()
            }),
            Self::KeyValue(Box::new(kv::Config {
                bucket: FLEET_BUCKET.into(),
                history: RECORDS,
                num_replicas: replicas,
                ..kv::Config::default()
            })),
            Self::KeyValue(Box::new(kv::Config {
                bucket: CURATION_BUCKET.into(),
                history: 1,
                num_replicas: replicas,
                ..kv::Config::default()
            })),
            Self::KeyValue(Box::new(kv::Config {
                bucket: STATUS_BUCKET.into(),
                history: 1,
                max_age: REPORT_AGE,
                // On the disk: the server forgets a stream in memory, not only its content, when it restarts.
                storage: StorageType::File,
                num_replicas: replicas,
                ..kv::Config::default()
            })),
        ]
    }

    /// Name of the stream in which the server keeps it.
    fn stream(&self) -> String {
        match self {
            Self::Objects(config) => object_stream(&config.bucket),
            Self::KeyValue(config) => key_value_stream(&config.bucket),
        }
    }

    async fn create(self, connection: &Connection, context: &jetstream::Context) -> Result<(), FleetError> {
        match self {
            Self::Objects(config) => {
                context.create_object_store(config).await.map(drop).map_err(|error| connection.explain(error))
            }
            Self::KeyValue(config) => {
                context.create_key_value(*config).await.map(drop).map_err(|error| connection.explain(error))
            }
        }
    }
}

/// Name of the stream of an object store.
pub(super) fn object_stream(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

fn key_value_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Makes the buckets of the models, or compares the copies of those that exist and changes them if `update` is set. Returns the names of their
/// streams and what was done.
///
/// # Errors
/// The server can't be reached, or does not allow it.
pub async fn ensure_buckets(connection: &Connection, replicas: usize, update: bool) -> Result<Vec<(String, Change)>, FleetError> {
    let context = jetstream::new(connection.client.clone());
    let mut changes = Vec::new();
    for bucket in Bucket::all(replicas) {
        let name = bucket.stream();
        let change = match context.get_stream(&name).await {
            Ok(stream) => {
                let present = stream.cached_info().config.clone();
                let copies = present.num_replicas;
                let differences: Vec<String> =
                    (copies != replicas).then(|| format!("copies is {copies}, not {replicas}")).into_iter().collect();
                apply(connection, &context, differences, &Config { num_replicas: replicas, ..present }, update).await?
            }
            Err(error) if is_missing(&error) => {
                bucket.create(connection, &context).await?;
                Change::Created
            }
            Err(error) => return Err(connection.explain(error)),
        };
        changes.push((name, change));
    }
    Ok(changes)
}

/// Changes a stream that exists to `changed` if there are differences and `update` is set.
async fn apply(
    connection: &Connection,
    context: &jetstream::Context,
    differences: Vec<String>,
    changed: &Config,
    update: bool,
) -> Result<Change, FleetError> {
    if differences.is_empty() {
        return Ok(Change::Unchanged);
    }
    if !update {
        return Ok(Change::Different(differences));
    }
    context.update_stream(changed).await.map_err(|error| connection.explain(error))?;
    Ok(Change::Updated(differences))
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// A line on each setting that differs.
fn differences(present: &Config, wanted: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |name: &str, present: &dyn Debug, wanted: &dyn Debug| {
        let (present, wanted) = (format!("{present:?}"), format!("{wanted:?}"));
        if present != wanted {
            lines.push(format!("{name} is {present}, not {wanted}"));
        }
    };
    let plain = |config: &Config| config.compression.clone().unwrap_or(Compression::None);
    compare("subjects", &present.subjects, &wanted.subjects);
    compare("replicas", &present.num_replicas, &wanted.num_replicas);
    compare("messages per subject", &present.max_messages_per_subject, &wanted.max_messages_per_subject);
    compare("size in bytes", &present.max_bytes, &wanted.max_bytes);
    compare("age", &present.max_age, &wanted.max_age);
    compare("discard", &present.discard, &wanted.discard);
    compare("one message per subject", &present.discard_new_per_subject, &wanted.discard_new_per_subject);
    compare("direct reads", &present.allow_direct, &wanted.allow_direct);
    compare("retention", &present.retention, &wanted.retention);
    compare("storage", &present.storage, &wanted.storage);
    compare("compression", &plain(present), &plain(wanted));
    compare("window for doubles", &present.duplicate_window, &wanted.duplicate_window);
    lines
}

/// Part of a client in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Publishes its own events, parts, votes and report, reads models.
    Sensor,
    /// As [`Role::Sensor`], of any name: the sensors of a cluster, which share a user.
    AnySensor,
    /// Reads the events and the reports of all sensors, the results of all jobs, and what became of parts.
    Reader,
    /// Publishes models, curates parts, queues captures to read, and reads the reports of all sensors.
    Curator,
    /// Reads the captures of the queue and publishes what it has read.
    Worker,
    /// May do everything: `spiked fleet init`.
    Admin,
}

impl Role {
    /// Subjects that the role's client `name` may publish to, requests to JetStream included.
    pub fn publishes(self, name: &str) -> Vec<String> {
        let (files, records) = (object_stream(MODELS_BUCKET), key_value_stream(FLEET_BUCKET));
        match self {
            Self::AnySensor => Self::Sensor.publishes("*"),
            Self::Sensor => vec![
                format!("{EVENTS_SUBJECT}.{name}.*"),
                format!("{PARTS_SUBJECT}.{name}.*.*"),
                format!("{VOTES_SUBJECT}.{name}.*"),
                format!("$KV.{STATUS_BUCKET}.{name}"),
                // By which `spiked check` learns whether the stream exists.
                format!("$JS.API.STREAM.INFO.{EVENTS_STREAM}"),
                format!("$JS.API.STREAM.INFO.{records}"),
                format!("$JS.API.STREAM.INFO.{files}"),
                format!("$JS.API.DIRECT.GET.{records}.$KV.{FLEET_BUCKET}.model.>"),
                format!("$JS.API.DIRECT.GET.{files}.$O.{MODELS_BUCKET}.M.*"),
                // A file is read chunk by chunk. A sensor must not create consumers: they deliver to any subject.
                format!("$JS.API.DIRECT.GET.{files}"),
            ],
            Self::Curator => [
                vec![
                    format!("$KV.{FLEET_BUCKET}.model.*.*"),
                    format!("$KV.{CURATION_BUCKET}.part.*.*.*"),
                    format!("$KV.{CURATION_BUCKET}.lease.*"),
                    format!("{TRIALS_SUBJECT}.*"),
                    format!("$O.{MODELS_BUCKET}.>"),
                    format!("$JS.API.STREAM.INFO.{files}"),
                    format!("$JS.API.DIRECT.GET.{files}.$O.{MODELS_BUCKET}.M.*"),
                    format!("$JS.API.DIRECT.GET.{files}"),
                    format!("{JOBS_SUBJECT}.*"),
                    format!("$JS.API.DIRECT.GET.{RESULTS_STREAM}.{RESULTS_SUBJECT}.*.{END}"),
                    format!("$JS.API.CONSUMER.INFO.{JOBS_STREAM}.{WORKERS}"),
                ],
                reads_stream(PARTS_STREAM),
                // The client watches approvals with a consumer that has no name.
                vec![format!("$JS.API.CONSUMER.CREATE.{}", key_value_stream(CURATION_BUCKET))],
                reads_buckets(),
            ]
            .concat(),
            Self::Reader => [
                reads_stream(EVENTS_STREAM),
                reads_stream(RESULTS_STREAM),
                vec![format!("$JS.API.CONSUMER.INFO.{JOBS_STREAM}.{WORKERS}")],
                reads_buckets(),
            ]
            .concat(),
            Self::Worker => vec![
                format!("$JS.API.CONSUMER.INFO.{JOBS_STREAM}.{WORKERS}"),
                format!("$JS.API.CONSUMER.MSG.NEXT.{JOBS_STREAM}.{WORKERS}"),
                format!("$JS.ACK.{JOBS_STREAM}.{WORKERS}.>"),
                format!("{RESULTS_SUBJECT}.*.{EVENTS}"),
                format!("{RESULTS_SUBJECT}.*.{TABLE}"),
                format!("{RESULTS_SUBJECT}.*.{END}"),
                format!("$JS.API.DIRECT.GET.{RESULTS_STREAM}.{RESULTS_SUBJECT}.*.{END}"),
                format!("$JS.API.STREAM.INFO.{records}"),
                format!("$JS.API.STREAM.INFO.{files}"),
                format!("$JS.API.DIRECT.GET.{files}.$O.{MODELS_BUCKET}.M.*"),
                format!("$JS.API.DIRECT.GET.{files}"),
            ],
            Self::Admin => vec![">".into()],
        }
    }

    /// Subjects that the role's client `name` may subscribe to.
    pub fn subscribes(self, name: &str) -> Vec<String> {
        match self {
            Self::Admin => vec![">".into()],
            // The records of models are also notices of their changes.
            Self::Sensor | Self::AnySensor => {
                vec![format!("_INBOX.{name}.>"), format!("$KV.{FLEET_BUCKET}.model.*.*"), format!("{TRIALS_SUBJECT}.*")]
            }
            Self::Curator => vec![format!("_INBOX.{name}.>"), format!("{VOTES_SUBJECT}.*.*")],
            Self::Reader | Self::Worker => vec![format!("_INBOX.{name}.>")],
        }
    }
}

/// Subjects by which all messages of a stream are read.
fn reads_stream(stream: &str) -> Vec<String> {
    vec![
        format!("$JS.API.STREAM.INFO.{stream}"),
        // By which a reader learns where to stop.
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.>"),
        format!("$JS.API.CONSUMER.INFO.{stream}.>"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.>"),
        format!("$JS.FC.{stream}.>"),
    ]
}

/// Subjects by which the records of models, the reports of sensors and what became of parts are read.
fn reads_buckets() -> Vec<String> {
    let of = |bucket: &str| {
        let stream = key_value_stream(bucket);
        [
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}.$KV.{bucket}.>"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.*.$KV.{bucket}.>"),
            format!("$JS.FC.{stream}.>"),
        ]
    };
    [of(FLEET_BUCKET), of(STATUS_BUCKET), of(CURATION_BUCKET)].concat()
}

/// How the server identifies clients.
#[derive(Clone, Debug)]
pub enum Identity {
    /// By a name in the client's certificate: PEM files of the server's certificate, its key, and the authority's certificate.
    Certificates {
        /// The server's certificate.
        certificate: String,
        /// Its key.
        key: String,
        /// The authority that signed the certificates of clients.
        ca_certificate: String,
    },
    /// By a password, in the URL of the server: `nats://NAME:PASSWORD@HOST`; one for each client.
    Passwords(Vec<String>),
    /// By a password that nats-server takes from an environment variable, `NAME_PASSWORD` in capitals.
    Variables,
}

/// A settings file of nats-server with the permissions of all clients.
pub fn server_settings(clients: &[(Role, String)], identity: &Identity) -> String {
    let mut text = String::from(
        "# Settings of nats-server, made by `spiked fleet server-config`: one user for each client, with the subjects of its role.\n\
         jetstream {\n  store_dir: \"/var/lib/nats\"\n  # Acknowledge events when they are on the disk, at a third of the rate.\n  \
         # sync_interval: always\n}\n",
    );
    if let Identity::Certificates { certificate, key, ca_certificate } = identity {
        text.push_str(&format!(
            "tls {{\n  cert_file: {certificate:?}\n  key_file: {key:?}\n  ca_file: {ca_certificate:?}\n  verify_and_map: true\n}}\n"
        ));
    }
    text.push_str("authorization {\n  users: [\n");
    for (index, (role, name)) in clients.iter().enumerate() {
        let password = match identity {
            Identity::Passwords(passwords) => passwords.get(index).map_or_else(String::new, |p| format!(", password: {p:?}")),
            Identity::Variables => format!(", password: ${}_PASSWORD", name.replace('-', "_").to_ascii_uppercase()),
            Identity::Certificates { .. } => String::new(),
        };
        let list = |subjects: Vec<String>| subjects.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "    # {role:?}\n    {{ user: {name:?}{password}, permissions: {{\n      publish: [{}]\n      subscribe: [{}]\n    }} }}\n",
            list(role.publishes(name)),
            list(role.subscribes(name)),
        ));
    }
    text.push_str("  ]\n}\n");
    text
}
