//! The matrix of permissions: what each role must not use is refused, and reported as a permission.

use std::time::Duration;

use spiked::config::FleetConfig;
use spiked::fleet::connection::{Connection, FleetError, runtime};

use super::servers::init;
use super::setup::{server_with_users, url_of};

/// Subjects that some role may publish to: requests to JetStream, events, models, records, reports.
const SUBJECTS: [&str; 59] = [
    "spiked.events.north.detection",
    "spiked.events.south.detection",
    "$KV.spiked-status.north",
    "$KV.spiked-status.south",
    "$KV.spiked-fleet.model.edge.web",
    "$KV.spiked-fleet.other",
    "$O.spiked-models.C.chunk",
    "$O.spiked-models.M.meta",
    "$JS.API.INFO",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.SPIKED_EVENTS",
    "$JS.API.STREAM.DELETE.SPIKED_EVENTS",
    "$JS.API.STREAM.PURGE.SPIKED_EVENTS",
    "$JS.API.STREAM.PURGE.KV_spiked-fleet",
    "$JS.API.STREAM.MSG.DELETE.SPIKED_EVENTS",
    "$JS.API.STREAM.MSG.GET.SPIKED_EVENTS",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.SPIKED_EVENTS",
    "$JS.API.CONSUMER.CREATE.SPIKED_EVENTS.mine.spiked.events.>",
    "$JS.API.CONSUMER.CREATE.KV_spiked-status.mine.$KV.spiked-status.>",
    "$JS.API.CONSUMER.CREATE.OBJ_spiked-models.mine.$O.spiked-models.C.chunk",
    "$JS.API.CONSUMER.DURABLE.CREATE.SPIKED_EVENTS.mine",
    "$JS.API.DIRECT.GET.KV_spiked-fleet.$KV.spiked-fleet.model.edge.web",
    "$JS.API.DIRECT.GET.KV_spiked-status.$KV.spiked-status.south",
    "$JS.API.DIRECT.GET.OBJ_spiked-models",
    // Consumers deliver to any subject that their settings name.
    "$JS.API.CONSUMER.CREATE.OBJ_spiked-models",
    "$JS.API.CONSUMER.CREATE.OBJ_spiked-models.mine",
    "$JS.API.CONSUMER.DURABLE.CREATE.OBJ_spiked-models.mine",
    "$JS.API.CONSUMER.MSG.NEXT.OBJ_spiked-models.mine",
    // Jobs and results.
    "spiked.jobs.read.one",
    "spiked.jobs.other",
    "spiked.results.one.events",
    "spiked.results.one.table",
    "spiked.results.one.end",
    "spiked.results.one.other",
    "$JS.API.CONSUMER.INFO.SPIKED_JOBS.workers",
    "$JS.API.CONSUMER.MSG.NEXT.SPIKED_JOBS.workers",
    "$JS.ACK.SPIKED_JOBS.workers.1.1.1.1.0",
    "$JS.API.CONSUMER.CREATE.SPIKED_JOBS.mine",
    "$JS.API.CONSUMER.CREATE.SPIKED_RESULTS.mine.spiked.results.>",
    "$JS.API.STREAM.PURGE.SPIKED_JOBS",
    "$JS.API.STREAM.MSG.DELETE.SPIKED_RESULTS",
    "$JS.API.DIRECT.GET.SPIKED_RESULTS.spiked.results.one.end",
    // Parts and what becomes of them.
    "spiked.parts.north.protocols.gearman",
    "spiked.parts.south.protocols.gearman",
    "spiked.parts.north.other",
    "$KV.spiked-curation.part.north.protocols.gearman",
    "$KV.spiked-curation.lease.edge",
    "$KV.spiked-curation.other",
    "$JS.API.CONSUMER.CREATE.SPIKED_PARTS.mine.spiked.parts.>",
    "$JS.API.CONSUMER.CREATE.KV_spiked-curation.mine.$KV.spiked-curation.>",
    "$JS.API.STREAM.PURGE.SPIKED_PARTS",
    "$JS.API.STREAM.MSG.GET.SPIKED_PARTS",
    "$JS.API.STREAM.UPDATE.SPIKED_PARTS",
    "$JS.API.CONSUMER.CREATE.KV_spiked-curation",
    // Votes on parts.
    "spiked.trials.edge",
    "spiked.votes.north.ballot",
    "spiked.votes.south.ballot",
    "spiked.votes.north",
];

