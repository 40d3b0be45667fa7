//! `spiked fleet`: prepares NATS servers for many sensors, reads what the sensors publish, and sends them models; archives are in
//! [`super::fleet_jobs`], what sensors learn is in [`super::fleet_parts`].

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args as ClapArgs, Subcommand};
use minisign_verify::Signature;

use crate::config::{FleetConfig, is_token};
use crate::daemon::DaemonError;
use crate::export::http::{self, Server};
use crate::fleet::connection::{Connection, FleetError, runtime};
use crate::fleet::exporter::Exporter;
use crate::fleet::models::{self, Buckets, MAX_MODEL, ModelReport, SensorReport};
use crate::fleet::setup::{self, Change, Identity, Role};
use crate::fleet::tail::{self, Selection};
use crate::fleet::verify::signed_name;
use crate::model::Model;

use super::Exit;
use super::exit::OutputError;
use super::fleet_jobs::{self, EnqueueArgs, JobsArgs, ResultsArgs, WorkArgs};
use super::fleet_parts::{self, ApproveArgs, CurateArgs, PartsArgs};
use super::live::stop_on_signals;

/// Many sensors that share NATS servers: prepares the servers, reads the events of all, sends them models, reads archives on many machines
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Subcommand)]
enum FleetCommand {
    Init(InitArgs),
    ServerConfig(ServerConfigArgs),
    Tail(TailArgs),
    Publish(PublishArgs),
    Promote(PromoteArgs),
    Rollback(RollbackArgs),
    Status(StatusArgs),
    Curate(Box<CurateArgs>),
    Parts(PartsArgs),
    Approve(ApproveArgs),
    Exporter(ExporterArgs),
    Enqueue(EnqueueArgs),
    Work(WorkArgs),
    Jobs(JobsArgs),
    Results(ResultsArgs),
}

/// Which servers, and as whom.
#[derive(ClapArgs)]
pub(super) struct ServerArgs {
    /// URL of a server, nats://HOST:PORT or tls://HOST:PORT; may be repeated
    #[arg(long = "server", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    servers: Vec<String>,
    /// Name of this client: replies to it go to _INBOX.NAME, which the servers' permissions must allow
    #[arg(long, value_name = "NAME", default_value = "operator")]
    name: String,
    /// Credentials file, as nsc writes it
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// PEM file of the authority that signed the servers' certificates
    #[arg(long, value_name = "FILE")]
    ca_certificate: Option<PathBuf>,
    /// PEM file of this client's certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl ServerArgs {
    /// Name of this client.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> FleetConfig {
        FleetConfig {
            servers: self.servers.clone(),
            sensor: self.name.clone(),
            credentials: self.credentials.clone(),
            ca_certificate: self.ca_certificate.clone(),
            client_certificate: self.certificate.clone().zip(self.key.clone()),
            ..FleetConfig::default()
        }
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        Ok(Connection::open(&self.config(), &self.name).await?)
    }
}

/// Makes the streams of events, jobs, results and parts and the buckets of models; lists what differs in those that exist
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet init --server tls://nats.example.org:4222 --replicas 3\n\n\
    Exit code 1 if something differs and --update is not given.")]
struct InitArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Copies of each stream, on as many servers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// Size of the stream of events at which the oldest are removed, in MiB
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    events_mib: u32,
    /// Size of the stream of results at which workers wait, in MiB
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    results_mib: u32,
    /// Change what differs
    #[arg(long)]
    update: bool,
}

/// Writes settings of nats-server that permit each client the subjects of its role and no others
#[derive(ClapArgs)]
#[command(
    name = "server-config",
    after_help = "Example:\n  spiked fleet server-config --sensor north --sensor south --reader soc --out nats-server.conf\n\n\
    Without --tls, clients have passwords, which the file holds: nats://NAME:PASSWORD@HOST:PORT. With it, the name is the DNS name\n\
    in the client's certificate."
)]
struct ServerConfigArgs {
    /// Name of a sensor, as fleet.sensor; may be repeated
    #[arg(long = "sensor", value_name = "NAME")]
    sensors: Vec<String>,
    /// Name of a client that may be any sensor: the sensors of a cluster, which share a password; may be repeated
    #[arg(long = "any-sensor", value_name = "NAME")]
    any_sensors: Vec<String>,
    /// Name of a client that reads events and results; may be repeated
    #[arg(long = "reader", value_name = "NAME")]
    readers: Vec<String>,
    /// Name of a client that publishes models, curates what sensors learn, and queues captures; may be repeated
    #[arg(long = "curator", value_name = "NAME")]
    curators: Vec<String>,
    /// Name of a client that reads captures of the queue; may be repeated
    #[arg(long = "worker", value_name = "NAME")]
    workers: Vec<String>,
    /// Name of a client that may do everything, for `spiked fleet init`
    #[arg(long, value_name = "NAME", default_value = "operator")]
    admin: String,
    /// PEM files on the server: its certificate, its key, and the authority that signed the clients' certificates
    #[arg(long, num_args = 3, value_names = ["CERTIFICATE", "KEY", "CA"])]
    tls: Option<Vec<String>>,
    /// Have nats-server take each password from the environment variable NAME_PASSWORD
    #[arg(long, conflicts_with = "tls")]
    password_variables: bool,
    /// File to write; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Sends a signed model to the sensors of a group, or to a part of them
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  minisign -S -m web.safetensors\n  \
    spiked fleet publish web.safetensors --group edge --percent 10 --server nats://127.0.0.1:4222\n\n\
    The sensors refuse a file that none of their fleet.trusted_keys has signed.")]
struct PublishArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Model file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Group of sensors, as fleet.group
    #[arg(long, value_name = "NAME", default_value = "default")]
    group: String,
    /// Share of the sensors of the group that run it; the others keep the version before
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,
    /// Signature that minisign made; default: FILE.minisig
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

/// A model of a group.
#[derive(ClapArgs)]
struct PublishedArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// The model's name
    #[arg(value_name = "MODEL")]
    model: String,
    /// Group of sensors, as fleet.group
    #[arg(long, value_name = "NAME", default_value = "default")]
    group: String,
}

/// Sends a published model to more sensors of its group
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet promote web --group edge --percent 50\n\n\
    Exit code 4 without --force if a sensor has refused the version: it reports why.")]
struct PromoteArgs {
    #[command(flatten)]
    published: PublishedArgs,
    /// Share of the sensors of the group that run it
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,
    /// Promote it although sensors have refused it
    #[arg(long)]
    force: bool,
}

/// Returns all sensors of a group to the version before
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet rollback web --group edge")]
struct RollbackArgs {
    #[command(flatten)]
    published: PublishedArgs,
}

/// Shows the published models and what the sensors reported in the last minute
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet status --json | jq '.sensors[].models'\n\n\
    Exit code 1 if a sensor does not run the version that it should, or an entry is not valid.")]
struct StatusArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Serves metrics of the fleet and the list of its sensors for Prometheus, until a signal
#[derive(ClapArgs)]
#[command(
    after_help = "Example:\n  spiked fleet exporter --listen 0.0.0.0:9185 --server tls://nats.example.org:4222 --name soc\n\n\
    /metrics  metrics of sensors, models, streams and jobs\n\
    /sd       HTTP service discovery: the metrics addresses that the sensors report, with the labels sensor and group\n\
    /readyz   200, or 503 with the reason while the servers do not answer\n\n\
    The permissions of a reader suffice."
)]
struct ExporterArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Address and port to listen on; there is no authentication
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9185")]
    listen: SocketAddr,
    /// Hours without a report after which a sensor is left out
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8760))]
    forget_hours: u32,
}

/// Prints the events of all sensors as JSON lines, each once
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet tail --server tls://nats.example.org:4222 --type alert")]
struct TailArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Events of this sensor only
    #[arg(long, value_name = "NAME")]
    sensor: Option<String>,
    /// Events of this type only
    #[arg(long = "type", value_name = "TYPE", value_parser = ["detection", "alert", "stream", "episode"])]
    event: Option<String>,
    /// Begin with the oldest event that the servers have
    #[arg(long)]
    all: bool,
    /// Print the events that the servers have and end
    #[arg(long, conflicts_with = "all")]
    once: bool,
}

pub fn run(args: &Args) -> Result<Exit> {
    match &args.command {
        FleetCommand::Init(args) => runtime()?.block_on(init(args)),
        FleetCommand::ServerConfig(args) => server_config(args),
        FleetCommand::Tail(args) => runtime()?.block_on(tail(args)),
        FleetCommand::Publish(args) => runtime()?.block_on(publish(args)),
        FleetCommand::Promote(args) => runtime()?.block_on(promote(args)),
        FleetCommand::Rollback(args) => runtime()?.block_on(rollback(&args.published)),
        FleetCommand::Status(args) => runtime()?.block_on(status(args)),
        FleetCommand::Curate(args) => runtime()?.block_on(fleet_parts::curate(args)),
        FleetCommand::Parts(args) => runtime()?.block_on(fleet_parts::parts(args)),
        FleetCommand::Approve(args) => runtime()?.block_on(fleet_parts::approve(args)),
        FleetCommand::Exporter(args) => exporter(args),
        FleetCommand::Enqueue(args) => runtime()?.block_on(fleet_jobs::enqueue(args)),
        FleetCommand::Work(args) => runtime()?.block_on(fleet_jobs::work(args)),
        FleetCommand::Jobs(args) => runtime()?.block_on(fleet_jobs::jobs(args)),
        FleetCommand::Results(args) => runtime()?.block_on(fleet_jobs::results(args)),
    }
}