/// Those of [`SUBJECTS`] that each role may publish to.
const ALLOWED: [(&str, &[usize]); 5] = [
    ("north", &[0, 2, 17, 22, 24, 43, 56]),
    ("soc", &[15, 17, 18, 19, 22, 23, 35, 39, 50]),
    ("models", &[4, 6, 7, 19, 22, 23, 24, 29, 35, 42, 46, 47, 49, 50, 52, 54, 55]),
    ("cluster", &[0, 1, 2, 3, 17, 22, 24, 43, 44, 56, 57]),
    ("reading", &[24, 31, 32, 33, 35, 36, 37, 42]),
];

/// Subjects that some role may subscribe to.
const SUBSCRIPTIONS: [&str; 15] = [
    "_INBOX.north.>",
    "_INBOX.soc.>",
    "_INBOX.models.>",
    "_INBOX.>",
    "spiked.events.>",
    "$KV.spiked-status.>",
    "$KV.spiked-fleet.model.*.*",
    "_INBOX.reading.>",
    "spiked.jobs.>",
    "spiked.results.>",
    "spiked.parts.>",
    "$KV.spiked-curation.>",
    "_INBOX.cluster.>",
    "spiked.trials.*",
    "spiked.votes.*.*",
];

/// Those of [`SUBSCRIPTIONS`] that each role may subscribe to.
const SUBSCRIBED: [(&str, &[usize]); 5] =
    [("north", &[0, 6, 13]), ("soc", &[1]), ("models", &[2, 14]), ("reading", &[7]), ("cluster", &[6, 12, 13])];

/// Whether the server refuses what has just been sent on a connection.
async fn is_refused(connection: &Connection, what: &str) -> bool {
    connection.client.flush().await.expect("sent");
    match tokio::time::timeout(Duration::from_millis(150), connection.errors.violation()).await {
        Ok(FleetError::Permission(text)) => {
            assert!(text.contains(what), "{text} is not about {what}");
            true
        }
        Ok(error) => panic!("{what}: {error}"),
        Err(_) => false,
    }
}

#[test]
fn each_role_may_use_its_subjects_and_no_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let roles = [
        "--sensor",
        "north",
        "--sensor",
        "south",
        "--reader",
        "soc",
        "--curator",
        "models",
        "--worker",
        "reading",
        "--any-sensor",
        "cluster",
    ];
    let Some((server, settings)) = server_with_users(folder.path(), &roles) else { return };
    let url = |name: &str| url_of(&server, &settings, name);
    assert!(init(&url("operator"), &[]).status.success());
    runtime().expect("a runtime").block_on(async {
        for (name, allowed) in ALLOWED {
            let config = FleetConfig { servers: vec![url(name)], ..FleetConfig::default() };
            let connection = Connection::open(&config, name).await.expect("connected");
            for (number, subject) in SUBJECTS.into_iter().enumerate() {
                // Not a valid request or record, so that nothing changes where it is allowed.
                connection.client.publish(subject, "?".into()).await.expect("sent");
                assert_eq!(is_refused(&connection, subject).await, !allowed.contains(&number), "{name} publishes to {subject}");
            }
        }
        for (name, allowed) in SUBSCRIBED {
            let config = FleetConfig { servers: vec![url(name)], ..FleetConfig::default() };
            let connection = Connection::open(&config, name).await.expect("connected");
            for (number, subject) in SUBSCRIPTIONS.into_iter().enumerate() {
                let subscription = connection.client.subscribe(subject).await.expect("sent");
                let refused = is_refused(&connection, subject).await;
                assert_eq!(refused, !allowed.contains(&number), "{name} subscribes to {subject}");
                drop(subscription);
            }
        }
    });
}