async fn init(args: &InitArgs) -> Result<Exit> {
    let connection = args.servers.connect().await?;
    let replicas = args.replicas.into();
    let mut changes = Vec::new();
    for wanted in [
        setup::event_stream(replicas, i64::from(args.events_mib) << 20),
        setup::job_stream(replicas),
        setup::result_stream(replicas, i64::from(args.results_mib) << 20),
        setup::part_stream(replicas),
    ] {
        let change = setup::ensure(&connection, &wanted, args.update).await.with_context(|| wanted.name.clone())?;
        changes.push((wanted.name, change));
    }
    setup::ensure_workers(&connection).await?;
    changes.extend(setup::ensure_buckets(&connection, replicas, args.update).await?);
    let mut exit = Exit::Ok;
    for (name, change) in changes {
        match change {
            Change::Created => say!("{name}: created"),
            Change::Unchanged => say!("{name}: ok"),
            Change::Updated(lines) => lines.iter().for_each(|line| say!("{name}: updated: {line}")),
            Change::Different(lines) => {
                lines.iter().for_each(|line| say!("{name}: {line}; change it with --update"));
                exit = Exit::Partly;
            }
        }
    }
    Ok(exit)
}

async fn publish(args: &PublishArgs) -> Result<Exit> {
    check_name(&args.group)?;
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let bytes = read(&args.file)?;
    if bytes.len() > MAX_MODEL {
        bail!("{}: larger than {} MiB", args.file.display(), MAX_MODEL >> 20);
    }
    let model = Model::from_bytes(&bytes, &args.file)?;
    if !is_token(&model.name) {
        bail!("the model's name, '{}', can't be part of a subject; rename the file (letters, digits, - and _)", model.name);
    }
    let beside = || PathBuf::from(format!("{}.minisig", args.file.display()));
    let path = args.signature.clone().unwrap_or_else(beside);
    let signature = fs::read_to_string(&path)
        .with_context(|| format!("{}: sign the model with `minisign -S -m {}`", path.display(), args.file.display()))?;
    match Signature::decode(&signature) {
        Ok(decoded) => signed_name(&decoded, &model.name).map_err(|wrong| anyhow!("{}: {wrong}", path.display()))?,
        Err(error) => bail!("{}: not a valid signature: {error}", path.display()),
    }
    let connection = args.servers.connect().await?;
    let buckets = Buckets::open(&connection).await?;
    let version = buckets.publish(&args.group, &model.name, &bytes, Some(signature), args.percent).await?;
    say!("{}, group {}: version {version} for {} % of the sensors", model.name, args.group, args.percent);
    Ok(Exit::Ok)
}

/// Checks the name of a group or a model.
pub(super) fn check_name(name: &str) -> Result<()> {
    if is_token(name) {
        return Ok(());
    }
    bail!("'{name}' is not a valid name; give up to 64 letters, digits, - and _")
}

async fn published(args: &PublishedArgs) -> Result<Buckets> {
    check_name(&args.group)?;
    check_name(&args.model)?;
    Ok(Buckets::open(&args.servers.connect().await?).await?)
}

async fn promote(args: &PromoteArgs) -> Result<Exit> {
    let PublishedArgs { model, group, .. } = &args.published;
    check_name(group)?;
    check_name(model)?;
    let connection = args.published.servers.connect().await?;
    let buckets = Buckets::open(&connection).await?;
    if let Some((record, _)) = buckets.record(group, model).await?
        && args.percent > record.percent
    {
        let (overview, version) = (models::overview(&connection).await?, record.current.version);
        let refusals = overview.refusals(group, model, version);
        refusals.iter().for_each(|(sensor, reason)| eprintln!("spiked: {sensor}: {}", super::escaped(reason)));
        if !refusals.is_empty() && !args.force {
            let text =
                format!("{} sensors have refused version {version}; promote it with --force, or roll it back", refusals.len());
            return Err(FleetError::Record(text).into());
        }
    }
    let record = buckets.promote(group, model, args.percent).await?;
    say!("{model}, group {group}: version {} for {} % of the sensors", record.current.version, record.percent);
    Ok(Exit::Ok)
}

async fn rollback(args: &PublishedArgs) -> Result<Exit> {
    let record = published(args).await?.rollback(&args.group, &args.model).await?;
    say!("{}, group {}: version {} for all sensors", args.model, args.group, record.current.version);
    Ok(Exit::Ok)
}

async fn status(args: &StatusArgs) -> Result<Exit> {
    let overview = models::overview(&args.servers.connect().await?).await?;
    let behind = |name: &str, sensor: &SensorReport, model: &ModelReport| {
        overview.wanted(name, sensor, &model.name).is_some_and(|wanted| wanted.version != model.version)
    };
    let late = overview.sensors.iter().any(|(name, sensor)| sensor.models.iter().any(|model| behind(name, sensor, model)));
    let exit = if late || !overview.invalid.is_empty() { Exit::Partly } else { Exit::Ok };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&overview)?);
        return Ok(exit);
    }
    overview.invalid.iter().for_each(|error| say!("{error}"));
    for (name, record) in &overview.models {
        let previous = record.previous.as_ref().map_or_else(String::new, |p| format!(", before: version {}", p.version));
        say!("model {name}: version {} for {} %{previous}", record.current.version, record.percent);
    }
    for (name, sensor) in &overview.sensors {
        say!("sensor {name}: group {}, spiked {}, {} frames dropped", sensor.group, sensor.version, sensor.drops);
        sensor.last_error.iter().for_each(|error| say!("  last error: {error}"));
        for model in &sensor.models {
            let late = if behind(name, sensor, model) { ", behind" } else { "" };
            let error = model.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            say!("  {}: version {}, {}{late}{error}", model.name, model.version, model.state);
            model.canary.iter().for_each(|canary| say!("    {canary}"));
        }
    }
    Ok(exit)
}

fn exporter(args: &ExporterArgs) -> Result<Exit> {
    let exporter = Exporter::new(Duration::from_secs(u64::from(args.forget_hours) * 3600));
    let listener = http::bind(args.listen).map_err(DaemonError::Http)?;
    let server = Server::serve_routes(listener, exporter.routes()).map_err(DaemonError::Http)?;
    eprintln!("spiked: http://{}/metrics and /sd", server.address());
    let stop = stop_on_signals();
    runtime()?.block_on(exporter.run(&args.servers.config(), &stop, |error| eprintln!("spiked: {}", super::escaped(error))));
    Ok(Exit::Ok)
}

fn server_config(args: &ServerConfigArgs) -> Result<Exit> {
    let mut clients = vec![(Role::Admin, args.admin.clone())];
    for (role, names) in [
        (Role::Sensor, &args.sensors),
        (Role::AnySensor, &args.any_sensors),
        (Role::Reader, &args.readers),
        (Role::Curator, &args.curators),
        (Role::Worker, &args.workers),
    ] {
        clients.extend(names.iter().map(|name| (role, name.clone())));
    }
    for (index, (_, name)) in clients.iter().enumerate() {
        if !is_token(name) {
            bail!("'{name}' is not a valid name; give up to 64 letters, digits, - and _");
        }
        if clients[..index].iter().any(|(_, other)| other == name) {
            bail!("two clients have the name '{name}'; rename one of them");
        }
    }
    let identity = match args.tls.as_deref() {
        Some([certificate, key, ca_certificate]) => {
            Identity::Certificates { certificate: certificate.clone(), key: key.clone(), ca_certificate: ca_certificate.clone() }
        }
        _ if args.password_variables => Identity::Variables,
        _ => Identity::Passwords(clients.iter().map(|_| password()).collect::<io::Result<_>>().context("/dev/urandom")?),
    };
    let failed = || OutputError::to(&args.out, "the settings of nats-server");
    write_private(&args.out, &setup::server_settings(&clients, &identity)).with_context(failed)?;
    say!("{}: {} clients", args.out.display(), clients.len());
    Ok(Exit::Ok)
}

/// Writes a new file that only its owner can read, since it holds passwords.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// 128 random bits in hexadecimal digits.
fn password() -> io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn tail(args: &TailArgs) -> Result<Exit> {
    let connection = args.servers.connect().await?;
    let selection = Selection {
        sensor: args.sensor.clone(),
        event: args.event.clone(),
        from_start: args.all || args.once,
        until_now: args.once,
    };
    let mut failed = None;
    let mut output = io::stdout().lock();
    let print = |text: &[u8]| {
        let written = output.write_all(text).and_then(|()| output.write_all(b"\n")).and_then(|()| output.flush());
        failed = written.err();
        failed.is_none()
    };
    tail::tail(&connection, &selection, print).await?;
    failed.map_or(Ok(Exit::Ok), |error| Err(error.into()))
}
